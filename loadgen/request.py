"""One streamed request on a connection of its own, and what was measured of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import msgspec

from loadgen.behaviours import AT_ONCE, Pace, Reading
from loadgen.http1 import Headers, Http1Connection
from loadgen.records import Behaviour, Outcome, RequestRecord
from loadgen.sse import Events, Usage, error_text, understand
from loadgen.target import Target, connect_failure

CHAT_PATH = "/v1/chat/completions"
ERROR_BODY_BYTES = 65536
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
    path: str = CHAT_PATH


@dataclass
class Meter:
    """What one worker sees besides whole requests, collected until its next interval record."""

    gaps_ms: list[float] = field(default_factory=list)
    """Between consecutive token events of people who read as it comes. Events that came in one read are 0 ms apart: so
    they reached the person."""
    send_lag_ms: float | None = None

    def gap(self, seconds: float) -> None:
        self.gaps_ms.append(round(seconds * 1e3, 3))

    def sent(self, lag_s: float) -> None:
        self.send_lag_ms = max(self.send_lag_ms or 0.0, lag_s * 1e3)


class StreamedRequest:
    """Sends one `Call` and reads the reply the way the call's person reads; a ResponseHandler.

    `run` always returns a record: a failure of the server or the network is an outcome, never an exception.
    """

    def __init__(self, target: Target, call: Call, limits: Limits, meter: Meter) -> None:
        self.call = call
        self.first_byte: float | None = None
        self.first_token: float | None = None
        self._target = target
        self._limits = limits
        self._meter = meter
        self._pace = None if call.reading.bytes_per_s is None else Pace(call.reading.bytes_per_s)
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[RequestRecord] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._opening: asyncio.Task[Http1Connection] | None = None
        self._connection: Http1Connection | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._events = Events()
        self._is_stream = False
        self._error_body = b""
        self._sent: float | None = None
        self._last_token: float | None = None
        self._status: int | None = None
        self._finish_reason: str | None = None
        self._said_done = False
        self._usage: Usage | None = None
        self._chunks = 0

    async def run(self) -> RequestRecord:
        try:
            if not self._over.done():
                self._time_limit(self._limits.total_s, "not finished")
                self._time_limit(self._limits.first_byte_s, "no first byte", until_first_byte=True)
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
        ]
        try:
            self._sent = connection.request("POST", self._target.prefix + self.call.path, headers, self.call.body, self)
        except ConnectionError:
            self._settle("error", "the connection was closed before the request", time.monotonic())
            return
        self._meter.sent(self._sent - self.call.scheduled)

    def _time_limit(self, seconds: float, what: str, *, until_first_byte: bool = False) -> None:
        def passed() -> None:
            if not (until_first_byte and self.first_byte is not None):
                self._settle("error", f"{what} within {seconds:g} s", time.monotonic())

        self._timers.append(self._loop.call_later(seconds, passed))

    def _settle(self, outcome: Outcome, reason: str, at: float) -> None:
        """The first settlement counts; it ends the exchange whatever its state."""
        if self._over.done():
            return
        usage = self._usage or Usage()
        self._over.set_result(
            RequestRecord(
                request_id=self.call.request_id,
                person=self.call.person,
                behaviour=self.call.behaviour,
                scheduled=self.call.scheduled,
                sent=self._sent,
                first_byte=self.first_byte,
                first_token=self.first_token,
                last_token=self._last_token,
                done=at,
                outcome=outcome,
                status=self._status,
                reason=reason,
                finish_reason=self._finish_reason,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                chunks=self._chunks,
            )
        )
        self._leave()

    def _leave(self) -> None:
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
        content_type = dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
        self._is_stream = status == 200 and content_type == b"text/event-stream"
        if status == 200 and not self._is_stream:
            name = content_type.decode("latin-1") or "no content type"
            self._settle("error", f"the answer is not an event stream ({name})", at)

    def body(self, data: bytes, at: float) -> None:
        if self._over.done():
            return
        if not self._is_stream:
            self._error_body = (self._error_body + data)[:ERROR_BODY_BYTES]
            return
        for event in self._events.feed(data):
            self._read_event(event, at)
            if self._over.done():
                return
        if self._pace is not None and self.first_token is not None:
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
        else:
            self._settle("error", reason, at)

    def _end_stream(self, at: float) -> None:
        if self._finish_reason is None:
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
        self._chunks += 1
        if said.usage is not None:
            self._usage = said.usage
        if said.finish_reason is not None:
            self._finish_reason = said.finish_reason
        if said.token:
            self._token(at)

    def _token(self, at: float) -> None:
        if self.first_token is None:
            self.first_token = at
        elif self._pace is None:
            assert self._last_token is not None
            self._meter.gap(at - self._last_token)
        self._last_token = at

    def _rest_until(self, due: float) -> None:
        """Stop reading until `due`. It starts with the first token: a slow reader's TTFT is the server's, not his."""
        assert self._connection is not None
        self._connection.pause_reading()
        if self._resume is not None:
            self._resume.cancel()
        self._resume = self._loop.call_later(max(0.0, due - time.monotonic()), self._connection.resume_reading)
