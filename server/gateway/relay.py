"""The gateway: an OpenAI-compatible pass-through with one admission in front of one engine, as a raw ASGI app.

A request's `reason`, in its record, in the metrics and (where the response had not begun) in `X-Spark-Reason`:

- rejected: `queue_full` (429), `engine_starting`, `engine_down`, `gateway_stopping` (503), `bad_request` (400),
  `body_too_large` (413)
- failed: `engine_starting`, `engine_down` (503: nobody answered at the engine's address), `upstream_error` (502: it broke off
  before the headers; or the engine's own 5xx, passed on), `upstream_refused` (its 4xx, passed on), `stream_cut` (it broke
  off later), `error_event`, `no_finish_reason`, `gateway_stopping`, `internal_error` (500)
- cancelled: `client_left`
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable

from starlette.types import Receive, Scope, Send

from server.gateway.admission import Admission, Decision, Reject
from server.gateway.client import BodyTooLargeError, Client, ClientLeftError, error_document
from server.gateway.clock import StageClock, judge
from server.gateway.inbound import (
    Asked,
    BadBodyError,
    Headers,
    Ids,
    declared_length,
    identify,
    read_request,
    response_headers,
    upstream_headers,
)
from server.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from server.gateway.records import EngineState, GatewayCommand, GatewayRecord, SetLimits
from server.gateway.sse import Told, read_body
from server.gateway.upstream import Exchange, Upstream

MAX_BODY_BYTES = 16 * 1024 * 1024
MODELS_TIMEOUT_S = 10.0

COMPLETION_ROUTES = frozenset(("/v1/chat/completions", "/v1/completions"))
OTHER_ROUTES = frozenset(("/v1/models", "/health", "/metrics"))

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """This request gets an error of ours instead of a response of the engine's."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class _Passage:
    """One completion request on its way through."""

    def __init__(self, key: int, clock: StageClock) -> None:
        self.key = key
        self.clock = clock
        self.turn: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self.inside = False
        """The admission knows it: it waits or is in flight."""
        self.exchange: Exchange | None = None
        self.told = Told()
        self.task = asyncio.current_task()
        self.stopped = False


