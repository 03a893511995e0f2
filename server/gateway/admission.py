"""Who may go to the engine now: state and events in, decisions out. No I/O; the caller passes the time and carries out."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Literal

import msgspec

from server.gateway.limiter import AdaptiveLimit, Sample
from server.gateway.order import Line, Shares, Ticket, Waiter
from server.gateway.policy import Policy
from server.gateway.records import EngineState

DRAIN_WINDOW_S = 30.0
RETRY_AFTER_UNKNOWN_S = 5
"""Said where nothing has finished yet, so that no rate is known."""
RETRY_AFTER_MAX_S = 60

RejectReason = Literal[
    "queue_full", "estimated_wait", "shed", "queue_timeout", "engine_starting", "engine_down", "engine_asleep"
]
Ending = Literal["completed", "failed", "cancelled", "expired"]
"""How the engine's part of a request ended: what its client made of it afterwards is not the admission's."""

Why = Literal["engine", "slots", "adaptive", "tokens"]
"""What the next one waits for: an engine that serves; a place in flight; a place under the adaptive limit; tokens, though
a place is free, so that a long one at the head keeps back shorter ones behind it."""


class Admit(msgspec.Struct, frozen=True):
    """Dispatch this request; it is in flight until `finish`."""

    key: int


class Reject(msgspec.Struct, frozen=True):
    """Turn this request away; nothing more is to be said of it to the admission."""

    key: int
    reason: RejectReason
    retry_after_s: int


class Expire(msgspec.Struct, frozen=True):
    """Its own deadline passed while it waited; nothing more is to be said of it to the admission."""

    key: int


Decision = Admit | Reject | Expire


class Counts(msgspec.Struct, frozen=True):
    """arrived = rejected + queued + in_flight + completed + failed + cancelled + expired, always. All but `queued` and
    `in_flight`, which are of now, count since the start."""

    arrived: int
    rejected: int
    queued: int
    in_flight: int
    completed: int
    failed: int
    cancelled: int
    """Left while queued, or while in flight."""
    expired: int


class _Flight(msgspec.Struct, frozen=True):
    ticket: Ticket
    since: float
    shares: Shares | None
    """Where its tokens were charged to its user."""


class Admission:
    """One line of waiting requests, admitted by one policy that may change at any time.

    Every event returns what it decided, in the order in which to carry it out; a request named in no decision waits.
    Keys are the caller's, each used once. Times are monotonic seconds and never go back. Time alone expires requests:
    call `expire` at `next_expiry`.
    """

    def __init__(self, policy: Policy | None = None, *, engine: EngineState = "ready", hold: bool = True) -> None:
        self.policy = policy or Policy()
        self.policy.check()
        self.engine: EngineState = engine
        self.line = Line(self.policy.order, self.policy.ageing_s)
        self.adaptive = AdaptiveLimit(self.policy.max_in_flight, self.policy.max_in_flight)
        self.tokens_in_flight = 0
        self._hold = hold
        self._deadlines: list[tuple[float, int]] = []
        """Heap of those who wait with a deadline; keys that left are dropped as they come up."""
        self._in_flight: dict[int, _Flight] = {}
        self._busy_since: float | None = None
        self._finishes: deque[float] = deque()
        self._arrived = 0
        self._rejected = 0
        self._ended: dict[Ending, int] = {"completed": 0, "failed": 0, "cancelled": 0, "expired": 0}

    # events

    def arrive(self, key: int, now: float, ticket: Ticket = Ticket()) -> list[Decision]:  # noqa: B008 - frozen
        if key in self.line or key in self._in_flight:
            raise ValueError(f"request {key} has arrived before")
        self._arrived += 1
        if not self._serves_or_holds:
            return [self._reject(key, self._engine_reason, now)]
        self.line.add(Waiter(key, ticket, now, self._arrived))
        if ticket.deadline is not None:
            heapq.heappush(self._deadlines, (ticket.deadline, key))
        decisions = self._settle(now)
        if key in self.line:
            decisions += self._relieve(key, now)
        return decisions

    def cancel(self, key: int, now: float) -> list[Decision]:
        """Its client left while it waited. Raises KeyError when it doesn't wait."""
        self.line.remove(key)
        self._ended["cancelled"] += 1
        return self._settle(now)

    def finish(
        self,
        key: int,
        now: float,
        ending: Ending = "completed",
        sample: Sample | None = None,
        tokens: int | None = None,
    ) -> list[Decision]:
        """The engine is done with it. `tokens`: prompt and reply as the engine counted them. Raises KeyError when it isn't in
        flight."""
        flight = self._in_flight.pop(key)
        self._ended[ending] += 1
        self.tokens_in_flight -= flight.ticket.tokens
        if flight.shares is not None and tokens is not None:
            flight.shares.charge(flight.ticket.user, tokens - flight.ticket.tokens)
        if sample is not None and ending != "cancelled":
            policy = self.policy
            self.adaptive.observe(sample, flight.since, now, ttft_s=policy.ttft_target_s, tpot_s=policy.tpot_target_s)
        self._finishes.append(now)
        decisions = self._settle(now)  # what is rejected is told the rate so far
        if not self._in_flight:
            self._busy_since = None
            self._finishes.clear()
        return decisions

    def expire(self, now: float) -> list[Decision]:
        """Time has passed."""
        return self._settle(now)

    def set_policy(self, policy: Policy, now: float) -> list[Decision]:
        """From now on by this one. Lower bounds drop nobody who waits or is in flight: they hold for those who come. A time
        limit, and rejecting while the engine restarts, hold for those who wait too. Raises ValueError, and then nothing
        has changed."""
        policy.check()
        if policy.limit == "adaptive" and self.policy.limit != "adaptive":
            self.adaptive = AdaptiveLimit(policy.max_in_flight, policy.max_in_flight)
        self.adaptive.bound(policy.max_in_flight)
        self.policy = policy
        self.line.reorder(policy.order, policy.ageing_s)
        return self._settle(now)

    def set_engine(self, state: EngineState, now: float, *, hold: bool = True) -> list[Decision]:
        """`hold`: those who come while it doesn't serve may wait, if the policy lets them."""
        self.engine = state
        self._hold = hold
        return self._settle(now)

    # what is to be known

    @property
    def holds(self) -> bool:
        """Those who come while the engine does not serve wait for it."""
        return self._hold and self.policy.hold

    def waits(self, key: int) -> bool:
        return key in self.line

    def counts(self) -> Counts:
        return Counts(
            arrived=self._arrived,
            rejected=self._rejected,
            queued=len(self.line),
            in_flight=len(self._in_flight),
            completed=self._ended["completed"],
            failed=self._ended["failed"],
            cancelled=self._ended["cancelled"],
            expired=self._ended["expired"],
        )

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return (
            min(self.policy.max_in_flight, self.adaptive.value)
            if self.policy.limit == "adaptive"
            else (self.policy.max_in_flight)
        )

    def blocked_by(self, now: float) -> Why | None:
        """Why the next one waits; None when nobody does."""
        head = self.line.first(now)
        return None if head is None else self._blocks(head.ticket)

    def next_expiry(self) -> float | None:
        """When `expire` is due, in monotonic seconds; None: time alone ends nobody's wait."""
        while self._deadlines and self._deadlines[0][1] not in self.line:
            heapq.heappop(self._deadlines)
        due = self._deadlines[0][0] if self._deadlines else None
        oldest = self.line.oldest
        if oldest is not None and self.policy.queue_timeout_s is not None:
            timeout = oldest.since + self.policy.queue_timeout_s
            due = timeout if due is None else min(due, timeout)
        return due

    def oldest_wait_s(self, now: float) -> float | None:
        """Seconds for which whoever came first has waited; None when nobody waits."""
        oldest = self.line.oldest
        return None if oldest is None else now - oldest.since

    def drain_rate(self, now: float) -> float | None:
        """Finished requests per second of the present busy period, over at most the last 30 s; None before the first."""
        if self._busy_since is None:
            return None
        start = max(self._busy_since, now - DRAIN_WINDOW_S)
        while self._finishes and self._finishes[0] < start:
            self._finishes.popleft()
        return len(self._finishes) / (now - start) if self._finishes and now > start else None

    def estimated_wait_s(self, now: float) -> float | None:
        """Seconds until all that wait now will have been dispatched at the present rate; None while no rate is known."""
        rate = self.drain_rate(now)
        return None if rate is None else len(self.line) / rate

    def retry_after_s(self, now: float) -> int:
        """The same in whole seconds, 1 to 60, as Retry-After has it."""
        wait_s = self.estimated_wait_s(now)
        return RETRY_AFTER_UNKNOWN_S if wait_s is None else min(max(math.ceil(wait_s), 1), RETRY_AFTER_MAX_S)

    # decisions

    def _settle(self, now: float) -> list[Decision]:
        """Who is out of time, who may go, and who cannot be held."""
        decisions = self._time_out(now)
        while (head := self.line.first(now)) is not None and self._blocks(head.ticket) is None:
            decisions.append(self._admit(head, now))
        if not self._serves_or_holds:
            for waiter in self.line:
                self.line.remove(waiter.key)
                decisions.append(self._reject(waiter.key, self._engine_reason, now))
        return decisions

    def _time_out(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, key = heapq.heappop(self._deadlines)
            if key in self.line:
                self.line.remove(key)
                self._ended["expired"] += 1
                decisions.append(Expire(key))
        limit_s = self.policy.queue_timeout_s
        while limit_s is not None and (oldest := self.line.oldest) is not None and oldest.since + limit_s <= now:
            self.line.remove(oldest.key)
            decisions.append(self._reject(oldest.key, "queue_timeout", now))
        return decisions

    def _blocks(self, ticket: Ticket) -> Why | None:
        policy, flying = self.policy, len(self._in_flight)
        if self.engine != "ready":
            return "engine"
        if flying >= policy.max_in_flight:
            return "slots"
        if policy.limit == "adaptive" and flying >= self.adaptive.value:
            return "adaptive"
        if policy.limit == "tokens" and flying and self.tokens_in_flight + ticket.tokens > (policy.token_budget or 0):
            return "tokens"
        return None

    def _relieve(self, key: int, now: float) -> list[Decision]:
        """One more waits. Is that one too many, and whom does it cost?"""
        policy, others = self.policy, len(self.line) - 1
        if policy.limit == "adaptive":
            self.adaptive.reached()
        if policy.overload == "wait":
            return []
        if policy.overload == "estimate":
            wait_s = self.estimated_wait_s(now)
            if wait_s is not None:
                return [] if wait_s <= policy.max_wait_s else self._turn_away(key, "estimated_wait", now)
        if others < policy.max_queue:
            return []
        if policy.overload == "shed":
            worst = self.line.worst()
            assert worst is not None  # the one who came waits
            return self._turn_away(worst.key, "queue_full" if worst.key == key else "shed", now)
        return self._turn_away(key, "queue_full", now)

    def _turn_away(self, key: int, reason: RejectReason, now: float) -> list[Decision]:
        self.line.remove(key)
        return [self._reject(key, reason, now), *self._settle(now)]

    def _admit(self, waiter: Waiter, now: float) -> Admit:
        self.line.remove(waiter.key)
        if self._busy_since is None:
            self._busy_since = now
        shares = self.line.shares if self.policy.order == "fair" else None
        if shares is not None:
            shares.dispatched(waiter.ticket.user, waiter.ticket.tokens)
        self._in_flight[waiter.key] = _Flight(waiter.ticket, now, shares)
        self.tokens_in_flight += waiter.ticket.tokens
        if self.policy.limit == "adaptive" and len(self._in_flight) >= self.adaptive.value:
            self.adaptive.reached()
        return Admit(waiter.key)

    def _reject(self, key: int, reason: RejectReason, now: float) -> Reject:
        self._rejected += 1
        return Reject(key, reason, self.retry_after_s(now))

    @property
    def _serves_or_holds(self) -> bool:
        return self.engine == "ready" or self.holds

    @property
    def _engine_reason(self) -> RejectReason:
        reasons: dict[EngineState, RejectReason] = {"starting": "engine_starting", "asleep": "engine_asleep"}
        return reasons.get(self.engine, "engine_down")
