"""One request from all who saw it: our client, the gateway and the engine, joined into stages that add up.

The client and the gateway meet by X-Request-Id, the gateway and the engine by trace id (or in-band). All stamps are one
host's monotonic clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from loadgen.records import RequestRecord
from server.gateway.records import GatewayRecord
from server.telemetry.snapshot import Breakdown, JoinedRequest, StageTime

STAGES = (
    "connect",
    "accept",
    "queue",
    "front end",
    "engine queue",
    "prefill",
    "decode",
    "drain",
    "unattributed",
)
UPSTREAM = "upstream"
"""In a request whose engine times are not known: `front end` to `decode` as one, so that its stages add up all the same."""

ENGINE_STAGES = ("engine queue", "prefill", "decode")

WAIT_S = 10.0
"""How long a request waits for a part that is missing."""

Judge = Callable[[GatewayRecord | None, RequestRecord | None], tuple[str, str]]
"""What a request came to: `judged` and `missed` of a JoinedRequest. See `server.telemetry.judged`."""

_GATEWAY_OUTCOMES = {"completed": "ok", "rejected": "rejected", "failed": "error", "cancelled": "abandoned"}


class EngineTimes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="times"):
    """The engine's own times of one request, in seconds."""

    trace_id: str
    """32 hex digits."""
    queue_s: float
    prefill_s: float
    decode_s: float
    ttft_s: float | None = None
    e2e_s: float | None = None


@dataclass(slots=True)
class Parts:
    """What is known of one request so far."""

    key: str
    """Its request id, and a stamp where a client used the id before."""
    since: float
    """When its first part came."""
    gateway: GatewayRecord | None = None
    load: RequestRecord | None = None
    times: EngineTimes | None = None
    sealed_at: float | None = None
    joined: JoinedRequest | None = None


class Join:
    """Parts in, joined requests out.

    A request is sealed when every part that is expected is there, or `WAIT_S` after its first one. A part that comes later
    (a slow reader's record, a batch of spans) seals it again with more known, in its old place, so nothing is counted twice.
    """

    def __init__(
        self, *, keep: int = 4_000, keep_s: float = 60.0, limit: int = 20_000, judge: Judge | None = None
    ) -> None:
        """Sealed requests stay for `keep_s` and at least the last `keep` do; `limit` bounds everything that is held."""
        self.expects_load = False
        """Our load generator runs, so a gateway record waits for its client's."""
        self.expects_times = False
        """The engine sends spans, so an admitted request waits for its own."""
        self._keep = keep
        self._keep_s = keep_s
        self._limit = limit
        self._judge = judge
        self._pending: OrderedDict[str, Parts] = OrderedDict()
        self._sealed: OrderedDict[str, Parts] = OrderedDict()
        self._by_trace: OrderedDict[str, str] = OrderedDict()
        self._times: OrderedDict[str, EngineTimes] = OrderedDict()

    def on_gateway(self, record: GatewayRecord, now: float) -> None:
        known = self._find(record.request_id)
        again = known is not None and known.gateway is not None
        parts = self._parts(f"{record.request_id} {record.accepted}" if again else record.request_id, now)
        parts.gateway = record
        parts.times = self._times.pop(record.trace_id, None)
        if parts.times is None and record.trace_id and record.engine_queue_s is None:
            # Two requests of one trace that both wait for their span cannot be told apart: better no times than wrong ones.
            self._by_trace[record.trace_id] = "" if record.trace_id in self._by_trace else parts.key
            while len(self._by_trace) > self._limit:
                self._by_trace.popitem(last=False)

    def on_load(self, record: RequestRecord, now: float) -> None:
        known = self._find(record.request_id)
        again = known is not None and known.load is not None
        self._parts(f"{record.request_id} {record.scheduled}" if again else record.request_id, now).load = record

    def on_times(self, times: EngineTimes, now: float) -> None:
        """Times may come long before the gateway is done with a slow reader, so they are kept by count, not by age."""
        key = self._by_trace.get(times.trace_id)
        if key == "":
            return
        self._by_trace.pop(times.trace_id, None)
        if key is None or self._find(key) is None:
            self._times[times.trace_id] = times
            while len(self._times) > self._limit:
                self._times.popitem(last=False)
            return
        self._parts(key, now).times = times

    def seal(self, now: float) -> list[Parts]:
        """Seal what is due; returns those sealed for the first time, in the order in which their first parts came."""
        fresh: list[Parts] = []
        crowded = len(self._pending) - self._limit
        for index, parts in enumerate(list(self._pending.values())):
            if not (self._complete(parts) or now - parts.since >= WAIT_S or index < crowded):
                continue
            del self._pending[parts.key]
            if parts.sealed_at is None:
                fresh.append(parts)
            parts.joined = self._joined(parts, now)
            parts.sealed_at = now
            self._sealed[parts.key] = parts
        while len(self._sealed) > self._keep:
            oldest = next(iter(self._sealed.values()))
            if len(self._sealed) <= self._limit and (oldest.sealed_at or 0.0) > now - self._keep_s:
                break
            self._sealed.popitem(last=False)
            if oldest.gateway is not None:
                self._by_trace.pop(oldest.gateway.trace_id, None)
        return fresh

    def requests(self, limit: int, since: float = -math.inf) -> list[JoinedRequest]:
        """The latest ones that were sealed, or sealed again, after `since`, oldest first."""
        found: list[JoinedRequest] = []
        for parts in reversed(self._sealed.values()):
            if len(found) >= limit or parts.sealed_at is None or parts.sealed_at <= since:
                break
            if parts.joined is not None:
                found.append(parts.joined)
        found.reverse()
        return found

    def within(self, window_s: float, now: float) -> list[JoinedRequest]:
        """Those sealed in the last seconds, oldest first."""
        found: list[JoinedRequest] = []
        for parts in reversed(self._sealed.values()):
            if parts.sealed_at is None or parts.sealed_at < now - window_s:
                break
            if parts.joined is not None:
                found.append(parts.joined)
        found.reverse()
        return found

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _joined(self, parts: Parts, now: float) -> JoinedRequest:
        request = joined(parts.gateway, parts.load, parts.times)
        judged, missed = ("", "") if self._judge is None else self._judge(parts.gateway, parts.load)
        return msgspec.structs.replace(
            request,
            key="" if parts.key == request.request_id else parts.key,
            sealed_at=now,
            judged=judged,
            missed=missed,
        )

    def _find(self, key: str) -> Parts | None:
        return self._pending.get(key) or self._sealed.get(key)

    def _parts(self, key: str, now: float) -> Parts:
        parts = self._pending.get(key)
        if parts is None:
            parts = self._sealed.pop(key, None) or Parts(key, now)
            self._pending[key] = parts
        return parts

    def _complete(self, parts: Parts) -> bool:
        gateway = parts.gateway
        if gateway is None:
            # Nothing was ever sent: no gateway will tell of it.
            return parts.load is not None and parts.load.sent is None
        if self.expects_load and parts.load is None:
            return False
        finished = gateway.outcome == "completed"
        return not (self.expects_times and finished and _engine_times(gateway, parts.times) is None)


