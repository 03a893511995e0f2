from __future__ import annotations

import json
from typing import Any

import pytest

from server.gateway.inbound import patience_s, priority_of, read_request, user_of
from server.gateway.tokens import Size, TokenEstimate


def size(**fields: Any) -> Size:
    return read_request(json.dumps(fields).encode()).size


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "hällo"}, Size(prompt_bytes=6)),
        ({"prompt": ["ab", "cde"]}, Size(prompt_bytes=5)),
        ({"prompt": [1, 2, 3]}, Size(prompt_tokens=3)),
        ({"prompt": [[1, 2], [3]]}, Size(prompt_tokens=3)),
        ({"messages": [{"role": "user", "content": "abc"}, {"role": "user"}]}, Size(prompt_bytes=3, messages=2)),
        (
            {"messages": [{"content": [{"type": "text", "text": "abcd"}, {"type": "image_url", "image_url": {}}]}]},
            Size(prompt_bytes=4, messages=1),
        ),
        ({"prompt": "", "max_tokens": 7, "n": 3}, Size(output_tokens=21)),
        ({"prompt": "", "max_tokens": 7, "max_completion_tokens": 9}, Size(output_tokens=9)),
        ({"prompt": "", "max_tokens": None, "n": "x"}, Size()),
        ({"prompt": {"not": "a prompt"}}, Size()),
        ({"messages": "not messages"}, Size()),
        ({}, Size()),
    ],
)
def test_a_body_says_how_long_it_is(fields: dict[str, Any], expected: Size) -> None:
    assert size(**fields) == expected


def ticket(estimate: TokenEstimate, found: Size) -> tuple[int, int]:
    made = estimate.ticket(found, user="", priority=0, deadline=None)
    return made.prompt_tokens, made.output_tokens


def test_an_estimate_learns_the_tokeniser_and_the_usual_reply() -> None:
    estimate = TokenEstimate()
    found = Size(prompt_bytes=4000)
    assert ticket(estimate, found) == (1000, 256)
    for _ in range(200):
        estimate.learn(found, prompt_tokens=2000, completion_tokens=20)
    prompt, output = ticket(estimate, found)
    assert prompt == pytest.approx(2000, rel=0.01)
    assert output == pytest.approx(20, abs=1)


def test_what_is_counted_is_not_estimated() -> None:
    estimate = TokenEstimate()
    assert ticket(estimate, Size(prompt_tokens=77, output_tokens=5)) == (77, 5)
    estimate.learn(Size(prompt_tokens=77, output_tokens=5), prompt_tokens=77, completion_tokens=3)
    estimate.learn(Size(prompt_bytes=10), prompt_tokens=9, completion_tokens=None)  # too short to tell
    estimate.learn(Size(prompt_bytes=1000), prompt_tokens=None, completion_tokens=None)
    assert ticket(estimate, Size(prompt_bytes=4000)) == (1000, 256)


def test_whom_a_request_counts_to() -> None:
    body = read_request(b'{"user": "ann"}')
    nameless = read_request(b'{"user": 7}')
    header = (b"x-gateway-inference-fairness-id", b"team")
    assert user_of([header], body, "::1") == "team"
    assert user_of([], body, "::1") == "ann"
    assert user_of([], read_request(b'{"user": "ann", "safety_identifier": "s"}'), "::1") == "s"
    assert user_of([], nameless, "::1") == "::1"
    keyed = user_of([(b"authorization", b"Bearer secret")], nameless, "::1")
    assert keyed.startswith("key ")
    assert "secret" not in keyed
    assert user_of([], read_request(json.dumps({"user": "\x1b]52" + "x" * 99}).encode()), "") == "?]52" + "x" * 60


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (None, 5, 5),
        ("-3", 5, -3),
        ("high", 5, 5),
        (None, None, 0),
        (None, 1.5, 0),
        (None, True, 0),
        ("9" * 30, 2, 2),
    ],
)
def test_a_priority_is_taken_as_vllm_takes_it(header: str | None, body: object, expected: int) -> None:
    headers = [] if header is None else [(b"x-vllm-priority", header.encode())]
    asked = read_request(json.dumps({} if body is None else {"priority": body}).encode())
    assert priority_of(headers, asked) == expected


def test_who_gives_no_time_has_all_of_it() -> None:
    assert patience_s([]) is None
    assert patience_s([(b"x-request-timeout", b"2.5")]) == 2.5
