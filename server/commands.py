"""What a key, a script or curl can tell a running stack: typed commands for `POST /v1/commands`.

A key in the console, a CLI verb and a palette entry all end as one of these.
"""

from __future__ import annotations

import msgspec

from loadgen.arrivals import Arrivals
from loadgen.behaviours import Moment, Way
from loadgen.profile import Profile
from loadgen.records import Behaviour
from server.config import EngineKnobs
from server.gateway.policy import PolicyChange


class People(msgspec.Struct, frozen=True, tag_field="command", tag="people"):
    """Have `count` people, or change the number by `delta`. Exactly one is given."""

    count: int | None = None
    delta: int | None = None


class Extra(msgspec.Struct, frozen=True, tag_field="command", tag="extra"):
    """Have `count` people of one behaviour besides the others; None toggles between none and a quarter of the people (at
    least one)."""

    behaviour: Behaviour
    count: int | None = None


class Mix(msgspec.Struct, frozen=True, tag_field="command", tag="mix"):
    """Split the people, or the strangers of an open loop, by these weights; empty: all patient."""

    weights: dict[Behaviour, float]


class Ask(msgspec.Struct, frozen=True, tag_field="command", tag="ask"):
    """Change what people ask and how they behave: a whole profile (see `Snapshot.people.profile` for today's)."""

    profile: Profile


class Open(msgspec.Struct, frozen=True, tag_field="command", tag="open"):
    """Open loop by this process; None goes back to people."""

    arrivals: Arrivals | None


class Preset(msgspec.Struct, frozen=True, tag_field="command", tag="preset"):
    """Load one of `loadgen.presets`."""

    name: str


class Flash(msgspec.Struct, frozen=True, tag_field="command", tag="flash"):
    """A flash crowd: `count` people come within `over_s` seconds, ask `asks` times, and go; None = as many as there are
    people, at least 3 x max-num-seqs."""

    count: int | None = None
    over_s: float = 5.0
    asks: int = 3


class Capacity(msgspec.Struct, frozen=True, tag_field="command", tag="capacity"):
    """Search for how many people this setup serves, or stop the search when `on` is false. The question is frozen with
    the profile, mix and SLO of the moment."""

    on: bool = True
    careful: bool = False
    """Half-width 10 % instead of 15 %."""
    cap_s: float = 360.0
    slo: str | None = None
    """One of `loadgen.slo.PRESETS`; None: the stack's."""


class Compare(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="compare"):
    """Compare policies on the same load, or stop the comparison when `on` is false. What is None suits the setup."""

    on: bool = True
    arms: list[str] = []
    """As `server.compare.arm.parse_arm` reads them."""
    rounds: int = 1
    """Each runs every arm twice: forward, then backward."""
    seconds: float | None = None
    """In which requests come, of one run."""
    rate: float | None = None
    """Requests per second; None: a little more than the engine is seen to serve."""
    max_in_flight: int | None = None
    """None: the engine's max-num-seqs."""
    long_share: float | None = None
    short: list[int] | None = None
    """Prompt and reply of a short request, tokens."""
    long: list[int] | None = None
    seed: int = 1


class Burst(msgspec.Struct, frozen=True, tag_field="command", tag="burst"):
    """`count` requests at once; None = 3 x max-num-seqs."""

    count: int | None = None


class Leave(msgspec.Struct, frozen=True, tag_field="command", tag="leave"):
    """`count` requests at once whose clients leave at that moment in that way; None = 16."""

    count: int | None = None
    at: Moment = "1"
    how: Way = "rst"


class Stall(msgspec.Struct, frozen=True, tag_field="command", tag="stall"):
    """`count` requests at once whose clients stop reading after the first token and stay, until they are cut off or
    `for_s` seconds have passed; None = 16."""

    count: int | None = None
    for_s: float = 60.0


