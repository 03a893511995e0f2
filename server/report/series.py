"""What is kept of a run while it passes by: sizes that do not grow with its length, or by a few bytes a minute."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Mapping

from loadgen.summary import P95_NEEDS, P99_NEEDS
from server.telemetry.snapshot import Quantiles

_NEEDS = {"p50": 1, "p95": P95_NEEDS, "p99": P99_NEEDS}

TILE_TOLERANCE_S = 0.25
"""Half the usual time between two snapshots: a window's end is known no better."""


class Gauge:
    """Readings of one figure, none negative. Its median has three digits, the rest is exact."""

    def __init__(self) -> None:
        self._counts: dict[float, int] = {}  # 900 keys a power of ten at most
        self._total = 0.0
        self.n = 0
        self.most: float | None = None
        self.most_at: float | None = None
        """When the largest one was read, monotonic seconds."""
        self.window_s: float | None = None
        """The longest time that one reading was taken over; None for instantaneous ones."""

    def add(self, v: float, at: float, window_s: float | None = None) -> None:
        key = float(f"{v:.3g}")
        self._counts[key] = self._counts.get(key, 0) + 1
        self._total += v
        self.n += 1
        if self.most is None or v > self.most:
            self.most, self.most_at = v, at
        if window_s is not None:
            self.window_s = max(window_s, self.window_s or 0.0)

    @property
    def mean(self) -> float | None:
        return self._total / self.n if self.n else None

    @property
    def median(self) -> float | None:
        """Nearest rank."""
        seen = 0
        for key in sorted(self._counts):
            seen += self._counts[key]
            if 2 * seen >= self.n:
                return key
        return None


class Tiles:
    """Windows side by side: a snapshot's last `window_s` are taken when they reach back to the end of those before."""

    def __init__(self, window_s: float, begin: float) -> None:
        self.window_s = window_s
        self._end = begin
        self.taken = 0

    def take(self, at: float) -> bool:
        """Does a whole window end at `at`?"""
        if at - self._end < self.window_s - TILE_TOLERANCE_S:
            return False
        # After a hole (nothing was written for a while) the windows go on from here.
        self._end = at
        self.taken += 1
        return True

    def again(self, begin: float) -> None:
        """The next window begins here."""
        self._end = begin


class Windowed:
    """A distribution over a whole run of which only windows side by side are known: n, mean and largest add up; of the
    quantiles there is the median over the windows, and the worst window."""

    def __init__(self) -> None:
        self.n = 0
        self._total = 0.0
        self._of_mean = 0
        self.most: float | None = None
        self.exact = True
        self._quantiles: dict[str, array[float]] = {name: array("d") for name in _NEEDS}
        self._worst: dict[str, tuple[float, float]] = {}
        self._due = dict.fromkeys(_NEEDS, 0)

    def add(self, found: Quantiles, at: float) -> None:
        if not found.n:
            return
        self.n += found.n
        self.exact = self.exact and found.exact
        if found.mean is not None:
            self._total += found.mean * found.n
            self._of_mean += found.n
        if found.max is not None:
            self.most = max(found.max, self.most or 0.0)
        for name, kept in self._quantiles.items():
            v = getattr(found, name)
            self._due[name] += found.n >= _NEEDS[name]
            if v is not None:
                kept.append(v)
                if name not in self._worst or v > self._worst[name][0]:
                    self._worst[name] = (v, at)

    @property
    def mean(self) -> float | None:
        return self._total / self._of_mean if self._of_mean else None

    def median(self, name: str) -> float | None:
        """Of `p50`, `p95` or `p99` over the windows; None when it was not known in all that had enough samples (it lay in a
        histogram's first bucket), because those that knew it are the worse ones."""
        kept = self._quantiles[name]
        return statistics.median(kept) if kept and len(kept) >= self._due[name] else None

    def windows(self, name: str) -> int:
        """In how many windows it was known."""
        return len(self._quantiles[name])

    def worst(self, name: str) -> tuple[float, float] | None:
        """The largest one, and when its window ended."""
        return self._worst.get(name)


class Growth:
    """What counters grew by, by name. A counter that falls has begun anew from 0."""

    def __init__(self, *, from_zero: bool = False) -> None:
        """`from_zero`: nothing was counted before the first look; else that look is what the growth begins from."""
        self.grown: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._seen = from_zero

    def look(self, counts: Mapping[str, int]) -> None:
        if not counts:
            return
        if self._seen and sum(counts.values()) < sum(self._last.values()):
            self._last = {}
        for name, total in counts.items():
            gain = total - self._last.get(name, 0) if self._seen else 0
            self.grown[name] = self.grown.get(name, 0) + max(0, gain)
        self._seen = True
        self._last = dict(counts)

    @property
    def total(self) -> int:
        return sum(self.grown.values())
