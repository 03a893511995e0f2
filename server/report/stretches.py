"""The run cut at its events: what it was like from one thing that happened to the next."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import msgspec

from server.report.series import Gauge, Tiles
from server.report.sums import WINDOW_S, Judged
from server.telemetry.aging import STALE_S
from server.telemetry.snapshot import Event, Snapshot, Value

TOGETHER_S = 2.0
"""Events closer than this begin one stretch together."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """From one event to the next. Figures are absent (None) where no window lay whole within it."""

    begin: float
    """Monotonic seconds."""
    end: float
    began_with: list[str]
    people: float | None
    """At its end."""
    ended: dict[str, int]
    """Requests by outcome."""
    good: int
    due: int
    ttft_p50_s: float | None
    """Median of the windows'."""
    ttft_p95_s: float | None
    tokens_per_s: float | None
    """Mean while the engine worked."""
    depth_most: float | None
    running: float | None
    """Median while the engine worked."""
    tensor: float | None
    dram: float | None
    """The first GPU's, means while the engine worked."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class _Open:
    def __init__(self, begin: float, counts: Mapping[str, int]) -> None:
        self.begin = begin
        self.texts: list[str] = []
        self.people: float | None = None
        self.base = dict(counts)
        self.counts = dict(counts)
        self.tiles = Tiles(WINDOW_S, begin)
        self.judged = Judged()
        self.p50: list[float] = []
        self.p95: list[float] = []
        self.gauges = {name: Gauge() for name in ("tokens", "depth", "running", "tensor", "dram")}

    def read(self, name: str, value: Value, at: float) -> None:
        if value.v is not None and value.age_s <= STALE_S and at - (value.window_s or 0.0) >= self.begin:
            self.gauges[name].add(value.v, at)

    def add(self, snapshot: Snapshot, counts: Mapping[str, int]) -> None:
        at, engine = snapshot.at, snapshot.engine
        if snapshot.people.people.v is not None:
            self.people = snapshot.people.people.v
        self.counts = dict(counts)
        self.read("depth", snapshot.queue.depth, at)
        if engine.running.v and engine.running.age_s <= STALE_S:
            self.read("tokens", engine.generation_tokens_per_s, at)
            self.read("running", engine.running, at)
            if gpu := snapshot.device:
                self.read("tensor", gpu.tensor, at)
                self.read("dram", gpu.dram, at)
        if self.tiles.take(at):
            self.judged.add(snapshot)
            for kept, v in ((self.p50, snapshot.feel.ttft_s.p50), (self.p95, snapshot.feel.ttft_s.p95)):
                if v is not None:
                    kept.append(v)

    def close(self, end: float) -> Stretch:
        gains = {name: total - self.base.get(name, 0) for name, total in self.counts.items()}
        return Stretch(
            begin=self.begin,
            end=end,
            began_with=self.texts,
            people=self.people,
            ended={name: gain for name, gain in gains.items() if gain > 0},
            good=self.judged.good,
            due=self.judged.due,
            ttft_p50_s=statistics.median(self.p50) if self.p50 else None,
            ttft_p95_s=statistics.median(self.p95) if self.p95 else None,
            tokens_per_s=self.gauges["tokens"].mean,
            depth_most=self.gauges["depth"].most,
            running=self.gauges["running"].median,
            tensor=self.gauges["tensor"].mean,
            dram=self.gauges["dram"].mean,
        )


class Stretches:
    """Snapshots and their fresh events in, stretches out."""

    def __init__(self) -> None:
        self._closed: list[Stretch] = []
        self._open: _Open | None = None

    def add(self, snapshot: Snapshot, fresh: list[Event], counts: Mapping[str, int]) -> None:
        """`counts`: how many requests had ended by now, by outcome."""
        if self._open is None:
            self._open = _Open(snapshot.at, counts)
        for event in fresh:
            if event.at - self._open.begin > TOGETHER_S:
                self._closed.append(self._open.close(event.at))
                self._open = _Open(event.at, self._open.counts)
            self._open.texts.append(event.text)
        self._open.add(snapshot, counts)

    def close(self, end: float) -> list[Stretch]:
        """All of them, the last one up to `end`."""
        return self._closed if self._open is None else [*self._closed, self._open.close(end)]