class Gateway:
    """The ASGI app. It needs `server.gateway.listener` under it, and gives each completion request's record to `sink` once."""

    def __init__(
        self,
        *,
        engine_url: str,
        max_in_flight: int,
        max_queue: int,
        engine_state: EngineState = "ready",
        sink: Callable[[GatewayRecord], None],
        connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self.admission = Admission(max_in_flight=max_in_flight, max_queue=max_queue, engine=engine_state)
        self.metrics = GatewayMetrics(
            self.admission,
            lambda: (self._held, sum(p.exchange.buffered for p in self._live() if p.exchange), connections()),
        )
        self._upstream = Upstream(engine_url)
        self._sink = sink
        self._keys = itertools.count(1)
        self._passages: dict[int, _Passage] = {}
        self._held = 0
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = time.monotonic()
        ids = identify(scope["headers"])
        client = Client(scope, receive, send, self._hold)
        path: str = scope["path"]
        wanted = "POST" if path in COMPLETION_ROUTES else "GET" if path in OTHER_ROUTES else None
        echo = [(b"x-request-id", ids.request_id.encode("ascii"))]
        try:
            if wanted is None:
                await client.refuse(404, "not_found", f"There is no {path} here.", echo)
            elif scope["method"] != wanted:
                allow = [*echo, (b"allow", wanted.encode("ascii"))]
                await client.refuse(405, "method_not_allowed", f"{path} takes {wanted} only.", allow)
            elif wanted == "POST":
                await self._complete(client, StageClock(ids, path, accepted), scope)
            elif path == "/metrics":
                await client.answer(200, self.metrics.text(), [(b"content-type", CONTENT_TYPE), *echo])
            elif path == "/health":
                await self._health(client, echo)
            else:
                await self._models(client, ids, scope)
        except ClientLeftError:
            pass  # its record, where it has one, says so

    def command(self, command: GatewayCommand) -> None:
        """Change limits or the engine's state at once. Raises ValueError, and then nothing has changed."""
        now = time.monotonic()
        if isinstance(command, SetLimits):
            decisions = self.admission.set_limits(now, max_in_flight=command.max_in_flight, max_queue=command.max_queue)
        else:
            if command.url is not None:
                self._upstream.point_at(command.url)
            decisions = self.admission.set_engine(command.state, now, hold=command.hold)
        self._carry_out(decisions)

    def stop(self) -> None:
        """Turn away what waits, break off what streams, take no more."""
        self._stopping = True
        self._upstream.close()
        for passage in self._live():
            passage.stopped = True
            if passage.task is not None:
                passage.task.cancel()

    # One completion request

    async def _complete(self, client: Client, clock: StageClock, scope: Scope) -> None:
        self.metrics.requests.inc()
        passage = _Passage(next(self._keys), clock)
        self._passages[passage.key] = passage
        try:
            await self._attempt(client, passage, scope)
        except ClientLeftError:
            clock.end("cancelled", "client_left")
        finally:
            if passage.exchange is not None:
                passage.exchange.abort()
            self._leave(passage)
            del self._passages[passage.key]
            record = clock.record(status=client.status, exchange=passage.exchange, told=passage.told)
            self.metrics.observe(record)
            self._sink(record)

    async def _attempt(self, client: Client, passage: _Passage, scope: Scope) -> None:
        clock = passage.clock
        try:
            await self._serve(client, passage, scope)
        except _RefusedError as refused:
            if passage.exchange is not None:
                passage.exchange.abort()
            clock.end("failed" if clock.admitted is not None else "rejected", refused.reason)
            await self._refuse(client, refused, clock.ids)
        except asyncio.CancelledError:
            if not passage.stopped:
                raise
            assert passage.task is not None
            passage.task.uncancel()
            clock.end("failed" if clock.admitted is not None else "rejected", "gateway_stopping")
            await self._break_off(client, passage, _STOPPING)
        except ClientLeftError:
            raise
        except Exception:
            _log.exception("request %s failed in the gateway", clock.ids.request_id)
            clock.end("failed", "internal_error")
            await self._break_off(client, passage, _INTERNAL)

    async def _serve(self, client: Client, passage: _Passage, scope: Scope) -> None:
        clock = passage.clock
        headers: Headers = scope["headers"]
        asked = await self._read(client, headers)
        clock.stream = asked.stream
        clock.queued = time.monotonic()
        async with client:
            await self._wait_for_turn(passage)
            clock.admitted = time.monotonic()
            exchange = passage.exchange = Exchange(
                strip_usage=asked.strip_usage,
                give_back=self._upstream.returner(),
                done=lambda: self._leave(passage),
            )
            sent = upstream_headers(headers, clock.ids, self._upstream.host_header)
            await self._send_upstream(exchange, "POST", _target(scope), sent, asked.body, clock)
            await self._relay(client, passage, exchange)

    async def _read(self, client: Client, headers: Headers) -> Asked:
        if self._stopping:
            raise _STOPPING
        if (declared_length(headers) or 0) > MAX_BODY_BYTES:
            raise _TOO_LARGE
        try:
            return read_request(await client.body(MAX_BODY_BYTES))
        except BodyTooLargeError:
            raise _TOO_LARGE from None
        except BadBodyError as error:
            raise _RefusedError(400, "bad_request", str(error)) from None

    async def _wait_for_turn(self, passage: _Passage) -> None:
        passage.inside = True
        self._carry_out(self.admission.arrive(passage.key, time.monotonic()))
        decision = await passage.turn
        if isinstance(decision, Reject):
            status = 429 if decision.reason == "queue_full" else 503
            raise _RefusedError(status, decision.reason, _REJECTIONS[decision.reason], decision.retry_after_s)

    async def _send_upstream(
        self, exchange: Exchange, method: str, target: str, sent: Headers, body: bytes, clock: StageClock | None = None
    ) -> None:
        """Until the response's headers. A used connection that breaks before any byte is replaced once. Raises _RefusedError."""
        for fresh in (False, True):
            try:
                connection, reused = await self._upstream.lease(fresh=fresh)
                stamp = exchange.begin(connection, reused, method, target, sent, body)
            except (OSError, TimeoutError) as error:
                _log.warning("the engine cannot be reached: %s", error or "no answer")
                reason = "engine_starting" if self.admission.engine == "starting" else "engine_down"
                retry_after_s = self.admission.retry_after_s(time.monotonic())
                raise _RefusedError(503, reason, "The engine does not answer.", retry_after_s) from error
            if clock is not None:
                clock.upstream_sent = stamp
            await exchange.head()
            if not exchange.stale:
                break
        if exchange.status is None:
            raise _RefusedError(502, "upstream_error", f"The engine broke off: {exchange.cut}.")

    async def _relay(self, client: Client, passage: _Passage, exchange: Exchange) -> None:
        """The response, from its headers to its last byte in the client's kernel."""
        clock, status = passage.clock, exchange.status
        assert status is not None
        events = exchange.scanner is not None
        headers = response_headers(exchange.headers_in, clock.ids.request_id, keep_length=not events)
        if status >= 400:
            headers.append((b"x-spark-reason", judge(status, passage.told, cut=False)[1].encode("ascii")))
        await client.start(status, headers)
        if exchange.scanner is not None:
            passage.told = exchange.scanner.told
            exchange.write_now = client.write_now
        kept: list[bytes] = []
        kept_bytes = 0
        while piece := await exchange.next():
            chunk, size = piece
            await client.write(chunk)
            exchange.taken(size)
            if not events and kept_bytes <= MAX_BODY_BYTES:
                kept.append(chunk)
                kept_bytes += len(chunk)
        if not events:
            passage.told = read_body(b"".join(kept))
        clock.end(*judge(status, passage.told, cut=exchange.cut is not None))
        if exchange.cut is None:
            await client.finish()
        elif not events:
            await client.reset()
        elif clock.reason == "stream_cut":
            await client.finish(_error_event(502, "stream_cut", f"The engine broke off: {exchange.cut}."))
        else:
            await client.finish()

    async def _break_off(self, client: Client, passage: _Passage, why: _RefusedError) -> None:
        """End a response that cannot go on, however far it came."""
        if passage.exchange is not None:
            passage.exchange.abort()
        if client.status is None:
            await self._refuse(client, why, passage.clock.ids)
        else:
            await client.reset()

    async def _refuse(self, client: Client, refused: _RefusedError, ids: Ids) -> None:
        headers = [(b"x-request-id", ids.request_id.encode("ascii"))]
        if refused.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % refused.retry_after_s))
        await client.refuse(refused.status, refused.reason, refused.message, headers)

    # What does not queue

    async def _health(self, client: Client, echo: Headers) -> None:
        """200 while the engine is ready, else 503; the gateway itself answers either way."""
        state = self.admission.engine
        body = json.dumps({"status": "ok" if state == "ready" else "unavailable", "engine": state}).encode("ascii")
        await client.answer(200 if state == "ready" else 503, body, [(b"content-type", b"application/json"), *echo])

    async def _models(self, client: Client, ids: Ids, scope: Scope) -> None:
        exchange = Exchange(give_back=self._upstream.returner())
        sent = upstream_headers(scope["headers"], ids, self._upstream.host_header)
        try:
            async with client, asyncio.timeout(MODELS_TIMEOUT_S):
                try:
                    await self._send_upstream(exchange, "GET", _target(scope), sent, b"")
                    chunks = []
                    while piece := await exchange.next():
                        exchange.taken(piece[1])
                        chunks.append(piece[0])
                    if exchange.cut is not None or exchange.status is None:
                        raise _RefusedError(502, "upstream_error", f"The engine broke off: {exchange.cut}.")
                except _RefusedError as refused:
                    await self._refuse(client, refused, ids)
                else:
                    kept = response_headers(exchange.headers_in, ids.request_id, keep_length=False)
                    await client.answer(exchange.status, b"".join(chunks), kept)
        except TimeoutError:
            if client.status is None:
                await self._refuse(client, _RefusedError(504, "upstream_timeout", "The engine does not answer."), ids)
        finally:
            exchange.abort()

    # Admission's decisions, carried out

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            passage = self._passages[decision.key]
            if isinstance(decision, Reject):
                passage.inside = False
            # A turn that is done already was interrupted this very moment; its passage leaves by itself.
            if not passage.turn.done():
                passage.turn.set_result(decision)

    def _leave(self, passage: _Passage) -> None:
        """Free its place, in the queue or at the engine; once."""
        if not passage.inside:
            return
        passage.inside = False
        now = time.monotonic()
        waits = self.admission.waits(passage.key)
        self._carry_out(self.admission.cancel(passage.key, now) if waits else self.admission.finish(passage.key, now))

    def _hold(self, step: int) -> None:
        self._held += step

    def _live(self) -> list[_Passage]:
        return list(self._passages.values())


_REJECTIONS = {
    "queue_full": "The queue is full; try again later.",
    "engine_starting": "The engine is starting; try again later.",
    "engine_down": "The engine is down; try again later.",
}
_TOO_LARGE = _RefusedError(413, "body_too_large", f"The request body is larger than {MAX_BODY_BYTES >> 20} MiB.")
_STOPPING = _RefusedError(503, "gateway_stopping", "The gateway is stopping.", 5)
_INTERNAL = _RefusedError(500, "internal_error", "The gateway failed; its log says why.")


def _error_event(status: int, reason: str, message: str) -> bytes:
    return b"data: " + error_document(status, reason, message) + b"\n\n"


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    path: str = scope["path"]
    return f"{path}?{query.decode('ascii')}" if query else path
