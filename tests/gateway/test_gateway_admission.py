from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.gateway.admission import Admission, Admit, Decision, Reject

ENGINES = st.sampled_from(["ready", "starting", "down"])


class AdmissionMachine(RuleBasedStateMachine):
    """Plays the caller with a fake clock and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.admission = Admission(max_in_flight=2, max_queue=3)
        self.key = 0
        self.waiting: list[int] = []
        self.since: dict[int, float] = {}
        self.flying: set[int] = set()
        self.rejected = self.cancelled = self.finished = 0

    def carry_out(self, decisions: list[Decision], arriving: int | None = None) -> None:
        for decision in decisions:
            if isinstance(decision, Admit):
                assert self.admission.engine == "ready"
                assert len(self.flying) < self.admission.max_in_flight
                if decision.key != arriving:
                    assert decision.key == self.waiting.pop(0), "not first come, first served"
                else:
                    assert not self.waiting, "overtook those who wait"
                self.flying.add(decision.key)
            else:
                assert 1 <= decision.retry_after_s <= 60
                if decision.key != arriving:
                    self.waiting.remove(decision.key)
                if decision.reason == "queue_full":
                    assert decision.key == arriving
                    assert len(self.waiting) >= self.admission.max_queue
                else:
                    assert not self.admission.hold
                self.rejected += 1

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def arrive(self) -> None:
        self.key += 1
        decisions = self.admission.arrive(self.key, self.now)
        assert [decision.key for decision in decisions] in ([], [self.key])
        self.carry_out(decisions, self.key)
        if not decisions:
            self.waiting.append(self.key)
            self.since[self.key] = self.now

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(key)
        self.cancelled += 1
        self.carry_out(self.admission.cancel(key, self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.flying)))
        self.flying.remove(key)
        self.finished += 1
        self.carry_out(self.admission.finish(key, self.now))

    @rule(in_flight=st.none() | st.integers(1, 5), queue=st.none() | st.integers(0, 5))
    def set_limits(self, in_flight: int | None, queue: int | None) -> None:
        self.carry_out(self.admission.set_limits(self.now, max_in_flight=in_flight, max_queue=queue))

    @rule(state=ENGINES, hold=st.booleans())
    def set_engine(self, state: str, hold: bool) -> None:
        self.carry_out(self.admission.set_engine(state, self.now, hold=hold))  # type: ignore[arg-type]

    @invariant()
    def adds_up(self) -> None:
        counts = self.admission.counts()
        assert counts.arrived == self.key
        assert counts.arrived == counts.rejected + counts.cancelled + counts.queued + counts.in_flight + counts.finished
        assert (counts.rejected, counts.cancelled, counts.finished) == (self.rejected, self.cancelled, self.finished)
        assert (counts.queued, counts.in_flight) == (len(self.waiting), len(self.flying))

    @invariant()
    def leaves_no_slot_idle(self) -> None:
        if self.waiting and self.admission.engine == "ready":
            assert len(self.flying) >= self.admission.max_in_flight

    @invariant()
    def knows_the_oldest(self) -> None:
        expected = self.now - self.since[self.waiting[0]] if self.waiting else None
        assert self.admission.oldest_wait_s(self.now) == expected

    @invariant()
    def drain_rate_is_of_the_busy_period(self) -> None:
        rate = self.admission.drain_rate(self.now)
        assert rate is None or (rate > 0 and self.flying)


AdmissionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAdmission = AdmissionMachine.TestCase


def test_retry_after_is_the_queue_over_the_drain_rate() -> None:
    admission = Admission(max_in_flight=1, max_queue=6)
    for key in range(7):
        admission.arrive(key, now=0.0)
    admission.finish(0, now=2.0)  # one in two seconds so far
    assert admission.drain_rate(2.0) == pytest.approx(0.5)
    admission.arrive(7, now=2.0)
    assert admission.arrive(8, now=2.0) == [Reject(8, "queue_full", 12)]


def test_drain_rate_forgets_what_is_older_than_its_window() -> None:
    admission = Admission(max_in_flight=2, max_queue=0)
    admission.arrive(1, now=0.0)
    admission.arrive(2, now=0.0)
    admission.finish(1, now=1.0)
    assert admission.drain_rate(31.5) is None


def test_an_unmeasured_rate_is_not_taken_for_a_slow_one() -> None:
    admission = Admission(max_in_flight=1, max_queue=0)
    admission.arrive(1, now=0.0)
    assert admission.arrive(2, now=0.0) == [Reject(2, "queue_full", 5)]


def test_a_lower_limit_drops_nobody() -> None:
    admission = Admission(max_in_flight=3, max_queue=3)
    for key in range(6):
        admission.arrive(key, now=0.0)
    assert admission.set_limits(1.0, max_in_flight=1, max_queue=0) == []
    assert (admission.counts().in_flight, admission.counts().queued) == (3, 3)
    assert admission.finish(0, 2.0) == []
    assert admission.finish(1, 2.0) == []
    assert admission.finish(2, 2.0) == [Admit(3)]


def test_limits_that_cannot_work_change_nothing() -> None:
    admission = Admission(max_in_flight=3, max_queue=3)
    with pytest.raises(ValueError, match="at least 1"):
        admission.set_limits(1.0, max_in_flight=0, max_queue=7)
    assert (admission.max_in_flight, admission.max_queue) == (3, 3)


def test_a_key_is_used_once_and_must_be_known() -> None:
    admission = Admission(max_in_flight=1, max_queue=1)
    admission.arrive(1, now=0.0)
    with pytest.raises(ValueError, match="before"):
        admission.arrive(1, now=0.0)
    with pytest.raises(KeyError):
        admission.cancel(1, now=0.0)
    with pytest.raises(KeyError):
        admission.finish(2, now=0.0)
