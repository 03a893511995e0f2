"""The gateway's metrics and records over time, as the `Queue` figures of a Snapshot."""

from __future__ import annotations

import math
from collections.abc import Iterable

from server.gateway.policy import order_in_words
from server.gateway.records import GatewayRecord, QueueRecord, ReplicaState
from server.telemetry.aging import absent, aged, rounded_quantiles
from server.telemetry.exposition import Sample
from server.telemetry.snapshot import Queue, Value
from server.telemetry.windows import GrowthWindow, SampleWindow, counter_window

PREFIX = "spark_gateway_"
GAUGES = (
    "queue_depth",
    "in_flight",
    "held",
    "buffered_bytes",
    "connections",
    "oldest_wait_seconds",
    "max_in_flight",
    "max_queue",
    "limit",
    "tokens_in_flight",
    "waiting_users",
)
NOT_ALWAYS = {
    "token_budget": "the limit is not by tokens",
    "estimated_wait_seconds": "no rate is known yet",
    "drain_rate": "nothing has finished in this busy period",
}
"""Gauges that the gateway leaves out where they mean nothing, and why."""
COUNTERS = ("requests_total", "requests_finished_total", "rejected_total")
WANTED = frozenset(PREFIX + name for name in (*GAUGES, *NOT_ALWAYS, *COUNTERS))

SHARE_S = 30.0
RATE_S = 10.0
_FAILED = frozenset({"failed", "expired"})


class GatewaySeries:
    """Samples and records in, `Queue` figures out."""

    def __init__(self) -> None:
        self._gauges: dict[str, tuple[float, float]] = {}
        self._arrived = counter_window(SHARE_S)
        self._rejected = counter_window(SHARE_S)
        self._failed = counter_window(SHARE_S)
        self._outcomes: dict[str, int] = {}
        self._waits = SampleWindow(SHARE_S)
        self._inside: tuple[float, float] | None = None
        self._at: float | None = None
        self._line: QueueRecord | None = None

    def add(self, at: float, samples: Iterable[Sample]) -> None:
        """Take one scrape. A counter without a child yet (no rejection so far) stands at 0 by its definition."""
        self._at = at
        counted = False
        totals = dict.fromkeys(COUNTERS, 0.0)
        outcomes: dict[str, float] = {}
        for sample in samples:
            name = sample.name.removeprefix(PREFIX)
            if name in totals:
                totals[name] += sample.value
                counted = counted or name == "requests_total"
                outcome = sample.labels.get("outcome")
                if outcome is not None:
                    outcomes[outcome] = outcomes.get(outcome, 0.0) + sample.value
            elif name in GAUGES or name in NOT_ALWAYS:
                self._gauges[name] = (at, sample.value)
        for name in NOT_ALWAYS:
            if self._gauges.get(name, (at, 0.0))[0] != at:
                del self._gauges[name]
        self._outcomes = {outcome: round(total) for outcome, total in outcomes.items()}
        if not counted:
            return
        self._inside = (at, max(0.0, totals["requests_total"] - totals["requests_finished_total"]))
        self._arrived.add(at, totals["requests_total"])
        self._rejected.add(at, totals["rejected_total"])
        self._failed.add(at, math.fsum(v for outcome, v in outcomes.items() if outcome in _FAILED))

    def on_record(self, record: GatewayRecord) -> None:
        if record.queued is not None and record.admitted is not None:
            self._waits.add(record.done, record.admitted - record.queued)

    def on_line(self, record: QueueRecord) -> None:
        """The gateway tells of its line while somebody waits, and of every change."""
        self._line = record

    def gauge(self, name: str, now: float) -> Value:
        found = self._gauges.get(name)
        if found is None:
            why = NOT_ALWAYS.get(name, "not reported by the gateway")
            return absent("gateway", "no answer yet" if self._at is None else why)
        return aged(found[1], "gateway", at=found[0], now=now)

    @property
    def replicas(self) -> list[ReplicaState]:
        """The engines as it last told of them, where there are several."""
        return [] if self._line is None else self._line.replicas

    def inside(self, now: float) -> float | None:
        """Requests between their accept and their last byte, as the gateway's counters have it: begun less ended.

        Not a sum of gauges: a request that a slow client holds may be at the engine too.
        """
        return None if self._inside is None else aged(self._inside[1], "gateway", at=self._inside[0], now=now).v

    def queue(self, url: str, policy: str, now: float) -> Queue:
        arrived, line = self._arrived.latest, self._line
        return Queue(
            url=url,
            policy=policy if line is None else order_in_words(line.policy),
            depth=self.gauge("queue_depth", now),
            in_flight=self.gauge("in_flight", now),
            max_in_flight=self.gauge("max_in_flight", now),
            max_queue=self.gauge("max_queue", now),
            oldest_s=self._oldest(now),
            wait_s=rounded_quantiles(self._waits.quantiles(now, "gateway")),
            arrivals_per_s=self._arrivals(now),
            refused_share=self._share(self._rejected, now),
            failed_share=self._share(self._failed, now),
            held=self.gauge("held", now),
            buffered_bytes=self.gauge("buffered_bytes", now),
            connections=self.gauge("connections", now),
            arrived_total=0 if arrived is None else round(arrived[1]),
            outcomes=self._outcomes,
            rules=None if line is None else line.policy,
            why="" if line is None else line.why,
            first=[] if line is None else line.first,
            flying=[] if line is None else line.flying,
            first_age_s=None if line is None or not line.waiting else max(0.0, now - line.at),
            limit=self.gauge("limit", now),
            token_budget=self.gauge("token_budget", now),
            tokens_in_flight=self.gauge("tokens_in_flight", now),
            estimated_wait_s=self.gauge("estimated_wait_seconds", now),
            drain_per_s=self.gauge("drain_rate", now),
            users_waiting=self.gauge("waiting_users", now),
        )

    def _oldest(self, now: float) -> Value:
        depth = self.gauge("queue_depth", now).v
        return absent("gateway", "nobody waits") if depth == 0 else self.gauge("oldest_wait_seconds", now)

    def _arrivals(self, now: float) -> Value:
        gain = self._arrived.over(RATE_S)
        if gain is None:
            return absent("gateway", "needs two readings")
        return aged(gain.amount / gain.seconds, "gateway", at=gain.at, now=now, window_s=gain.seconds)

    def _share(self, part: GrowthWindow[float], now: float) -> Value:
        arrived, gained = self._arrived.over(SHARE_S), part.over(SHARE_S)
        if arrived is None or gained is None:
            return absent("gateway", "needs two readings")
        if arrived.amount <= 0:
            return absent("gateway", "nothing arrived in the window")
        # A failure may belong to an earlier arrival, so a short window can hold more of them than arrivals.
        share = min(1.0, gained.amount / arrived.amount)
        n = round(arrived.amount)
        return aged(share, "gateway", at=arrived.at, now=now, n=n, window_s=arrived.seconds)
