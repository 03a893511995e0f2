"""The capacity search, its fit, and its answers on servers whose answer is known."""

import importlib.util
import math
import sys
from pathlib import Path

import msgspec
import pytest

from loadgen.capacity import Block, Progress, Question, Search
from loadgen.logistic import Fit, Sample, log_likelihood
from loadgen.slo import CHAT

BENCH = Path(__file__).parents[2] / "bench" / "capacity.py"
spec = importlib.util.spec_from_file_location("bench_capacity", BENCH)
bench = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = bench  # dataclasses look their module up
spec.loader.exec_module(bench)

TRUTHS = {"knee": 264.5, "tpot": 154.1, "cpu": 19.3}
"""People with 95 % good requests in runs of 6,000 s, by bench/capacity.py."""


def share_at(people, crossing=100.0, slope=25.0):
    """A server without noise; 95 % at `crossing`."""
    return 1 / (1 + math.exp(-math.log(19) - slope * math.log(crossing / people)))


def drive(question, attain, *, kind="ttft", settle_s=11.0, until=lambda step: False):
    """Answers each step with what `attain(step)` says, one request a second for ten people; returns what was asked."""
    search, now, people, steps = Search(question), 0.0, 0, []
    while (step := search.next(now)) is not None:
        steps.append(step)
        if until(step):
            break
        now += settle_s if step.people != people else 0.0
        people = step.people
        due = max(1, round(step.measure_s * people / 10))
        good = round(due * attain(step))
        search.observe(
            Block(
                people=people,
                phase=step.phase,
                begin_s=now,
                seconds=step.measure_s,
                good=good,
                due=due,
                misses={kind: due - good} if good < due else {},
                tpot_n=due,
                e2e_p95_s=settle_s - question.think_s,
                evidence=f"seen at {people}",
            )
        )
        now += step.measure_s
    return search, steps, now


def test_doubles_refines_confirms():
    search, steps, now = drive(Question(), lambda step: share_at(step.people))
    phases = [step.phase for step in steps]
    doubled = [step.people for step in steps if step.phase == "double"]
    assert doubled == [4 * 2**power for power in range(len(doubled))]
    assert doubled[-2] <= 100 < doubled[-1]
    assert phases == sorted(phases, key=["double", "refine", "confirm"].index)
    assert phases[-1] == "confirm"
    assert [step.fresh_seed for step in steps] == [phase == "confirm" for phase in phases]
    assert all(8 <= step.measure_s <= 10 for step in steps if step.phase == "double")
    assert now <= 360
    answer = search.answer
    assert answer.resolved
    assert answer.low <= 100 <= answer.high
    assert abs(answer.best - 100) < 10
    assert answer.safe == steps[-1].people == int(answer.low)
    assert answer.confirmed is True
    assert answer.recovered is True


def test_the_answer_is_one_sentence_with_what_broke_first():
    search, _, _ = drive(Question(), lambda step: share_at(step.people))
    answer = search.answer
    assert answer.limit == "TTFT"
    assert answer.clear_break > answer.high
    assert answer.evidence == f"seen at {answer.clear_break}"
    assert answer.sentence.startswith(f"{answer.best:.0f} people (90 % interval {answer.low:.0f} to {answer.high:.0f})")
    for part in (
        f"{answer.safe} are safe",
        f"first clear break at {answer.clear_break}, TTFT broke first: seen at {answer.clear_break}",
        "it recovers",
    ):
        assert part in answer.sentence


@pytest.mark.parametrize(
    ("kind", "limit"), [("tpot", "TPOT"), ("refused", "refusals"), ("error", "errors"), ("left", "TTFT")]
)
def test_names_the_limit_that_broke(kind, limit):
    search, _, _ = drive(Question(), lambda step: share_at(step.people), kind=kind)
    assert search.answer.limit == limit


def test_careful_is_narrower():
    question = Question(careful=True, cap_s=3000)
    search, steps, _ = drive(question, lambda step: share_at(step.people, slope=8))
    plain, plain_steps, _ = drive(Question(cap_s=3000), lambda step: share_at(step.people, slope=8))
    assert len(steps) > len(plain_steps)
    for found, most in ((search.answer, 0.10), (plain.answer, 0.15)):
        assert found.resolved
        assert (found.high - found.low) / 2 <= most * found.best


