"""One completion request on its way through the gateway: what it is, where it is, and how its part at the engine ended."""

from __future__ import annotations

import asyncio
import time

from server.gateway.admission import Admit, Decision, Ending
from server.gateway.clock import StageClock, judge
from server.gateway.exchange import Exchange
from server.gateway.limiter import Sample
from server.gateway.order import Ticket
from server.gateway.records import FlyingRequest
from server.gateway.refusal import DEADLINE, Refusal, silent
from server.gateway.replicas import Replica
from server.gateway.sse import Told
from server.gateway.tokens import Size


class Passage:
    """Created by the task that carries it."""

    def __init__(self, key: int, clock: StageClock) -> None:
        self.key = key
        self.clock = clock
        self.ticket = Ticket()
        self.size = Size()
        self.turn: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self.inside = False
        """The admission knows it: it waits or is in flight."""
        self.exchange: Exchange | None = None
        self.replica: Replica | None = None
        """Where it was sent and is under way."""
        self.body_told = Told()
        """What an answer that was no stream said of itself."""
        self.over = False
        """Its outcome is known; what is left is to hand the rest to the client."""
        self._task = asyncio.current_task()
        self._interruption: Refusal | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._listening: asyncio.TimerHandle | None = None

    @property
    def told(self) -> Told:
        """What the engine said of its answer, so far."""
        scanner = self.exchange.scanner if self.exchange is not None else None
        return self.body_told if scanner is None else scanner.told

    def decided(self, decision: Decision) -> None:
        """By the admission."""
        if not isinstance(decision, Admit):
            self.inside = False
        # A turn that is done already was interrupted this very moment; the passage leaves by itself.
        if not self.turn.done():
            self.turn.set_result(decision)

    def expire_at_deadline(self) -> None:
        """From its admission on its deadline interrupts it; before, it is the admission that sees to it."""
        deadline = self.ticket.deadline
        if deadline is not None:
            delay_s = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.interrupt, DEADLINE)

    def watch_silence(self, most_s: float) -> None:
        """Give the engine up once it has sent nothing for so long."""
        exchange = self.exchange
        if exchange is None or exchange.exhausted:
            return
        since, now = exchange.silent_since(), time.monotonic()
        due = (now if since is None else since) + most_s
        if due <= now:
            self.interrupt(silent(most_s))
        else:
            self._listening = asyncio.get_running_loop().call_later(due - now, self.watch_silence, most_s)

    def interrupt(self, why: Refusal) -> None:
        """Break it off, wherever it is, unless it is being broken off or only its last bytes are still to be read."""
        if self._interruption is None and not (self.over and why is DEADLINE) and self._task is not None:
            self._interruption = why
            self._task.cancel()

    def take_interruption(self) -> Refusal | None:
        """Why the task was cancelled, which is thereby undone; None: it was not us."""
        if self._interruption is not None and self._task is not None:
            self._task.uncancel()
        return self._interruption

    def sent_to(self, replica: Replica | None) -> None:
        """It goes there, wherever it was before; None: that engine is through with it, or was left."""
        if self.replica is not None:
            self.replica.under_way -= 1
        self.replica = replica
        if replica is not None:
            replica.under_way += 1

    def refused(self, why: Refusal) -> None:
        """It ends with an error of ours."""
        self.over = True
        admitted = self.clock.admitted is not None
        self.clock.end("expired" if why is DEADLINE else "failed" if admitted else "rejected", why.reason)

    def close(self) -> None:
        """Leave upstream, if it is still there."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            self._listening.cancel()
        if self.exchange is not None:
            self.exchange.abort()
        self.sent_to(None)

    def flying(self) -> FlyingRequest:
        """As it is now, once it is admitted."""
        exchange, admitted = self.exchange, self.clock.admitted
        assert admitted is not None
        scanner = exchange.scanner if exchange is not None else None
        return FlyingRequest(
            request_id=self.clock.ids.request_id,
            user=self.ticket.user,
            admitted=admitted,
            first_token=scanner.first_token if scanner is not None else None,
            upstream_done=exchange.ended if exchange is not None else None,
        )

    @property
    def ending(self) -> Ending:
        """How the engine's part ended, at the moment at which it is through with it or is left."""
        exchange = self.exchange
        if exchange is not None and exchange.ended is not None and exchange.status is not None:
            if exchange.scanner is None:  # what a whole answer says is read later
                return "completed" if exchange.status < 400 else "failed"
            return (
                "completed" if judge(exchange.status, exchange.scanner.told, cut=False)[0] == "completed" else "failed"
            )
        if exchange is not None and exchange.cut is not None:
            return "failed"
        outcome = self.clock.outcome
        return outcome if outcome in {"cancelled", "expired"} else "failed"

    def sample(self, ending: Ending) -> Sample:
        """What it felt of the engine, for the adaptive limit."""
        scanner = self.exchange.scanner if self.exchange is not None else None
        first = scanner.first_token if scanner is not None else None
        last = scanner.last_token if scanner is not None else None
        admitted, count = self.clock.admitted, self.told.completion_tokens or 0
        return Sample(
            ttft_s=None if first is None or admitted is None else first - admitted,
            tpot_s=None if first is None or last is None or count < 2 else (last - first) / (count - 1),
            failed=ending == "failed",
        )
