"""What the fault proxy takes and tells, as JSON lines."""

from __future__ import annotations

import msgspec

from server.faults.toxics import Toxic


class SetToxics(msgspec.Struct, frozen=True, tag_field="op", tag="toxics"):
    """Have these and no others, in this order, on the connections there are and on those that come."""

    toxics: list[Toxic]


class SetTarget(msgspec.Struct, frozen=True, tag_field="op", tag="target"):
    """Connect those who come from now on to there; who is there stays where they are."""

    host: str
    port: int


ProxyCommand = SetToxics | SetTarget


class Listening(msgspec.Struct, frozen=True, tag_field="type", tag="listening"):
    """The first line."""

    port: int


class ProxyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="proxy"):
    """The connections at one moment, written when something of it changed. Totals since the start."""

    at: float
    """Monotonic seconds."""
    open: int = 0
    total: int = 0
    refused: int = 0
    """Those whose target could not be reached: they were reset."""
    ended: int = 0
    """Those that a toxic ended."""
    bytes_up: int = 0
    bytes_down: int = 0
    swallowed: int = 0
    """Bytes that no one got."""


ProxyLine = Listening | ProxyRecord
