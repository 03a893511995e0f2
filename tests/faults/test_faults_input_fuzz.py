"""Whatever comes, a parser raises its own exception or none, and how the bytes are cut makes no difference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from loadgen.arrivals import parse_arrivals
from loadgen.histogram import Histogram
from loadgen.sse import Events, error_text, understand
from server.commands import command_decoder
from server.compare.arm import parse_arm, parse_arms
from server.engine.coldstart import ColdStartLog
from server.gateway.inbound import BadBodyError, identify, patience_s, priority_of, read_request, user_of
from server.gateway.policy import Policy, PolicyChange
from server.gateway.sse import EventScanner, read_body
from server.telemetry import otlp
from server.telemetry.dialects.vllm import VllmDialect
from server.telemetry.exposition import scan

MANY = settings(max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "text",
                    "usage",
                    "error",
                    "message",
                    "messages",
                    "prompt",
                    "stream",
                    "metrics",
                    "stream_options",
                    "finish_reason",
                    "user",
                    "priority",
                    "max_tokens",
                    "n",
                    "command",
                    "prompt_tokens",
                    "object",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
DEEP = [
    b"[" * 100_000,
    b'{"messages":' * 50_000,
    b'{"choices":' + b"[" * 100_000,
    b"9" * 6_000,
    b'{"stream":true,"stream_options":' + b"[" * 9_999,
]
ODD = [
    b"\xff",
    b'{"message": "\xff"}',
    b'"\\ud800"',
    b"\x00",
    b"NaN",
    b"-",
    b'{"a": 1e999}',
    b'{"n": ' + b"9" * 6_000 + b"}",
]
DOCUMENTS = st.one_of(JSON.map(msgspec.json.encode), st.binary(max_size=200), st.sampled_from(ODD[:-1]))


def _understood(data: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        understand(data)
    error_text(data)


def _asked(data: bytes) -> None:
    with contextlib.suppress(BadBodyError):
        asked = read_request(data)
        msgspec.json.decode(asked.body) if asked.strip_usage else None
        user_of([], asked, "a")


def _command(data: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # as the control socket has it
        command_decoder.decode(data)


def _scanned(data: bytes) -> None:
    EventScanner(strip_usage=True, gaps=Histogram()).feed(b"data: " + data.replace(b"\n", b"") + b"\n\n", 1.0)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "a stream's event": _understood,
    "a relayed event": _scanned,
    "a whole reply": read_body,
    "a request's body": _asked,
    "a command": _command,
}


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
def test_documents_nobody_should_send(parser: Callable[[bytes], object]) -> None:
    for document in DEEP + ODD:
        parser(document)


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
@MANY
@given(document=DOCUMENTS)
def test_any_document(parser: Callable[[bytes], object], document: bytes) -> None:
    parser(document)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"data: ", b"\n\n", b"\r\n\r\n", b"\n", b"\r", b'{"choices":[]}', b"[DONE]", b":"]),
    ),
    max_size=14,
)


@MANY
@given(PIECES)
def test_a_stream_of_events_is_the_same_however_it_is_cut(pieces: list[bytes]) -> None:
    whole, cut = Events(), Events()
    assert [event for piece in pieces for event in cut.feed(piece)] == whole.feed(b"".join(pieces))


@MANY
@given(PIECES)
def test_a_relayed_stream_keeps_its_bytes_however_it_is_cut(pieces: list[bytes]) -> None:
    scanner = EventScanner(strip_usage=False, gaps=Histogram())
    passed = b"".join(scanner.feed(piece, 1.0) for piece in pieces)
    assert b"".join(pieces).startswith(passed)


SPANS = st.builds(
    lambda name, trace, keys: (
        ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name=name, trace_id=trace)])])]
        ).SerializeToString()
        + keys
    ),
    st.sampled_from(["llm_request", "x"]),
    st.binary(max_size=17),
    st.binary(max_size=30),
)


@MANY
@given(st.one_of(st.binary(max_size=300), SPANS))
def test_any_export_of_spans(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        otlp.decode(body)


NAMES = sorted(VllmDialect.wanted)
LINES = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(
            ["", '{engine="0"}', '{le="+Inf"}', '{le="0.5"}', '{le="x"}', '{kv_cache_size_tokens="9"}', "{", '{a="']
        ),
        st.one_of(st.floats().map(repr), st.integers().map(str), st.text(max_size=6)),
    ).map(lambda parts: f"{parts[0]}{parts[1]} {parts[2]}\n"),
    max_size=30,
)


@MANY
@given(LINES)
def test_any_page_of_metrics_gives_figures_that_can_be(lines: list[str]) -> None:
    reading = VllmDialect().read(scan("".join(lines), VllmDialect.wanted).trusted)
    for value in (*reading.counters.values(), *reading.gauges.values()):
        assert 0 <= value < 1e30
    assert all(histogram.n >= 0 for histogram in reading.histograms.values())


@MANY
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-request-id", "traceparent", "x-vllm-priority", "x-request-timeout"]),
            st.binary(max_size=60),
        )
    )
)
def test_any_headers(pairs: list[tuple[str, bytes]]) -> None:
    headers = [(name.encode(), value) for name, value in pairs]
    assert identify(headers).request_id.isprintable()
    priority_of(headers, read_request(b"{}"))
    with contextlib.suppress(BadBodyError):
        patience_s(headers)


WORDS = st.text(alphabet="fifoplanshrte:=,.-+0123456789einfxNo \x1b\u202e\u0661", max_size=30)


@MANY
@given(WORDS, st.sampled_from(["", "gamma:", "ramp:", "onoff:", "constant:", "replay:", "fifo:", "fair:overload="]))
def test_any_words_for_policies_and_arrivals(words: str, before: str) -> None:
    for parse in (parse_arm, parse_arrivals, lambda text: parse_arms(text.split())):
        with contextlib.suppress(ValueError):
            parse(before + words)


@MANY
@given(
    st.dictionaries(
        st.sampled_from(PolicyChange.__struct_fields__),
        st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none()),
    )
)
def test_any_policy(fields: dict[str, object]) -> None:
    with contextlib.suppress(ValueError, msgspec.ValidationError):
        Policy().changed(msgspec.convert(fields, PolicyChange))


@MANY
@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(
                [
                    "Model loading took 9e999 GiB and 1.2.3 seconds",
                    "Loading weights took . seconds",
                    "torch.compile took 1..2 s in total",
                    "init engine (profile, create kv cache, warmup model) took ... s",
                    "Graph capturing finished in 99999999999999999999 secs, took -. GiB",
                    "GPU KV cache size: ,,, tokens",
                ]
            ),
        )
    )
)
def test_any_log_of_a_start(lines: list[str]) -> None:
    log = ColdStartLog(0.0, 0.0, [])
    for number, line in enumerate(lines):
        log.feed(line, float(number))
    log.stages(1e3)
    log.failure()
