"""The admission against books of its own, under every policy and every change of it, with a fake clock."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.gateway.admission import Admission, Admit, Decision, Ending, Expire, Reject
from server.gateway.limiter import AdaptiveLimit, Sample
from server.gateway.order import Ticket
from server.gateway.policy import Policy, PolicyChange
from server.gateway.records import EngineState

ENGINES: st.SearchStrategy[EngineState] = st.sampled_from(["ready", "starting", "down", "asleep"])
ENDINGS: st.SearchStrategy[Ending] = st.sampled_from(["completed", "failed", "cancelled", "expired"])
CHANGES = st.builds(
    PolicyChange,
    order=st.none() | st.sampled_from(["fifo", "shortest", "priority", "fair"]),
    ageing_s=st.none() | st.sampled_from([0, 1, 10]),
    limit=st.none() | st.sampled_from(["in-flight", "tokens", "adaptive"]),
    max_in_flight=st.none() | st.integers(1, 5),
    token_budget=st.none() | st.integers(1, 60),
    overload=st.none() | st.sampled_from(["wait", "queue", "estimate", "shed"]),
    max_queue=st.none() | st.integers(0, 5),
    max_wait_s=st.none() | st.sampled_from([0.5, 5.0]),
    queue_timeout_s=st.none() | st.sampled_from([0, 3, 30]),
    hold=st.none() | st.booleans(),
)
SAMPLES = st.none() | st.builds(
    Sample, ttft_s=st.sampled_from([None, 0.1, 3.0]), tpot_s=st.sampled_from([None, 0.01, 1.0]), failed=st.booleans()
)


class AdmissionMachine(RuleBasedStateMachine):
    """Plays the caller and keeps books: every request is in exactly one place."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.admission = Admission(Policy(max_in_flight=2, max_queue=3, token_budget=40))
        self.key = 0
        self.tickets: dict[int, Ticket] = {}
        self.since: dict[int, float] = {}
        self.waiting: list[int] = []
        """By arrival."""
        self.flying: set[int] = set()
        self.ended: dict[int, str] = {}
        self.went: list[int] = []

    @property
    def policy(self) -> Policy:
        return self.admission.policy

    def carry_out(self, decisions: list[Decision], arriving: int | None = None) -> None:
        for decision in decisions:
            assert decision.key in self.waiting
            deadline = self.tickets[decision.key].deadline
            if isinstance(decision, Admit):
                assert self.admission.engine == "ready"
                assert len(self.flying) < self.policy.max_in_flight
                assert deadline is None or deadline > self.now, "dispatched after its deadline"
                assert not self.timed_out(decision.key)
                self.check_turn(decision.key)
                self.check_tokens(decision.key)
                self.waiting.remove(decision.key)
                self.flying.add(decision.key)
            elif isinstance(decision, Expire):
                assert deadline is not None
                assert deadline <= self.now
                self.end(decision.key, "expired")
            else:
                self.check_reject(decision, arriving)
                self.end(decision.key, "rejected")

    def end(self, key: int, how: str) -> None:
        assert key not in self.ended, "ended twice"
        self.ended[key] = how
        if key in self.waiting:
            self.waiting.remove(key)
        else:
            self.flying.remove(key)

    def check_turn(self, key: int) -> None:
        """Nobody who had the better claim was passed over."""
        policy, head = self.policy, self.waiting[0]
        if policy.order == "fifo":
            assert key == head, "not first come, first served"
        elif policy.ageing_s is not None and self.now - self.since[head] >= policy.ageing_s:
            assert key == head, "passed over one who has waited too long"
        elif policy.order == "shortest":
            assert key == min(self.waiting, key=lambda each: (self.tickets[each].prompt_tokens, each))
        elif policy.order == "priority":
            assert key == min(self.waiting, key=lambda each: (self.tickets[each].priority, each))
        else:
            user = self.tickets[key].user
            assert key == next(each for each in self.waiting if self.tickets[each].user == user)

    def check_tokens(self, key: int) -> None:
        if self.policy.limit == "tokens" and self.flying:
            assert self.policy.token_budget is not None
            held = sum(self.tickets[each].tokens for each in self.flying)
            assert held + self.tickets[key].tokens <= self.policy.token_budget

    def timed_out(self, key: int) -> bool:
        limit_s = self.policy.queue_timeout_s
        return limit_s is not None and self.since[key] + limit_s <= self.now

    def check_reject(self, decision: Reject, arriving: int | None) -> None:
        policy = self.policy
        assert 1 <= decision.retry_after_s <= 60
        if decision.reason == "queue_timeout":
            assert self.timed_out(decision.key)
        elif decision.reason.startswith("engine"):
            assert self.admission.engine != "ready"
            assert not self.admission.holds
        else:
            assert arriving is not None, "a bound has cost somebody who waited already"
            assert len(self.waiting) > policy.max_queue or policy.overload == "estimate"
            if decision.reason == "shed":
                assert policy.overload == "shed"
                worst = max(self.waiting, key=lambda each: (self.tickets[each].priority, each))
                assert decision.key == worst != arriving
            else:
                assert decision.key == arriving

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wake(self) -> None:
        """What the caller does when `next_expiry` comes."""
        due = self.admission.next_expiry()
        if due is not None:
            self.now = max(self.now, due)
            decisions = self.admission.expire(self.now)
            assert decisions, "woken for nothing"
            self.carry_out(decisions)

    @rule(
        user=st.sampled_from(["ann", "ben", "eve"]),
        priority=st.integers(-1, 2),
        prompt=st.integers(0, 30),
        output=st.integers(0, 30),
        patience=st.none() | st.floats(-1, 30),
    )
    def arrive(self, user: str, priority: int, prompt: int, output: int, patience: float | None) -> None:
        self.key += 1
        deadline = None if patience is None else self.now + patience
        ticket = Ticket(user=user, priority=priority, prompt_tokens=prompt, output_tokens=output, deadline=deadline)
        self.tickets[self.key] = ticket
        self.since[self.key] = self.now
        self.waiting.append(self.key)
        self.carry_out(self.admission.arrive(self.key, self.now, ticket), self.key)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.waiting))
        self.end(key, "cancelled")
        self.carry_out(self.admission.cancel(key, self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), ending=ENDINGS, sample=SAMPLES, tokens=st.none() | st.integers(0, 60))
    def finish(self, data: st.DataObject, ending: Ending, sample: Sample | None, tokens: int | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.flying)))
        self.end(key, ending)
        self.carry_out(self.admission.finish(key, self.now, ending, sample, tokens))

    @rule(change=CHANGES)
    def set_policy(self, change: PolicyChange) -> None:
        try:
            policy = self.policy.changed(change)
        except ValueError:
            return
        before = list(self.waiting)
        self.carry_out(self.admission.set_policy(policy, self.now))
        assert [waiter.key for waiter in self.admission.line] == self.waiting
        assert set(before) == {*self.waiting, *self.flying.intersection(before), *self.ended.keys() & set(before)}

    @rule(state=ENGINES, hold=st.booleans())
    def set_engine(self, state: EngineState, hold: bool) -> None:
        self.carry_out(self.admission.set_engine(state, self.now, hold=hold))

    @invariant()
    def adds_up(self) -> None:
        counts = self.admission.counts()
        assert counts.arrived == self.key
        assert counts.arrived == sum(
            (
                *(counts.rejected, counts.queued, counts.in_flight),
                *(counts.completed, counts.failed, counts.cancelled, counts.expired),
            )
        )
        ended = list(self.ended.values())
        for how in ("rejected", "completed", "failed", "cancelled", "expired"):
            assert getattr(counts, how) == ended.count(how)
        assert (counts.queued, counts.in_flight) == (len(self.waiting), len(self.flying))

    @invariant()
    def leaves_no_place_idle(self) -> None:
        """Only what the policy names may hold the next one back, and it says what."""
        why = self.admission.blocked_by(self.now)
        assert (why is None) == (not self.waiting)
        flying, policy = len(self.flying), self.policy
        if why == "engine":
            assert self.admission.engine != "ready"
            assert self.admission.holds
        elif why == "slots":
            assert flying >= policy.max_in_flight
        elif why == "adaptive":
            assert policy.limit == "adaptive"
            assert flying >= self.admission.limit
        elif why == "tokens":
            head = self.admission.line.in_order(self.now, 1)[0]
            assert policy.limit == "tokens"
            assert policy.token_budget is not None
            assert flying
            assert self.admission.tokens_in_flight + head.ticket.tokens > policy.token_budget

    @invariant()
    def lists_everybody_once(self) -> None:
        listed = [waiter.key for waiter in self.admission.line.in_order(self.now, 100)]
        assert sorted(listed) == self.waiting
        head = self.admission.line.first(self.now)
        assert (None if head is None else head.key) == (listed[0] if listed else None)

    @invariant()
    def knows_the_oldest(self) -> None:
        expected = self.now - self.since[self.waiting[0]] if self.waiting else None
        assert self.admission.oldest_wait_s(self.now) == expected

    @invariant()
    def gauges_are_zero_when_all_is_done(self) -> None:
        assert self.admission.tokens_in_flight == sum(self.tickets[key].tokens for key in self.flying)
        assert 1 <= self.admission.limit <= self.policy.max_in_flight
        rate = self.admission.drain_rate(self.now)
        assert rate is None or (rate > 0 and self.flying)

    def teardown(self) -> None:
        """Let all of it run out: nothing is left, and everybody ended once."""
        self.carry_out(self.admission.set_engine("ready", self.now))
        while self.flying or self.waiting:
            assert self.flying, "they wait for nobody"
            self.finish_first()
        counts = self.admission.counts()
        assert (counts.queued, counts.in_flight, self.admission.tokens_in_flight) == (0, 0, 0)
        assert self.admission.next_expiry() is None
        assert sorted(self.ended) == list(range(1, self.key + 1))

    def finish_first(self) -> None:
        key = min(self.flying)
        self.end(key, "completed")
        self.carry_out(self.admission.finish(key, self.now))


AdmissionMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAdmission = AdmissionMachine.TestCase


def admission(**policy: object) -> Admission:
    return Admission(Policy(**policy))  # type: ignore[arg-type]


def admitted(decisions: list[Decision]) -> list[int]:
    return [decision.key for decision in decisions if isinstance(decision, Admit)]


def serve(gate: Admission, flying: int, now: float) -> int:
    """The one in flight ends; returns who goes next."""
    (following,) = admitted(gate.finish(flying, now))
    return following


def test_retry_after_is_the_queue_over_the_drain_rate() -> None:
    gate = admission(max_in_flight=1, max_queue=6)
    for key in range(7):
        gate.arrive(key, now=0.0)
    gate.finish(0, now=2.0)  # one in two seconds so far
    assert gate.drain_rate(2.0) == pytest.approx(0.5)
    assert gate.estimated_wait_s(2.0) == pytest.approx(10.0)
    gate.arrive(7, now=2.0)
    assert gate.arrive(8, now=2.0) == [Reject(8, "queue_full", 12)]


def test_drain_rate_forgets_what_is_older_than_its_window() -> None:
    gate = admission(max_in_flight=2, max_queue=0)
    gate.arrive(1, now=0.0)
    gate.arrive(2, now=0.0)
    gate.finish(1, now=1.0)
    assert gate.drain_rate(31.5) is None


