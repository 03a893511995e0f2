"""Overdispersed logistic fit of attainment on log people: where it crosses the target, how surely, and where to look next.

With u = x - log n, the share of good requests at n people is p = ceiling / (1 + exp(-e)), where e = e0 + slope * u while
that is better than the target, and e = e0 + slope * (u - BEND * u^2) below it: an overload feeds on itself. e0 is such that
p is the target at u = 0; the ceiling leaves room for misses without any load. The verdicts of a block are not independent,
misses come in bunches. So a block of T seconds counts as T / (2 tau) independent draws of p, of which its verdicts are a
sample: beta-binomial, with tau the correlation time, shorter where one kind of verdict is rare. x, slope and tau are
integrated over a grid under weak priors, so that few blocks, blocks without a miss and blocks without a good request give
wide answers and never infinite ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LAPSE = 0.2
"""Of the misses that the target allows, those that have nothing to do with the load. Without them, one error among few
people would bend the whole curve."""
STEEPNESSES = tuple(0.3 * 1.6**step for step in range(8))
"""Slope over the square root of the people at the crossing: what many people ask for varies by 1/sqrt(people), so the
larger the server, the sharper its knee."""
STEEPNESS_PRIOR = (1.4, 0.8)
"""Median and sigma (log) of a log-normal. Simulated servers show 0.6 (long stalls) to 4 (no queue at all)."""
CURVE_PRIOR = tuple(
    -0.5 * (math.log(steepness / STEEPNESS_PRIOR[0]) / STEEPNESS_PRIOR[1]) ** 2 for steepness in STEEPNESSES
)
BEND = 3.0
"""How much faster attainment falls further on. Simulated servers: 0 (8 slots) to 7 (long stalls)."""
TAUS_S = (1.5, 4.0, 12.0)
TAU_PRIOR = (0.3, 0.4, 0.3)
"""Correlation times where half of the verdicts are good. Simulated servers: 2.5 (8 slots) to 5 (long stalls)."""
KNEE_SIGMA = 0.15
"""How much the crossing may lie above the knee (log)."""
LOGIT_STEP = 0.25
LOGIT_MAX = 14.0
LOGITS = tuple(step * LOGIT_STEP - LOGIT_MAX for step in range(round(2 * LOGIT_MAX / LOGIT_STEP) + 1))
COARSE, FINE = 32, 56
"""Grid points of log people, over all of its range and then over where the fit puts it."""
NEGLIGIBLE = 1e-4


def share_of(logit: float) -> float:
    """Logistic."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -LOGIT_MAX), LOGIT_MAX)))


def draws_of(seconds: float, tau: float, share: float) -> float:
    """Independent draws in a block; tau shrinks with the standard deviation of a verdict, to a tenth."""
    return seconds / (2.0 * tau * max(math.sqrt(4.0 * share * (1.0 - share)), 0.1))


@dataclass(frozen=True)
class Sample:
    """One block as the fit sees it."""

    people: int
    good: int
    due: int
    seconds: float


def log_likelihood(good: int, due: int, draws: float, share: float) -> float:
    """Beta-binomial, without the binomial coefficient: `draws` is the sum of the beta's two parameters."""
    a, b = share * draws, (1.0 - share) * draws
    lgamma = math.lgamma
    return lgamma(good + a) - lgamma(a) + lgamma(due - good + b) - lgamma(b) + lgamma(draws) - lgamma(due + draws)


def tabulate(sample: Sample, ceiling: float) -> list[list[float]]:
    """Log likelihood by tau and logit, on `LOGITS`."""
    shares = [ceiling * share_of(logit) for logit in LOGITS]
    return [
        [log_likelihood(sample.good, sample.due, draws_of(sample.seconds, tau, share), share) for share in shares]
        for tau in TAUS_S
    ]


