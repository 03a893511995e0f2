"""How a comparison is laid out: which run is whose, and how long it takes. Pure."""

from __future__ import annotations

import msgspec

from server.compare.arm import Arm
from server.compare.mixture import Mixture

LOAD = 1.4
"""Requests that come against those the engine was seen to serve: so much that the queue grows in every run, though what was
seen is a fifth too low, and the short ones alone would still be served. Near 1 a run's luck decides more than its policy."""
SECONDS = (16.0, 50.0)
"""Of one run, where nobody gave them: at least and at most."""
WANTED = 400
"""Requests of an arm that its runs should have together."""
CALIBRATION = 3
"""Times max in-flight: so many requests at once say what the engine can serve."""
LEAST_CALIBRATION = 24
ALONE = 3
"""Short requests, one after the other, that say how long one takes with nobody else there."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared on what load."""

    arms: list[Arm]
    mixture: Mixture
    rate_per_s: float
    seconds: float
    """In which requests come, of each run."""
    rounds: int = 1
    seed: int = 1
    max_in_flight: int
    why_in_flight: str = ""
    """Where that number comes from."""
    served_per_s: float | None = None
    """Requests of this mixture that the engine was seen to serve; None: nobody measured, the rate was given."""
    alone_s: float | None = None
    """A short request end to end with nobody else there, median seconds."""
    base: str = ""
    """What of the policy all arms have in common, in words."""

    @property
    def order(self) -> list[int]:
        return order(len(self.arms), self.rounds)


def order(arms: int, rounds: int) -> list[int]:
    """The arm of each run: forward, then backward (A B B A), `rounds` times. So what drifts in a straight line (a warmer
    GPU, a fuller cache) weighs on all arms alike."""
    forward = list(range(arms))
    return [*forward, *reversed(forward)] * rounds


def seconds_of(rate_per_s: float, rounds: int) -> float:
    """Seconds of one run that give an arm `WANTED` requests, within `SECONDS`."""
    least, most = SECONDS
    return float(min(most, max(least, round(WANTED / (2 * rounds * rate_per_s)))))


def length_s(question: Question) -> float:
    """About how long all runs take: what comes beyond the engine's rate is drained after each."""
    served = question.served_per_s
    over = 0.0 if served is None else max(0.0, question.rate_per_s / served - 1)
    return len(question.order) * (question.seconds * (1 + over) + 3.0)
