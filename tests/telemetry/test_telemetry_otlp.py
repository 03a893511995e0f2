"""The span receiver, over a real socket."""

from __future__ import annotations

import gzip

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server.telemetry.join import EngineTimes
from server.telemetry.otlp import BODY_LIMIT, OtlpReceiver, decode

PROTOBUF = {"content-type": "application/x-protobuf"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def export(*spans: tuple[str, str, dict[str, float | int | str]]) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name, trace, attributes in spans:
        span: Span = scope.spans.add()
        span.name, span.trace_id = name, bytes.fromhex(trace)
        for key, value in attributes.items():
            attribute = span.attributes.add()
            attribute.key = key
            field = {float: "double_value", int: "int_value", str: "string_value"}[type(value)]
            setattr(attribute.value, field, value)
    return request.SerializeToString()


LATENCIES: dict[str, float | int | str] = {
    "gen_ai.latency.time_in_queue": 0.01,
    "gen_ai.latency.time_in_model_prefill": 0.1,
    "gen_ai.latency.time_in_model_decode": 2,
    "gen_ai.latency.time_to_first_token": 0.12,
    "gen_ai.latency.e2e": 2.2,
    "gen_ai.request.id": "cmpl-1",
}
TIMES = EngineTimes(trace_id=TRACE, queue_s=0.01, prefill_s=0.1, decode_s=2.0, ttft_s=0.12, e2e_s=2.2)


def test_only_whole_request_spans_hold_times() -> None:
    aborted = {key: value for key, value in LATENCIES.items() if "decode" not in key}
    wrong = LATENCIES | {"gen_ai.latency.time_in_queue": float("nan")}
    body = export(
        ("Executor init", TRACE, {}),
        ("llm_request", TRACE, aborted),
        ("llm_request", TRACE, wrong),
        ("llm_request", "", LATENCIES),
        ("llm_request", TRACE, LATENCIES),
    )
    assert decode(body) == [TIMES]


async def test_exports_arrive_plain_and_packed_on_one_connection() -> None:
    got: list[EngineTimes] = []
    body = export(("llm_request", TRACE, LATENCIES))
    async with OtlpReceiver(got.append) as receiver, httpx.AsyncClient(trust_env=False) as client:
        plain = await client.post(receiver.endpoint, content=body, headers=PROTOBUF)
        packed = await client.post(
            receiver.endpoint, content=gzip.compress(body), headers=PROTOBUF | {"content-encoding": "gzip"}
        )
    assert (plain.status_code, packed.status_code) == (200, 200)
    assert plain.headers["content-type"] == "application/x-protobuf"
    assert got == [TIMES, TIMES]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/v1/metrics", PROTOBUF, b"", 404),
        ("GET", "/v1/traces", PROTOBUF, b"", 405),
        ("POST", "/v1/traces", {"content-type": "application/json"}, b"{}", 415),
        ("POST", "/v1/traces", PROTOBUF, b"\xff\xff not protobuf", 400),
        ("POST", "/v1/traces", PROTOBUF | {"content-encoding": "gzip"}, b"not gzip", 400),
        (
            "POST",
            "/v1/traces",
            PROTOBUF | {"content-encoding": "gzip"},
            gzip.compress(bytes(BODY_LIMIT + 1), mtime=0),
            413,
        ),
    ],
)
async def test_what_it_cannot_take_is_refused(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    got: list[EngineTimes] = []
    async with OtlpReceiver(got.append) as receiver, httpx.AsyncClient(trust_env=False) as client:
        url = httpx.URL(receiver.endpoint).copy_with(path=path)
        answer = await client.request(method, url, content=body, headers=headers)
        assert answer.status_code == status
        good = export(("llm_request", TRACE, LATENCIES))
        assert (await client.post(receiver.endpoint, content=good, headers=PROTOBUF)).status_code == 200
    assert got == [TIMES]
