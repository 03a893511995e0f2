"""What a network does to one direction of a connection: toxiproxy's toxics by their names and meanings, decided purely.

A `Link` is one direction of one connection. Told of a chunk it says in which pieces and when it goes on, and when the
connection ends of itself; who carries that out is `server.faults.proxy`. Times are monotonic seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

Stream = Literal["up", "down"]
"""The direction it works on: `up` towards the target, `down` back from it."""


class _Toxic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    toxicity: float = 1.0
    """Share of the connections that have it, 0..1; drawn once for each."""
    stream: Stream = "down"


class Latency(_Toxic, frozen=True, tag="latency"):
    """Everything comes later, by `latency` ± `jitter` milliseconds, in order."""

    latency: float
    jitter: float = 0.0


class Bandwidth(_Toxic, frozen=True, tag="bandwidth"):
    """No more than `rate` KB (1000 bytes) a second."""

    rate: float


class SlowClose(_Toxic, frozen=True, tag="slow_close"):
    """The end of the stream comes `delay` milliseconds late."""

    delay: float


class Timeout(_Toxic, frozen=True, tag="timeout"):
    """Nothing goes through: it is swallowed. After `timeout` milliseconds the connection is closed; 0: not until this is
    taken away. A connection that it is taken away from is closed (a stream with a hole is none)."""

    timeout: float = 0.0


class ResetPeer(_Toxic, frozen=True, tag="reset_peer"):
    """Nothing goes through, and after `timeout` milliseconds both sides get an RST."""

    timeout: float = 0.0


class Slicer(_Toxic, frozen=True, tag="slicer"):
    """Cut into pieces of `average_size` ± `size_variation` bytes, `delay` microseconds apart."""

    average_size: int
    size_variation: int = 0
    delay: float = 0.0


class LimitData(_Toxic, frozen=True, tag="limit_data"):
    """After `bytes` bytes, counted from when it took hold of the connection, the connection is closed."""

    bytes: int


Toxic = Latency | Bandwidth | SlowClose | Timeout | ResetPeer | Slicer | LimitData

STEP_S = 0.1
"""A bandwidth gives out its bytes about so often."""


def toxic_error(toxic: Toxic) -> str:
    """What is wrong with it, as one sentence; empty when it can be carried out."""
    for name in toxic.__struct_fields__:
        value = getattr(toxic, name)
        if not isinstance(value, str) and not 0 <= value < float("inf"):
            return f"The {name.replace('_', ' ')} of a toxic must be 0 or more, not {value:g}."
    if toxic.toxicity > 1:
        return f"The toxicity is a share of the connections, 0 to 1, not {toxic.toxicity:g}."
    if isinstance(toxic, Bandwidth) and not toxic.rate:
        return "The rate must be over 0 KB/s; `timeout` lets nothing through."
    if isinstance(toxic, Slicer) and toxic.average_size - toxic.size_variation < 1:
        return "The average size must be larger than its variation: no piece has less than 1 byte."
    return ""


def in_words(toxic: Toxic) -> str:
    """As an event says it: `latency 200 ms ± 50, down`."""
    said = {
        Latency: lambda t: f"latency {t.latency:g} ms" + (f" ± {t.jitter:g}" if t.jitter else ""),
        Bandwidth: lambda t: f"bandwidth {t.rate:g} KB/s",
        SlowClose: lambda t: f"slow close {t.delay:g} ms",
        Timeout: lambda t: f"timeout {t.timeout:g} ms" if t.timeout else "silence",
        ResetPeer: lambda t: f"reset after {t.timeout:g} ms" if t.timeout else "reset",
        Slicer: lambda t: f"sliced to {t.average_size} ± {t.size_variation} bytes",
        LimitData: lambda t: f"cut after {t.bytes:,} bytes",
    }
    share = f", {toxic.toxicity:.0%} of connections" if toxic.toxicity < 1 else ""
    words: Callable[[Toxic], str] = said[type(toxic)]
    return f"{words(toxic)}, {toxic.stream}{share}"


@dataclass(frozen=True)
class Piece:
    """Bytes to hand on, not before `due`."""

    due: float
    data: bytes


@dataclass(frozen=True)
class End:
    """The whole connection ends at `due`: closed, or reset with an RST to both sides."""

    due: float
    reset: bool = False


@dataclass
class Passing:
    """What one chunk has become on its way through the toxics."""

    pieces: list[Piece]
    end: End | None = None


@dataclass(eq=False)
class _Held:
    """A toxic that has hold of a link."""

    toxic: Toxic
    since: float
    passed: int
    """Bytes that the link had passed on by then."""
    hits: bool
    free_at: float = 0.0
    """A bandwidth: when its last byte was through."""


@dataclass
class Link:
    """One direction of one connection. One chunk is decided at a time, once all pieces of the one before are gone."""

    stream: Stream
    rng: random.Random
    passed: int = 0
    """Bytes that went on; whoever carries out keeps it."""
    toxics: tuple[Toxic, ...] = ()
    """Those of the latest `change`."""
    _held: list[_Held] = field(default_factory=list)
    _last_due: float = 0.0

    def change(self, toxics: Sequence[Toxic], now: float) -> End | None:
        """From now on these; one that stays keeps what it had begun. The end that a removal means."""
        before = list(self._held)
        self.toxics, self._held = tuple(toxics), []
        for toxic in toxics:
            if toxic.stream != self.stream:
                continue
            kept = next((held for held in before if held.toxic == toxic), None)
            if kept is not None:
                before.remove(kept)
            self._held.append(kept or _Held(toxic, now, self.passed, self.rng.random() < toxic.toxicity))
        self._last_due = now
        gone = any(held.hits and isinstance(held.toxic, Timeout) for held in before)
        return End(now) if gone and not self.swallows else None

    @property
    def _hitting(self) -> list[_Held]:
        return [held for held in self._held if held.hits]

    @property
    def swallows(self) -> bool:
        """Nothing goes through."""
        return any(isinstance(held.toxic, Timeout | ResetPeer) for held in self._hitting)

    @property
    def end(self) -> End | None:
        """The end that will come though nothing more is sent; the earliest."""
        ends = [
            End(held.since + held.toxic.timeout / 1e3, isinstance(held.toxic, ResetPeer))
            for held in self._hitting
            if isinstance(held.toxic, ResetPeer) or (isinstance(held.toxic, Timeout) and held.toxic.timeout)
        ]
        return min(ends, key=lambda end: end.due, default=None)

    def decide(self, data: bytes, arrived: float, now: float) -> Passing:
        """What becomes of a chunk that arrived then and is the next to go on."""
        if self.swallows:
            return Passing([])
        passing = Passing([Piece(arrived, data)])
        for held in self._hitting:
            passing = self._through(held, passing, now)
        pieces = []
        for piece in passing.pieces:
            self._last_due = max(self._last_due, piece.due)  # jitter must not turn the order around
            pieces.append(Piece(self._last_due, piece.data))
        end = passing.end
        return Passing(pieces, None if end is None else End(max(end.due, self._last_due), end.reset))

    def eof_due(self, now: float) -> float:
        """When an end of the stream that is the next to go on is passed on."""
        late_s = sum(held.toxic.delay / 1e3 for held in self._hitting if isinstance(held.toxic, SlowClose))
        return max(now, self._last_due) + late_s

    def _through(self, held: _Held, passing: Passing, now: float) -> Passing:
        match held.toxic:
            case Latency(latency=latency, jitter=jitter):
                late_s = max(0.0, latency + self.rng.uniform(-jitter, jitter)) / 1e3
                return Passing([Piece(piece.due + late_s, piece.data) for piece in passing.pieces], passing.end)
            case Bandwidth(rate=rate):
                return Passing(_paced(held, passing.pieces, rate * 1e3, now), passing.end)
            case Slicer():
                return Passing(_sliced(held.toxic, passing.pieces, self.rng, now), passing.end)
            case LimitData(bytes=most):
                return _limited(passing, held.passed + most - self.passed, now)
        return passing


def _paced(held: _Held, pieces: Sequence[Piece], bytes_per_s: float, now: float) -> list[Piece]:
    step = max(1, int(bytes_per_s * STEP_S))
    paced = []
    for piece in pieces:
        at = max(held.free_at, piece.due, now)
        for start in range(0, len(piece.data), step):
            part = piece.data[start : start + step]
            at += len(part) / bytes_per_s
            paced.append(Piece(at, part))
        held.free_at = at
    return paced


def _sliced(toxic: Slicer, pieces: Sequence[Piece], rng: random.Random, now: float) -> list[Piece]:
    sliced, at = [], now
    for piece in pieces:
        at = max(at, piece.due)
        start = 0
        while start < len(piece.data):
            size = rng.randint(toxic.average_size - toxic.size_variation, toxic.average_size + toxic.size_variation)
            sliced.append(Piece(at, piece.data[start : start + size]))
            start += size
            at += toxic.delay / 1e6
    return sliced


def _limited(passing: Passing, left: int, now: float) -> Passing:
    """At most so many bytes, and the end with the last of them."""
    pieces: list[Piece] = []
    due = now
    for piece in passing.pieces:
        if left <= 0:
            break
        pieces.append(Piece(piece.due, piece.data[:left]))
        left, due = left - len(piece.data), piece.due
    return Passing(pieces, End(due) if left <= 0 else passing.end)
