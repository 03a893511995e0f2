"""What a load worker can be told, as JSON lines. Numbers are for all workers together: each takes its own part."""

from __future__ import annotations

import msgspec

from loadgen.arrivals import Arrivals
from loadgen.profile import Profile
from loadgen.records import Behaviour


class SetCrowds(msgspec.Struct, frozen=True, tag_field="op", tag="crowds"):
    """Closed loop: have so many people of each behaviour, all workers together (surplus people finish what they do)."""

    counts: dict[Behaviour, int]


class SetArrivals(msgspec.Struct, frozen=True, tag_field="op", tag="arrivals"):
    """Open loop by this process, from `origin` (monotonic seconds, the same for all workers); None goes back to people."""

    process: Arrivals | None
    origin: float = 0.0
    weights: dict[Behaviour, float] = {}
    """Who the strangers are; empty: patient."""


class SetProfile(msgspec.Struct, frozen=True, tag_field="op", tag="profile"):
    """What is asked and how people behave, from each person's next request on. A new seed makes new people of those who
    come from now on."""

    profile: Profile


class Burst(msgspec.Struct, frozen=True, tag_field="op", tag="burst"):
    """Send this many requests at once, all workers together, besides everything else."""

    count: int


class Flash(msgspec.Struct, frozen=True, tag_field="op", tag="flash"):
    """A flash crowd: `count` people come within `over_s` seconds, ask `asks` times with thinking in between, and go."""

    count: int
    over_s: float = 5.0
    asks: int = 3


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """Begin nothing new, wait up to `grace_s`, abandon the rest, exit."""

    grace_s: float = 0.0


LoadCommand = SetCrowds | SetArrivals | SetProfile | Burst | Flash | Stop
