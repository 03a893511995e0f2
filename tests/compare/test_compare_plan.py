"""The load of a comparison and the order of its runs."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from loadgen.arrivals import check, generator, schedule
from loadgen.prompts import prompt_of
from server.compare import mixture
from server.compare.mixture import Lengths, Mixture
from server.compare.plan import order, seconds_of

MIXTURE = Mixture(short=Lengths(32, 16), long=Lengths(512, 48))


@pytest.mark.parametrize(
    ("arms", "rounds", "expected"),
    [(2, 1, [0, 1, 1, 0]), (2, 2, [0, 1, 1, 0, 0, 1, 1, 0]), (3, 1, [0, 1, 2, 2, 1, 0])],
)
def test_runs_go_forward_and_back(arms: int, rounds: int, expected: list[int]) -> None:
    assert order(arms, rounds) == expected


@pytest.mark.parametrize("arms", [2, 3, 6])
def test_a_drift_in_a_straight_line_weighs_on_all_arms_alike(arms: int) -> None:
    places: dict[int, list[int]] = {}
    for place, arm in enumerate(order(arms, 2)):
        places.setdefault(arm, []).append(place)
    assert len({sum(each) for each in places.values()}) == 1


@pytest.mark.parametrize(
    ("rate", "rounds", "seconds"), [(4.5, 1, 44.0), (0.5, 1, 50.0), (20.0, 1, 16.0), (5.0, 2, 20.0)]
)
def test_a_run_is_long_enough_for_a_p95_and_no_longer(rate: float, rounds: int, seconds: float) -> None:
    assert seconds_of(rate, rounds) == seconds


def test_one_seed_makes_one_load() -> None:
    script = mixture.steady(MIXTURE, 4.0, 50.0, 7)
    assert script == mixture.steady(MIXTURE, 4.0, 50.0, 7)
    assert script != mixture.steady(MIXTURE, 4.0, 50.0, 8)
    assert check(script) == ""
    assert all(0 < request.at_s < 50.0 for request in script.requests)
    assert abs(len(script.requests) - 200) < 5 * math.sqrt(200)


def test_kinds_users_and_priorities() -> None:
    requests = mixture.at_once(MIXTURE, 40, 1).requests
    assert Counter(request.behaviour for request in requests) == {"patient": 34, "long": 6}
    for request in requests:
        long = request.behaviour == "long"
        assert (request.prompt_tokens, request.output_tokens) == ((512, 48) if long else (32, 16))
        assert request.priority == (1 if long else 0)
        assert (request.client == "batch") == long
    assert {request.client for request in requests} == {"batch", *(f"user{n}" for n in range(1, 8))}
    assert all(request.at_s == 0.0 for request in requests)


def test_the_words_are_the_runs_own_and_nothing_else_is() -> None:
    script = mixture.steady(MIXTURE, 4.0, 5.0, 1)
    first, later = (list(schedule(script, seed)) for seed in (1001, 2001))
    assert first == later
    for arrival in first[:3]:
        assert arrival.row is not None
        prompts = [
            prompt_of(generator(seed, f"open request {arrival.number}"), *arrival.row[1:], 2048)
            for seed in (1001, 2001)
        ]
        assert prompts[0].words == prompts[1].words == arrival.row.prompt_tokens
        assert prompts[0].max_tokens == arrival.row.output_tokens
        assert prompts[0].messages != prompts[1].messages


@pytest.mark.parametrize(
    ("usual", "context", "short", "long"),
    [
        ((40, 32), 2048, (32, 16), (512, 48)),
        ((400, 150), 8192, (200, 75), (2730, 225)),
        ((40, 32), 300, (32, 16), (100, 48)),
    ],
)
def test_lengths_suit_the_engine(
    usual: tuple[int, int], context: int, short: tuple[int, int], long: tuple[int, int]
) -> None:
    suited = Mixture.suited(usual, context)
    assert (suited.short, suited.long) == (Lengths(*short), Lengths(*long))
    suited.check(context)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (Mixture(short=Lengths(32, 16), long=Lengths(32, 16)), "longer than a short one"),
        (Mixture(short=Lengths(0, 16), long=Lengths(32, 16)), "at least one token"),
        (Mixture(short=Lengths(32, 16), long=Lengths(1300, 48)), "at most 1210/1024"),
        (Mixture(short=Lengths(32, 16), long=Lengths(64, 1100)), "may not fit"),
        (Mixture(short=Lengths(32, 16), long=Lengths(64, 16), long_share=1.0), "between 0 and 1"),
    ],
)
def test_a_load_that_cannot_be_is_refused_in_a_sentence(changed: Mixture, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        changed.check(2048)
