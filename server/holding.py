"""What somebody changes for a while and wants back as it was: kept here until it is released, or nobody renews it."""

from __future__ import annotations

from dataclasses import dataclass

from server.gateway.policy import PolicyChange
from server.population import Held


@dataclass(frozen=True)
class Before:
    """People and policy at one moment."""

    people: Held
    told: PolicyChange


class Holding:
    """At most one past to come back to. Stamps in monotonic seconds."""

    def __init__(self) -> None:
        self._before: Before | None = None
        self._until = 0.0

    def hold(self, now_is: Before, until: float) -> bool:
        """Keep what is now, unless something is kept already; either way it is kept until then. False: it was renewed."""
        self._until = until
        if self._before is not None:
            return False
        self._before = now_is
        return True

    def lapsed(self, now: float) -> bool:
        """Is something kept that nobody has renewed in time?"""
        return self._before is not None and now >= self._until

    def release(self) -> Before | None:
        """What is to come back, once; None when nothing is kept."""
        before, self._before = self._before, None
        return before
