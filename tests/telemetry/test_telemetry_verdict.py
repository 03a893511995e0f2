"""The one word."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.slo import CHAT
from server.gateway.records import GatewayOutcome, GatewayRecord
from server.telemetry.snapshot import Phase, VerdictWord
from server.telemetry.verdict import HOLD_S, Evidence, Held, judge_gateway, verdict


def of(share: float, now: float = 0.0, n: int = 100) -> Evidence:
    return Evidence(now=now, phase="ready", good=round(share * n), due=n, inside=5)


def word(evidence: Evidence, held: Held | None = None) -> VerdictWord:
    return verdict(evidence, held or Held())[0].word


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "GOOD"), (0.95, "GOOD"), (0.94, "BENDING"), (0.80, "BENDING"), (0.79, "BROKEN"), (0.0, "BROKEN")],
)
def test_the_word_follows_attainment(share: float, expected: str) -> None:
    assert word(of(share)) == expected


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("no_engine", "DOWN"),
        ("down", "DOWN"),
        ("failed", "DOWN"),
        ("stopping", "DOWN"),
        ("preparing", "STARTING"),
        ("starting", "STARTING"),
    ],
)
def test_the_phase_comes_first(phase: Phase, expected: str) -> None:
    found, _ = verdict(Evidence(now=0, phase=phase, good=100, due=100, inside=3), Held("GOOD"))
    assert found.word == expected
    assert found.reason


def test_an_error_is_the_reason() -> None:
    found, _ = verdict(Evidence(now=0, phase="failed", error="The model does not fit."), Held())
    assert found.reason == "The model does not fit."


def test_few_requests_are_not_judged() -> None:
    found, _ = verdict(Evidence(now=0, phase="ready", good=12, due=12, inside=1), Held())
    assert (found.word, found.reason) == ("UNKNOWN", "12 of 20 requests needed")


def test_idle_is_nothing_under_way_and_nothing_finished() -> None:
    assert word(Evidence(now=0, phase="ready")) == "IDLE"
    assert word(Evidence(now=0, phase="ready", inside=1)) == "UNKNOWN"
    assert word(Evidence(now=0, phase="ready", running=1)) == "UNKNOWN"
    found, _ = verdict(Evidence(now=0, phase="ready"), Held())
    assert found.attainment.v is None
    assert found.attainment.why


def test_stalled_is_a_batch_without_a_heartbeat() -> None:
    stalled = Evidence(now=0, phase="ready", good=100, due=100, running=4, heartbeat_age_s=60)
    assert word(stalled, Held("GOOD")) == "STALLED"
    assert (
        word(Evidence(now=0, phase="ready", good=100, due=100, running=4, heartbeat_age_s=59), Held("GOOD")) == "GOOD"
    )
    assert word(Evidence(now=0, phase="ready", running=0, heartbeat_age_s=90)) == "IDLE"


def test_a_word_changes_after_ten_seconds_on_end() -> None:
    _, held = verdict(of(1.0, 0.0), Held())
    for tick in range(1, 21):
        found, held = verdict(of(0.5, tick / 2), held)
        assert found.word == "GOOD"
        assert "BROKEN in" in found.reason
    found, held = verdict(of(0.5, 0.5 + HOLD_S), held)
    assert (found.word, found.since_s) == ("BROKEN", 0.0)
    found, held = verdict(of(0.5, 5.5 + HOLD_S), held)
    assert found.since_s == 5.0


def test_a_moment_back_begins_the_hold_anew() -> None:
    _, held = verdict(of(1.0, 0.0), Held())
    _, held = verdict(of(0.5, 1.0), held)
    _, held = verdict(of(1.0, 9.0), held)
    found, held = verdict(of(0.5, 12.0), held)
    assert found.word == "GOOD"
    found, _ = verdict(of(0.5, 21.0), held)
    assert found.word == "GOOD"


def test_two_other_words_in_turn_still_replace_the_old_one() -> None:
    _, held = verdict(of(1.0, 0.0), Held())
    words = []
    for tick in range(1, 13):
        found, held = verdict(of(0.9 if tick % 2 else 0.5, float(tick)), held)
        words.append(found.word)
    assert words[:10] == ["GOOD"] * 10
    assert words[10] == "BENDING"


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 1)), max_size=60))
def test_judged_words_never_change_within_the_hold(steps: list[tuple[float, float]]) -> None:
    now, held, changed_at = 0.0, Held("GOOD", 0.0), 0.0
    before: VerdictWord = "GOOD"
    for seconds, share in steps:
        now += seconds
        found, held = verdict(of(share, now), held)
        if found.word != before:
            assert now - changed_at >= HOLD_S
            before, changed_at = found.word, now


RECORD = GatewayRecord(
    request_id="r",
    trace_id="t",
    route="/",
    stream=True,
    accepted=10.0,
    first_token=10.5,
    last_token=20.5,
    done=20.6,
    outcome="completed",
    status=200,
    completion_tokens=101,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "good"),
        ({"first_token": 11.5}, "miss"),
        ({"completion_tokens": 41}, "miss"),
        ({"completion_tokens": None}, "good"),
        ({"stream": False, "first_token": None}, "excluded"),
    ],
)
def test_gateway_judgement(changes: dict[str, object], expected: str) -> None:
    assert judge_gateway(msgspec.structs.replace(RECORD, **changes), CHAT) == expected


@pytest.mark.parametrize(
    ("outcome", "status", "done", "expected"),
    [
        ("rejected", 429, 10.1, "miss"),
        ("rejected", 503, 10.1, "miss"),
        ("rejected", 400, 10.1, "excluded"),
        ("failed", 502, 10.1, "miss"),
        ("expired", None, 40.0, "miss"),
        ("cancelled", None, 10.4, "excluded"),
        ("cancelled", None, 12.0, "miss"),
    ],
)
def test_gateway_judgement_of_what_did_not_finish(
    outcome: GatewayOutcome, status: int | None, done: float, expected: str
) -> None:
    record = msgspec.structs.replace(
        RECORD, first_token=None, last_token=None, outcome=outcome, status=status, done=done
    )
    assert judge_gateway(record, CHAT) == expected


def test_work_that_passes_no_gateway_is_not_judged() -> None:
    found, _ = verdict(Evidence(now=1.0, phase="ready", running=3.0, bypassed=True), Held())
    assert found.word == "UNKNOWN"
    assert "do not pass our gateway" in found.reason


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        (Evidence(now=1.0, phase="ready", attached=True, silent_s=6.0), "DOWN"),
        (Evidence(now=1.0, phase="ready", silent_s=6.0, running=2.0), "STALLED"),
        (Evidence(now=1.0, phase="ready", gateway_silent_s=9.0, good=30, due=30), "DOWN"),
        (Evidence(now=1.0, phase="ready", silent_s=2.0, gateway_silent_s=2.0), "IDLE"),
    ],
)
def test_what_does_not_answer_is_never_idle(evidence: Evidence, word: VerdictWord) -> None:
    assert verdict(evidence, Held())[0].word == word


def test_a_foreign_client_who_asks_for_nonsense_breaks_nothing() -> None:
    wrong = GatewayRecord(
        request_id="r",
        trace_id="t",
        route="/v1/chat/completions",
        stream=True,
        accepted=0.0,
        done=0.1,
        outcome="failed",
        reason="upstream_refused",
        status=404,
    )
    assert judge_gateway(wrong, CHAT) == "excluded"
    assert judge_gateway(msgspec.structs.replace(wrong, status=429), CHAT) == "miss"


def test_a_gateway_that_does_not_run_is_down_at_once_with_its_reason() -> None:
    said = "gateway ended (killed by SIGKILL): starting it again"
    found, _ = verdict(Evidence(now=1.0, phase="ready", running=8.0, gateway_fault=said), Held("GOOD"))
    assert (found.word, found.reason) == ("DOWN", f"the {said}")