def test_an_unmeasured_rate_is_not_taken_for_a_slow_one() -> None:
    gate = admission(max_in_flight=1, max_queue=0)
    gate.arrive(1, now=0.0)
    assert gate.arrive(2, now=0.0) == [Reject(2, "queue_full", 5)]


def test_a_lower_limit_drops_nobody() -> None:
    gate = admission(max_in_flight=3, max_queue=3)
    for key in range(6):
        gate.arrive(key, now=0.0)
    assert gate.set_policy(Policy(max_in_flight=1, max_queue=0), 1.0) == []
    assert (gate.counts().in_flight, gate.counts().queued) == (3, 3)
    assert gate.finish(0, 2.0) == []
    assert gate.finish(1, 2.0) == []
    assert gate.finish(2, 2.0) == [Admit(3)]


def test_a_policy_that_cannot_work_changes_nothing() -> None:
    gate = admission(max_in_flight=3, max_queue=3)
    with pytest.raises(ValueError, match="at least 1"):
        gate.set_policy(Policy(max_in_flight=0, max_queue=7), 1.0)
    assert (gate.policy.max_in_flight, gate.policy.max_queue) == (3, 3)


def test_a_key_is_used_once_and_must_be_known() -> None:
    gate = admission(max_in_flight=1, max_queue=1)
    gate.arrive(1, now=0.0)
    with pytest.raises(ValueError, match="before"):
        gate.arrive(1, now=0.0)
    with pytest.raises(KeyError):
        gate.cancel(1, now=0.0)
    with pytest.raises(KeyError):
        gate.finish(2, now=0.0)


BETTER = {
    "shortest": (Ticket(prompt_tokens=900), Ticket(prompt_tokens=5)),
    "priority": (Ticket(priority=1), Ticket(priority=0)),
    "fair": (Ticket(user="heavy", prompt_tokens=900), None),
}


