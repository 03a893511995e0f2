"""What the load generator writes down: one record a request, one an interval, as JSON lines.

All stamps are `time.monotonic()` seconds of one host, so they compare with the gateway's. Wall time is never used.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadgen.histogram import Histogram

Behaviour = Literal["patient", "slow", "abandoner", "retrier", "long", "burst", "flash", "leaver", "staller"]
"""How somebody behaves:

- `patient`: waits for ever and reads as it comes
- `slow`: reads slower than the stream comes
- `abandoner`: leaves when the first token, or the next one, takes too long
- `retrier`: asks again after a refusal, a failure or too long a wait
- `long`: writes prompts several times as long
- `burst`: a one-off request beside everybody else; `flash`: somebody of a flash crowd, who comes, asks and goes
- `leaver`: a one-off request whose client leaves at a given moment in a given way; `staller`: one whose client stops
  reading after the first token and stays
"""

RESIDENTS: tuple[Behaviour, ...] = ("patient", "slow", "abandoner", "retrier", "long")
"""Those of whom a number can be kept."""

Outcome = Literal["ok", "rejected", "error", "abandoned"]
"""How a request ended, exactly one of:

- `ok`: a finish_reason was seen and no error event (`[DONE]` alone is not success)
- `rejected`: 429 or 503 before any token
- `error`: any other status, a connection failure, an error event, or a stream that was cut
- `abandoned`: this client left before the end: out of patience, or because the run was stopped
"""

OUTCOMES: tuple[Outcome, ...] = ("ok", "rejected", "error", "abandoned")


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="request"):
    """One finished request, as the client saw it. Stamps in monotonic seconds; None where it never happened."""

    request_id: str
    person: str
    behaviour: Behaviour
    scheduled: float
    """When the person meant to send it. Every latency counts from here (no coordinated omission)."""
    intended: float | None = None
    """When the person first meant to ask, for an attempt after the first; None for a first attempt."""
    attempt: int = 1
    turn: int = 1
    """Of its conversation."""
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
    max_tokens: int | None = None
    """What was asked for at most."""
    chunks: int = 0
    clipped: bool = False
    """The context had no room for the lengths that were drawn."""
    fluidity: float | None = None
    """Share of token deadlines met, 0..1: see `loadgen.slo.fluidity`."""
    longest_gap_s: float | None = None
    """Between two token events."""
    retry_after_s: float | None = None
    """What the server asked for in a refusal."""

    @property
    def wasted_tokens(self) -> int:
        """Tokens that had reached somebody who then left, counted in chunks: at least so many were made for nobody."""
        return 0 if self.outcome != "abandoned" else (self.completion_tokens or self.chunks)

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

    @property
    def waited_since(self) -> float:
        """The moment from which the person has been waiting, whatever the number of attempts."""
        return self.scheduled if self.intended is None else self.intended


class IntervalRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="interval"):
    """The state of one worker, a few times a second. Totals count since the worker started."""

    worker: int
    at: float
    """Monotonic seconds."""
    mode: Literal["closed", "open"]
    crowds: dict[Behaviour, int] = {}
    """People there are, by behaviour, besides bursts and flash crowds; empty in open loop."""
    flash: int = 0
    """People of a flash crowd who are still there."""
    thinking: int = 0
    """People between two requests."""
    rate_asked: float | None = None
    """Open loop: requests per second asked of all workers together; None where there is no such rate (a trace)."""
    due_total: int = 0
    """Open loop: requests of this worker that the schedule had called for by now."""
    in_flight: int
    waiting: list[tuple[float, float | None]] = []
    """For each request in flight: the stamp since which its person waits, and that of its first token."""
    tokens_in_flight: int = 0
    """Token events that the requests in flight have had so far."""
    held: int = 0
    """Connections of slow readers and stallers with a reply still being read."""
    scheduled_total: int
    """Requests begun; equals in_flight plus the sum of `outcomes`."""
    retries_total: int = 0
    """Those of them that were not first attempts."""
    left_total: int = 0
    """Requests abandoned because somebody had enough."""
    wasted_tokens_total: int = 0
    """Tokens that had reached people who then left, in chunks."""
    clipped_total: int = 0
    """Requests for whose lengths the context had no room."""
    outcomes: dict[Outcome, int]
    gaps: Histogram = msgspec.field(default_factory=Histogram)
    """Raw gaps between token events read in this interval, slow readers left out."""
    loop_lag_ms: float = 0.0
    """Largest delay of the worker's own clock tick in this interval, milliseconds."""
    cpu_share: float | None = None
    """CPU seconds a wall second of this worker, 0..1 (it has one thread)."""
    send_lag_ms: float | None = None
    """Largest (sent - scheduled) of the interval, milliseconds; connecting is in it."""
    start_lag_ms: float | None = None
    """Largest (begun - scheduled) of the interval, milliseconds: our own delay alone."""
    trouble: str = ""
    """Why the schedule could not be carried out (a trace that cannot be read)."""

    @property
    def people(self) -> int:
        """Everybody who is there to stay."""
        return sum(self.crowds.values())

    @property
    def ttft_so_far_s(self) -> list[float]:
        """For each request in flight: seconds from when its person meant to ask to its first token, or to now."""
        return [(self.at if first is None else first) - since for since, first in self.waiting]


LoadRecord = RequestRecord | IntervalRecord
