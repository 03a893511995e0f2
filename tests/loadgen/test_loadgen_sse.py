"""Events out of bytes, whatever the pieces they come in."""

import json
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
    for data in (b"hello", b"[1]", b'{"choices":7}', b'{"choices":[{"text":"\xff"}]}'):
        with pytest.raises(msgspec.DecodeError):
            understand(data)


def test_foreign_text_becomes_one_printable_line():
    assert clause("a\x1b[31m\n b") == "a [31m b"
    assert len(clause("x" * 500)) == 160
    assert error_text(b'{"error":{"message":"full"}}') == "full"
    assert error_text(b"<html>") == ""


VLLM = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    '"delta":{"content":%s},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}'
)
COMPLETION = '{"id":"cmpl-1","choices":[{"index":0,"text":%s,"logprobs":null,"finish_reason":null}]}'
REASONING = '{"choices": [{"delta": {"content": null, "reasoning": %s}, "finish_reason": null}]}'
DIALECTS = [VLLM, COMPLETION, REASONING]


def event(dialect, text):
    return (dialect % json.dumps(text)).encode()


def after(dialect, text=" word"):
    """Events that have learned from one token."""
    events = Events()
    events.learn(event(dialect, text))
    return events


def chunk(data):
    return b"data: " + data + b"\n\n"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_token_like_the_one_before_is_known_again(dialect):
    events = after(dialect)
    for text in (" next", "naïve ☃", "a\\b", "tab\t", "}]}"):
        assert events.is_ordinary(chunk(event(dialect, text)))
        assert events.text(chunk(event(dialect, text))) == ("" if dialect is REASONING else text)
    assert events.feed(chunk(b"x")) == [b"x"]
    for broken in (b"\\x", b"\xff"):
        assert events.text(chunk(event(dialect, "a").replace(b'"a"', b'"%b"' % broken))) == ""


@settings(deadline=None)
@given(st.sampled_from(DIALECTS), st.text(), st.text())
def test_what_is_ordinary_says_what_decoding_it_says(dialect, learned, text):
    """The shortcut may be missed (a quote in the text), never wrong."""
    data = event(dialect, text)
    events = after(dialect, learned)
    if events.is_ordinary(chunk(data)):
        said = understand(data)
        assert (said.token, said.finish_reason, said.usage, said.error) == (True, None, None, None)
        assert said.text == events.text(chunk(data)) == ("" if dialect is REASONING else text)
        assert Events().feed(chunk(data)) == [data]
    else:
        assert not text or '"' in text or "\\" in learned or '"' in learned


@pytest.mark.parametrize(
    "other",
    [
        chunk(event(VLLM, "")),
        chunk(event(VLLM, 'a "word"')),
        chunk(event(VLLM, "a"))[:-1],
        chunk(event(VLLM, "a"))[:-20],
        chunk(event(VLLM, "a")).replace(b"\n\n", b"\r\n\r\n"),
        chunk(event(VLLM, "a")) + chunk(event(VLLM, "b")),
        chunk(event(VLLM, "a").replace(b'"finish_reason":null', b'"finish_reason":"stop"')),
        chunk(event(VLLM, "a").replace(b'"content":', b'"role":"assistant","content":')),
        chunk(event(VLLM, "a")[:-1] + b',"usage":{"completion_tokens":1}}'),
        chunk(event(VLLM, "a").replace(b'"content":"a"', b'"content":"a","tool_calls":[{"index":0}]')),
        chunk(event(VLLM, "a").replace(b'"content":"a"', b'"content":null')),
        chunk(b'{"error":{"message":"gone"}}'),
        chunk(b"[DONE]"),
        b": ping\n\n",
        b"",
    ],
    ids=range(15),
)
def test_anything_else_is_not_ordinary(other):
    assert not after(VLLM).is_ordinary(other)


def test_nothing_is_ordinary_before_a_token_was_seen_or_in_the_middle_of_an_event():
    data = chunk(event(VLLM, "a"))
    assert not Events().is_ordinary(data)
    events = after(VLLM)
    events.feed(b"data: x")
    assert not events.is_ordinary(data)
    assert events.feed(b"\n") == []
    assert not events.is_ordinary(data)
    assert events.feed(b"\n" + data) == [b"x", event(VLLM, "a")]
    assert events.is_ordinary(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}',
        b'{"choices":[{"delta":{"content":"","reasoning":"b"}}]}',
        b'{"choices":\n[{"delta":{"content":"a"}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\\"text\\": \\"a\\"}"}}]}}]}',
    ],
)
def test_nothing_is_learned_from_an_event_whose_text_is_not_one(data):
    events = Events()
    events.learn(data)
    assert not events.is_ordinary(chunk(data))


def test_a_stream_whose_events_keep_changing_is_given_up():
    events = Events()
    for number in range(10):
        events.learn(event(VLLM, "a").replace(b'"created":1', b'"created":%d' % number))
    assert events.is_ordinary(chunk(event(VLLM, "b").replace(b'"created":1', b'"created":3')))


def test_a_line_of_its_own_and_odd_ends_of_lines():
    assert Events().feed(b"data: x\r\n\n") == [b"x"]
    assert Events().feed(b"data:  x\n\n") == [b" x"]
    assert Events().feed(b"data: \n\n") == [b""]
    assert Events().feed(b"data: x\n\ndata: y\n\n") == [b"x", b"y"]


def test_the_text_of_all_choices_is_kept():
    assert understand(b'{"choices":[{"delta":{"content":"a"}},{"text":"b"},{"delta":{"reasoning":"c"}}]}').text == "ab"
