"""What adds up over a run: judgements, stages, checks and outages."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

from server.report.series import Tiles
from server.telemetry.snapshot import Breakdown, Snapshot

T = TypeVar("T")
WINDOW_S = 30.0
LITTLE_S = 60.0
DISAGREES = 0.05
MOST_KEYS = 100
"""Different words of one kind that are kept."""


class Times:
    """Seconds by word."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, word: str, dt: float) -> None:
        if word in self.seconds or len(self.seconds) < MOST_KEYS:
            self.seconds[word] = self.seconds.get(word, 0.0) + dt

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def longest(self) -> list[tuple[str, float]]:
        """Longest first, those of no time left out."""
        return sorted(((word, s) for word, s in self.seconds.items() if s > 0), key=lambda item: -item[1])


class Judged:
    """Requests by how they were judged, each once: good and missed of windows side by side."""

    def __init__(self) -> None:
        self.good = 0
        self.missed = 0
        self.misses: Counter[str] = Counter()
        self.windows = 0

    def add(self, snapshot: Snapshot) -> None:
        attainment, finished = snapshot.feel.attainment, snapshot.feel.goodput_per_s.n or 0
        if attainment.v is None or not attainment.n:
            return
        good = round(attainment.v * attainment.n)
        # `due` also counts those that waited past their limit and will be counted again when they end.
        missed = sum(snapshot.feel.misses.values()) or min(max(0, finished - good), attainment.n - good)
        self.good += good
        self.missed += missed
        self.misses.update(snapshot.feel.misses)
        self.windows += 1

    @property
    def due(self) -> int:
        return self.good + self.missed

    @property
    def share(self) -> float | None:
        return self.good / self.due if self.due else None


class Stages:
    """Where a mean request's time went, over windows side by side in which the same stages were known."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], tuple[int, float, dict[str, float]]] = {}

    def add(self, found: Breakdown) -> None:
        known = {stage.name: stage.mean_s for stage in found.stages if stage.mean_s is not None}
        if not found.n or found.e2e_s is None or not known:
            return
        names = tuple(known)
        n, e2e_s, sums = self._groups.get(names, (0, 0.0, dict.fromkeys(names, 0.0)))
        for name, mean_s in known.items():
            sums[name] += mean_s * found.n
        self._groups[names] = (n + found.n, e2e_s + found.e2e_s * found.n, sums)

    @property
    def n(self) -> int:
        """Requests of the largest group, whose means are shown."""
        return max((group[0] for group in self._groups.values()), default=0)

    @property
    def left_out(self) -> int:
        """Requests of which other stages are known."""
        return sum(group[0] for group in self._groups.values()) - self.n

    @property
    def e2e_s(self) -> float | None:
        return self._largest()[1]

    @property
    def means(self) -> dict[str, float]:
        """Stage -> seconds, in order; they add up to `e2e_s`."""
        return self._largest()[0]

    def _largest(self) -> tuple[dict[str, float], float | None]:
        if not self._groups:
            return {}, None
        n, e2e_s, sums = max(self._groups.values(), key=lambda group: group[0])
        return {name: total / n for name, total in sums.items()}, e2e_s / n


class LittleCheck:
    """Little's law where it must hold: windows without an event in them, with as many inside in both halves."""

    def __init__(self, begin: float) -> None:
        self._tiles = Tiles(LITTLE_S, begin)
        self.checked = 0
        self.disagreed = 0
        self.worst: tuple[float, float, float, float] | None = None
        """Relative error, expected, counted, when."""

    def add(self, snapshot: Snapshot, undisturbed_s: float) -> None:
        little = snapshot.little
        error = little.error
        if undisturbed_s < little.window_s or not little.steady or error is None or little.expected is None:
            return
        if not self._tiles.take(snapshot.at):
            return
        self.checked += 1
        self.disagreed += abs(error) > DISAGREES
        if self.worst is None or abs(error) > abs(self.worst[0]):
            self.worst = (error, little.expected, little.counted or 0.0, snapshot.at)


class Outage:
    """One source, and when it did not answer although it should have."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.times = 0
        self.details = Times()
        self.answered = False
        self._down = False

    def add(self, ok: bool, detail: str, dt: float) -> None:
        self.answered = self.answered or ok
        if not ok:
            self.times += not self._down
            self.seconds += dt
            self.details.add(detail, dt)
        self._down = not ok


class LastSeen(Generic[T]):
    """A capacity search or a comparison of policies as it stood when last seen."""

    def __init__(self, progress: T, at: float, *, before: bool) -> None:
        self.progress = progress
        self.at = at
        """When it came to what it is: monotonic seconds."""
        self.before = before
        """It was over when the run began."""
