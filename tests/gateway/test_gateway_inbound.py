from __future__ import annotations

import json
import re

import pytest

from server.gateway.inbound import BadBodyError, identify, read_request, response_headers, upstream_headers

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("value", [b"abc-1", b"with space ~", b"x" * 128])
def test_a_printable_request_id_is_taken(value: bytes) -> None:
    assert identify([(b"x-request-id", value)]).request_id == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"tab\there", b"caf\xc3\xa9", b"esc\x1b[0m"])
def test_any_other_is_replaced(value: bytes) -> None:
    assert re.fullmatch("[0-9a-f]{32}", identify([(b"x-request-id", value)]).request_id)


@pytest.mark.parametrize("flags", [b"00", b"01"])
def test_a_trace_is_continued_with_a_span_of_our_own(flags: bytes) -> None:
    ids = identify([(b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-" + flags)])
    assert ids.trace_id == TRACE.decode()
    assert re.fullmatch(rb"00-" + TRACE + rb"-[0-9a-f]{16}-01", ids.traceparent)
    assert b"00f067aa0ba902b7" not in ids.traceparent


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"ff-" + TRACE + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-00f067aa0ba902b7-01-more",
    ],
)
def test_an_invalid_trace_is_replaced_and_its_state_dropped(value: bytes) -> None:
    headers = [(b"traceparent", value), (b"tracestate", b"a=1")]
    ids = identify(headers)
    assert re.fullmatch("[0-9a-f]{32}", ids.trace_id)
    assert ids.trace_id != TRACE.decode()
    assert b"tracestate" not in dict(upstream_headers(headers, ids, b"h"))


def test_headers_of_the_connection_stay_on_it() -> None:
    headers = [
        (b"host", b"gateway"),
        (b"connection", b"keep-alive, x-mine"),
        (b"x-mine", b"1"),
        (b"accept-encoding", b"gzip"),
        (b"content-length", b"3"),
        (b"authorization", b"Bearer k"),
        (b"tracestate", b"a=1"),
        (b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01"),
    ]
    ids = identify(headers)
    sent = dict(upstream_headers(headers, ids, b"engine:1"))
    assert set(sent) == {b"host", b"authorization", b"tracestate", b"x-request-id", b"traceparent"}
    assert sent[b"host"] == b"engine:1"
    back = response_headers(
        [(b"transfer-encoding", b"chunked"), (b"x-request-id", b"theirs"), (b"a", b"b")], "r", keep_length=True
    )
    assert back == [(b"a", b"b"), (b"x-request-id", b"r")]


def test_usage_is_asked_of_a_stream_and_nothing_else_changed() -> None:
    body = (
        b'{ "model": "m", "seed": 12345678901234567890, "temperature": 0.10, "stream": true, "stream_options": null }'
    )
    asked = read_request(body)
    assert asked.stream
    assert asked.strip_usage
    assert b"12345678901234567890" in asked.body
    assert b"0.10" in asked.body
    assert json.loads(asked.body) == {**json.loads(body), "stream_options": {"include_usage": True}}


def test_other_stream_options_are_kept() -> None:
    asked = read_request(b'{"stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}}')
    assert json.loads(asked.body)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert asked.strip_usage


@pytest.mark.parametrize(
    "body", [b'{"stream": true, "stream_options": {"include_usage": true}}', b'{"stream": false}', b"{}"]
)
def test_a_body_with_nothing_to_ask_passes_byte_for_byte(body: bytes) -> None:
    asked = read_request(body)
    assert asked.body is body
    assert not asked.strip_usage


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"stream":true,"stream_options":3}', b"\xff\xfe"])
def test_a_bad_body_is_named(body: bytes) -> None:
    with pytest.raises(BadBodyError):
        read_request(body)
