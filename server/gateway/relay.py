"""The gateway: an OpenAI-compatible pass-through with one admission in front of one engine, or of several that serve the
same model, as a raw ASGI app.

A request's `reason`, in its record, in the metrics and (where the response had not begun) in `X-Spark-Reason`:

- rejected: `queue_full`, `estimated_wait`, `shed`, `queue_timeout` (429), `engine_starting`, `engine_down`,
  `engine_asleep`, `gateway_stopping` (503), `bad_request` (400), `body_timeout` (408), `body_too_large` (413)
- failed: `engine_starting`, `engine_down`, `engine_asleep` (503: nobody answered at the engine's address), `upstream_error`
  (502: it broke off before the headers; or the engine's own 5xx, passed on), `upstream_silent` (504, or an error event: it
  sent nothing for the policy's `silence_s`), `upstream_refused` (its 4xx, passed on),
  `stream_cut` (it broke off later), `error_event`, `no_finish_reason`, `gateway_stopping`, `internal_error` (500)
- cancelled: `client_left`; `client_stalled` (it took nothing for 30 s, and was cut off)
- expired: `deadline` (504)

What never becomes a request has no record, only a reason: `unknown_host` (421), `unauthorized` (401), `not_found` (404),
`method_not_allowed` (405), `headers_too_large` (431), `headers_timeout` (408).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from starlette.types import Receive, Scope, Send

from loadgen.histogram import Histogram
from server.gateway.access import COMPLETION_ROUTES, Access, allow
from server.gateway.admission import Admission, Decision, Expire, Reject
from server.gateway.client import STALL_S, Client, ClientLeftError, ClientStalledError
from server.gateway.clock import StageClock
from server.gateway.exchange import EngineConnection, Exchange
from server.gateway.inbound import (
    Asked,
    BadBodyError,
    Headers,
    Ids,
    declared_length,
    identify,
    patience_s,
    priority_of,
    read_request,
    response_headers,
    upstream_headers,
    user_of,
)
from server.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from server.gateway.passage import Passage
from server.gateway.policy import Balance, Policy
from server.gateway.records import (
    FLYING_SHOWN,
    QUEUE_SHOWN,
    EngineState,
    GatewayCommand,
    GatewayRecord,
    QueuedRequest,
    QueueRecord,
    SetPolicy,
)
from server.gateway.refusal import (
    DEADLINE,
    INTERNAL,
    MAX_BODY_BYTES,
    STOPPING,
    TOO_LARGE,
    Refusal,
    RefusedError,
    rejected,
)
from server.gateway.replicas import Replica, Replicas
from server.gateway.response import break_off, refuse, relay, whole
from server.gateway.tokens import TokenEstimate

MODELS_TIMEOUT_S = 10.0
NOTICE_S = 1.0
"""How long the stack may take to tell that the engine is gone, once nobody listens there."""

_KEEP_ALIVE = b": queued\n\n"
_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

_log = logging.getLogger(__name__)


class Gateway:
    """The ASGI app. It needs `server.gateway.listener` under it, and gives each completion request's record to `sink` once."""

    def __init__(
        self,
        *,
        engine_url: str | Sequence[str],
        balance: Balance = "least",
        policy: Policy,
        engine_state: EngineState = "ready",
        sink: Callable[[GatewayRecord], None],
        connections: Callable[[], int] = lambda: 0,
        access: Access | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        """`engine_url`: one, or several that `balance` chooses among. `stall_s`: after so many seconds without taking a byte a
        client is cut off. Raises ValueError."""
        self.admission = Admission(policy, engine=engine_state)
        self.metrics = GatewayMetrics(
            self.admission,
            lambda: (self._held, sum(p.exchange.buffered for p in self._live() if p.exchange), connections()),
        )
        self._access = access or Access()
        self._replicas = Replicas([engine_url] if isinstance(engine_url, str) else engine_url, balance)
        self._sink = sink
        self._stall_s = stall_s
        self._estimate = TokenEstimate()
        self._keys = itertools.count(1)
        self._passages: dict[int, Passage] = {}
        self._gaps = Histogram()
        self._held = 0
        self._stopping = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._told = asyncio.Event()
        """Set with the next command, and another one then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = time.monotonic()
        headers: Headers = scope["headers"]
        ids = identify(headers)
        client = Client(scope, receive, send, self._hold, self._stall_s)
        path: str = scope["path"]
        echo = [(b"x-request-id", ids.request_id.encode("ascii"))]
        try:
            if (refused := self._access.check(scope["method"], path, headers)) is not None:
                await client.refuse(refused, [*echo, *allow(refused, path)])
            elif path in COMPLETION_ROUTES:
                await self._complete(client, StageClock(ids, path, accepted), scope)
            elif path == "/metrics":
                await client.answer(200, self.metrics.text(), [(b"content-type", CONTENT_TYPE), *echo])
            elif path == "/health":
                await self._health(client, echo)
            else:
                await self._models(client, ids, scope)
        except (ClientLeftError, ClientStalledError):
            pass  # its record, where it has one, says so

    def command(self, command: GatewayCommand) -> None:
        """Change the policy or the engine's state at once. Raises ValueError, and then nothing has changed."""
        now = time.monotonic()
        if isinstance(command, SetPolicy):
            policy = self.admission.policy.changed(command)
            if policy != self.admission.policy:
                self.metrics.policy_changes.inc()
            decisions = self.admission.set_policy(policy, now)
        else:
            if urls := command.urls or ([] if command.url is None else [command.url]):
                self._replicas.point_at(urls)
            decisions = self.admission.set_engine(command.state, now, hold=command.hold)
        told, self._told = self._told, asyncio.Event()
        told.set()
        self._carry_out(decisions)

    def queue(self) -> QueueRecord:
        """The line, now."""
        now = time.monotonic()
        admission = self.admission
        first = [
            QueuedRequest(
                request_id=self._passages[waiter.key].clock.ids.request_id,
                user=waiter.ticket.user,
                priority=waiter.ticket.priority,
                prompt_tokens=waiter.ticket.prompt_tokens,
                output_tokens=waiter.ticket.output_tokens,
                waited_s=round(now - waiter.since, 3),
                aged=admission.line.aged(waiter, now),
            )
            for waiter in admission.line.in_order(now, QUEUE_SHOWN)
        ]
        why = admission.blocked_by(now) or ""
        flying = itertools.islice((p for p in self._passages.values() if p.clock.admitted is not None), FLYING_SHOWN)
        return QueueRecord(
            at=now,
            policy=admission.policy,
            waiting=len(admission.line),
            why=why,
            first=first,
            flying=[passage.flying() for passage in flying],
            replicas=self._replicas.states(),
        )

    def gaps(self) -> Histogram:
        """Of all streams, since the last call."""
        return self._gaps.take()

    def stop(self) -> None:
        """Turn away what waits, break off what streams, take no more."""
        self._stopping = True
        self._replicas.close()
        if self._alarm is not None:
            self._alarm.cancel()
        for passage in self._live():
            passage.interrupt(STOPPING)

    # One completion request

    async def _complete(self, client: Client, clock: StageClock, scope: Scope) -> None:
        self.metrics.requests.inc()
        passage = Passage(next(self._keys), clock)
        self._passages[passage.key] = passage
        try:
            await self._attempt(client, passage, scope)
        except ClientLeftError:
            clock.end("cancelled", "client_left")
        except ClientStalledError:
            clock.end("cancelled", "client_stalled")
            await client.reset()
        except asyncio.CancelledError:
            if passage.take_interruption() is None:
                raise
            await client.reset()  # the gateway stops as it was being refused already
        finally:
            passage.close()
            self._leave(passage)
            del self._passages[passage.key]
            told = passage.told
            if clock.outcome == "completed":
                self._estimate.learn(passage.size, told.prompt_tokens, told.completion_tokens)
            record = clock.record(status=client.status, exchange=passage.exchange, told=told)
            self.metrics.observe(record)
            self._sink(record)

    async def _attempt(self, client: Client, passage: Passage, scope: Scope) -> None:
        try:
            await self._serve(client, passage, scope)
        except RefusedError as error:
            passage.refused(error.refusal)
            await refuse(client, passage, error.refusal)
        except asyncio.CancelledError:
            why = passage.take_interruption()
            if why is None:
                raise
            passage.refused(why)
            await break_off(client, passage, why)
        except (ClientLeftError, ClientStalledError):
            raise
        except Exception:
            _log.exception("request %s failed in the gateway", passage.clock.ids.request_id)
            passage.refused(INTERNAL)
            await break_off(client, passage, INTERNAL)

    async def _serve(self, client: Client, passage: Passage, scope: Scope) -> None:
        clock = passage.clock
        headers: Headers = scope["headers"]
        asked = await self._read(client, passage, headers)
        with client:
            await self._wait_for_turn(client, passage)
            clock.admitted = time.monotonic()
            clock.order = self.admission.policy.order
            passage.expire_at_deadline()
            exchange = passage.exchange = Exchange(
                strip_usage=asked.strip_usage,
                gaps=self._gaps,
                give_back=self._replicas.give_back,
                done=lambda: self._through(passage),
            )
            if (silence_s := self.admission.policy.silence_s) is not None:
                passage.watch_silence(silence_s)
            await self._send_upstream(exchange, "POST", scope, clock.ids, asked.body, passage)
            await relay(client, passage, exchange)

    async def _read(self, client: Client, passage: Passage, headers: Headers) -> Asked:
        """The body, checked, and what the admission is to know of it."""
        if self._stopping:
            raise RefusedError(STOPPING)
        if (declared_length(headers) or 0) > MAX_BODY_BYTES:
            raise RefusedError(TOO_LARGE)
        clock = passage.clock
        try:
            asked = read_request(await client.body())
            seconds = patience_s(headers)
        except BadBodyError as error:
            raise RefusedError(Refusal(400, "bad_request", str(error))) from None
        if seconds is None:
            seconds = self.admission.policy.deadline_s
        passage.size = asked.size
        passage.ticket = self._estimate.ticket(
            asked.size,
            user=user_of(headers, asked, client.address),
            priority=priority_of(headers, asked),
            deadline=None if seconds is None else clock.accepted + seconds,
        )
        clock.stream = asked.stream
        clock.ticket = passage.ticket
        clock.queued = time.monotonic()
        return asked

    async def _wait_for_turn(self, client: Client, passage: Passage) -> None:
        clock, admission = passage.clock, self.admission
        passage.inside = True
        clock.behind = len(admission.line)
        now = time.monotonic()
        self._carry_out(admission.arrive(passage.key, now, passage.ticket))
        if not passage.turn.done():
            clock.why = admission.blocked_by(now) or ""
            if clock.stream:
                await self._keep_alive(client, passage)
        decision = await passage.turn
        if isinstance(decision, Expire):
            raise RefusedError(DEADLINE)
        if isinstance(decision, Reject):
            raise RefusedError(rejected(decision.reason, decision.retry_after_s))

    async def _keep_alive(self, client: Client, passage: Passage) -> None:
        """Until its turn, and for as long as the policy has it so, give a stream that waits a comment now and then."""
        while (every_s := self.admission.policy.keep_alive_s) is not None:
            await asyncio.wait((passage.turn,), timeout=every_s)
            if passage.turn.done():
                return
            if client.status is None:
                echo = (b"x-request-id", passage.clock.ids.request_id.encode("ascii"))
                await client.start(200, [*_EVENT_STREAM, echo])
            client.write_now(_KEEP_ALIVE)

    async def _send_upstream(
        self, exchange: Exchange, method: str, scope: Scope, ids: Ids, body: bytes, passage: Passage | None = None
    ) -> None:
        """Until the response's headers. A used connection that breaks before any byte is replaced once. Raises RefusedError."""
        access, target = self._access, _target(scope)
        for fresh in (False, True):
            try:
                replica, connection, reused = await self._lease(fresh, passage)
                host, engine_key = replica.upstream.host_header, access.engine_authorization
                sent = upstream_headers(scope["headers"], ids, host, our_key=access.has_key, engine_key=engine_key)
                stamp = exchange.begin(connection, reused, method, target, sent, body)
            except (OSError, TimeoutError) as error:
                _log.warning("the engine cannot be reached: %s", error or "no answer")
                state = self.admission.engine
                reason = f"engine_{'down' if state == 'ready' else state}"
                retry_after_s = self.admission.retry_after_s(time.monotonic())
                raise RefusedError(Refusal(503, reason, "The engine does not answer.", retry_after_s)) from error
            if passage is not None:
                passage.clock.upstream_sent = stamp
            await exchange.head()
            if not exchange.stale:
                break
        if exchange.status is None:
            raise RefusedError(Refusal(502, "upstream_error", f"The engine broke off: {exchange.cut}."))

    async def _lease(self, fresh: bool, passage: Passage | None) -> tuple[Replica, EngineConnection, bool]:
        """A connection, to another engine where the chosen one is not there. Who was admitted to an engine that had just died
        waits for it in its slot, as the others do in the line, which would else run empty into the dead engine. Raises OSError
        or TimeoutError."""
        tried: list[Replica] = []
        while True:
            replica = self._replicas.choose(tried)
            if passage is not None:
                passage.sent_to(replica)
                passage.clock.replica = replica.name if self._replicas.several else ""
            try:
                return replica, *await replica.upstream.lease(fresh=fresh)
            except (OSError, TimeoutError) as error:
                tried.append(replica)
                if self._replicas.lost(replica):
                    _log.warning("%s cannot be reached (%s); asking another", replica.name, error or "no answer")
                    continue
                if passage is None or not isinstance(error, ConnectionRefusedError) or not await self._comes_back():
                    raise
                tried.clear()
                passage.clock.admitted = time.monotonic()

    async def _comes_back(self) -> bool:
        """True once the engine is ready again; False when nobody says within `NOTICE_S` that it is away, or it is not held
        for any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_S):
                while self.admission.engine == "ready" and self.admission.holds:
                    await self._told.wait()
        away = self.admission.engine != "ready"
        while self.admission.engine != "ready" and self.admission.holds:
            await self._told.wait()
        return away and self.admission.engine == "ready"

    # What does not queue

    async def _health(self, client: Client, echo: Headers) -> None:
        """200 while the engine is ready, else 503; the gateway itself answers either way."""
        state = self.admission.engine
        body = json.dumps({"status": "ok" if state == "ready" else "unavailable", "engine": state}).encode("ascii")
        await client.answer(200 if state == "ready" else 503, body, [(b"content-type", b"application/json"), *echo])

    async def _models(self, client: Client, ids: Ids, scope: Scope) -> None:
        echo = [(b"x-request-id", ids.request_id.encode("ascii"))]
        exchange = Exchange(give_back=self._replicas.give_back)
        try:
            with client:
                async with asyncio.timeout(MODELS_TIMEOUT_S):
                    try:
                        await self._send_upstream(exchange, "GET", scope, ids, b"")
                        body = await whole(exchange)
                        if exchange.cut is not None or exchange.status is None:
                            raise RefusedError(Refusal(502, "upstream_error", f"The engine broke off: {exchange.cut}."))
                    except RefusedError as error:
                        await client.refuse(error.refusal, echo)
                    else:
                        kept = response_headers(exchange.headers_in, ids.request_id, keep_length=False)
                        await client.answer(exchange.status, body, kept)
        except TimeoutError:
            if client.status is None:
                await client.refuse(Refusal(504, "upstream_timeout", "The engine does not answer."), echo)
        finally:
            exchange.abort()

    # Admission's decisions, carried out

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self._passages[decision.key].decided(decision)
        self._wind_alarm()

    def _through(self, passage: Passage) -> None:
        """Upstream is done with it, or was left."""
        passage.sent_to(None)
        self._leave(passage)

    def _leave(self, passage: Passage) -> None:
        """Free its place, in the queue or at the engine; once."""
        if not passage.inside:
            return
        passage.inside = False
        now = time.monotonic()
        if self.admission.waits(passage.key):
            decisions = self.admission.cancel(passage.key, now)
        else:
            ending = passage.ending
            decisions = self.admission.finish(passage.key, now, ending, passage.sample(ending), passage.told.tokens)
        self._carry_out(decisions)

    def _wind_alarm(self) -> None:
        """Be woken when somebody's time in the queue is up."""
        due = self.admission.next_expiry()
        if self._alarm is not None:
            if due is not None and self._alarm_at <= due:
                return  # it rings early, and is wound again then
            self._alarm.cancel()
            self._alarm = None
        if due is not None and not self._stopping:
            self._alarm_at = due
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._carry_out(self.admission.expire(time.monotonic()))

    def _hold(self, step: int) -> None:
        self._held += step

    def _live(self) -> list[Passage]:
        return list(self._passages.values())


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    path: str = scope["path"]
    return f"{path}?{query.decode('ascii')}" if query else path
