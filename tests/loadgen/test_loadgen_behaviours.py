"""How people wait, read and come back: pure decisions with dice of their own."""

import math
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.arrivals import generator
from loadgen.behaviours import (
    AT_ONCE,
    ENDLESS,
    SLOWLY,
    Budget,
    Manners,
    Pace,
    Patience,
    Reading,
    Retry,
    apportion,
    pick,
    retry_after_s,
)
from loadgen.records import RESIDENTS, RequestRecord
from tests.loadgen.goodness import FAILURES, SEEDS, chi_square_p, distance, kolmogorov_p, normal_cdf, rejected


def test_pace_owes_what_was_taken():
    pace = Pace(Reading(bytes_per_s=1000.0))
    assert pace.took(500, 10.0) == 10.5
    assert pace.took(500, 10.1) == 11.0  # read ahead of time: the debt adds up
    assert pace.took(100, 20.0) == 20.1  # idle time is not saved up


def test_a_reader_pauses_after_so_many_seconds_of_reading():
    pace = Pace(Reading(bytes_per_s=100.0, pause_s=30.0, pause_every_s=5.0))
    at, stamps = 0.0, []
    for _ in range(12):
        at = pace.took(100, at)
        stamps.append(at)
    assert stamps == [1, 2, 3, 4, 35, 36, 37, 38, 39, 70, 71, 72]


def record(outcome="error", status=None, attempt=1, retry_after=None):
    return RequestRecord(
        request_id="r", person="p", behaviour="retrier", scheduled=0.0, done=1.0, outcome=outcome, status=status,
        attempt=attempt, retry_after_s=retry_after,
    )  # fmt: skip


def again(retry, made, budget=None, seed=1):
    return retry_after_s(retry, made, generator(seed, "retry"), budget or Budget())


@pytest.mark.parametrize(
    ("made", "comes_back"),
    [
        (record("ok", 200), False),
        (record("rejected", 429), True),
        (record("rejected", 503), True),
        (record("error", 500), True),
        (record("error", 408), True),
        (record("error", 400), False),
        (record("error", 404), False),
        (record("error", 200), True),  # an error event, or cut
        (record("error"), True),  # no connection
        (record("abandoned"), True),  # waited too long
        (record("error", attempt=4), True),
        (record("error", attempt=5), False),
    ],
)
def test_who_asks_again(made, comes_back):
    assert (again(Retry(), made) is not None) == comes_back


def test_naive_comes_back_at_once_and_jitter_under_a_doubling_bound():
    assert again(Retry("naive"), record()) == 0.1
    retry = Retry("jitter", most=100, base_s=0.5, cap_s=20.0)
    for attempt, bound in ((1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 20.0), (60, 20.0)):
        n = 500
        drawn = [again(retry, record(attempt=attempt), seed=seed) for seed in range(n)]
        assert max(drawn) <= bound
        assert kolmogorov_p(distance(drawn, lambda x, bound=bound: x / bound), n) > 0.01


@pytest.mark.parametrize("kind", ["naive", "jitter", "budget"])
@pytest.mark.parametrize("honours", [True, False])
def test_retry_after_is_honoured_or_not(kind, honours):
    retry = Retry(kind, honours_retry_after=honours, base_s=0.5)
    pause = again(retry, record("rejected", 429, retry_after=7.0))
    assert pause == 7.0 if honours else pause <= 0.5
    assert again(retry, record("rejected", 429)) <= 0.5


@given(st.lists(st.integers(0, 5), max_size=400), st.floats(0.0, 1.0))
def test_a_budget_bounds_the_amplification(failures, share):
    """Whatever fails how often: retries are at most a share of the first attempts, and the floor."""
    retry, budget = Retry("budget", most=10, budget_share=share), Budget()
    rng = generator(1, "budget")
    retries = 0
    for firsts, fails in enumerate(failures, 1):
        budget.earn(retry.budget_share)
        for attempt in range(1, fails + 1):
            if retry_after_s(retry, record(attempt=attempt), rng, budget) is None:
                break
            retries += 1
        assert retries <= 3 + share * firsts + 1e-6


def test_without_a_budget_everything_is_asked_as_often_as_may_be():
    attempts = 1
    while again(Retry("naive"), record(attempt=attempts)) is not None:
        attempts += 1
    assert attempts == Retry().most == 5


def test_patience_differs_around_its_median():
    manners, n = Manners(patience=Patience(ttft_s=4.0, stall_s=2.0), patience_sigma=0.5), 500
    drawn = [[manners.waits("abandoner", rng) for _ in range(n)] for rng in (generator(s, "a") for s in SEEDS)]
    for of, median in ((lambda it: it.ttft_s, 4.0), (lambda it: it.stall_s, 2.0)):
        p = [
            kolmogorov_p(distance([of(it) for it in one], lambda x, m=median: normal_cdf(math.log(x / m) / 0.5)), n)
            for one in drawn
        ]
        assert rejected(p) <= FAILURES
    assert Patience(ttft_s=4.0).drawn(generator(1, "a"), 0.5).stall_s is None


def test_manners_by_behaviour():
    manners = Manners(retry=Retry(timeout_s=6.0))
    rng = generator(1, "a")
    assert manners.waits("retrier", rng) == Patience(ttft_s=6.0)
    assert {manners.waits(behaviour, rng) for behaviour in ("patient", "slow", "long", "burst", "flash")} == {ENDLESS}
    assert manners.reading("slow") == SLOWLY
    assert {manners.reading(b) for b in (*RESIDENTS, "burst", "flash") if b != "slow"} == {AT_ONCE}


def test_strangers_are_who_the_weights_say():
    """Chi-square with two degrees of freedom."""
    weights, n = {"patient": 6.0, "abandoner": 3.0, "slow": 0.0, "retrier": 1.0}, 500
    p = []
    for seed in SEEDS:
        counts = Counter(pick(weights, generator(seed, f"open-o{number}").random()) for number in range(n))
        assert not counts["slow"]
        expected = {who: n * weight / 10 for who, weight in weights.items() if weight}
        p.append(chi_square_p(sum((counts[who] - e) ** 2 / e for who, e in expected.items()), 2))
    assert rejected(p) <= FAILURES
    assert pick({}, 0.5) == "patient"
    assert [pick({"slow": 1.0}, u) for u in (0.0, 0.5, 0.999999999999)] == ["slow"] * 3


@given(
    st.integers(0, 10_000),
    st.dictionaries(st.sampled_from(RESIDENTS), st.one_of(st.just(0.0), st.floats(0.001, 1000.0)), max_size=5),
)
def test_people_are_split_without_losing_anybody(people, weights):
    counts = apportion(people, weights)
    assert sum(counts.values()) == people
    assert min(counts.values(), default=1) > 0
    total = sum(weights.values())
    if total:
        assert all(abs(counts.get(who, 0) - people * weight / total) < 1 for who, weight in weights.items())


def test_a_split_is_the_nearest_one():
    assert apportion(10, {"patient": 6, "abandoner": 3, "retrier": 1}) == {"patient": 6, "abandoner": 3, "retrier": 1}
    assert apportion(4, {"patient": 2, "slow": 1}) == {"patient": 3, "slow": 1}
    assert apportion(3, {}) == {"patient": 3}
    assert statistics.fmean(apportion(7, dict.fromkeys(RESIDENTS, 1.0)).values()) == 1.4
