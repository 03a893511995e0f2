"""What a key, a script or curl can tell a running stack: typed commands for `POST /v1/commands`.

A key in the console, a CLI verb and a palette entry all end as one of these.
"""

from __future__ import annotations

import msgspec

from server.config import EngineKnobs
from server.gateway.policy import PolicyChange


class People(msgspec.Struct, frozen=True, tag_field="command", tag="people"):
    """Have `count` people, or change the number by `delta`. Exactly one is given."""

    count: int | None = None
    delta: int | None = None


class Slow(msgspec.Struct, frozen=True, tag_field="command", tag="slow"):
    """Have `count` slow readers; None toggles between none and a quarter of the people (at least one)."""

    count: int | None = None


class Rate(msgspec.Struct, frozen=True, tag_field="command", tag="rate"):
    """Open loop at `per_second`; None goes back to people."""

    per_second: float | None = None


class Burst(msgspec.Struct, frozen=True, tag_field="command", tag="burst"):
    """`count` requests at once; None = 3 x max-num-seqs."""

    count: int | None = None


class Restart(msgspec.Struct, frozen=True, tag_field="command", tag="restart"):
    """Cold-restart the engine. `kind`: process (caches stay warm)."""

    kind: str = "process"


class Limits(msgspec.Struct, frozen=True, tag_field="command", tag="limits"):
    """Change the gateway's admission limits."""

    max_in_flight: int | None = None
    max_queue: int | None = None


class Policy(PolicyChange, frozen=True, kw_only=True, omit_defaults=True, tag_field="command", tag="policy"):
    """Change the gateway's admission policy while it runs; what isn't named stays as it is, 0 switches off what can be off."""


class Knobs(EngineKnobs, frozen=True, kw_only=True, omit_defaults=True, tag_field="command", tag="knobs"):
    """Change the engine's own scheduling, for which it restarts. What isn't named stays as it is."""


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


Command = People | Slow | Rate | Burst | Restart | Limits | Policy | Knobs | Marker | Record | Drive | Down


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command: `message` is one sentence a person can read."""

    ok: bool
    message: str = ""


command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
