"""What good means."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loadgen.records import OUTCOMES, RequestRecord
from loadgen.slo import (
    CHAT,
    INTERACTIVE,
    PRESETS,
    STOPPED,
    Attainment,
    Slo,
    attainment,
    fluidity,
    judge,
    miss,
    overdue,
    verdict_at,
)


def record(ttft=0.5, tpot=0.1, tokens=11, outcome="ok", behaviour="patient", reason="", done=5.0, **more):
    first = None if ttft is None else 100.0 + ttft
    return RequestRecord(
        request_id="r",
        person="p",
        behaviour=behaviour,
        scheduled=100.0,
        first_token=first,
        last_token=None if first is None else first + tpot * ((tokens or 1) - 1),
        done=100.0 + done,
        outcome=outcome,
        reason=reason,
        completion_tokens=tokens,
        **more,
    )


@pytest.mark.parametrize(
    ("made", "expected", "why"),
    [
        (record(), "good", None),
        (record(ttft=1.0, tpot=0.0), "good", None),
        (record(ttft=1.01), "miss", "ttft"),
        (record(ttft=1.01, tpot=0.3), "miss", "ttft"),
        (record(tpot=0.21), "miss", "tpot"),
        (record(tpot=9.0, behaviour="slow"), "good", None),
        (record(ttft=1.5, behaviour="slow"), "miss", "ttft"),
        (record(tokens=1), "good", None),
        (record(tokens=None), "good", None),
        (record(ttft=None), "miss", "ttft"),
        (record(outcome="rejected", ttft=None), "miss", "refused"),
        (record(outcome="error"), "miss", "error"),
        (record(outcome="abandoned", reason="out of patience"), "miss", "left"),
        (record(outcome="abandoned", reason=STOPPED), "excluded", None),
        (record(outcome="abandoned", reason=STOPPED, ttft=None, done=0.9), "excluded", None),
        (record(outcome="abandoned", reason=STOPPED, ttft=None, done=1.1), "miss", "ttft"),
        (record(outcome="abandoned", reason=STOPPED, ttft=1.1), "miss", "ttft"),
        (record(attempt=2, intended=99.6), "good", None),
        (record(attempt=2, intended=99.4), "miss", "ttft"),  # the person waits since the first attempt
        (record(attempt=3, intended=99.4, behaviour="slow"), "miss", "ttft"),
    ],
)
def test_judgement(made, expected, why):
    assert (judge(made, CHAT), miss(made, CHAT)) == (expected, why)


def test_interactive_is_stricter():
    assert judge(record(), INTERACTIVE) == "miss"
    assert judge(record(ttft=0.5, tpot=0.05), INTERACTIVE) == "good"
    assert PRESETS == {"chat": CHAT, "interactive": INTERACTIVE}


def test_attainment_counts_the_overdue_and_leaves_out_the_stopped():
    records = [record(), record(ttft=2.0), record(outcome="abandoned", reason=STOPPED)]
    assert attainment(records, CHAT, [0.2, 1.0, 1.2]) == Attainment(good=1, due=3)
    assert attainment(records, CHAT).share == 0.5
    assert attainment([], CHAT).share is None
    assert not overdue(1.0, CHAT)


@pytest.mark.parametrize(
    ("made", "at"),
    [
        (record(), 105.0),
        (record(ttft=1.0), 105.0),
        (record(ttft=1.5), 101.0),
        (record(ttft=None, done=0.5), 100.5),
        (record(ttft=None, done=90.0), 101.0),
        (record(outcome="error", ttft=None, done=90.0), 101.0),
        (record(attempt=2, intended=90.0), 105.0),
    ],
)
def test_a_verdict_is_certain_at_one_moment(made, at):
    assert verdict_at(made, CHAT) == at


stamps = st.floats(0, 100)


@st.composite
def any_record(draw):
    scheduled = draw(stamps)
    first = draw(st.none() | st.floats(0, 5))
    lasts = draw(st.floats(0, 5))
    first_token = None if first is None else scheduled + first
    last_token = None if first_token is None else first_token + lasts
    attempt = draw(st.integers(1, 3))
    return RequestRecord(
        request_id="r",
        person="p",
        behaviour=draw(st.sampled_from(["patient", "slow", "retrier"])),
        scheduled=scheduled,
        intended=None if attempt == 1 else scheduled - draw(st.floats(0, 20)),
        attempt=attempt,
        first_token=first_token,
        last_token=last_token,
        done=(last_token or scheduled) + draw(st.floats(0, 3)),
        outcome=draw(st.sampled_from(OUTCOMES)),
        reason=draw(st.sampled_from(["", STOPPED])),
        completion_tokens=draw(st.none() | st.integers(0, 20)),
    )


@given(any_record(), st.lists(stamps, min_size=1, max_size=8))
def test_each_verdict_lies_in_exactly_one_of_consecutive_windows(made, cuts):
    edges = [-math.inf, *sorted(cuts), math.inf]
    at = verdict_at(made, CHAT)
    assert sum(begin <= at < end for begin, end in pairwise(edges)) == 1
    assert made.scheduled <= at <= made.done


@given(any_record(), st.floats(0.1, 10), st.floats(0.01, 1))
def test_a_miss_and_a_judgement_agree_and_a_softer_limit_never_makes_a_miss(made, ttft_s, tpot_s):
    slo = Slo("any", ttft_s, tpot_s)
    why, word = miss(made, slo), judge(made, slo)
    assert (why is not None) == (word == "miss")
    assert (word == "good") == (made.outcome == "ok" and why is None)
    assert (word == "excluded") <= (made.outcome == "abandoned" and made.reason == STOPPED)
    softer = Slo("softer", ttft_s * 2, tpot_s * 2)
    assert not (word == "good" and judge(made, softer) == "miss")
    if verdict_at(made, slo) < made.done:
        assert word == "miss", "it is certain before the end only where it was overdue"


LIMITS = Slo("limits", ttft_s=1.0, tpot_s=0.1)


@pytest.mark.parametrize(
    ("token_at", "tokens", "expected"),
    [
        ([], 5, None),
        ([10.5], 1, 1.0),
        ([11.0], 1, 1.0),
        ([11.01], 1, 0.0),
        ([10.5, 10.9, 11.3, 11.2], 4, 0.75),  # due by 11.0, 11.1, 11.2, 11.3
        ([11.05, 11.05, 11.05, 11.05], 4, 0.75),  # late at first, then ahead
        ([10.9, 11.35], 2, 0.5),
        ([10.9, 11.35], 8, 1.0),  # four tokens an event: the second event is due with its first token, by 11.4
        ([10.9, 11.45], 8, 0.5),
        ([10.9, 11.05, 11.15], 0, 1.0),  # no usage: each event is a token
    ],
)
def test_fluidity_is_the_share_of_token_deadlines_met(token_at, tokens, expected):
    assert fluidity(10.0, token_at, tokens, LIMITS) == expected


@given(st.lists(st.floats(0, 30), min_size=1, max_size=50), st.integers(0, 200), st.floats(0.1, 5))
def test_fluidity_is_a_share_and_never_better_for_coming_later(offsets, tokens, later_s):
    token_at = sorted(offsets)
    share = fluidity(0.0, token_at, tokens, LIMITS)
    assert 0 <= share <= 1
    assert fluidity(0.0, [at + later_s for at in token_at], tokens, LIMITS) <= share


@given(st.integers(1, 100), st.integers(1, 8))
def test_a_stream_that_keeps_its_pace_is_wholly_on_time(events, each):
    assume(events * each < 500)
    token_at = [1.0 + index * each * 0.1 - 1e-9 for index in range(events)]
    assert fluidity(0.0, token_at, events * each, LIMITS) == 1.0