@pytest.mark.parametrize("order", ["shortest", "priority", "fair"])
@pytest.mark.parametrize("ageing_s", [None, 10.0])
def test_a_wait_is_bounded_under_ageing_and_not_without(order: str, ageing_s: float | None) -> None:
    """One place, a service of 1 s, and somebody with a better claim comes every second, without end."""
    gate = admission(order=order, ageing_s=ageing_s, max_in_flight=1, overload="wait")
    poor, better = BETTER[order]
    for key in (1, 2):  # under fair shares the first makes the second's user the one who has had most
        gate.arrive(key, 0.0, poor)
    flying, waited_s = 1, None
    for second in range(1, 200):
        for each in (1000 + second, 2000 + second):
            gate.arrive(each, float(second), better or Ticket(user=f"new {each}"))
        flying = serve(gate, flying, float(second))
        if flying == 2:
            waited_s = second
            break
    assert waited_s == (None if ageing_s is None else 10)


def test_under_fair_shares_a_crowd_of_one_user_costs_the_other_nothing() -> None:
    gate = admission(order="fair", ageing_s=None, max_in_flight=1, overload="wait")
    for key in range(10):
        gate.arrive(key, 0.0, Ticket(user="many", prompt_tokens=100))
    for key in (20, 21):
        gate.arrive(key, 0.0, Ticket(user="few", prompt_tokens=100))
    order = [0]
    while len(order) < 12:
        order.append(serve(gate, order[-1], 1.0))
    assert order == [0, 20, 1, 21, 2, 3, 4, 5, 6, 7, 8, 9]


def test_time_away_earns_no_share() -> None:
    gate = admission(order="fair", ageing_s=None, max_in_flight=1, overload="wait")
    for key in range(4):
        gate.arrive(key, 0.0, Ticket(user="steady", prompt_tokens=100))
    flying = serve(gate, 0, 1.0)
    for key in range(10, 14):  # comes anew, after the other has had 200 tokens
        gate.arrive(key, 1.0, Ticket(user="late", prompt_tokens=100))
    order = []
    for _ in range(5):
        flying = serve(gate, flying, 2.0)
        order.append(flying)
    assert order == [10, 2, 11, 3, 12]


def test_a_share_is_corrected_by_what_was_really_used() -> None:
    gate = admission(order="fair", ageing_s=None, max_in_flight=1, overload="wait")
    gate.arrive(1, 0.0, Ticket(user="a", output_tokens=1000))
    for key, user in ((2, "a"), (3, "b"), (4, "a"), (5, "b")):
        gate.arrive(key, 0.0, Ticket(user=user, output_tokens=100))
    assert admitted(gate.finish(1, 1.0, tokens=10)) == [3]  # `a` had expected to use 1000
    assert admitted(gate.finish(3, 1.0)) == [2]


def test_a_token_budget_may_block_at_the_head_and_says_so() -> None:
    gate = admission(limit="tokens", token_budget=100, max_in_flight=8)
    gate.arrive(1, 0.0, Ticket(prompt_tokens=60))
    assert gate.arrive(2, 0.0, Ticket(prompt_tokens=50)) == []
    assert gate.arrive(3, 0.0, Ticket(prompt_tokens=10)) == []  # it would fit, but it is not its turn
    assert gate.blocked_by(0.0) == "tokens"
    assert admitted(gate.finish(1, 1.0)) == [2, 3]


def test_one_larger_than_the_whole_budget_goes_alone() -> None:
    gate = admission(limit="tokens", token_budget=100, max_in_flight=8)
    assert admitted(gate.arrive(1, 0.0, Ticket(prompt_tokens=500))) == [1]
    assert gate.arrive(2, 0.0, Ticket(prompt_tokens=1)) == []
    assert admitted(gate.finish(1, 1.0)) == [2]


def test_a_short_one_that_fits_is_not_refused_for_a_full_queue() -> None:
    gate = admission(order="shortest", limit="tokens", token_budget=100, max_in_flight=8, max_queue=1)
    gate.arrive(1, 0.0, Ticket(prompt_tokens=60))
    gate.arrive(2, 0.0, Ticket(prompt_tokens=50))
    assert gate.arrive(3, 0.0, Ticket(prompt_tokens=10)) == [Admit(3)]


