"""Little's law as a check of the instruments: two figures from different clocks that must agree.

Expected: how many finish a second x how long each was inside. Counted: the average number inside, sampled on its own.
"""

from __future__ import annotations

import itertools
import math
from collections import deque

from server.telemetry.snapshot import Little

NEEDS = 20
STEADY_WITHIN = 0.1


class LittleWindow:
    """Finished requests and counts of those inside over the last seconds, from one source."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._counts: deque[tuple[float, float]] = deque()
        self._finished: deque[tuple[float, float]] = deque()

    def on_count(self, at: float, inside: float) -> None:
        """This many requests were inside at `at`."""
        self._counts.append((at, inside))
        while len(self._counts) > 2 and self._counts[1][0] <= at - self._window_s:
            self._counts.popleft()

    def on_finished(self, at: float, e2e_s: float) -> None:
        """A request that was inside for `e2e_s` left at `at`, in whatever way."""
        self._finished.append((at, e2e_s))
        while self._finished[0][0] < at - 2 * self._window_s:
            self._finished.popleft()

    def clear(self) -> None:
        self._counts.clear()
        self._finished.clear()

    def read(self, now: float) -> Little:
        """Both figures over the window that ends with the newest count; none before it is full or with n < 20."""
        if not self._counts:
            return Little(window_s=self._window_s)
        end = self._counts[-1][0]
        begin = end - self._window_s
        while self._finished and self._finished[0][0] <= begin:
            self._finished.popleft()
        times = [e2e_s for at, e2e_s in self._finished if begin < at <= end]
        n = len(times)
        # A count stands until the next one; the first must reach back to the window's beginning.
        if self._counts[0][0] > begin or n < NEEDS or now - end > self._window_s / 10:
            return Little(window_s=self._window_s, n=n)
        middle = (begin + end) / 2
        first, second = self._mean_inside(begin, middle), self._mean_inside(middle, end)
        counted = (first + second) / 2
        return Little(
            expected=n / self._window_s * (math.fsum(times) / n),
            counted=counted,
            window_s=self._window_s,
            n=n,
            steady=abs(second - first) <= max(1.0, STEADY_WITHIN * counted),
        )

    def _mean_inside(self, begin: float, end: float) -> float:
        """The average number inside from `begin` to `end`; a count stands until the next one."""
        points = [*self._counts, (self._counts[-1][0], 0.0)]
        area = math.fsum(
            inside * max(0.0, min(until, end) - max(at, begin))
            for (at, inside), (until, _) in itertools.pairwise(points)
        )
        return area / (end - begin)
