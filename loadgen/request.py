"""One streamed request on a connection of its own, and what was measured of it."""

from __future__ import annotations

import asyncio
import time
from array import array
from dataclasses import dataclass, field

import msgspec

from loadgen.behaviours import AT_ONCE, ENDLESS, MOMENTS, Leaving, Pace, Patience, Reading
from loadgen.histogram import Histogram
from loadgen.http1 import Headers, Http1Connection
from loadgen.records import Behaviour, Outcome, RequestRecord
from loadgen.slo import CHAT, Slo, fluidity
from loadgen.sse import Events, Usage, error_text, understand
from loadgen.target import Target, connect_failure

FAIRNESS_ID = b"x-gateway-inference-fairness-id"
"""By which gateways that are fair by user tell one from another; others ignore it."""
PRIORITY = b"x-vllm-priority"
"""vLLM's header: lower goes first."""
CHAT_PATH = "/v1/chat/completions"
ERROR_BODY_BYTES = 65536
SOON_S = 0.1
"""From the request to leaving before its first token, unless the response begins sooner: leaving with the last byte of the
request, it might never have been read."""
LOOK_S = 0.5
"""How often somebody who does not read looks whether he has been cut off."""
"""As much of an answer that is no stream is kept to find its reason in."""
FAILED_FINISHES = frozenset({"abort", "error"})
"""Finish reasons by which a server says that it gave up."""


class Limits(msgspec.Struct, frozen=True):
    """How long a request may take before its client calls it an error, seconds from the moment it really began."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    total_s: float = 900.0


class Call(msgspec.Struct, frozen=True):
    """One request to make."""

    request_id: str
    person: str
    behaviour: Behaviour
    scheduled: float
    """Monotonic seconds at which the person meant to send it."""
    body: bytes
    reading: Reading = AT_ONCE
    patience: Patience = ENDLESS
    path: str = CHAT_PATH
    intended: float | None = None
    """As in the record: for an attempt after the first."""
    attempt: int = 1
    turn: int = 1
    max_tokens: int | None = None
    clipped: bool = False
    priority: int = 0
    """Sent where it is not 0."""
    departure: Leaving | None = None
    """Its client leaves so."""
    stall_s: float | None = None
    """Its client stops reading after the first token, and stays for so long unless it is cut off."""
    keeps_text: bool = False
    """Somebody will need the reply's text: the next turn carries it."""

    @property
    def waited_since(self) -> float:
        return self.scheduled if self.intended is None else self.intended


@dataclass
class Meter:
    """What one worker sees besides whole requests, collected until its next interval record."""

    slo: Slo = CHAT
    """Whose token deadlines fluidity counts."""
    gaps: Histogram = field(default_factory=Histogram)
    """Between consecutive token events of people who read as it comes. Events that came in one read are 0 apart: so
    they reached the person."""
    send_lag_ms: float | None = None
    start_lag_ms: float | None = None

    def begun(self, lag_s: float) -> None:
        self.start_lag_ms = max(self.start_lag_ms or 0.0, lag_s * 1e3)

    def sent(self, lag_s: float) -> None:
        self.send_lag_ms = max(self.send_lag_ms or 0.0, lag_s * 1e3)


