"""What the gateway writes down and takes: one record a request out, commands in, as JSON lines.

Stamps are `time.monotonic()` seconds of one host and compare with loadgen's. None where it never happened.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadgen.histogram import Histogram
from server.gateway.policy import Policy, PolicyChange

GatewayOutcome = Literal["completed", "rejected", "failed", "cancelled", "expired"]
"""The one terminal state of a request: `completed` (finish_reason relayed, no error event), `rejected` (never admitted:
queue full, engine down, bad request), `failed` (admitted, and the engine or the connection to it failed),
`cancelled` (the client left, queued or streaming), `expired` (its deadline passed)."""

EngineState = Literal["starting", "ready", "down", "asleep"]


class GatewayRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="gateway"):
    """The stage clock of one finished request."""

    request_id: str
    trace_id: str
    """32 hex digits of the `traceparent` sent upstream."""
    route: str
    stream: bool
    accepted: float
    """The request's headers were parsed."""
    queued: float | None = None
    """It was read and checked, and waits for admission."""
    admitted: float | None = None
    upstream_sent: float | None = None
    """The last byte of the upstream request was handed to the kernel."""
    first_token: float | None = None
    """First event with a token came from upstream."""
    last_token: float | None = None
    upstream_done: float | None = None
    """Last byte from upstream."""
    done: float
    """Last byte handed to the kernel, or the request ended otherwise."""
    paused_s: float = 0.0
    """Seconds in which reading from upstream was paused for a slow client."""
    outcome: GatewayOutcome
    reason: str = ""
    """Machine-readable; see `server.gateway.relay`."""
    status: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    engine_queue_s: float | None = None
    """In-band from the engine (vLLM >= 0.27 with --enable-per-request-metrics), seconds."""
    prefill_s: float | None = None
    decode_s: float | None = None
    user: str = ""
    """Whom a fair order counts it to."""
    priority: int = 0
    tokens: int | None = None
    """Prompt and reply at most, as the admission reckoned."""
    behind: int = 0
    """How many others waited when it began to."""
    why: str = ""
    """What the next one waited for then: engine, slots, adaptive, tokens; empty when it went at once."""
    order: str = ""
    """Of the policy in force when its wait ended."""
    replica: str = ""
    """HOST:PORT of the engine it was sent to, where there are several."""


class QueuedRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One who waits."""

    request_id: str
    user: str
    priority: int
    prompt_tokens: int
    output_tokens: int
    waited_s: float
    aged: bool = False
    """It has waited so long that it goes before all who have not."""


class FlyingRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One in flight. Stamps in monotonic seconds, so that nothing of it changes while nothing happens."""

    request_id: str
    user: str
    admitted: float
    first_token: float | None = None
    upstream_done: float | None = None
    """The engine is through with it; its client still reads."""


class ReplicaState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine of several."""

    name: str
    """HOST:PORT."""
    under_way: int = 0
    out: bool = False
    """No connection to it came about; it is sent nothing until its /health answers."""


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="queue"):
    """The line at one moment and the policy in force. Written when it changed and while somebody waits."""

    at: float
    policy: Policy
    waiting: int = 0
    why: str = ""
    """What the next one waits for; empty when nobody does."""
    first: list[QueuedRequest] = []
    """The next to go, in order, at most `QUEUE_SHOWN`."""
    flying: list[FlyingRequest] = []
    """Those in flight and not handed over yet, who came first first, at most `FLYING_SHOWN`."""
    replicas: list[ReplicaState] = []
    """The engines, where there are several."""


class GapRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gaps"):
    """Raw gaps between events with tokens since the last such line, whosever requests; not those in which reading from
    upstream stood still for a slow client. Written while tokens come."""

    at: float
    gaps: Histogram


QUEUE_SHOWN = 20
FLYING_SHOWN = 12


class SetPolicy(PolicyChange, frozen=True, kw_only=True, omit_defaults=True, tag_field="op", tag="policy"):
    """Change the policy on the running gateway; what it doesn't name stays as it is."""


class SetEngine(msgspec.Struct, frozen=True, tag_field="op", tag="engine"):
    """Tell the gateway how the engine is. While it starts or is down, requests wait in the queue (`hold`) or get 503."""

    state: EngineState
    url: str | None = None
    hold: bool = True
    urls: list[str] = []
    """Of several engines: all of them, in the order in which the gateway was told them."""


GatewayCommand = SetPolicy | SetEngine
