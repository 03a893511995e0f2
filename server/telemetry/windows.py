"""Windows: what happened lately, from counters that only grow, buckets that only grow, and single values.

Lifetime figures never leave here: everything is a difference over a stated time, and a decrease means that the process
behind a counter began anew, so the window does too.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from loadgen.histogram import Histogram, quantiles_of
from server.telemetry.snapshot import Quantiles, Source

P95_NEEDS = 100
P99_NEEDS = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Buckets:
    """A Prometheus histogram, or the difference of two. The last edge is +Inf, so the last count is the number of samples."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    """Cumulative: samples at or under each edge."""
    total: float
    """The sum of all samples."""

    @property
    def n(self) -> float:
        return self.counts[-1]

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n > 0 else None

    def minus(self, earlier: Buckets) -> Buckets | None:
        """What was added since `earlier`; None when it cannot be the same histogram's past (a restart)."""
        if earlier.edges != self.edges or self.total < earlier.total:
            return None
        counts = tuple(new - old for new, old in zip(self.counts, earlier.counts, strict=True))
        return None if min(counts) < 0 else Buckets(self.edges, counts, self.total - earlier.total)

    def plus(self, other: Buckets) -> Buckets:
        """Of both together, on the edges that both have: counts are cumulative, so they are exact there."""
        if self.edges == other.edges:
            counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
            return Buckets(self.edges, counts, self.total + other.total)
        mine, theirs = (
            dict(zip(self.edges, self.counts, strict=True)),
            dict(zip(other.edges, other.counts, strict=True)),
        )
        edges = tuple(edge for edge in self.edges if edge in theirs)
        return Buckets(edges, tuple(mine[edge] + theirs[edge] for edge in edges), self.total + other.total)


def counter_minus(later: float, earlier: float) -> float | None:
    """What a counter gained; None when it shrank (a restart)."""
    return later - earlier if later >= earlier else None


@dataclass(frozen=True, slots=True)
class Gain(Generic[T]):
    """What was added, and in how many seconds of real time."""

    amount: T
    seconds: float
    at: float
    """The stamp of the newest reading."""


class GrowthWindow(Generic[T]):
    """Readings of something that only grows, for differences over the last seconds."""

    def __init__(self, minus: Callable[[T, T], T | None], keep_s: float) -> None:
        self._minus = minus
        self._keep_s = keep_s
        self._readings: deque[tuple[float, T]] = deque()

    def add(self, at: float, value: T) -> None:
        """Take a reading; one that is not newer than the last is ignored."""
        readings = self._readings
        if readings:
            last_at, last = readings[-1]
            if at <= last_at:
                return
            if self._minus(value, last) is None:
                readings.clear()
        readings.append((at, value))
        # The reading just before the window stays: after a gap it is the only base there is.
        while len(readings) > 2 and readings[1][0] < at - self._keep_s:
            readings.popleft()

    def clear(self) -> None:
        self._readings.clear()

    @property
    def latest(self) -> tuple[float, T] | None:
        return self._readings[-1] if self._readings else None

    def over(self, window_s: float) -> Gain[T] | None:
        """The difference between the newest reading and the oldest one at most `window_s` before it.

        After a gap that is longer than the window, the base is the reading before the gap.
        None with fewer than two readings since the last restart.
        """
        if len(self._readings) < 2:
            return None
        at, newest = self._readings[-1]
        base_at, base = self._readings[-2]
        for reading in self._readings:
            if reading[0] >= at - window_s:
                if reading[0] < base_at:
                    base_at, base = reading
                break
        amount = self._minus(newest, base)
        return None if amount is None else Gain(amount, at - base_at, at)


def counter_window(keep_s: float) -> GrowthWindow[float]:
    return GrowthWindow(counter_minus, keep_s)


def bucket_window(keep_s: float) -> GrowthWindow[Buckets]:
    return GrowthWindow(Buckets.minus, keep_s)


def bucket_quantile(buckets: Buckets, q: float) -> tuple[float | None, str]:
    """The q-quantile by linear interpolation inside its bucket, or None and why.

    In the first bucket nothing but the upper edge is known (an interpolation from 0 would be an invention), and in the
    last one nothing but the lower edge.
    """
    rank = q * buckets.n
    index = next(i for i, count in enumerate(buckets.counts) if count >= rank and count > 0)
    if math.isinf(buckets.edges[index]):
        above = f" (over {buckets.edges[index - 1]:g})" if index else ""
        return None, f"beyond the last bucket{above}"
    if index == 0:
        return None, f"in the first bucket (under {buckets.edges[0]:g})"
    low, high = buckets.edges[index - 1], buckets.edges[index]
    below = buckets.counts[index - 1]
    return low + (high - low) * (rank - below) / (buckets.counts[index] - below), ""


