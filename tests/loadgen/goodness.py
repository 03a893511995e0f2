"""Goodness of fit with nothing but `math`, for tests that ask whether numbers are what they claim to be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

SEEDS = range(20)
LEVEL = 0.05
FAILURES = 4
"""Of 20 tests at a level of 5 %: more than 4 rejections of a true hypothesis have a probability of 0.3 %."""


def regularised_gamma(a: float, x: float) -> float:
    """Lower incomplete gamma function over the whole one, by its power series (DLMF 8.7.1)."""
    if x <= 0:
        return 0.0
    term = total = 1.0 / a
    n = a
    while abs(term) > 1e-15 * abs(total):
        n += 1
        term *= x / n
        total += term
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a)))


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def distance(samples: Sequence[float], cdf: Callable[[float], float]) -> float:
    """Kolmogorov's: the largest difference between the empirical and the claimed distribution function."""
    n = len(samples)
    most = 0.0
    for index, sample in enumerate(sorted(samples)):
        claimed = cdf(sample)
        most = max(most, claimed - index / n, (index + 1) / n - claimed)
    return most


def step_distance(samples: Sequence[int], cdf: Callable[[int], float]) -> float:
    """The same for whole numbers, whose distribution function has steps: compared on the steps only."""
    n = len(samples)
    seen, most = 0, 0.0
    for number, count in sorted(Counter(samples).items()):
        before, seen = seen, seen + count
        most = max(most, abs(before / n - cdf(number - 1)), abs(seen / n - cdf(number)))
    return most


def kolmogorov_p(d: float, n: int) -> float:
    """Probability of a distance of at least `d` when the claim is true (asymptotic, with Stephens' correction)."""
    z = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * d
    if z < 0.2:
        return 1.0
    return min(1.0, max(0.0, 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * z * z) for k in range(1, 101))))


def chi_square_p(value: float, freedom: int) -> float:
    """Probability of at least `value`."""
    return 1.0 - regularised_gamma(freedom / 2, value / 2)


def rejected(p_values: Sequence[float]) -> int:
    return sum(p < LEVEL for p in p_values)