def test_shedding_costs_the_worst_priority() -> None:
    gate = admission(order="priority", overload="shed", max_in_flight=1, max_queue=2)
    gate.arrive(1, 0.0)
    gate.arrive(2, 0.0, Ticket(priority=5))
    gate.arrive(3, 0.0, Ticket(priority=1))
    assert gate.arrive(4, 0.0, Ticket(priority=0)) == [Reject(2, "shed", 5)]
    assert gate.arrive(5, 0.0, Ticket(priority=9)) == [Reject(5, "queue_full", 5)]


def test_who_would_wait_too_long_is_told_at_once() -> None:
    gate = admission(overload="estimate", max_wait_s=3.0, max_in_flight=1, max_queue=50)
    for key in range(3):
        gate.arrive(key, 0.0)
    gate.finish(0, 1.0)  # one a second
    assert gate.arrive(3, 1.0) == []
    assert gate.arrive(4, 1.0) == []
    assert gate.arrive(5, 1.0) == [Reject(5, "estimated_wait", 3)]


def test_a_deadline_and_a_queue_timeout_end_a_wait_by_themselves() -> None:
    gate = admission(max_in_flight=1, queue_timeout_s=10.0)
    gate.arrive(1, 0.0)
    gate.arrive(2, 0.0, Ticket(deadline=4.0))
    gate.arrive(3, 1.0)
    assert gate.next_expiry() == 4.0
    assert gate.expire(4.0) == [Expire(2)]
    assert gate.next_expiry() == 11.0
    assert gate.expire(11.0) == [Reject(3, "queue_timeout", 5)]
    assert gate.next_expiry() is None


def test_rejecting_while_the_engine_restarts_holds_for_those_who_wait_too() -> None:
    gate = admission(max_in_flight=1)
    gate.set_engine("starting", 0.0)
    assert gate.arrive(1, 0.0) == []
    assert gate.set_policy(Policy(max_in_flight=1, hold=False), 1.0) == [Reject(1, "engine_starting", 5)]
    assert gate.arrive(2, 1.0) == [Reject(2, "engine_starting", 5)]
    assert gate.set_engine("asleep", 1.0) == []
    assert gate.arrive(3, 1.0) == [Reject(3, "engine_asleep", 5)]


GOOD, LATE = Sample(ttft_s=0.1, tpot_s=0.01), Sample(ttft_s=5.0, tpot_s=0.01)


def rounds(gate: Admission, sample: Sample, count: int, key: int = 0) -> int:
    """Keep it full for some rounds; returns the next unused key."""
    flying = list(range(key, key + 40))
    for each in flying:
        gate.arrive(each, float(each))
    key += 40
    for _ in range(count):
        for _ in range(40):
            (gone, *flying) = flying
            gate.finish(gone, float(key), sample=sample) if not gate.waits(gone) else gate.cancel(gone, float(key))
            gate.arrive(key, float(key))
            flying.append(key)
            key += 1
    for each in flying:
        gate.cancel(each, float(key)) if gate.waits(each) else gate.finish(each, float(key), "cancelled")
    return key


def test_the_adaptive_limit_falls_while_requests_are_late_and_comes_back() -> None:
    gate = admission(limit="adaptive", max_in_flight=32, overload="wait")
    assert gate.limit == 32
    key = rounds(gate, LATE, 12)
    low = gate.limit
    assert low < 20
    rounds(gate, GOOD, 12, key)
    assert low < gate.limit <= 32


def test_one_late_request_in_twenty_is_borne_and_an_unused_limit_says_nothing() -> None:
    gate = admission(limit="adaptive", max_in_flight=20)
    gate.adaptive = AdaptiveLimit(10, 20)
    for key in range(40):
        gate.arrive(key, float(key))
        gate.finish(key, float(key), sample=LATE if key % 20 == 0 else GOOD)
    assert gate.limit == 10


def test_jams_from_before_a_decrease_are_answered_once() -> None:
    gate = admission(limit="adaptive", max_in_flight=64)
    for key in range(64):
        gate.arrive(key, 0.0)
    gate.adaptive = AdaptiveLimit(20, 64)
    for key in range(64):
        gate.finish(key, 10.0, sample=LATE)
    once = gate.limit
    assert once == 18
    for key in range(100, 130):
        gate.arrive(key, 10.0)
    for key in range(100, 130):
        if not gate.waits(key):
            gate.finish(key, 11.0, sample=GOOD)
    assert gate.limit > once  # of those who went under it, and who ran into it