class Restart(msgspec.Struct, frozen=True, tag_field="command", tag="restart"):
    """Cold-restart the engine. `kind`: process (caches stay warm), compile (no compiled graphs) or disk (weights not in
    memory)."""

    kind: str = "process"


class Hold(msgspec.Struct, frozen=True, tag_field="command", tag="hold"):
    """Keep people and policy as they are, to come back to: at a Hold with `on` false, or by themselves `for_s` seconds after
    the latest Hold. Whoever changes much for a while (a lesson) sends it first, and again and again while it lasts."""

    on: bool = True
    for_s: float = 60.0


class Limits(msgspec.Struct, frozen=True, tag_field="command", tag="limits"):
    """Change the gateway's admission limits."""

    max_in_flight: int | None = None
    max_queue: int | None = None


class Policy(PolicyChange, frozen=True, kw_only=True, omit_defaults=True, tag_field="command", tag="policy"):
    """Change the gateway's admission policy while it runs; what isn't named stays as it is, 0 switches off what can be off."""


class Knobs(EngineKnobs, frozen=True, kw_only=True, omit_defaults=True, tag_field="command", tag="knobs"):
    """Change the engine's own scheduling, for which it restarts. What isn't named stays as it is."""


class Fault(msgspec.Struct, frozen=True, tag_field="command", tag="fault"):
    """Provoke a fault of `server.faults.catalogue`. What is not set is as it says there; a fault that lasts is undone after
    `seconds`."""

    name: str
    settings: dict[str, int | float | str] = {}
    seconds: float | None = None


class Unfault(msgspec.Struct, frozen=True, tag_field="command", tag="unfault"):
    """Undo the faults of this name; None: all that last."""

    name: str | None = None


class Marker(msgspec.Struct, frozen=True, tag_field="command", tag="marker"):
    """Note an event on the charts."""

    note: str = ""


class Record(msgspec.Struct, frozen=True, tag_field="command", tag="record"):
    """Start recording to `path` (None = a dated file in the state folder), or stop when `on` is false."""

    on: bool = True
    path: str | None = None


class Drive(msgspec.Struct, frozen=True, tag_field="command", tag="drive"):
    """Allow load on an engine that somebody else started."""

    confirmed: bool = False


class Down(msgspec.Struct, frozen=True, tag_field="command", tag="down"):
    """Stop everything the stack started, and the stack."""


class Report(msgspec.Struct, frozen=True, tag_field="command", tag="report"):
    """Write the report of what this stack has seen into `path`. None: dated files in the state folder, Markdown and HTML
    unless `formats` says otherwise, and into the homework that was named."""

    path: str | None = None
    formats: list[str] = []
    """Of `server.report.order.FORMATS`. With a path the first one goes there and the others beside it; none: Markdown."""
    gpu_hour_price: float | None = None
    currency: str = ""
    homework: str | None = None
    """A homework to fill in."""


class Homework(msgspec.Struct, frozen=True, tag_field="command", tag="homework"):
    """From now on a report without a path also fills in this homework. None: no longer."""

    path: str | None = None


class Watchers(msgspec.Struct, frozen=True, tag_field="command", tag="watchers"):
    """Let the members of a group watch through a socket that can only be read; None: nobody any more."""

    group: str | None = None


Command = (
    People
    | Extra
    | Mix
    | Ask
    | Open
    | Preset
    | Flash
    | Burst
    | Leave
    | Stall
    | Capacity
    | Compare
    | Restart
    | Hold
    | Limits
    | Policy
    | Knobs
    | Fault
    | Unfault
    | Marker
    | Record
    | Report
    | Homework
    | Drive
    | Watchers
    | Down
)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command: `message` is one sentence a person can read."""

    ok: bool
    message: str = ""


FROM = "x-spark-from"
"""Header in which whoever asks says from where: a terminal (`pts/3`) or `verb`. Their user is known by the socket itself."""

PAST = "x-past-snapshots"
"""Header of the socket's stream of snapshots: how many of its first lines are of the past."""

command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
