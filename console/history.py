"""The past that charts show: a ring of one-second buckets a series, filled before a snapshot is announced."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy

from console.raster import Column
from server.telemetry.snapshot import Event, Snapshot

CELL_S = 2
"""Seconds a chart cell stands for; two dot columns. Charts move once a cell, so that few bytes go to the terminal."""
KEEP_S = 480
"""Seconds with a reading that a series keeps."""
KEEP_EVENTS = 200


def _work(snapshot: Snapshot) -> float | None:
    """How near the device is to what it can do: the busier of arithmetic and memory, counted (GPM) or else estimated (MFU,
    MBU); without a GPU the engine's share of the cores. NVML's busy says neither."""
    if gpu := snapshot.device:
        for pair in ((gpu.tensor, gpu.dram), (gpu.mfu, gpu.mbu)):
            if known := [value.v for value in pair if value.v is not None]:
                return max(known)
        return None
    cores = snapshot.host.engine_cpu_cores.v
    return cores / snapshot.host.cores if cores is not None and snapshot.host.cores else None


def _memory_bandwidth(snapshot: Snapshot) -> float | None:
    """Share of it in use: counted, or else the engine's estimate (MBU)."""
    gpu = snapshot.device
    return None if gpu is None else gpu.dram.v if gpu.dram.v is not None else gpu.mbu.v


SERIES: dict[str, Callable[[Snapshot], float | None]] = {
    "in_flight": lambda s: s.people.in_flight.v if s.people.in_flight.v is not None else s.queue.in_flight.v,
    "arrivals": lambda s: s.queue.arrivals_per_s.v,
    "waiting": lambda s: s.queue.depth.v,
    "running": lambda s: s.engine.running.v,
    "work": _work,
    "kv": lambda s: s.engine.kv_usage.v,
    "memory": _memory_bandwidth,
    "tokens": lambda s: (
        s.engine.generation_tokens_per_s.v if s.engine.generation_tokens_per_s.v is not None else s.feel.tokens_per_s.v
    ),
    "ttft_p50": lambda s: s.feel.ttft_s.p50,
    "ttft_p95": lambda s: s.feel.ttft_s.p95,
}


def readings(snapshot: Snapshot) -> dict[str, float]:
    """What of a snapshot the charts draw; absent is left out."""
    found = ((name, read(snapshot)) for name, read in SERIES.items())
    return {name: value for name, value in found if value is not None and math.isfinite(value)}


def new_events(snapshot: Snapshot, newest: float) -> list[Event]:
    """Those of its events that came after the `newest` one known."""
    return [event for event in snapshot.events if newest < event.at < math.inf]


class History:
    """Aggregates of the last minutes. Time is the snapshots' own `at`, never this process's clock."""

    def __init__(self) -> None:
        self._buckets: dict[str, deque[tuple[int, float, float, float, int]]] = {
            name: deque(maxlen=KEEP_S) for name in SERIES
        }
        self._events: deque[Event] = deque(maxlen=KEEP_EVENTS)
        self.at = -math.inf

    def append(self, snapshot: Snapshot) -> bool:
        """Take a snapshot in; False (and nothing done) if it is not newer than the last one."""
        if not math.isfinite(snapshot.at) or snapshot.at <= self.at:
            return False
        self.at = snapshot.at
        for name, value in readings(snapshot).items():
            self._put(name, snapshot.at, value)
        self._events.extend(new_events(snapshot, self._events[-1].at if self._events else -math.inf))
        return True

    @classmethod
    def rebuilt(
        cls, at: float, columns: Mapping[str, Iterable[tuple[float, float]]], events: Iterable[Event]
    ) -> History:
        """The past as it would be had snapshots with these `readings` and `new_events` been appended, the last one `at`."""
        history = cls()
        history.at = at
        for name, column in columns.items():
            for when, value in column:
                history._put(name, when, value)
        history._events.extend(events)
        return history

    def _put(self, name: str, at: float, value: float) -> None:
        second = int(at)
        buckets = self._buckets[name]
        if buckets and buckets[-1][0] == second:
            _, low, high, total, n = buckets[-1]
            buckets[-1] = (second, min(low, value), max(high, value), total + value, n + 1)
        else:
            buckets.append((second, value, value, value, 1))

    def columns(self, name: str, cells: int) -> list[Column]:
        """(low, high) for each second of the last `cells` finished cells; None where nothing was known."""
        begin = self._begin(cells)
        found: list[Column] = [None] * (cells * CELL_S)
        for second, low, high, _, _ in reversed(self._buckets[name]):
            if second < begin:
                break
            if second - begin < len(found):
                found[second - begin] = (low, high)
        return found

    def cells(self, name: str, cells: int) -> list[float | None]:
        """The mean of each of the last `cells` finished cells."""
        begin = self._begin(cells)
        totals = [0.0] * cells
        counts = [0] * cells
        for second, _, _, total, n in reversed(self._buckets[name]):
            if second < begin:
                break
            index = (second - begin) // CELL_S
            if index < cells:
                totals[index] += total
                counts[index] += n
        return [total / n if n else None for total, n in zip(totals, counts, strict=True)]

    def marks(self, cells: int) -> str:
        """One character a cell: the mark of an event in it, the latest winning, else a blank."""
        row = [" "] * cells
        begin = self._begin(cells)
        for event in self._events:
            if begin <= event.at < begin + cells * CELL_S and event.mark[:1].isalnum():
                row[int((event.at - begin) // CELL_S)] = event.mark[0]
        return "".join(row)

    def marked(self, cells: int) -> dict[int, Event]:
        """The events whose marks `marks` shows, by their cell."""
        begin = self._begin(cells)
        return {
            int((event.at - begin) // CELL_S): event
            for event in self._events
            if begin <= event.at < begin + cells * CELL_S and event.mark[:1].isalnum()
        }

    @property
    def events(self) -> Sequence[Event]:
        """The latest, oldest first, at most 200."""
        return self._events

    def copy(self) -> History:
        """The past as it is now, for a frozen display."""
        return deepcopy(self)

    def _begin(self, cells: int) -> int:
        """The first second of the window that ends with the last finished cell."""
        return (0 if math.isinf(self.at) else int(self.at) // CELL_S - cells) * CELL_S