class Fit:
    """The posterior of the level at which attainment crosses `target`, given samples of at least one request each."""

    def __init__(
        self, samples: Sequence[Sample], target: float, least: float, most: float, *, knee: float | None = None
    ) -> None:
        """The crossing is looked for in `least`..`most` people, and hardly above `knee`. 0 < target < 1."""
        self._log_knee = math.log(2 * most if knee is None else knee)
        self._ceiling = 1.0 - LAPSE * (1.0 - target)
        self._target_logit = math.log(target / (self._ceiling - target))
        self.logs: list[float] = []
        self.masses: list[float] = []
        """Probabilities of `logs`."""
        self._curves: list[list[float]] = []
        """Probabilities of `logs` and `STEEPNESSES`."""
        self.correlation_s = 0.0
        """Posterior mean of tau, seconds."""
        self._tables = [(math.log(sample.people), tabulate(sample, self._ceiling)) for sample in samples]
        low, high = math.log(least), math.log(most)
        self._spread(low, high, COARSE)
        kept = [at for at, mass in zip(self.logs, self.masses, strict=True) if mass > NEGLIGIBLE]
        step = self.logs[1] - self.logs[0]
        self._spread(max(low, kept[0] - step), min(high, kept[-1] + step), FINE)

    def _spread(self, low: float, high: float, points: int) -> None:
        self.logs = [low + (high - low) * (step + 0.5) / points for step in range(points)]
        cells = [[self._log_posterior(at, curve) for curve in range(len(STEEPNESSES))] for at in self.logs]
        peak = max(value for row in cells for column in row for value in column)
        raw = [[[math.exp(value - peak) for value in column] for column in row] for row in cells]
        by_tau = [math.fsum(column[tau] for row in raw for column in row) for tau in range(len(TAUS_S))]
        total = math.fsum(by_tau)
        self._curves = [[sum(column) / total for column in row] for row in raw]
        self.masses = [sum(row) for row in self._curves]
        self.correlation_s = sum(tau * mass for tau, mass in zip(TAUS_S, by_tau, strict=True)) / total

    def _log_posterior(self, at: float, curve: int) -> list[float]:
        """By tau."""
        prior = CURVE_PRIOR[curve] - 0.5 * (max(0.0, at - self._log_knee) / KNEE_SIGMA) ** 2
        values = [prior + math.log(weight) for weight in TAU_PRIOR]
        slope = STEEPNESSES[curve] * math.exp(at / 2)
        last = len(LOGITS) - 2
        first_tau, second_tau, third_tau = values
        for log_people, (first, second, third) in self._tables:
            u = at - log_people
            place = (self._target_logit + slope * (u if u > 0 else u - BEND * u * u) + LOGIT_MAX) / LOGIT_STEP
            cell = min(max(int(place), 0), last)
            part = min(max(place - cell, 0.0), 1.0)
            rest = 1.0 - part
            first_tau += first[cell] * rest + first[cell + 1] * part
            second_tau += second[cell] * rest + second[cell + 1] * part
            third_tau += third[cell] * rest + third[cell + 1] * part
        return [first_tau, second_tau, third_tau]

    def quantile(self, share: float) -> float:
        """People below whom the crossing lies with this probability."""
        below = 0.0
        step = self.logs[1] - self.logs[0]
        for at, mass in zip(self.logs, self.masses, strict=True):
            if below + mass >= share:
                return math.exp(at + step * ((share - below) / mass - 0.5))
            below += mass
        return math.exp(self.logs[-1] + step / 2)

    def above(self, people: float) -> float:
        """Probability that the crossing lies above this many people."""
        at = math.log(people)
        return sum(mass for log_people, mass in zip(self.logs, self.masses, strict=True) if log_people > at)

    def _shares(self, people: float) -> Iterator[list[tuple[float, float]]]:
        """For each place of the crossing: (attainment at this level, probability)."""
        log_people = math.log(people)
        for at, row in zip(self.logs, self._curves, strict=True):
            u, root = at - log_people, math.exp(at / 2)
            yield [
                (
                    self._ceiling
                    * share_of(self._target_logit + steepness * root * (u if u > 0 else u - BEND * u * u)),
                    mass,
                )
                for steepness, mass in zip(STEEPNESSES, row, strict=True)
                if mass > NEGLIGIBLE / 100
            ]

    def band(self, people: float, ends: Sequence[float] = (0.05, 0.5, 0.95)) -> list[float]:
        """Quantiles of the attainment at this level."""
        ordered = sorted(entry for entries in self._shares(people) for entry in entries)
        cumulated, total = [], 0.0
        for _, mass in ordered:
            total += mass
            cumulated.append(total)
        return [ordered[min(bisect_left(cumulated, end * total), len(ordered) - 1)][0] for end in ends]

    def information(self, people: float, seconds: float, due: float) -> float:
        """Nats about the crossing that a block there is expected to bring (as if all were Gaussian).

        The variance between what the possible crossings predict, over what else makes a block's attainment vary: the
        sampling, and that the slope is not known either.
        """
        mean = explained = total = noise = 0.0
        for entries in self._shares(people):
            here = mass_here = 0.0
            for share, mass in entries:
                here += share * mass
                mass_here += mass
                total += share * share * mass
                draws = draws_of(seconds, self.correlation_s, share)
                noise += mass * share * (1.0 - share) * (draws + due) / (due * (draws + 1.0))
            if mass_here:
                mean += here
                explained += here * here / mass_here
        return 0.5 * math.log1p(max(0.0, explained - mean * mean) / (noise + max(0.0, total - explained)))