def joined(gateway: GatewayRecord | None, load: RequestRecord | None, times: EngineTimes | None) -> JoinedRequest:
    """Everything that is known of one request. At least one of `gateway` and `load` is given."""
    engine = None if gateway is None else _engine_times(gateway, times)
    stages = _stages(gateway, load, engine)
    if load is not None:
        return JoinedRequest(
            request_id=load.request_id,
            at=load.scheduled,
            who=load.person,
            behaviour=load.behaviour,
            outcome=load.outcome,
            reason=load.reason or ("" if gateway is None else gateway.reason),
            prompt_tokens=load.prompt_tokens,
            completion_tokens=load.completion_tokens,
            ttft_s=load.ttft_s,
            tpot_s=load.tpot_s,
            e2e_s=load.e2e_s,
            stages=stages,
            exact=gateway is not None and (engine is not None or gateway.admitted is None),
            attempt=load.attempt,
            prior_s=load.scheduled - load.waited_since,
            **_queued(gateway),
        )
    assert gateway is not None
    expired = "error" if gateway.admitted is not None else "rejected"
    return JoinedRequest(
        request_id=gateway.request_id,
        at=gateway.accepted,
        outcome=_GATEWAY_OUTCOMES.get(gateway.outcome, expired),
        reason=gateway.reason,
        prompt_tokens=gateway.prompt_tokens,
        completion_tokens=gateway.completion_tokens,
        ttft_s=gateway_ttft_s(gateway),
        tpot_s=gateway_tpot_s(gateway),
        e2e_s=gateway.done - gateway.accepted,
        stages=stages,
        exact=engine is not None or gateway.admitted is None,
        **_queued(gateway),
    )


def _queued(gateway: GatewayRecord | None) -> dict[str, Any]:
    """What the gateway's queue knew of it, as fields of a JoinedRequest."""
    if gateway is None:
        return {}
    sent, admitted = gateway.upstream_sent, gateway.admitted
    return {
        "trace_id": gateway.trace_id,
        "user": gateway.user,
        "priority": gateway.priority,
        "tokens": gateway.tokens,
        "behind": gateway.behind,
        "waited_for": gateway.why,
        "order": gateway.order,
        "replica": gateway.replica,
        "dispatch_s": None if sent is None or admitted is None else sent - admitted,
    }


def gateway_ttft_s(record: GatewayRecord) -> float | None:
    """Time to first token as the gateway saw it, seconds from the accept."""
    return None if record.first_token is None else record.first_token - record.accepted


