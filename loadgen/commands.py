"""What a load worker can be told, as JSON lines. Numbers are for all workers together: each takes its own part."""

from __future__ import annotations

import msgspec

from loadgen.arrivals import Arrivals
from loadgen.behaviours import Moment, Way
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


class Leave(msgspec.Struct, frozen=True, tag_field="op", tag="leave"):
    """Send this many requests at once, as a burst, whose clients leave at that moment in that way."""

    count: int
    at: Moment
    how: Way


class Stall(msgspec.Struct, frozen=True, tag_field="op", tag="stall"):
    """Send this many requests at once, as a burst, whose clients stop reading after the first token, and leave when they
    are cut off or after `for_s` seconds."""

    count: int
    for_s: float = 60.0


class SetTarget(msgspec.Struct, frozen=True, tag_field="op", tag="target"):
    """Send requests there from now on; those under way end where they began."""

    url: str


class Flash(msgspec.Struct, frozen=True, tag_field="op", tag="flash"):
    """A flash crowd: `count` people come within `over_s` seconds, ask `asks` times with thinking in between, and go."""

    count: int
    over_s: float = 5.0
    asks: int = 3


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """Begin nothing new, wait up to `grace_s`, abandon the rest, exit."""

    grace_s: float = 0.0


LoadCommand = SetCrowds | SetArrivals | SetProfile | SetTarget | Burst | Leave | Stall | Flash | Stop