class StreamedRequest:
    """Sends one `Call` and reads the reply the way the call's person reads; a ResponseHandler.

    `run` always returns a record: a failure of the server or the network is an outcome, never an exception.
    """

    def __init__(self, target: Target, call: Call, limits: Limits, meter: Meter) -> None:
        self.call = call
        self.first_byte: float | None = None
        self.token_at: array[float] = array("d")
        """Stamps of the token events, monotonic seconds."""
        self._target = target
        self._limits = limits
        self._meter = meter
        self._pace = None if call.reading.bytes_per_s is None else Pace(call.reading)
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[RequestRecord] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._opening: asyncio.Task[Http1Connection] | None = None
        self._connection: Http1Connection | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._acts = call.departure is not None or call.stall_s is not None
        self._half_closed = False
        self._events = Events()
        self._is_stream = False
        self._error_body = b""
        self._text: list[str] = []
        self._sent: float | None = None
        self._status: int | None = None
        self._finish_reason: str | None = None
        self._said_done = False
        self._usage: Usage | None = None
        self._retry_after_s: float | None = None

    @property
    def first_token(self) -> float | None:
        return self.token_at[0] if self.token_at else None

    @property
    def reply(self) -> str:
        """The text so far, if the call keeps it."""
        return "".join(self._text)

    async def run(self) -> RequestRecord:
        try:
            if not self._over.done():
                self._meter.begun(time.monotonic() - self.call.scheduled)
                self._time_limit(self._limits.total_s, "not finished")
                self._time_limit(self._limits.first_byte_s, "no first byte", until_first_byte=True)
                self._be_patient()
                await self._send()
            return await self._over
        finally:
            for timer in self._timers:
                timer.cancel()
            self._leave()

    def abandon(self, reason: str) -> None:
        """Leave now. Nothing happens when it is over already."""
        self._settle("abandoned", reason, time.monotonic())

    async def _send(self) -> None:
        self._opening = asyncio.create_task(
            Http1Connection.open(
                self._target.host,
                self._target.port,
                rcvbuf=self.call.reading.rcvbuf_bytes,
                timeout=self._limits.connect_s,
            )
        )
        try:
            connection = await self._opening
        except OSError as error:
            self._settle("error", connect_failure(error), time.monotonic())
            return
        except asyncio.CancelledError:
            if not self._over.done():  # not _settle's doing: this very task is being cancelled
                raise
            return
        self._connection = connection
        if self._over.done():
            return
        headers = [
            *self._target.headers(),
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream"),
            (b"x-request-id", self.call.request_id.encode("ascii")),
            (FAIRNESS_ID, self.call.person.encode("ascii")),
        ]
        if self.call.priority:
            headers.append((PRIORITY, b"%d" % self.call.priority))
        try:
            self._sent = connection.request("POST", self._target.prefix + self.call.path, headers, self.call.body, self)
        except ConnectionError:
            self._settle("error", "the connection was closed before the request", time.monotonic())
            return
        self._meter.sent(self._sent - self.call.scheduled)
        if self.call.departure is not None and self.call.departure.at == "0":
            self._timers.append(self._loop.call_later(SOON_S, self._depart))

    def _time_limit(self, seconds: float, what: str, *, until_first_byte: bool = False) -> None:
        def passed() -> None:
            if not (until_first_byte and self.first_byte is not None):
                self._settle("error", f"{what} within {seconds:g} s", time.monotonic())

        self._timers.append(self._loop.call_later(seconds, passed))

    def _be_patient(self) -> None:
        """Leave when the first token, or the next one, takes longer than this person waits."""
        patience = self.call.patience
        if patience.ttft_s is not None:

            def no_token() -> None:
                if not self.token_at:
                    self.abandon(f"out of patience: no token in {_about(patience.ttft_s)}")

            left_s = self.call.scheduled + patience.ttft_s - time.monotonic()
            self._timers.append(self._loop.call_later(max(0.0, left_s), no_token))
        if patience.stall_s is not None:
            self._watch_stall(patience.stall_s)

    def _watch_stall(self, stall_s: float) -> None:
        """One timer that finds out when the latest token has become too old, rather than one a token."""
        left_s = self.token_at[-1] + stall_s - time.monotonic() if self.token_at else stall_s
        if left_s <= 0:
            self.abandon(f"out of patience: no further token in {_about(stall_s)}")
        elif not self._over.done():
            self._stall = self._loop.call_later(left_s, self._watch_stall, stall_s)

    def _settle(self, outcome: Outcome, reason: str, at: float) -> None:
        """The first settlement counts; it ends the exchange whatever its state."""
        if self._over.done():
            return
        usage = self._usage or Usage()
        stamps = self.token_at
        tokens = usage.completion_tokens or len(stamps)
        self._over.set_result(
            RequestRecord(
                request_id=self.call.request_id,
                person=self.call.person,
                behaviour=self.call.behaviour,
                scheduled=self.call.scheduled,
                sent=self._sent,
                first_byte=self.first_byte,
                first_token=self.first_token,
                last_token=stamps[-1] if stamps else None,
                done=at,
                outcome=outcome,
                status=self._status,
                reason=reason,
                finish_reason=self._finish_reason,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                intended=self.call.intended,
                attempt=self.call.attempt,
                turn=self.call.turn,
                max_tokens=self.call.max_tokens,
                chunks=len(stamps),
                clipped=self.call.clipped,
                fluidity=fluidity(self.call.waited_since, stamps, tokens, self._meter.slo),
                longest_gap_s=max(map(float.__sub__, stamps[1:], stamps), default=None),
                retry_after_s=self._retry_after_s,
            )
        )
        self._leave()

    def _leave(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        if self._resume is not None:
            self._resume.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None and not self._connection.closed:
            self._connection.abort()

    # ResponseHandler

    def headers(self, status: int, headers: Headers, at: float) -> None:
        self._status = status
        self.first_byte = at
        named = dict(headers)
        self._retry_after_s = _seconds(named.get(b"retry-after", b""))
        content_type = named.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self._is_stream = status == 200 and content_type == b"text/event-stream"
        if status == 200 and not self._is_stream:
            name = content_type.decode("latin-1") or "no content type"
            self._settle("error", f"the answer is not an event stream ({name})", at)
        elif self._is_stream and self._acts:
            self._act()

    def body(self, data: bytes, at: float) -> None:
        if self._over.done():
            return
        if not self._is_stream:
            self._error_body = (self._error_body + data)[:ERROR_BODY_BYTES]
            return
        if self._events.is_ordinary(data):
            self._token(at)
            if self.call.keeps_text:
                self._text.append(self._events.text(data))
        else:
            for event in self._events.feed(data):
                self._read_event(event, at)
                if self._over.done():
                    return
        if self._acts:
            self._act()
        elif self._pace is not None and self.token_at:
            self._rest_until(self._pace.took(len(data), at))

    def end(self, at: float) -> None:
        if self._is_stream:
            self._end_stream(at)
            return
        outcome: Outcome = "rejected" if self._status in {429, 503} else "error"
        message = error_text(self._error_body)
        self._settle(outcome, f"HTTP {self._status}{f': {message}' if message else ''}", at)

    def failed(self, reason: str, at: float) -> None:
        if self._said_done:
            self._end_stream(at)
        elif self._half_closed:
            self._taken_for_gone(at)
        else:
            self._settle("error", reason, at)

    def _end_stream(self, at: float) -> None:
        if self._finish_reason is None and self._half_closed:
            self._taken_for_gone(at)
        elif self._finish_reason is None:
            self._settle("error", "the stream ended without a finish_reason", at)
        elif self._finish_reason in FAILED_FINISHES:
            self._settle("error", f"the server finished it with {self._finish_reason}", at)
        else:
            self._settle("ok", "", at)

    def _read_event(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self._said_done = True
            return
        try:
            said = understand(data)
        except msgspec.DecodeError:
            self._settle("error", "an event is not of the expected JSON", at)
            return
        if said.error is not None:
            self._settle("error", f"error event: {said.error}", at)
            return
        if said.usage is not None:
            self._usage = said.usage
        if said.finish_reason is not None:
            self._finish_reason = said.finish_reason
        if said.token:
            self._token(at)
            if self.call.keeps_text:
                self._text.append(said.text)
            if said.finish_reason is None and said.usage is None:
                self._events.learn(data)

    def _token(self, at: float) -> None:
        stamps = self.token_at
        if stamps and self._pace is None:
            self._meter.gaps.add(at - stamps[-1])
        stamps.append(at)

    def _act(self) -> None:
        """Leave, or stop reading, if it is time."""
        call, tokens = self.call, len(self.token_at)
        if call.departure is not None and call.departure.due(tokens, call.max_tokens):
            self._depart()
        elif call.stall_s is not None and tokens and self._resume is None:
            assert self._connection is not None
            self._connection.pause_reading()
            self._stay(time.monotonic() + call.stall_s)

    def _depart(self) -> None:
        """In the way of this client; once."""
        connection, departure = self._connection, self.call.departure
        if connection is None or departure is None or self._half_closed or self._over.done():
            return
        if departure.how == "half-close":
            self._half_closed = True
            connection.half_close()
            return
        if departure.how == "rst":
            connection.reset()
        else:
            connection.close()
        self.abandon(f"left {departure.in_words()}")

    def _stay(self, until: float) -> None:
        """Without reading, until then or until it is cut off."""
        assert self._connection is not None
        if self._connection.cut_off:
            self.abandon("stopped reading, and was cut off")
        elif time.monotonic() >= until:
            self.abandon("stopped reading, and left at last")
        else:
            self._resume = self._loop.call_later(LOOK_S, self._stay, until)

    def _taken_for_gone(self, at: float) -> None:
        """A server may end a request whose client closes its own direction; one that answers all the same is fine too."""
        assert self.call.departure is not None
        self._settle("abandoned", f"half-closed {MOMENTS[self.call.departure.at]}, and was taken for gone", at)

    def _rest_until(self, due: float) -> None:
        """Stop reading until `due`. It starts with the first token: a slow reader's TTFT is the server's, not his."""
        assert self._connection is not None
        self._connection.pause_reading()
        if self._resume is not None:
            self._resume.cancel()
        self._resume = self._loop.call_later(max(0.0, due - time.monotonic()), self._connection.resume_reading)


def _about(seconds: float | None) -> str:
    """Seconds in one digit, so that equal reasons count together."""
    return f"about {seconds:.0f} s" if seconds is not None and seconds >= 1 else "under 1 s"


def _seconds(value: bytes) -> float | None:
    """A Retry-After in seconds (the other form, a date, is left alone)."""
    return float(value) if value.isdigit() and len(value) < 9 else None
