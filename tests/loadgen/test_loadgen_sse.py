"""Events out of bytes, whatever the pieces they come in."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.sse import Events, Usage, clause, error_text, understand

STREAM = (
    b': ping\r\n\r\ndata: {"choices":[]}\r\n\r\nevent: x\nid: 1\ndata: one\ndata:two\n\n\n\n'
    + "data: naïve ☃\n\n".encode()
    + b"data: [DONE]\n\n"
)
DATA = [b'{"choices":[]}', b"one\ntwo", "naïve ☃".encode(), b"[DONE]"]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts):
    events = Events()
    edges = [0, *sorted(cuts), len(STREAM)]
    got = [event for a, b in pairwise(edges) for event in events.feed(STREAM[a:b])]
    assert got == DATA


def test_an_unfinished_event_is_not_an_event():
    assert Events().feed(b"data: x\n") == []


@pytest.mark.parametrize(
    ("choice", "is_output"),
    [
        ('{"delta":{"role":"assistant","content":""}}', False),
        ('{"delta":{"role":"assistant"}}', False),
        ('{"delta":{"role":"assistant","content":null}}', False),
        ('{"delta":{"role":"assistant","content":"Hi"}}', True),
        ('{"delta":{"content":"Hi"}}', True),
        ('{"delta":{"content":""}}', True),
        ('{"delta":{},"finish_reason":"stop"}', False),
        ('{"delta":{"content":null,"reasoning":"hm"}}', True),
        ('{"delta":{"content":null,"reasoning_content":"hm"}}', True),
        ('{"delta":{"tool_calls":[]}}', False),
        ('{"delta":{"tool_calls":[{"index":0}]}}', True),
        ('{"text":""}', True),
        ('{"text":" a"}', True),
    ],
)
def test_what_counts_as_output(choice, is_output):
    assert understand(b'{"choices":[%s]}' % choice.encode()).token is is_output


def test_usage_and_finish():
    said = understand(b'{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}],"usage":null,"error":null}')
    assert (said.token, said.finish_reason, said.usage, said.error) == (True, "length", None, None)
    said = understand(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}')
    assert (said.token, said.usage) == (False, Usage(3, 5))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"error":{"message":"gone","code":500}}', "gone"),
        (b'{"error":"gone"}', "gone"),
        (b'{"error":{}}', "an error without a message"),
        (b'{"error":[1]}', "an error without a message"),
        (b'{"object":"error","message":"gone"}', "gone"),
    ],
)
def test_error_events(data, error):
    assert understand(data).error == error


def test_what_is_not_an_event_raises():
    for data in (b"hello", b"[1]", b'{"choices":7}'):
        with pytest.raises(msgspec.DecodeError):
            understand(data)


def test_foreign_text_becomes_one_printable_line():
    assert clause("a\x1b[31m\n b") == "a [31m b"
    assert len(clause("x" * 500)) == 160
    assert error_text(b'{"error":{"message":"full"}}') == "full"
    assert error_text(b"<html>") == ""
