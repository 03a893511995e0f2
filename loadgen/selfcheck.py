"""Is the load generator the limit? Then its figures are about itself, and the run is void."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadgen.records import IntervalRecord
from loadgen.slo import Slo

LAG_SHARE = 0.1
"""Of the TTFT limit: a clock that is later than this cannot judge it."""
CPU_FULL = 0.95
SOME = 0.05
"""Share of intervals in trouble above which a run is void: one hiccup is not."""
SIGMAS = 4.0


def trouble(interval: IntervalRecord, slo: Slo) -> str:
    """What is wrong with one interval of one worker, as one clause; empty when nothing is."""
    if interval.trouble:
        return interval.trouble
    most_ms = slo.ttft_s * 1e3 * LAG_SHARE
    if interval.loop_lag_ms > most_ms:
        return f"the generator's clock was {interval.loop_lag_ms:.0f} ms late"
    if (interval.start_lag_ms or 0.0) > most_ms:
        return f"requests began {interval.start_lag_ms:.0f} ms late"
    if (interval.cpu_share or 0.0) >= CPU_FULL:
        return f"a worker took {interval.cpu_share:.0%} of a core"
    return ""


def void(intervals: Sequence[IntervalRecord], slo: Slo) -> str:
    """Why a run's figures are not to be trusted, as one clause; empty when they are."""
    found = [what for interval in intervals if (what := trouble(interval, slo))]
    if not found or len(found) <= SOME * len(intervals):
        return ""
    return f"{found[-1]} ({len(found)} of {len(intervals)} intervals in trouble); use more workers or less load"


def shortfall(asked_per_s: float, seconds: float, begun: int, shape: float = 1.0) -> str:
    """Whether fewer requests began than were asked for, beyond the schedule's own sampling error.

    Renewal arrivals of `shape` have a variance of count / shape (asymptotically). One more may be missing: the one that
    was due at the very end.
    """
    expected = asked_per_s * seconds
    if expected <= 0 or begun >= expected - 1 - SIGMAS * math.sqrt(expected / shape):
        return ""
    return f"asked for {asked_per_s:.3g} requests/s and began {begun / seconds:.3g}"