def test_more_than_the_most():
    search, steps, _ = drive(Question(most=50), lambda step: 1.0)
    assert [step.people for step in steps if step.phase == "double"] == [4, 8, 16, 32, 50]
    answer = search.answer
    assert (answer.resolved, answer.best, answer.limit, answer.recovered) == (True, None, "", None)
    assert answer.confirmed is True
    assert answer.sentence.startswith("More than 50 people: at 50 still 100 %")


def test_not_even_one_person():
    search, steps, _ = drive(Question(), lambda step: 0.1)
    assert steps[0].people == 4
    assert min(step.people for step in steps) == 1
    answer = search.answer
    assert (answer.safe, answer.best, answer.limit, answer.confirmed) == (0, None, "TTFT", None)
    assert "ot even one person" in answer.sentence


def test_fewer_than_the_first_step():
    search, steps, _ = drive(Question(first=32), lambda step: share_at(step.people, crossing=10))
    assert steps[0].people == 32
    assert min(step.people for step in steps) < 10
    assert search.answer.low <= 10 <= search.answer.high


def test_the_cap_holds_and_says_unresolved():
    search, steps, now = drive(Question(cap_s=200), lambda step: share_at(step.people))
    assert now <= 200
    assert steps[-1].phase == "confirm"
    answer = search.answer
    assert not answer.resolved
    assert answer.sentence.startswith("Unresolved: about")
    assert "wider than ±15 %" in answer.sentence
    assert answer.best is not None


def test_the_cap_may_come_before_anything_breaks():
    search, _, now = drive(Question(cap_s=120), lambda step: 1.0)
    assert now <= 120
    assert not search.answer.resolved
    assert search.answer.best is None
    assert search.answer.sentence.startswith("Unresolved: nothing broke up to")


def test_a_safe_level_that_does_not_hold_is_said_and_a_low_level_shows_recovery():
    def attain(step):
        return 0.7 if step.phase == "confirm" else share_at(step.people)

    search, steps, now = drive(Question(cap_s=420), attain)
    assert [step.phase for step in steps[-2:]] == ["confirm", "recover"]
    assert steps[-1].people <= steps[-2].people / 2
    assert now <= 420
    assert search.answer.confirmed is False
    assert not search.answer.resolved
    assert search.answer.recovered is True
    assert "but with a fresh seed only" in search.answer.sentence


def test_a_server_that_stays_broken_does_not_recover():
    broken = []

    def attain(step):
        broken.append(step.people > 100)
        return 0.0 if any(broken) else 1.0

    search, _, _ = drive(Question(cap_s=600), attain)
    assert search.answer.confirmed is not True
    assert search.answer.recovered is not True


def test_stop_answers_from_what_is_known():
    search, _, now = drive(Question(), lambda step: share_at(step.people), until=lambda step: step.phase == "confirm")
    search.stop()
    assert search.next(now) is None
    assert search.progress(now).phase == "stopped"
    assert search.answer.confirmed is None
    assert search.answer.low <= 100 <= search.answer.high
    fresh = Search(Question())
    fresh.stop()
    assert fresh.answer.sentence == "Stopped before anything was measured."


def test_the_step_stays_until_its_block_is_observed():
    search = Search(Question())
    assert search.next(0.0) is search.next(5.0)


def test_a_block_in_which_nothing_was_due_is_measured_again_for_longer():
    search = Search(Question())
    step = search.next(0.0)
    search.observe(Block(people=4, phase="double", begin_s=13, seconds=step.measure_s, good=0, due=0))
    again = search.next(25.0)
    assert (again.people, again.measure_s) == (4, 30.0)


def test_progress_is_json_and_grows_a_curve():
    search, _, now = drive(Question(mix="chat"), lambda step: share_at(step.people))
    progress = search.progress(now)
    assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress
    assert progress.phase == "done"
    assert progress.message == search.answer.sentence
    people = [point.people for point in progress.curve]
    assert people == sorted(people)
    assert all(point.low <= point.share <= point.high for point in progress.curve)
    shares = [point.share for point in progress.curve]
    assert shares == sorted(shares, reverse=True)
    assert Search(Question()).progress(0.0).best is None


# The fit


