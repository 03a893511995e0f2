"""What good means."""

import pytest

from loadgen.records import RequestRecord
from loadgen.slo import CHAT, INTERACTIVE, PRESETS, STOPPED, Attainment, attainment, judge, overdue


def record(ttft=0.5, tpot=0.1, tokens=11, outcome="ok", behaviour="patient", reason="", done=5.0):
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
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (record(), "good"),
        (record(ttft=1.0, tpot=0.0), "good"),
        (record(ttft=1.01), "miss"),
        (record(tpot=0.21), "miss"),
        (record(tpot=9.0, behaviour="slow"), "good"),
        (record(ttft=1.5, behaviour="slow"), "miss"),
        (record(tokens=1), "good"),
        (record(tokens=None), "good"),
        (record(ttft=None), "miss"),
        (record(outcome="rejected", ttft=None), "miss"),
        (record(outcome="error"), "miss"),
        (record(outcome="abandoned", reason="tired of waiting"), "miss"),
        (record(outcome="abandoned", reason=STOPPED), "excluded"),
        (record(outcome="abandoned", reason=STOPPED, ttft=None, done=0.9), "excluded"),
        (record(outcome="abandoned", reason=STOPPED, ttft=None, done=1.1), "miss"),
        (record(outcome="abandoned", reason=STOPPED, ttft=1.1), "miss"),
    ],
)
def test_judgement(made, expected):
    assert judge(made, CHAT) == expected


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
