from __future__ import annotations

import json
from itertools import pairwise

import pytest
from gateway_fakes import DONE, ROLE, STREAM, USAGE, event, token
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.histogram import Histogram
from server.gateway.sse import MAX_EVENT_BYTES, EventScanner, Told, read_body

TEXTS = ['say "finish_reason":"stop"', 'data: {"error": 1}', "[DONE]", "\n\n", "é€", '{"usage":{}}', "plain"]


def feed(parts: list[bytes], *, strip_usage: bool = True) -> tuple[EventScanner, bytes]:
    """Each part is a read, at 1, 2, 3 .. seconds."""
    scanner = EventScanner(strip_usage=strip_usage, gaps=Histogram())
    out = [scanner.feed(part, at) for at, part in enumerate(parts, start=1)]
    return scanner, b"".join([*out, scanner.flush(len(parts))])


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS), max_size=6),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    returns=st.booleans(),
    strip=st.booleans(),
)
def test_bytes_pass_unchanged_but_for_the_usage_however_they_are_cut(
    texts: list[str], cuts: list[int], returns: bool, strip: bool
) -> None:
    events = [ROLE, *(token(text) for text in texts), b": ping\n\n", token("", "length"), USAGE, DONE]
    expected = [each for each in events if not (strip and each is USAGE)]
    stream, want = b"".join(events), b"".join(expected)
    if returns:
        stream, want = stream.replace(b"\n", b"\r\n"), want.replace(b"\n", b"\r\n")
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    scanner, got = feed([stream[a:b] for a, b in pairwise(places)], strip_usage=strip)
    assert got == want
    assert scanner.told == Told("length", False, 7, 3, 0.0125, 0.04, 0.25)
    assert (scanner.first_token is not None) == bool(texts)


def test_tokens_are_stamped_by_the_read_that_brought_them() -> None:
    scanner, _ = feed(STREAM)
    # 1 role, 2 and 3 text, 4 the empty finish, 5 usage, 6 done
    assert (scanner.first_token, scanner.last_token) == (2, 3)


def test_gaps_between_tokens_are_kept_but_for_one_in_which_reading_stood_still() -> None:
    gaps = Histogram()
    scanner = EventScanner(strip_usage=False, gaps=gaps)
    for at, data in ((1.0, ROLE), (2.0, token("a")), (2.5, token("b")), (3.5, token("c") + token("d"))):
        scanner.feed(data, at)
    assert (gaps.n, gaps.total, gaps.largest) == (3, 1.5, 1.0)
    scanner.paused = True
    scanner.feed(token("e"), 60.0)
    scanner.feed(token("f"), 60.5)
    taken = gaps.take()
    assert (taken.n, taken.total, taken.largest) == (4, 2.0, 1.0)
    assert (gaps.n, gaps.counts) == (0, {})


def test_reasoning_tools_and_completions_are_tokens() -> None:
    for choice in (
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}},
        {"text": "Paris"},
    ):
        scanner, _ = feed([event({"choices": [choice]})])
        assert scanner.first_token == 1


@pytest.mark.parametrize(
    "document", [{"error": {"message": "engine died", "code": 500}}, {"object": "error", "message": "old shape"}]
)
def test_error_events_are_seen_and_relayed(document: object) -> None:
    scanner, got = feed([ROLE, token("a"), event(document), DONE])
    assert scanner.told.error
    assert got == ROLE + token("a") + event(document) + DONE


def test_words_in_the_text_are_not_taken_for_fields() -> None:
    scanner, _ = feed([token("a"), *(token(text) for text in TEXTS)])
    assert scanner.told == Told()


def test_usage_beside_choices_is_kept() -> None:
    last = event(
        {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    )
    scanner, got = feed([last])
    assert got == last
    assert (scanner.told.prompt_tokens, scanner.told.completion_tokens) == (1, 2)


def test_an_endless_event_is_passed_on_rather_than_kept() -> None:
    scanner = EventScanner(strip_usage=True, gaps=Histogram())
    flood = b"data: " + b"x" * MAX_EVENT_BYTES
    assert scanner.feed(flood, 1.0) == flood


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"choices":[1],"usage":3,"metrics":[]}', b"\xff"])
def test_a_body_of_another_shape_says_nothing(body: bytes) -> None:
    assert read_body(body) == Told()


def test_a_body_tells_all() -> None:
    body = {
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "metrics": {"queue_time_ms": 12.5, "time_to_first_token_ms": None, "generation_time_ms": 250},
    }
    assert read_body(json.dumps(body).encode()) == Told("stop", False, 7, 3, 0.0125, None, 0.25)
