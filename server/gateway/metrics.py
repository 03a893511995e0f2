"""The gateway's own /metrics, in a registry of its own. Names and meanings, all prefixed `spark_gateway_`:

| name | type | labels | what |
|---|---|---|---|
| requests_total | counter | | POST requests to a completion route whose headers were read |
| requests_finished_total | counter | outcome, reason | the same once they ended; reason is empty for `completed` |
| rejected_total | counter | reason | those of them that ended `rejected` |
| records_dropped_total | counter | | stage records lost because nobody read them fast enough |
| policy_changes_total | counter | | changes of the policy while it ran |
| accept_seconds | histogram | | headers read -> body read and checked |
| queue_wait_seconds | histogram | | read and checked -> admitted; of admitted requests |
| dispatch_seconds | histogram | | admitted -> the last byte sent upstream |
| time_to_first_token_seconds | histogram | | sent upstream -> first token from upstream; of streams |
| time_per_output_token_seconds | histogram | | mean gap between a stream's tokens, as they came from upstream |
| duration_seconds | histogram | | headers read -> last byte handed to the kernel; of completed requests |
| queue_depth, in_flight | gauge | | waiting for admission; at the engine |
| waiting | gauge | why | the same as queue_depth, under what the next one waits for: engine, slots, adaptive, tokens |
| waiting_users | gauge | | different users among those who wait |
| held | gauge | | requests with bytes that a slow client's kernel has not taken, also after the engine is done with them |
| buffered_bytes | gauge | | those bytes |
| connections | gauge | | client connections open |
| tasks | gauge | | asyncio tasks of the gateway |
| oldest_wait_seconds | gauge | | how long the head of the queue has waited; 0 when nobody waits (read it with queue_depth) |
| estimated_wait_seconds | gauge | | what waits over the drain rate; absent while no rate is known |
| drain_rate | gauge | | requests the engine finishes per second, of its busy period and at most 30 s; absent as above |
| max_in_flight, max_queue | gauge | | the limits now in force |
| limit | gauge | | how many may be in flight now: max_in_flight, or less under the adaptive limit |
| token_budget | gauge | | absent unless the limit is by tokens |
| tokens_in_flight | gauge | | tokens that those at the engine may need together, as reckoned at their admission |
| policy_info | gauge | order, limit, overload, ageing | 1: the policy in force; ageing in seconds, `none` without |
| engine_state | gauge | state | 1 for the state the gateway was told: starting, ready, down or asleep |

outcome: completed, rejected, failed, cancelled, expired. reason: see `server.gateway.relay`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.gateway.admission import Admission, RejectReason, Why
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
        admission, now = self._admission, time.monotonic()
        counts, policy = admission.counts(), admission.policy
        held, buffered, connections = self._flow()
        budget = policy.token_budget if policy.limit == "tokens" else None
        gauges: list[tuple[str, str, float | None]] = [
            ("queue_depth", "Requests waiting for admission.", counts.queued),
            ("in_flight", "Requests at the engine.", counts.in_flight),
            ("waiting_users", "Different users among those who wait.", admission.line.users),
            ("held", "Requests with bytes that a slow client has not taken.", held),
            ("buffered_bytes", "Bytes waiting for slow clients.", buffered),
            ("connections", "Client connections open.", connections),
            ("tasks", "Tasks of the event loop.", len(asyncio.all_tasks())),
            ("oldest_wait_seconds", "Wait of whoever came first.", admission.oldest_wait_s(now) or 0.0),
            ("estimated_wait_seconds", "What waits over the drain rate.", admission.estimated_wait_s(now)),
            ("drain_rate", "Requests finished per second.", admission.drain_rate(now)),
            ("max_in_flight", "Limit of requests at the engine.", policy.max_in_flight),
            ("max_queue", "Limit of requests waiting.", policy.max_queue),
            ("limit", "How many may be at the engine now.", admission.limit),
            ("token_budget", "Tokens that those at the engine may need.", budget),
            ("tokens_in_flight", "Tokens that those at the engine may need now.", admission.tokens_in_flight),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(_PREFIX + name, text, value=value)
        waiting = GaugeMetricFamily(
            _PREFIX + "waiting", "Requests waiting, by what the next waits for.", labels=["why"]
        )
        blocked_by = admission.blocked_by(now)
        for why in get_args(Why):
            waiting.add_metric([why], counts.queued if why == blocked_by else 0)
        yield waiting
        info = GaugeMetricFamily(
            _PREFIX + "policy_info", "The policy in force.", labels=["order", "limit", "overload", "ageing"]
        )
        ageing = "none" if policy.ageing_s is None else f"{policy.ageing_s:g}"
        info.add_metric([policy.order, policy.limit, policy.overload, ageing], 1.0)
        yield info
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
        self.policy_changes = Counter(_PREFIX + "policy_changes", "Changes of the policy.", registry=self.registry)
        self._accept = self._histogram("accept_seconds", "Headers read to checked.")
        self._queue_wait = self._histogram("queue_wait_seconds", "Checked to admitted.")
        self._dispatch = self._histogram("dispatch_seconds", "Admitted to sent upstream.")
        self._first_token = self._histogram("time_to_first_token_seconds", "Sent upstream to first token.")
        self._per_token = self._histogram("time_per_output_token_seconds", "Mean gap between tokens from upstream.")
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
        if record.queued is not None:
            self._accept.observe(record.queued - record.accepted)
        if record.queued is not None and record.admitted is not None:
            self._queue_wait.observe(record.admitted - record.queued)
        if record.admitted is not None and record.upstream_sent is not None:
            self._dispatch.observe(record.upstream_sent - record.admitted)
        if record.upstream_sent is not None and record.first_token is not None:
            self._first_token.observe(record.first_token - record.upstream_sent)
        tokens = record.completion_tokens or 0
        if record.first_token is not None and record.last_token is not None and tokens > 1:
            self._per_token.observe((record.last_token - record.first_token) / (tokens - 1))
        if record.outcome == "completed":
            self._duration.observe(record.done - record.accepted)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=BUCKETS_S, registry=self.registry)
