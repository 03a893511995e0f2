"""What the runs of each arm come to, and whether the arms differ by more than the runs of one arm do. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from loadgen.records import OUTCOMES, Outcome
from loadgen.summary import P95_NEEDS, quantile
from server.compare.result import Comparison, Measured, Run

P90_NEEDS = 50
"""As many beyond it as a p95 of 100 has."""
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t for a two-sided interval of 95 %, by degrees of freedom from 1 on."""
_T95_MANY = 2.1
"""From 16 on it is between this and 1.96: rather too wide than too narrow."""


class Waits(msgspec.Struct, frozen=True):
    """One measure over the requests of an arm, pooled over its runs, seconds. None where there are too few."""

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    """Needs n >= 50."""
    p95: float | None = None
    """Needs n >= 100."""
    longest: float | None = None
    runs: list[float | None] = []
    """The mean of each run."""

    @classmethod
    def of(cls, runs: Sequence[Sequence[float]]) -> Waits:
        ordered = sorted(value for run in runs for value in run)
        means = [_mean(run) for run in runs]
        if not ordered:
            return cls(runs=means)
        n = len(ordered)
        return cls(
            n=n,
            mean=_mean(ordered),
            p50=quantile(ordered, 0.5),
            p90=quantile(ordered, 0.9) if n >= P90_NEEDS else None,
            p95=quantile(ordered, 0.95) if n >= P95_NEEDS else None,
            longest=ordered[-1],
            runs=means,
        )

    @property
    def spread(self) -> float | None:
        """Between the lowest and the highest mean of a run; None with fewer than two runs."""
        known = [mean for mean in self.runs if mean is not None]
        return max(known) - min(known) if len(known) > 1 else None


class KindFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of the short requests, or of the long ones."""

    planned: int
    outcomes: dict[Outcome, int]
    """They sum to `planned`."""
    ttft_s: Waits
    """Of all that got a first token."""
    wait_s: Waits
    """In the gateway's queue, of those that were served."""
    e2e_s: Waits
    """Of those that ended well."""

    @property
    def turned_away(self) -> int:
        """Refused, failed or given up."""
        return self.planned - self.outcomes["ok"]


class ArmFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm came to."""

    name: str
    runs: int
    short: KindFigures
    long: KindFigures
    tpot_s: Waits
    slowdown: float | None
    """A short request's mean end to end against one with nobody else there."""
    requests_per_s: float | None
    """That ended well, over the runs' whole length."""
    tokens_per_s: float | None
    prefix_hit_shares: list[float | None]
    """Of each run."""
    preemptions: int | None
    others: int

    @property
    def planned(self) -> int:
        return self.short.planned + self.long.planned

    @property
    def outcomes(self) -> dict[Outcome, int]:
        return {outcome: self.short.outcomes[outcome] + self.long.outcomes[outcome] for outcome in OUTCOMES}


class Difference(msgspec.Struct, frozen=True):
    """Of the means of two arms' runs, later less first: Student's t with the two variances pooled. A mean of a run counts as one
    observation, since the requests of a run wait for each other."""

    by: float
    low: float | None = None
    """Of the 95 % interval; None where no arm has two runs."""
    high: float | None = None

    @property
    def beyond_noise(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def figures(comparison: Comparison) -> list[ArmFigures]:
    """One for each arm, in order."""
    alone_s = comparison.question.alone_s
    return [
        _arm(arm.name, [run for run in comparison.runs if run.arm == index], alone_s)
        for index, arm in enumerate(comparison.question.arms)
    ]


def difference(first: Sequence[float | None], later: Sequence[float | None]) -> Difference | None:
    """Between the means of the runs of two arms; None where one has none."""
    a, b = ([mean for mean in means if mean is not None] for means in (first, later))
    if not a or not b:
        return None
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    by = mean_b - mean_a
    freedom = len(a) + len(b) - 2
    if not freedom:
        return Difference(by)
    squares = math.fsum((value - mean_a) ** 2 for value in a) + math.fsum((value - mean_b) ** 2 for value in b)
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    half = error * (_T95[freedom - 1] if freedom <= len(_T95) else _T95_MANY)
    return Difference(by, by - half, by + half)


def _arm(name: str, runs: list[Run], alone_s: float | None) -> ArmFigures:
    short, long = _kind(runs, long=False), _kind(runs, long=True)
    seconds = math.fsum(run.seconds for run in runs)
    every = [request for run in runs for request in run.requests]
    tokens = sum(request.completion_tokens or 0 for request in every)
    preemptions = [run.preemptions for run in runs if run.preemptions is not None]
    mean = short.e2e_s.mean
    return ArmFigures(
        name=name,
        runs=len(runs),
        short=short,
        long=long,
        tpot_s=_waits(runs, lambda request: request.tpot_s if request.outcome == "ok" else None),
        slowdown=mean / alone_s if mean is not None and alone_s else None,
        requests_per_s=sum(request.outcome == "ok" for request in every) / seconds if seconds else None,
        tokens_per_s=tokens / seconds if seconds else None,
        prefix_hit_shares=[run.prefix_hit_share for run in runs],
        preemptions=sum(preemptions) if preemptions else None,
        others=sum(run.others for run in runs),
    )


def _kind(runs: list[Run], *, long: bool) -> KindFigures:
    counts = Counter(request.outcome for run in runs for request in run.requests if request.long == long)
    return KindFigures(
        planned=counts.total(),
        outcomes={outcome: counts[outcome] for outcome in OUTCOMES},
        ttft_s=_waits(runs, lambda request: request.ttft_s if request.long == long else None),
        wait_s=_waits(
            runs, lambda request: request.wait_s if request.long == long and request.outcome == "ok" else None
        ),
        e2e_s=_waits(runs, lambda request: request.e2e_s if request.long == long and request.outcome == "ok" else None),
    )


def _waits(runs: list[Run], of: Callable[[Measured], float | None]) -> Waits:
    return Waits.of([[value for request in run.requests if (value := of(request)) is not None] for run in runs])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