def gateway_tpot_s(record: GatewayRecord) -> float | None:
    """Time per output token after the first as the gateway saw it, seconds."""
    if record.first_token is None or record.last_token is None or (record.completion_tokens or 0) < 2:
        return None
    assert record.completion_tokens is not None
    return (record.last_token - record.first_token) / (record.completion_tokens - 1)


def _engine_times(gateway: GatewayRecord, times: EngineTimes | None) -> tuple[float, float, float] | None:
    """Queue, prefill and decode seconds, in-band first."""
    if gateway.engine_queue_s is not None and gateway.prefill_s is not None and gateway.decode_s is not None:
        return gateway.engine_queue_s, gateway.prefill_s, gateway.decode_s
    return None if times is None else (times.queue_s, times.prefill_s, times.decode_s)


def _stages(
    gateway: GatewayRecord | None, load: RequestRecord | None, engine: tuple[float, float, float] | None
) -> dict[str, float]:
    """The stages that this request went through, in order, summing to its end-to-end time."""
    stages: dict[str, float] = {}
    if load is not None:
        e2e_s = load.e2e_s
        if load.sent is not None:
            stages["connect"] = load.sent - load.scheduled
    else:
        assert gateway is not None
        e2e_s = gateway.done - gateway.accepted
    if gateway is not None:
        # A stage that the request never left ends where the request did.
        queued = gateway.queued if gateway.queued is not None else gateway.done
        stages["accept"] = queued - gateway.accepted
        if gateway.queued is not None:
            admitted = gateway.admitted if gateway.admitted is not None else gateway.done
            stages["queue"] = admitted - gateway.queued
        if gateway.admitted is not None:
            upstream_done = gateway.upstream_done if gateway.upstream_done is not None else gateway.done
            upstream_s = upstream_done - gateway.admitted
            # A slow client's pause belongs to the drain, but for the part in which the engine was still at work: it does
            # not slow down for a reader.
            at_work_s = math.fsum(engine) if engine is not None else 0.0
            held_s = max(0.0, min(gateway.paused_s, upstream_s - at_work_s))
            if engine is None:
                stages[UPSTREAM] = upstream_s - held_s
            else:
                stages["front end"] = upstream_s - held_s - at_work_s
                stages.update(zip(ENGINE_STAGES, engine, strict=True))
            stages["drain"] = (load.done if load is not None else gateway.done) - upstream_done + held_s
    stages["unattributed"] = e2e_s - math.fsum(stages.values())
    return stages


def breakdown(
    requests: Iterable[JoinedRequest], window_s: float, engine_means: Mapping[str, tuple[float, int]] | None = None
) -> Breakdown:
    """Where a mean request's time goes, over requests that finished ok.

    Only requests of which the same is known can be averaged stage by stage, so the largest such group is taken and `why`
    says how many it leaves out. `engine_means` (stage -> mean seconds and n over the window, from the engine's own
    sums) stand in where the group has no engine times of its own; those stages and `front end` are then not exact.
    """
    groups: dict[tuple[str, ...], list[JoinedRequest]] = {}
    for request in requests:
        if request.outcome == "ok" and request.e2e_s is not None and len(request.stages) > 1:
            groups.setdefault(tuple(request.stages), []).append(request)
    if not groups:
        return Breakdown(window_s=window_s, why="no request finished in the window")
    names, group = max(groups.items(), key=lambda item: (len(item[1]), len(item[0])))
    n = len(group)
    means = {name: math.fsum(request.stages[name] for request in group) / n for name in names}
    stages = [_stage(name, means, n, engine_means or {}) for name in STAGES]
    notes: list[str] = []
    total = sum(len(others) for others in groups.values())
    if total > n:
        notes.append(f"{n} of {total} requests: of the others other parts are known")
    if UPSTREAM in means:
        notes.append("engine stages are the engine's windowed means" if engine_means else "no engine times")
        if not engine_means:
            # The sum must still say where the time went, if only as one piece.
            at = STAGES.index("front end")
            stages[at:at] = [StageTime(name=UPSTREAM, mean_s=means[UPSTREAM], n=n)]
    return Breakdown(
        e2e_s=math.fsum(request.e2e_s or 0.0 for request in group) / n,
        n=n,
        window_s=window_s,
        stages=stages,
        why="; ".join(notes),
    )


def _stage(name: str, means: Mapping[str, float], n: int, engine_means: Mapping[str, tuple[float, int]]) -> StageTime:
    if name in means:
        return StageTime(name=name, mean_s=means[name], n=n)
    if UPSTREAM in means and all(stage in engine_means for stage in ENGINE_STAGES):
        if name in ENGINE_STAGES:
            mean_s, observed = engine_means[name]
            return StageTime(name=name, mean_s=mean_s, n=observed, exact=False)
        if name == "front end":
            at_work_s = math.fsum(engine_means[stage][0] for stage in ENGINE_STAGES)
            return StageTime(name=name, mean_s=means[UPSTREAM] - at_work_s, n=n, exact=False)
    return StageTime(name=name)
