"""A run over time for charts: so many bins at most, each with the least, the mean and the most of what was read in it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import get_args

import msgspec

from server.report.columns import FIGURES, figure
from server.telemetry.snapshot import Snapshot, VerdictWord

MOST_BINS = 240
BIN_S = 1.0
"""What a bin begins with; it doubles when there would be too many."""
WORST_FIRST: tuple[VerdictWord, ...] = ("DOWN", "STALLED", "BROKEN", "STARTING", "BENDING", "GOOD", "UNKNOWN", "IDLE")
"""Of several words in one bin the first of these is told."""


class Bin(msgspec.Struct, frozen=True):
    """What was read of one figure in one bin."""

    at_s: float
    """Its middle, seconds since the beginning."""
    low: float
    mean: float
    high: float


class Span(msgspec.Struct, frozen=True):
    """A word for as long as it stood, seconds since the beginning."""

    begin_s: float
    end_s: float
    word: VerdictWord


class _Bins:
    def __init__(self) -> None:
        self.low, self.high, self.total, self.n = array("d"), array("d"), array("d"), array("l")

    def add(self, index: int, v: float) -> None:
        while len(self.n) <= index:
            self.low.append(math.inf)
            self.high.append(-math.inf)
            self.total.append(0.0)
            self.n.append(0)
        self.low[index] = min(self.low[index], v)
        self.high[index] = max(self.high[index], v)
        self.total[index] += v
        self.n[index] += 1

    def halve(self) -> None:
        """Every two neighbours become one."""
        pairs = range(0, len(self.n), 2)
        self.low = array("d", (min(self.low[at : at + 2]) for at in pairs))
        self.high = array("d", (max(self.high[at : at + 2]) for at in pairs))
        self.total = array("d", (sum(self.total[at : at + 2]) for at in pairs))
        self.n = array("l", (sum(self.n[at : at + 2]) for at in pairs))


class Timeline:
    """Snapshots in, bins out. What it keeps is bounded, however long the run is."""

    def __init__(self, most: int = MOST_BINS) -> None:
        """`most` bins; an even number."""
        self.bin_s = BIN_S
        self._most = most
        self._begin: float | None = None
        self.seconds = 0.0
        self._bins = {name: _Bins() for name in FIGURES}
        self._words: list[int | None] = []

    def add(self, snapshot: Snapshot) -> None:
        """Take the next snapshot."""
        if self._begin is None:
            self._begin = snapshot.at
        self.seconds = max(self.seconds, snapshot.at - self._begin)
        index = int(self.seconds / self.bin_s)
        while index >= self._most:
            self._halve()
            index = int(self.seconds / self.bin_s)
        for name, bins in self._bins.items():
            v = figure(name, snapshot)
            if v is not None and math.isfinite(v):
                bins.add(index, v)
        self._words += [None] * (index + 1 - len(self._words))
        rank = WORST_FIRST.index(snapshot.verdict.word)
        self._words[index] = _worst(self._words[index], rank)

    def _halve(self) -> None:
        self.bin_s *= 2
        for bins in self._bins.values():
            bins.halve()
        words = self._words
        self._words = [_worst(*words[at : at + 2]) for at in range(0, len(words), 2)]

    def bins(self, name: str) -> list[Bin | None]:
        """One figure in order of time; None for a bin in which it was not read."""
        bins = self._bins[name]
        found: list[Bin | None] = []
        for index, n in enumerate(bins.n):
            at_s = min((index + 0.5) * self.bin_s, self.seconds)
            found.append(Bin(at_s, bins.low[index], bins.total[index] / n, bins.high[index]) if n else None)
        return found

    def most(self, names: Sequence[str]) -> float | None:
        """The largest of these figures; None when they were never read."""
        highs = [max(self._bins[name].high, default=-math.inf) for name in names]
        return found if math.isfinite(found := max(highs, default=-math.inf)) else None

    def least(self, names: Sequence[str]) -> float | None:
        """The least above 0, for a logarithmic scale."""
        lows = [low for name in names for low in self._bins[name].low if 0 < low < math.inf]
        return min(lows, default=None)

    def verdicts(self) -> list[Span]:
        """The words one after the other, with gaps where nothing was written down."""
        spans: list[Span] = []
        for index, rank in enumerate(self._words):
            if rank is None:
                continue
            begin_s, end_s = index * self.bin_s, min((index + 1) * self.bin_s, self.seconds)
            word = WORST_FIRST[rank]
            if spans and spans[-1].word == word and begin_s - spans[-1].end_s < self.bin_s / 2:
                spans[-1] = Span(spans[-1].begin_s, end_s, word)
            elif end_s > begin_s:
                spans.append(Span(begin_s, end_s, word))
        return spans


def _worst(one: int | None, other: int | None = None) -> int | None:
    known = [rank for rank in (one, other) if rank is not None]
    return min(known, default=None)


assert set(WORST_FIRST) == set(get_args(VerdictWord))
