"""Whether one request was good, from whoever saw it best: its own client, else the gateway."""

from __future__ import annotations

from functools import partial

from loadgen.records import RequestRecord
from loadgen.slo import Slo, judge, miss, overdue
from server.gateway.records import GatewayRecord
from server.telemetry.join import Judge, gateway_ttft_s
from server.telemetry.verdict import judge_gateway

_MISSES = {"rejected": "refused", "cancelled": "left"}
"""Of a request that did not finish; any other failed."""


def judged(slo: Slo, gateway: GatewayRecord | None, load: RequestRecord | None) -> tuple[str, str]:
    """The judgement that attainment counts it by, and which part of the promise was broken; both empty without a record."""
    if load is not None:
        return judge(load, slo), miss(load, slo) or ""
    if gateway is None:
        return "", ""
    judgement = judge_gateway(gateway, slo)
    return judgement, _missed(gateway, slo) if judgement == "miss" else ""


def judge_by(slo: Slo) -> Judge:
    """For a `Join`."""
    return partial(judged, slo)


def _missed(gateway: GatewayRecord, slo: Slo) -> str:
    if gateway.outcome != "completed":
        never = gateway.outcome == "expired" and gateway.admitted is None
        return "refused" if never else _MISSES.get(gateway.outcome, "error")
    ttft_s = gateway_ttft_s(gateway)
    return "ttft" if ttft_s is None or overdue(ttft_s, slo) else "tpot"
