"""What the load generator writes down: one record a request, one an interval, as JSON lines.

All stamps are `time.monotonic()` seconds of one host, so they compare with the gateway's. Wall time is never used.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Behaviour = Literal["patient", "slow", "burst", "abandoner"]

Outcome = Literal["ok", "rejected", "error", "abandoned"]
"""How a request ended, exactly one of:

- `ok`: a finish_reason was seen and no error event (`[DONE]` alone is not success)
- `rejected`: 429 or 503 before any token
- `error`: any other status, a connection failure, an error event, or a stream that was cut
- `abandoned`: this client left before the end, on purpose or because the run was stopped
"""

OUTCOMES: tuple[Outcome, ...] = ("ok", "rejected", "error", "abandoned")


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="request"):
    """One finished request, as the client saw it. Stamps in monotonic seconds; None where it never happened."""

    request_id: str
    person: str
    behaviour: Behaviour
    scheduled: float
    """When the person meant to send it. Every latency counts from here (no coordinated omission)."""
    sent: float | None = None
    """The last byte of the request was handed to the kernel."""
    first_byte: float | None = None
    """The response's status line and headers were read."""
    first_token: float | None = None
    last_token: float | None = None
    done: float
    """The last byte was read, or the request ended otherwise."""
    outcome: Outcome
    status: int | None = None
    reason: str = ""
    """One short clause on why it was not ok; empty when it was."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    """From the server's usage, never counted from chunks (one chunk can carry many tokens)."""
    completion_tokens: int | None = None
    chunks: int = 0

    @property
    def ttft_s(self) -> float | None:
        """Time to first token in seconds, from the scheduled start."""
        return None if self.first_token is None else self.first_token - self.scheduled

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, in seconds: (last - first) / (tokens - 1)."""
        if self.first_token is None or self.last_token is None or not self.completion_tokens:
            return None
        if self.completion_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.completion_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """End to end in seconds, from the scheduled start to the last byte read."""
        return self.done - self.scheduled


class IntervalRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="interval"):
    """The state of one worker, a few times a second. Totals count since the worker started."""

    worker: int
    at: float
    """Monotonic seconds."""
    mode: Literal["closed", "open"]
    people: int
    """People there are (closed loop) besides bursts; 0 in open loop."""
    thinking: int
    """People between two requests."""
    slow_people: int
    """People who read slower than the stream comes."""
    rate_asked: float | None = None
    """Open loop: requests per second that were asked for."""
    in_flight: int
    ttft_so_far_s: list[float] = []
    """For each request in flight: seconds from its scheduled start to its first token, or to now while it waits."""
    held: int = 0
    """Connections of slow readers with a reply still being read."""
    scheduled_total: int
    """Requests begun; equals in_flight plus the sum of `outcomes`."""
    outcomes: dict[Outcome, int]
    gaps_ms: list[float] = []
    """Raw gaps between token events read in this interval, slow readers left out, milliseconds."""
    loop_lag_ms: float = 0.0
    """Largest delay of the worker's own clock tick in this interval, milliseconds."""
    cpu_share: float | None = None
    """CPU seconds a wall second of this worker, 0..1 (it has one thread)."""
    send_lag_ms: float | None = None
    """Largest (sent - scheduled) of the interval, milliseconds."""


LoadRecord = RequestRecord | IntervalRecord


class SetPeople(msgspec.Struct, frozen=True, tag_field="op", tag="people"):
    """Closed loop: have this many people (others finish what they do and leave)."""

    count: int


class SetSlow(msgspec.Struct, frozen=True, tag_field="op", tag="slow"):
    """Have this many slow readers besides the patient people."""

    count: int


class SetRate(msgspec.Struct, frozen=True, tag_field="op", tag="rate"):
    """Open loop at this many requests per second (Poisson); None goes back to people."""

    per_second: float | None


class Burst(msgspec.Struct, frozen=True, tag_field="op", tag="burst"):
    """Send this many requests at once, besides everything else."""

    count: int


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """Begin nothing new, wait up to `grace_s`, abandon the rest, exit."""

    grace_s: float = 0.0


LoadCommand = SetPeople | SetSlow | SetRate | Burst | Stop
