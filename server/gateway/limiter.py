"""How many may be in flight: a limit that finds itself by what it does to TTFT after dispatch and to TPOT. Pure."""

from __future__ import annotations

import math

import msgspec

MISSES_BORNE = 0.1
"""Share of a round over the targets that is still borne: nine of ten shall be under them."""
BACKOFF = 0.9
"""What a round with more misses leaves of the limit, as in Netflix's AIMDLimit."""
ROUND_MIN = 10
"""Requests in a round at least."""


class Sample(msgspec.Struct, frozen=True):
    """What one request felt of the engine. None where it was not measured; end-to-end time is of no use, for it is mostly
    the length of the reply."""

    ttft_s: float | None = None
    """From its dispatch, so that our own queue is not taken for the engine's trouble."""
    tpot_s: float | None = None
    failed: bool = False
    """The engine gave up on it."""


class AdaptiveLimit:
    """Additive increase (by the limit's square root, the headroom of Netflix's Gradient2), multiplicative decrease, judged
    in rounds of about as many requests as are in flight.

    A limit that nobody runs into is not raised: it would say nothing about the engine. After a decrease only requests
    that were dispatched under the new limit are heard, or one jam would be answered many times.
    """

    def __init__(self, start: int, most: int) -> None:
        self.most = most
        self._value = float(min(start, most))
        self._since = -math.inf
        self._samples = 0
        self._misses = 0
        self._reached = False

    @property
    def value(self) -> int:
        return max(1, min(int(self._value), self.most))

    def bound(self, most: int) -> None:
        self.most = most
        self._value = min(self._value, float(most))

    def reached(self) -> None:
        """A request had to wait for this limit, or took its last place."""
        self._reached = True

    def observe(self, sample: Sample, dispatched: float, now: float, *, ttft_s: float, tpot_s: float) -> None:
        """One request has ended; `ttft_s` and `tpot_s` are the targets."""
        if dispatched < self._since:
            return
        if sample.ttft_s is None and sample.tpot_s is None and not sample.failed:
            return
        late = (sample.ttft_s or 0.0) > ttft_s or (sample.tpot_s or 0.0) > tpot_s
        self._samples += 1
        self._misses += sample.failed or late
        if self._samples < max(ROUND_MIN, self.value):
            return
        if self._misses > MISSES_BORNE * self._samples:
            self._value = max(1.0, min(self._value * BACKOFF, self.value - 1.0))
            self._since = now
        elif self._reached:
            self._value = min(self._value + max(1.0, math.sqrt(self._value)), float(self.most))
        self._samples = self._misses = 0
        self._reached = False