def bucket_quantiles(gain: Gain[Buckets] | None, now: float, window_s: float, src: Source = "engine") -> Quantiles:
    """A distribution from a difference of buckets: the mean is exact, the quantiles are interpolated."""
    if gain is None:
        return Quantiles(src=src, window_s=window_s, exact=False, why="needs two readings")
    buckets, n, age_s = gain.amount, round(gain.amount.n), now - gain.at
    if n == 0:
        return Quantiles(src=src, window_s=gain.seconds, age_s=age_s, exact=False, why="nothing observed in the window")
    found: dict[str, float | None] = {}
    notes: dict[str, list[str]] = {}
    for name, q, needs in (("p50", 0.5, 1), ("p95", 0.95, P95_NEEDS), ("p99", 0.99, P99_NEEDS)):
        if n < needs:
            continue
        found[name], note = bucket_quantile(buckets, q)
        if note:
            notes.setdefault(note, []).append(name)
    return Quantiles(
        n=n,
        window_s=gain.seconds,
        src=src,
        age_s=age_s,
        mean=buckets.mean,
        p50=found.get("p50"),
        p95=found.get("p95"),
        p99=found.get("p99"),
        exact=False,
        why="; ".join(f"{', '.join(names)} {note}" for note, names in notes.items()),
    )


class SampleWindow:
    """Single values with their stamps, for exact quantiles over the last seconds."""

    def __init__(self, window_s: float = 30.0, limit: int = 50_000) -> None:
        self._window_s = window_s
        self._limit = limit
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float) -> None:
        self._samples.append((at, value))
        if len(self._samples) > self._limit:
            self._samples.popleft()

    def clear(self) -> None:
        self._samples.clear()

    def values(self, now: float) -> list[float]:
        """Those of the window; older ones are forgotten."""
        samples = self._samples
        while samples and samples[0][0] < now - self._window_s:
            samples.popleft()
        return [value for _, value in samples]

    def quantiles(self, now: float, src: Source = "load") -> Quantiles:
        """Nearest-rank quantiles: each is a value that occurred."""
        values = sorted(self.values(now))
        if not values:
            return Quantiles(src=src, window_s=self._window_s, why="nothing in the window")
        n = len(values)
        full = n >= self._limit
        return Quantiles(
            n=n,
            window_s=now - self._samples[0][0] if full else self._window_s,
            src=src,
            age_s=max(0.0, now - self._samples[-1][0]),
            mean=math.fsum(values) / n,
            p50=values[_rank(n, 0.5)],
            p95=values[_rank(n, 0.95)] if n >= P95_NEEDS else None,
            p99=values[_rank(n, 0.99)] if n >= P99_NEEDS else None,
            max=values[-1],
        )


def _rank(n: int, q: float) -> int:
    return max(0, math.ceil(q * n) - 1)


class HistogramWindow:
    """Very many values (each gap between tokens) as histograms, one a batch: a quantile is within 1 %, mean and max are exact.

    A batch leaves as a whole, so a tick costs its own buckets and a walk over some hundred, whatever the window holds.
    """

    def __init__(self, window_s: float = 30.0) -> None:
        self._window_s = window_s
        self._slices: deque[tuple[float, Histogram]] = deque()
        self._counts: Counter[int] = Counter()

    def add(self, at: float, batch: Histogram) -> None:
        """Take one batch that shares a stamp."""
        if batch.n:
            self._counts.update(batch.counts)
            self._slices.append((at, batch))

    def clear(self) -> None:
        self._slices.clear()
        self._counts.clear()

    def quantiles(self, now: float, src: Source = "load") -> Quantiles:
        while self._slices and self._slices[0][0] < now - self._window_s:
            for key, count in self._slices.popleft()[1].counts.items():
                self._counts[key] -= count
                if not self._counts[key]:
                    del self._counts[key]
        if not self._slices:
            return Quantiles(src=src, window_s=self._window_s, exact=False, why="nothing in the window")
        batches = [batch for _, batch in self._slices]
        n = sum(batch.n for batch in batches)
        largest = max(batch.largest for batch in batches)
        p50, p95, p99 = quantiles_of(self._counts, n, largest, (0.5, 0.95, 0.99))
        return Quantiles(
            n=n,
            window_s=self._window_s,
            src=src,
            age_s=max(0.0, now - self._slices[-1][0]),
            mean=math.fsum(batch.total for batch in batches) / n,
            p50=p50,
            p95=p95 if n >= P95_NEEDS else None,
            p99=p99 if n >= P99_NEEDS else None,
            max=largest,
            exact=False,
            why="quantiles within 1 %",
        )
