"""The load generator's records as figures: over a window, with their age, and absent where there is nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from loadgen.histogram import Histogram
from loadgen.records import IntervalRecord, RequestRecord
from loadgen.slo import CHAT, INTERACTIVE, STOPPED
from server.telemetry.experience import Experience
from server.telemetry.load_series import GAP_S, NO_LOAD, TROUBLE_S, LoadSeries
from server.telemetry.snapshot import Quantiles, Value


def interval(at: float, worker: int = 0, **changes: Any) -> IntervalRecord:
    record = IntervalRecord(
        worker=worker, at=at, mode="closed", crowds={"patient": 5}, thinking=2, in_flight=3, scheduled_total=0,
        outcomes={"ok": 0},
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def series(*records: IntervalRecord) -> LoadSeries:
    made = LoadSeries(CHAT)
    for record in records:
        made.on_interval(record)
    return made


def every(seconds: float, count: int, **grow: float) -> list[IntervalRecord]:
    """Intervals a second apart whose totals grow by so much each."""
    return [interval(i * seconds, **{name: int(step * i) for name, step in grow.items()}) for i in range(count)]


def test_without_a_worker_everything_is_absent_and_says_so() -> None:
    people = LoadSeries(CHAT).people(5.0)
    for name in people.__struct_fields__:
        value = getattr(people, name)
        if isinstance(value, Value):
            assert value.v is None, name
            assert value.why == NO_LOAD, name
    assert (people.mode, people.void) == ("none", "")


def test_amplification_is_over_the_window_and_counts_first_attempts() -> None:
    made = series(*every(1.0, 31, scheduled_total=10, retries_total=4))
    found = made.people(30.0).amplification
    assert found.v == pytest.approx(10 / 6, rel=1e-4)
    assert (found.n, found.window_s) == (180, 30.0)
    calm = series(
        *every(1.0, 31, scheduled_total=10, retries_total=4), interval(90.0, scheduled_total=900, retries_total=120)
    )
    assert calm.people(90.0).amplification.v == pytest.approx(1.0), "the storm is over"


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([interval(0.0)], "needs two readings"),
        ([interval(0.0), interval(1.0)], "nobody asked anything new"),
        ([interval(0.0), interval(1.0, scheduled_total=5, retries_total=5)], "nobody asked anything new"),
    ],
)
def test_no_amplification_without_anything_new(records: list[IntervalRecord], why: str) -> None:
    found = series(*records).people(1.0).amplification
    assert found.v is None
    assert why in found.why


def test_who_leaves_and_what_was_made_for_them() -> None:
    made = series(*every(1.0, 31, scheduled_total=10, left_total=2, wasted_tokens_total=30))
    for second in range(31):
        made.on_tokens(float(second), 120)
    people = made.people(30.0)
    assert people.left_per_min.v == pytest.approx(120.0)
    assert people.wasted_tokens_per_s.v == pytest.approx(30.0)
    assert people.wasted_share.v == pytest.approx(30 * 30 / (31 * 120), rel=1e-4)
    assert people.wasted_share.n == 31
    later = series(*every(1.0, 31, wasted_tokens_total=30)).people(30.0)
    assert later.wasted_share.v is None


def test_two_workers_are_added_and_their_worst_lags_shown() -> None:
    made = series(
        *(interval(t, 0, scheduled_total=int(10 * t), loop_lag_ms=3.0, start_lag_ms=1.0) for t in (0.0, 5.0, 10.0)),
        *(interval(t, 1, scheduled_total=int(20 * t), loop_lag_ms=8.0, cpu_share=0.5) for t in (0.0, 5.0, 10.0)),
    )
    people = made.people(10.0)
    assert people.sent_per_s.v == pytest.approx(30.0)
    assert (people.people.v, people.thinking.v, people.in_flight.v, people.workers) == (10, 4, 6, 2)
    assert (people.loop_lag_ms.v, people.start_lag_ms.v, people.cpu_share.v) == (8.0, 1.0, 0.5)
    assert people.send_lag_ms.v is None
    assert people.clipped_share.v == 0.0


def test_a_worker_that_begins_anew_makes_no_negative_rate() -> None:
    records = [
        *every(1.0, 11, scheduled_total=50),
        interval(11.0, scheduled_total=5),
        interval(12.0, scheduled_total=15),
    ]
    assert series(*records).people(12.0).sent_per_s.v == pytest.approx(10.0)


def test_what_a_dead_worker_had_sent_stays_counted_and_who_was_under_way_left_with_it() -> None:
    made = series(
        interval(1.0, scheduled_total=10, outcomes={"ok": 6, "error": 1}, in_flight=3),
        interval(3.0, scheduled_total=2, outcomes={"ok": 1}, in_flight=1),
    )
    found = made.people(3.0)
    assert found.sent_total == 12
    assert found.outcomes == {"ok": 7, "error": 1, "abandoned": 3}
    assert found.sent_total == sum(found.outcomes.values()) + (found.in_flight.v or 0)


def test_the_clipped_share_is_of_all_requests() -> None:
    people = series(interval(0.0, scheduled_total=80, clipped_total=20)).people(0.0)
    assert (people.clipped_share.v, people.clipped_share.n) == (0.25, 80)
    assert series(interval(0.0)).people(0.0).clipped_share.v is None


def test_open_loop_has_a_rate_and_nobody_stays() -> None:
    open_loop = {"mode": "open", "crowds": {}, "thinking": 0}
    people = series(interval(0.0, rate_asked=4.0, **open_loop), interval(0.0, 1, rate_asked=4.0, **open_loop)).people(
        0.0
    )
    assert (people.mode, people.people.v, people.rate_asked_per_s.v) == ("open", None, 4.0)
    trace = series(interval(0.0, **open_loop)).people(0.0)
    assert "trace" in trace.rate_asked_per_s.why


def test_trouble_is_shown_as_long_as_what_it_spoilt() -> None:
    made = series(interval(0.0), interval(1.0, loop_lag_ms=500.0), interval(2.0))
    assert "500 ms late" in made.people(2.0).void
    made.on_interval(interval(1.0 + TROUBLE_S))
    assert made.people(1.0 + TROUBLE_S).void
    made.on_interval(interval(1.5 + TROUBLE_S))
    assert made.people(1.5 + TROUBLE_S).void == ""


def test_busy_as_long_as_anybody_sends() -> None:
    nobody = {"crowds": {}, "in_flight": 0, "thinking": 0}
    assert not series(interval(0.0, **nobody)).busy(0.0)
    for somebody in ({"flash": 2}, {"in_flight": 1}, {"mode": "open"}, {"crowds": {"long": 1}}):
        assert series(interval(0.0, **{**nobody, **somebody})).busy(0.0), somebody


def test_overdue_counts_those_whose_first_token_came_or_comes_too_late() -> None:
    waiting = [(9.5, None), (8.0, None), (5.0, 5.5), (5.0, 7.0), (9.0, None)]
    made = series(interval(10.0, waiting=waiting), interval(10.0, 1, waiting=[(1.0, None)]))
    assert made.overdue(CHAT, 10.0) == 3
    assert made.overdue(INTERACTIVE, 10.0) == 4
    assert made.overdue(CHAT, 30.0) == 0, "the workers are gone"


def test_gaps_leave_with_their_window() -> None:
    gaps = Histogram()
    for _ in range(100):
        gaps.add(0.02)
    made = series(interval(0.0, gaps=gaps), interval(20.0))
    assert made.gaps(20.0).n == 100
    assert made.gaps(20.0).p95 == pytest.approx(0.02, rel=0.01)
    assert made.gaps(GAP_S + 1).p50 is None


def record(done: float, **changes: Any) -> RequestRecord:
    made = RequestRecord(
        request_id="r", person="p", behaviour="patient", scheduled=done - 2.0, first_token=done - 1.5,
        last_token=done, done=done, outcome="ok", completion_tokens=16, fluidity=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_experience_counts_misses_by_kind_and_leaves_slow_readers_pace_out() -> None:
    seen = Experience("load", CHAT)
    seen.watch(0.0)
    for made in (
        record(10.0),
        record(11.0, fluidity=0.5),
        record(12.0, first_token=12.0),
        record(13.0, outcome="rejected", first_token=None, last_token=None, completion_tokens=None, fluidity=None),
        record(14.0, outcome="abandoned", reason="out of patience", fluidity=0.25),
        record(15.0, outcome="abandoned", reason=STOPPED, fluidity=0.0),
        record(16.0, behaviour="slow", fluidity=0.0, scheduled=1.0, first_token=1.5),
    ):
        seen.on_load(made)
    found = seen.feel(Value(), Quantiles(), 20.0)
    assert seen.judged(20.0) == (3, 3, 7)
    assert found.misses == {"ttft": 1, "refused": 1, "left": 1}
    assert found.fluidity.v == pytest.approx((1.0 + 0.5 + 1.0 + 0.25) / 4)
    assert found.fluidity.n == 4
    assert found.tpot_s.n == 5
    assert found.slo == CHAT
    later = seen.feel(Value(), Quantiles(), 60.0)
    assert (later.misses, later.fluidity.v) == ({}, None)
