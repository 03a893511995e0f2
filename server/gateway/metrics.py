"""The gateway's own /metrics, in a registry of its own. Names and meanings, all prefixed `spark_gateway_`:

| name | type | labels | what |
|---|---|---|---|
| requests_total | counter | | POST requests to a completion route whose headers were read |
| requests_finished_total | counter | outcome, reason | the same once they ended; reason is empty for `completed` |
| rejected_total | counter | reason | those of them that ended `rejected` |
| records_dropped_total | counter | | stage records lost because nobody read them fast enough |
| queue_wait_seconds | histogram | | read and checked -> admitted; of admitted requests |
| time_to_first_token_seconds | histogram | | sent upstream -> first token from upstream; of streams |
| duration_seconds | histogram | | headers read -> last byte handed to the kernel; of completed requests |
| queue_depth, in_flight | gauge | | waiting for admission; at the engine |
| held | gauge | | requests with bytes that a slow client's kernel has not taken, also after the engine is done with them |
| buffered_bytes | gauge | | those bytes |
| connections | gauge | | client connections open |
| oldest_wait_seconds | gauge | | how long the head of the queue has waited; 0 when nobody waits (read it with queue_depth) |
| max_in_flight, max_queue | gauge | | the limits now in force |
| engine_state | gauge | state | 1 for the state the gateway was told: starting, ready or down |

outcome: completed, rejected, failed, cancelled, expired. reason: see `server.gateway.relay`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.gateway.admission import Admission, RejectReason
from server.gateway.records import EngineState, GatewayRecord

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "spark_gateway_"

BUCKETS_S = tuple(float(f"{step}e{power}") for power in range(-4, 3) for step in ("1", "2.5", "5"))
"""0.1 ms to 500 s, three a decade."""


class _State(Collector):
    """The gauges, read from the live objects at each scrape, so that they cannot drift."""

    def __init__(self, admission: Admission, flow: Callable[[], tuple[int, int, int]]) -> None:
        self._admission = admission
        self._flow = flow

    def collect(self) -> Iterable[Metric]:
        admission = self._admission
        counts = admission.counts()
        held, buffered, connections = self._flow()
        gauges: list[tuple[str, str, float]] = [
            ("queue_depth", "Requests waiting for admission.", counts.queued),
            ("in_flight", "Requests at the engine.", counts.in_flight),
            ("held", "Requests with bytes that a slow client has not taken.", held),
            ("buffered_bytes", "Bytes waiting for slow clients.", buffered),
            ("connections", "Client connections open.", connections),
            ("oldest_wait_seconds", "Wait of the queue's head.", admission.oldest_wait_s(time.monotonic()) or 0.0),
            ("max_in_flight", "Limit of requests at the engine.", admission.max_in_flight),
            ("max_queue", "Limit of requests waiting.", admission.max_queue),
        ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(_PREFIX + name, text, value=value)
        states = GaugeMetricFamily(_PREFIX + "engine_state", "1 for the state of the engine.", labels=["state"])
        for state in get_args(EngineState):
            states.add_metric([state], float(state == admission.engine))
        yield states


class GatewayMetrics:
    """`flow` gives requests held, bytes buffered and client connections, now."""

    def __init__(self, admission: Admission, flow: Callable[[], tuple[int, int, int]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(_PREFIX + "requests", "Requests read.", registry=self.registry)
        self._finished = Counter(
            _PREFIX + "requests_finished", "Requests that ended.", ["outcome", "reason"], registry=self.registry
        )
        self._rejected = Counter(_PREFIX + "rejected", "Requests never admitted.", ["reason"], registry=self.registry)
        self.records_dropped = Counter(
            _PREFIX + "records_dropped", "Stage records nobody read in time.", registry=self.registry
        )
        self._queue_wait = self._histogram("queue_wait_seconds", "Checked to admitted.")
        self._first_token = self._histogram("time_to_first_token_seconds", "Sent upstream to first token.")
        self._duration = self._histogram("duration_seconds", "Headers read to last byte handed over.")
        self.registry.register(_State(admission, flow))
        # A counter that first appears at 1 shows no increase: those that are watched exist from the start.
        self._finished.labels("completed", "")
        for reason in get_args(RejectReason):
            self._rejected.labels(reason)

    def observe(self, record: GatewayRecord) -> None:
        self._finished.labels(record.outcome, record.reason).inc()
        if record.outcome == "rejected":
            self._rejected.labels(record.reason).inc()
        if record.queued is not None and record.admitted is not None:
            self._queue_wait.observe(record.admitted - record.queued)
        if record.upstream_sent is not None and record.first_token is not None:
            self._first_token.observe(record.first_token - record.upstream_sent)
        if record.outcome == "completed":
            self._duration.observe(record.done - record.accepted)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=BUCKETS_S, registry=self.registry)
