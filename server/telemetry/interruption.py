"""What people felt while the engine was away: the requests that were under way when it left, or came before it was back."""

from __future__ import annotations

from loadgen.records import IntervalRecord, LoadRecord
from loadgen.slo import Slo, judge, overdue
from server.gateway.records import GatewayRecord
from server.telemetry.snapshot import Meanwhile, Queue
from server.telemetry.verdict import judge_gateway

_CUT = frozenset({"failed", "error"})


class _Count:
    """One observer's requests of one interruption."""

    def __init__(self) -> None:
        self.finished = self.refused = self.cut = self.missed = 0

    def add(self, outcome: str, *, missed: bool) -> None:
        self.finished += 1
        self.refused += outcome == "rejected"
        self.cut += outcome in _CUT
        self.missed += missed


class Interruption:
    """Records in, `Meanwhile` out. Our own clients are believed where there are any, else the gateway."""

    def __init__(self, slo: Slo, began: float) -> None:
        self._slo = slo
        self._began = began
        self._ended: float | None = None
        self._by_client = _Count()
        self._by_gateway = _Count()
        self._intervals: dict[int, IntervalRecord] = {}
        self._most_missed = 0

    @property
    def over(self) -> bool:
        return self._ended is not None

    def end(self, now: float) -> None:
        """The engine is back. Who waited until now still counts when the answer has come."""
        if self._ended is None:
            self._ended = now

    def on_load(self, record: LoadRecord) -> None:
        """Of one of our own clients."""
        if isinstance(record, IntervalRecord):
            self._intervals[record.worker] = record
        elif self._touched(record.scheduled, record.done):
            self._by_client.add(record.outcome, missed=judge(record, self._slo) == "miss")

    def on_gateway(self, record: GatewayRecord) -> None:
        """Of any client's request."""
        if self._touched(record.accepted, record.done):
            self._by_gateway.add(record.outcome, missed=judge_gateway(record, self._slo) == "miss")

    def read(self, queue: Queue) -> Meanwhile:
        """So far. `queue` is the gateway's now."""
        intervals = self._intervals.values()
        ours = bool(self._by_client.finished) or any(one.people or one.in_flight for one in intervals)
        count = self._by_client if ours else self._by_gateway
        away = self._ended is None
        if away:
            late = sum(overdue(so_far_s, self._slo) for one in intervals for so_far_s in one.ttft_so_far_s)
            self._most_missed = max(self._most_missed, count.missed + late)
        return Meanwhile(
            src="load" if ours else "gateway",
            waiting=round(queue.depth.v or 0) if away else 0,
            oldest_s=queue.oldest_s.v if away else None,
            finished=count.finished,
            refused=count.refused,
            cut=count.cut,
            missed=max(self._most_missed, count.missed),
        )

    def _touched(self, begun: float, done: float) -> bool:
        """Not over when the engine left, and sent before it was back."""
        return done >= self._began and (self._ended is None or begun < self._ended)
