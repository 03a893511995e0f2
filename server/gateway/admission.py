"""Who may go to the engine now: state and events in, decisions out. No I/O; the caller passes the time and carries out."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Literal

import msgspec

from server.gateway.records import EngineState

DRAIN_WINDOW_S = 30.0
RETRY_AFTER_UNKNOWN_S = 5
"""Said where nothing has finished yet, so that no rate is known."""
RETRY_AFTER_MAX_S = 60

RejectReason = Literal["queue_full", "engine_starting", "engine_down"]


class Admit(msgspec.Struct, frozen=True):
    """Dispatch this request; it is in flight until `finish`."""

    key: int


class Reject(msgspec.Struct, frozen=True):
    """Turn this request away; nothing more is to be said of it to the admission."""

    key: int
    reason: RejectReason
    retry_after_s: int


Decision = Admit | Reject


class Counts(msgspec.Struct, frozen=True):
    """arrived = rejected + cancelled + queued + in_flight + finished, always. All but two count since the start."""

    arrived: int
    rejected: int
    cancelled: int
    """Left while queued."""
    queued: int
    """Now."""
    in_flight: int
    """Now."""
    finished: int


class Admission:
    """First come, first served, under a cap on what is in flight and a bound on what waits.

    Every event returns what it decided, in the order in which to carry it out; a request named in no decision waits.
    Keys are the caller's, each used once. Times are monotonic seconds and never go back.
    """

    def __init__(self, *, max_in_flight: int, max_queue: int, engine: EngineState = "ready", hold: bool = True) -> None:
        check_limits(max_in_flight, max_queue)
        self.max_in_flight = max_in_flight
        self.max_queue = max_queue
        self.engine: EngineState = engine
        self.hold = hold
        self._queue: OrderedDict[int, float] = OrderedDict()
        self._in_flight: set[int] = set()
        self._busy_since: float | None = None
        self._finishes: deque[float] = deque()
        self._arrived = 0
        self._rejected = 0
        self._cancelled = 0
        self._finished = 0

    def arrive(self, key: int, now: float) -> list[Decision]:
        if key in self._queue or key in self._in_flight:
            raise ValueError(f"request {key} has arrived before")
        self._arrived += 1
        if self.engine != "ready" and not self.hold:
            return [self._reject(key, "engine_starting" if self.engine == "starting" else "engine_down", now)]
        # What waits is dispatched after every event, so a free slot means that nobody waits before this one.
        if self.engine == "ready" and len(self._in_flight) < self.max_in_flight:
            return [self._admit(key, now)]
        if len(self._queue) >= self.max_queue:
            return [self._reject(key, "queue_full", now)]
        self._queue[key] = now
        return []

    def cancel(self, key: int, now: float) -> list[Decision]:
        """Its client left while it waited. Raises KeyError when it doesn't wait."""
        del self._queue[key]
        self._cancelled += 1
        return self._dispatch(now)

    def finish(self, key: int, now: float) -> list[Decision]:
        """The engine is done with it, however it ended. Raises KeyError when it isn't in flight."""
        self._in_flight.remove(key)
        self._finished += 1
        self._finishes.append(now)
        while self._finishes[0] < now - DRAIN_WINDOW_S:
            self._finishes.popleft()
        decisions = self._dispatch(now)
        if not self._in_flight:
            self._busy_since = None
            self._finishes.clear()
        return decisions

    def set_limits(
        self, now: float, *, max_in_flight: int | None = None, max_queue: int | None = None
    ) -> list[Decision]:
        """Nobody who waits or is in flight is dropped by a lower limit; it holds for those who come. Raises ValueError."""
        in_flight = self.max_in_flight if max_in_flight is None else max_in_flight
        queue = self.max_queue if max_queue is None else max_queue
        check_limits(in_flight, queue)
        self.max_in_flight, self.max_queue = in_flight, queue
        return self._dispatch(now)

    def set_engine(self, state: EngineState, now: float, *, hold: bool = True) -> list[Decision]:
        self.engine = state
        self.hold = hold
        if state == "ready" or hold:
            return self._dispatch(now)
        reason: RejectReason = "engine_starting" if state == "starting" else "engine_down"
        waiting = list(self._queue)
        self._queue.clear()
        return [self._reject(key, reason, now) for key in waiting]

    def waits(self, key: int) -> bool:
        return key in self._queue

    def counts(self) -> Counts:
        return Counts(
            arrived=self._arrived,
            rejected=self._rejected,
            cancelled=self._cancelled,
            queued=len(self._queue),
            in_flight=len(self._in_flight),
            finished=self._finished,
        )

    def oldest_wait_s(self, now: float) -> float | None:
        """Seconds for which the head of the queue has waited; None when nobody waits."""
        return now - next(iter(self._queue.values())) if self._queue else None

    def drain_rate(self, now: float) -> float | None:
        """Finished requests per second of the present busy period, over at most the last 30 s; None before the first."""
        if self._busy_since is None:
            return None
        start = max(self._busy_since, now - DRAIN_WINDOW_S)
        finished = sum(1 for at in self._finishes if at >= start)
        return finished / (now - start) if finished and now > start else None

    def retry_after_s(self, now: float) -> int:
        """Whole seconds in which all that waits now will have been dispatched at the present rate, 1 to 60."""
        rate = self.drain_rate(now)
        if rate is None:
            return RETRY_AFTER_UNKNOWN_S
        return min(max(math.ceil(len(self._queue) / rate), 1), RETRY_AFTER_MAX_S)

    def _dispatch(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        while self._queue and self.engine == "ready" and len(self._in_flight) < self.max_in_flight:
            key, _ = self._queue.popitem(last=False)
            decisions.append(self._admit(key, now))
        return decisions

    def _admit(self, key: int, now: float) -> Admit:
        if self._busy_since is None:
            self._busy_since = now
        self._in_flight.add(key)
        return Admit(key)

    def _reject(self, key: int, reason: RejectReason, now: float) -> Reject:
        self._rejected += 1
        return Reject(key, reason, self.retry_after_s(now))


def check_limits(max_in_flight: int, max_queue: int) -> None:
    """Raises ValueError whose text says what is wrong."""
    if max_in_flight < 1:
        raise ValueError(f"max in-flight must be at least 1, not {max_in_flight}")
    if max_queue < 0:
        raise ValueError(f"max queue must be at least 0, not {max_queue}")
