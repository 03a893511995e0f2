"""When: think times of people and gaps of Poisson arrivals, from seeded generators that never share state."""

from __future__ import annotations

import random
import uuid


def generator(seed: int, worker: int, person: str) -> random.Random:
    """The random generator of one person (or of one worker's arrivals).

    What others draw does not move it, so the same seed gives each person the same requests whatever the timing.
    """
    return random.Random(f"{seed}/{worker}/{person}")


def think_s(rng: random.Random, mean_s: float) -> float:
    """Seconds between a reply and the next request, exponential; 0 when the mean is 0."""
    return rng.expovariate(1.0 / mean_s) if mean_s > 0 else 0.0


def first_think_s(rng: random.Random, mean_s: float) -> float:
    """Seconds before a person's first request, uniform over the mean think time: no stampede at the start."""
    return rng.uniform(0.0, mean_s)


def poisson_gap_s(rng: random.Random, per_second: float) -> float:
    """Seconds to the next arrival of a Poisson process. Memoryless: redraw it whenever the rate changes."""
    return rng.expovariate(per_second)


def request_id(rng: random.Random) -> str:
    """32 hex digits of a version 4 UUID, from the seed."""
    return uuid.UUID(int=rng.getrandbits(128), version=4).hex
