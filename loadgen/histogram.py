"""Very many durations in little room: log buckets 2 % wide, so that a quantile is within 1 %; n, mean and maximum are exact."""

from __future__ import annotations

import math

import msgspec

RATIO = 1.02
SMALLEST = 1e-6
"""Below this all is one bucket, which counts as 0."""
_LOG_RATIO = math.log(RATIO)
_SCALE = 1 / _LOG_RATIO
_OFFSET = -math.log(SMALLEST) / _LOG_RATIO


class Histogram(msgspec.Struct, omit_defaults=True):
    """Durations in seconds. Histograms merge without loss, so those of several workers are as good as one."""

    counts: dict[int, int] = {}
    """Values by bucket: bucket k holds those from SMALLEST * RATIO**k on; -1 those under SMALLEST."""
    n: int = 0
    total: float = 0.0
    """Their sum, seconds."""
    largest: float = 0.0

    def add(self, value: float) -> None:
        """Take one value; a negative one counts as 0."""
        key = int(math.log(value) * _SCALE + _OFFSET) if value >= SMALLEST else -1
        counts = self.counts
        counts[key] = counts.get(key, 0) + 1
        self.n += 1
        if value > 0:
            self.total += value
            self.largest = max(self.largest, value)

    def take(self) -> Histogram:
        """All that came in so far; it is empty again."""
        taken = Histogram(self.counts, self.n, self.total, self.largest)
        self.counts, self.n, self.total, self.largest = {}, 0, 0.0, 0.0
        return taken

    def merge(self, other: Histogram) -> None:
        """Take all of another one in."""
        counts = self.counts
        for key, count in other.counts.items():
            counts[key] = counts.get(key, 0) + count
        self.n += other.n
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def quantile(self, share: float) -> float | None:
        """Nearest rank, the middle of its bucket; None when empty."""
        return quantiles_of(self.counts, self.n, self.largest, (share,))[0] if self.n else None


def quantiles_of(counts: dict[int, int], n: int, largest: float, shares: tuple[float, ...]) -> list[float]:
    """Nearest-rank quantiles in one walk; `shares` ascend and `n`, the number of values, is above 0."""
    found: list[float] = []
    ranks = [max(0, math.ceil(share * n) - 1) for share in shares]
    seen = 0
    for key in sorted(counts):
        seen += counts[key]
        while len(found) < len(ranks) and seen > ranks[len(found)]:
            found.append(0.0 if key < 0 else min(SMALLEST * math.exp((key + 0.5) * _LOG_RATIO), largest))
    return found
