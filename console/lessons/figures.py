"""The figures a lesson may name: a closed vocabulary of paths into a snapshot, and how each is written. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, NamedTuple

from console import format as fmt
from server.telemetry.snapshot import Quantiles, Snapshot, Value

Kind = Literal["share", "seconds", "count", "rate", "watts", "joules", "bytes", "cores", "word"]
"""How a figure is written. A rate is per second (or as its `unit` says), a share 0..1, a word a name of a closed set."""

UNITS: dict[str, dict[str, float]] = {
    "share": {"%": 100.0},
    "seconds": {"s": 1.0, "ms": 1000.0},
    "bytes": {"KiB": 1 / 1024, "MiB": 1 / 1024**2},
    "watts": {"W": 1.0},
    "joules": {"J": 1.0},
    "cores": {"cores": 1.0},
    "times": {"times": 1.0},
}
"""In which units a prediction of each kind may be asked for, and what one unit of the figure is in them. `times` is a
quotient of two figures."""


class Found(NamedTuple):
    """A reading: absent is None, with its reason."""

    v: float | str | None
    why: str = ""


@dataclass(frozen=True)
class Figure:
    """One name of the vocabulary."""

    name: str
    kind: Kind
    says: str
    """What it is, in one clause."""
    read: Callable[[Snapshot], Found]
    unit: str = ""
    """Of a count or a rate."""

    @property
    def units(self) -> dict[str, float]:
        """In which units it may be predicted."""
        return UNITS.get(self.kind, {self.unit: 1.0, "": 1.0})

    def written(self, value: float | str | None) -> str:
        """With its unit; `—` when absent."""
        if value is None:
            return fmt.ABSENT_TEXT
        if isinstance(value, str):
            return fmt.sanitize(value, 60)
        return _WRITERS[self.kind](value) + (f" {self.unit}" if self.unit else "")


def times(value: float | None) -> str:
    """A quotient: `6.3 x`."""
    value = fmt.known(value)
    if value is None:
        return fmt.ABSENT_TEXT
    return f"{value:.0f} x" if abs(value) >= 9.95 else f"{value:.1f} x"


def _few(value: float) -> str:
    """A count that need not be whole, e.g. of a mean."""
    return fmt.count(value) if abs(value) >= 9.95 or value == int(value) else f"{value:.1f}"


_WRITERS: dict[str, Callable[[float], str]] = {
    "share": fmt.share,
    "seconds": fmt.seconds,
    "count": _few,
    "rate": fmt.rate,
    "watts": lambda value: f"{value:.0f} W",
    "joules": lambda value: f"{value:.2g} J",
    "bytes": fmt.size,
    "cores": lambda value: f"{value:.1f} cores",
}


def _found(value: float | None, why: str) -> Found:
    known = fmt.known(value)
    return Found(None, why or "not known yet") if known is None else Found(float(known))


def _value(path: str) -> Callable[[Snapshot], Found]:
    take = attrgetter(path)

    def read(snapshot: Snapshot) -> Found:
        value: Value = take(snapshot)
        return _found(value.v, value.why)

    return read


def _quantile(path: str, which: str) -> Callable[[Snapshot], Found]:
    take = attrgetter(path)

    def read(snapshot: Snapshot) -> Found:
        quantiles: Quantiles = take(snapshot)
        if which == "n":
            return _found(float(quantiles.n), "")
        needs = {"p95": 100, "p99": 500}.get(which, 1)
        few = f"it needs {needs} requests in its window, and has {quantiles.n}" if quantiles.n < needs else ""
        return _found(getattr(quantiles, which), quantiles.why or few)

    return read


def _device(name: str) -> Callable[[Snapshot], Found]:
    def read(snapshot: Snapshot) -> Found:
        device = snapshot.device
        if device is None:
            return Found(None, snapshot.gpu_note or "there is no GPU here")
        value: Value = getattr(device, name)
        return _found(value.v, value.why or device.gpm_note)

    return read


def _stage(name: str) -> Callable[[Snapshot], Found]:
    def read(snapshot: Snapshot) -> Found:
        stage = next((one for one in snapshot.breakdown.stages if one.name == name), None)
        return _found(None if stage is None else stage.mean_s, snapshot.breakdown.why or "nothing has finished yet")

    return read


def _outcome(name: str) -> Callable[[Snapshot], Found]:
    return lambda snapshot: Found(float(snapshot.people.outcomes.get(name, 0)))


def _capacity(name: str) -> Callable[[Snapshot], Found]:
    def read(snapshot: Snapshot) -> Found:
        found = snapshot.capacity
        if found is None:
            return Found(None, "nothing was searched yet")
        if name == "phase":
            return Found(found.phase)
        if name == "blocks":
            return Found(float(len(found.blocks)))
        value: float | None = getattr(found.answer, name, None) if found.answer else getattr(found, name, None)
        return _found(value, "no estimate yet: nothing has bent so far")

    return read


def _quantile_rows() -> list[Figure]:
    named = (
        ("feel.ttft_s", "time to the first token"),
        ("feel.tpot_s", "time per token after the first"),
        ("feel.gap_s", "gap between two tokens"),
        ("feel.e2e_s", "a whole reply, end to end"),
        ("queue.wait_s", "wait in the gateway's queue"),
        ("engine.prefill_s", "reading of the prompt in the engine"),
        ("engine.itl_s", "the engine's own gap between tokens"),
    )
    said = {"mean": "mean", "p50": "median", "p95": "95 % are quicker", "p99": "99 % are quicker", "max": "longest"}
    rows = [
        Figure(f"{path}.{which}", "seconds", f"{text}, {word}", _quantile(path, which))
        for path, text in named
        for which, word in said.items()
    ]
    return rows + [
        Figure(f"{path}.n", "count", f"{text}: how many were measured in the window", _quantile(path, "n"))
        for path, text in named
    ]


def _values(*rows: tuple[str, Kind, str] | tuple[str, Kind, str, str]) -> list[Figure]:
    return [Figure(row[0], row[1], row[2], _value(row[0]), row[3] if len(row) > 3 else "") for row in rows]


_DEVICE: tuple[tuple[str, Kind, str], ...] = (
    ("busy", "share", "NVML's busy, the share of time in which some kernel ran,"),
    ("sm_active", "share", "multiprocessors with work"),
    ("sm_occupancy", "share", "warps of those there could be"),
    ("tensor", "share", "tensor cores at work"),
    ("dram", "share", "memory bandwidth in use"),
    ("power_w", "watts", "power drawn"),
    ("mfu", "share", "estimated FLOPs of the device's peak"),
    ("mbu", "share", "estimated bytes moved of the device's peak"),
    ("sm_clock_mhz", "count", "clock of the multiprocessors"),
    ("mem_used_bytes", "bytes", "memory in use"),
    ("energy_per_token_j", "joules", "energy of a generated token"),
)

_ALL: list[Figure] = [
    *(
        Figure(f"device.{name}", kind, says, _device(name), "MHz" if name == "sm_clock_mhz" else "")
        for name, kind, says in _DEVICE
    ),
    *_quantile_rows(),
    *_values(
        ("feel.attainment", "share", "good requests of all that were due"),
        ("feel.goodput_per_s", "rate", "good requests a second", "a second"),
        ("feel.tokens_per_s", "rate", "tokens that reached people a second", "tokens/s"),
        ("feel.fluidity", "share", "token deadlines met"),
        ("queue.depth", "count", "requests that wait in the gateway's queue"),
        ("queue.in_flight", "count", "requests at the engine"),
        ("queue.max_in_flight", "count", "requests that may be at the engine"),
        ("queue.max_queue", "count", "requests that may wait"),
        ("queue.oldest_s", "seconds", "how long the one waits who waits longest"),
        ("queue.refused_share", "share", "requests refused"),
        ("queue.failed_share", "share", "requests failed"),
        ("queue.arrivals_per_s", "rate", "requests that come a second", "a second"),
        ("queue.drain_per_s", "rate", "requests that the engine finishes a second", "a second"),
        ("queue.estimated_wait_s", "seconds", "wait that the next one has to expect"),
        ("queue.held", "count", "replies the engine has finished and their readers have not"),
        ("queue.buffered_bytes", "bytes", "bytes that wait in the gateway for slow readers"),
        ("queue.connections", "count", "open connections"),
        ("engine.running", "count", "requests in the batch"),
        ("engine.waiting", "count", "requests that wait inside the engine"),
        ("engine.max_num_seqs", "count", "slots of the batch"),
        ("engine.kv_usage", "share", "KV cache in use"),
        ("engine.preemptions_per_min", "rate", "requests put back a minute", "a minute"),
        ("engine.generation_tokens_per_s", "rate", "tokens generated a second", "tokens/s"),
        ("engine.prompt_tokens_per_s", "rate", "prompt tokens read a second", "tokens/s"),
        ("engine.tokens_per_step", "count", "tokens in one step of the engine"),
        ("engine.steps_per_s", "rate", "steps of the engine a second", "a second"),
        ("engine.prefix_hit_share", "share", "prompt tokens found in the prefix cache"),
        ("people.people", "count", "people there are"),
        ("people.in_flight", "count", "people who wait or read"),
        ("people.slow", "count", "slow readers"),
        ("people.held", "count", "connections that slow readers hold"),
        ("people.flash", "count", "people of a flash crowd who are still there"),
        ("people.amplification", "rate", "requests sent for each that somebody meant to make", "x"),
        ("people.left_per_min", "rate", "requests abandoned a minute", "a minute"),
        ("people.wasted_share", "share", "tokens made for people who had left"),
        ("people.sent_per_s", "rate", "requests sent a second", "a second"),
        ("host.cpu_share", "share", "the machine's processors at work"),
        ("host.engine_cpu_cores", "cores", "processors the engine keeps busy"),
        ("host.gateway_cpu_cores", "cores", "processors the gateway keeps busy"),
    ),
    Figure("people.sent_total", "count", "requests sent so far", lambda s: Found(float(s.people.sent_total))),
    *(
        Figure(f"people.{name}", "count", says, _outcome(key))
        for name, key, says in (
            ("ok", "ok", "requests that finished well so far"),
            ("rejected", "rejected", "requests refused so far"),
            ("error", "error", "requests failed so far"),
            ("abandoned", "abandoned", "requests left by their person so far"),
        )
    ),
    Figure("engine.phase", "word", "what the engine does", lambda s: Found(s.engine.phase)),
    Figure("queue.order", "word", "who of those who wait goes next", lambda s: Found(s.queue.policy or None)),
    Figure("queue.why", "word", "what the next one waits for", lambda s: Found(s.queue.why or "nothing")),
    Figure("verdict.word", "word", "the one word on top", lambda s: Found(s.verdict.word)),
    Figure("limit.name", "word", "what holds the setup back", lambda s: Found(s.limit_detail.name or "none named")),
    Figure("start.elapsed_s", "seconds", "duration of the start", lambda s: _found(s.engine.start.elapsed_s, "")),
    Figure(
        "start.waiting",
        "count",
        "people who wait for the engine",
        lambda s: Found(float(s.engine.start.meanwhile.waiting)),
    ),
    Figure(
        "start.missed", "count", "requests the start spoiled", lambda s: Found(float(s.engine.start.meanwhile.missed))
    ),
    Figure("start.cut", "count", "replies the start broke off", lambda s: Found(float(s.engine.start.meanwhile.cut))),
    *(
        Figure(f"stage.{name.replace(' ', '_')}_s", "seconds", f"mean time of the stage `{name}`", _stage(name))
        for name in ("connect", "accept", "queue", "front end", "engine queue", "prefill", "decode", "drain")
    ),
    Figure("stage.whole_s", "seconds", "mean time of a whole request", lambda s: _found(s.breakdown.e2e_s, "")),
    Figure("capacity.phase", "word", "where the search is", _capacity("phase")),
    Figure("capacity.people", "count", "people of the step that runs", _capacity("people"), "people"),
    Figure("capacity.best", "count", "estimate of how many can be served", _capacity("best"), "people"),
    Figure("capacity.low", "count", "lower end of its 90 % interval", _capacity("low"), "people"),
    Figure("capacity.high", "count", "upper end of its 90 % interval", _capacity("high"), "people"),
    Figure("capacity.safe", "count", "people it calls safe", _capacity("safe"), "people"),
    Figure("capacity.blocks", "count", "blocks measured", _capacity("blocks")),
]
FIGURES = {figure.name: figure for figure in _ALL}
ELAPSED = "elapsed_s"
"""Seconds since the step's action: the one figure that is no snapshot's."""
FIGURES[ELAPSED] = Figure(ELAPSED, "seconds", "time since then", lambda s: Found(None, "nothing was done yet"))