def test_beta_binomial_is_a_distribution():
    due = 12
    total = sum(math.comb(due, good) * math.exp(log_likelihood(good, due, 3.0, 0.9)) for good in range(due + 1))
    assert total == pytest.approx(1.0)


def fit(*samples, target=0.95):
    return Fit([Sample(*sample) for sample in samples], target, 0.5, 8192.0)


def interval(found):
    return found.quantile(0.05), found.quantile(0.95)


def test_separated_blocks_bracket_the_crossing():
    low, high = interval(fit((64, 200, 200, 30), (128, 0, 400, 30)))
    assert 64 * 0.75 < low < high <= 128


def test_few_blocks_give_a_wide_interval_and_more_a_narrower():
    far = [(64, 200, 200, 30), (128, 0, 400, 30)]
    near = [(95, 280, 290, 30), (105, 255, 300, 30)]
    widths = []
    for samples in (far, far + near, far + near * 3):
        low, high = interval(fit(*samples))
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.35


def test_blocks_that_disagree_widen_the_interval():
    far = [(64, 200, 200, 30), (128, 0, 400, 30)]
    agree = interval(fit(*far, *[(100, 270, 300, 30)] * 4))
    differ = interval(fit(*far, *[(100, 300, 300, 30), (100, 240, 300, 30)] * 2))
    assert math.log(differ[1] / differ[0]) > 1.2 * math.log(agree[1] / agree[0])


def test_one_error_among_few_people_does_not_bend_the_curve():
    clean = fit((8, 8, 8, 10), (64, 200, 200, 30), (96, 280, 300, 30), (128, 0, 400, 30)).quantile(0.5)
    once = fit((8, 7, 8, 10), (64, 200, 200, 30), (96, 280, 300, 30), (128, 0, 400, 30)).quantile(0.5)
    assert once == pytest.approx(clean, rel=0.05)


def test_a_target_near_one_is_fitted_too():
    low, high = interval(fit((64, 200, 200, 30), (128, 0, 400, 30), target=0.995))
    assert 0.5 < low < high <= 128


def test_information_is_highest_near_the_crossing():
    found = fit((64, 200, 200, 30), (128, 0, 400, 30))
    near = found.information(95, 30, 300)
    assert near > 10 * found.information(30, 30, 100)
    assert near > 10 * found.information(300, 30, 800)


# The simulated server


def test_the_simulated_server_agrees_with_the_closed_form():
    """Machine repairmen (M/M/c//N): who asks sees the others in equilibrium and waits an Erlang time for his turn."""
    slots, people, service_s, think_s, limit_s = 8, 20, 4.0, 8.0, CHAT.ttft_s
    others = people - 1
    weights = [1.0]
    for busy in range(1, others + 1):
        weights.append(weights[-1] * (others - busy + 1) / think_s / (min(busy, slots) / service_s))
    done = slots / service_s * limit_s
    late = sum(
        weight * math.exp(-done) * sum(done**turn / math.factorial(turn) for turn in range(seen - slots + 1))
        for seen, weight in enumerate(weights)
        if seen >= slots
    )
    shape = bench.Shape("mmc", slots, 1000, 1.0, 0.0, service_s / 1000, 0.0, think_s=think_s)
    expected = 1 - late / sum(weights)
    assert bench.long_run_share(shape, people, 20_000.0) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("name", ["knee", "tpot"])
def test_known_truth_is_within_ten_percent(name):
    for seed in range(3):
        outcome = bench.search(bench.SHAPES[name], seed)
        assert abs(outcome.answer.best - TRUTHS[name]) < 0.1 * TRUTHS[name], outcome.answer.sentence
        assert outcome.seconds <= 365


def test_a_small_server_is_covered_and_honest():
    """360 s hold some 400 of its requests: too few for ten percent, so the interval has to say so."""
    answers = [bench.search(bench.SHAPES["cpu"], seed).answer for seed in range(5)]
    assert sum(answer.low <= TRUTHS["cpu"] <= answer.high for answer in answers) >= 4
    assert all(answer.resolved == ((answer.high - answer.low) / 2 <= 0.15 * answer.best) for answer in answers)


def test_the_same_seed_gives_the_same_search():
    first, second = (bench.search(bench.SHAPES["cpu"], 7) for _ in range(2))
    assert first == second
    assert first != bench.search(bench.SHAPES["cpu"], 8)
