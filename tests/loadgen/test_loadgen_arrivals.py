"""When: seeded, independent of the number of workers, and statistically what they claim.

Each statistical test asks 20 seeds at a level of 5 % and lets at most 4 fail; the seeds are fixed, so it passes or fails
for good. A test of the tests shows that a wrong claim is found out.
"""

import itertools
import math
import statistics

import pytest

from loadgen.arrivals import (
    Constant,
    Gamma,
    OnOff,
    Ramp,
    Replay,
    Script,
    ScriptedRequest,
    check,
    first_think_s,
    generator,
    in_words,
    mine,
    parse_arrivals,
    rate_at,
    request_id,
    schedule,
    think_s,
)
from tests.loadgen.goodness import (
    FAILURES,
    SEEDS,
    chi_square_p,
    distance,
    kolmogorov_p,
    regularised_gamma,
    rejected,
)


def times(process, seed, count):
    return [arrival.at_s for arrival in itertools.islice(schedule(process, seed), count)]


def until_s(process, seed, seconds):
    return list(itertools.takewhile(lambda arrival: arrival.at_s < seconds, schedule(process, seed)))


def gaps_of(stamps):
    return [later - earlier for earlier, later in itertools.pairwise([0.0, *stamps])]


def counts_of(stamps, window_s, seconds):
    counts = [0] * int(seconds / window_s)
    for at_s in stamps:
        if at_s < len(counts) * window_s:
            counts[int(at_s / window_s)] += 1
    return counts


def dispersion(counts):
    """Variance over mean of the counts: 1 for Poisson, over 1 for clumps."""
    return statistics.variance(counts) / statistics.fmean(counts)


def exponential(rate):
    return lambda x: 1 - math.exp(-rate * x)


def test_the_incomplete_gamma_function_is_right():
    for x in (0.01, 0.5, 1.0, 4.0, 20.0):
        assert regularised_gamma(1.0, x) == pytest.approx(1 - math.exp(-x), abs=1e-12)
        assert regularised_gamma(0.5, x) == pytest.approx(math.erf(math.sqrt(x)), abs=1e-12)
    assert chi_square_p(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert kolmogorov_p(1.358 / math.sqrt(10**6), 10**6) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("shape", [1.0, 0.5, 0.25, 4.0])
def test_gaps_fit_their_gamma_distribution(shape):
    rate, n = 5.0, 1_000

    def gamma(x):
        return regularised_gamma(shape, shape * rate * x)

    p = [kolmogorov_p(distance(gaps_of(times(Gamma(rate, shape), seed, n)), gamma), n) for seed in SEEDS]
    assert rejected(p) <= FAILURES


def test_poisson_gaps_fit_the_exponential_distribution_and_no_other():
    n = 1_500
    gaps = [gaps_of(times(Gamma(5.0), seed, n)) for seed in SEEDS]
    assert rejected([kolmogorov_p(distance(one, exponential(5.0)), n) for one in gaps]) <= FAILURES
    assert rejected([kolmogorov_p(distance(one, exponential(5.5)), n) for one in gaps]) > 10
    clumps = [gaps_of(times(Gamma(5.0, 0.5), seed, n)) for seed in SEEDS]
    assert rejected([kolmogorov_p(distance(one, exponential(5.0)), n) for one in clumps]) == len(SEEDS)


def test_poisson_counts_are_as_dispersed_as_a_poisson_process_is():
    """(n - 1) x variance / mean of n counts is chi-square with n - 1 degrees of freedom."""
    seconds, window_s = 400, 2.0
    p = []
    for seed in SEEDS:
        counts = counts_of([a.at_s for a in until_s(Gamma(5.0), seed, seconds)], window_s, seconds)
        upper = chi_square_p((len(counts) - 1) * dispersion(counts), len(counts) - 1)
        p.append(2 * min(upper, 1 - upper))
    assert rejected(p) <= FAILURES


@pytest.mark.parametrize("shape", [0.25, 0.5, 4.0])
def test_gamma_counts_are_dispersed_by_one_over_the_shape(shape):
    """Asymptotically, over windows of many arrivals."""
    seconds = 1_200
    found = [
        dispersion(counts_of([a.at_s for a in until_s(Gamma(5.0, shape), seed, seconds)], 12.0, seconds))
        for seed in SEEDS
    ]
    assert statistics.fmean(found) == pytest.approx(1 / shape, rel=0.15)


@pytest.mark.parametrize("shape", [1.0, 0.25])
def test_the_number_of_arrivals_is_the_rate_within_its_own_error(shape):
    seconds, rate = 200, 10.0
    z = [
        (len(until_s(Gamma(rate, shape), seed, seconds)) - rate * seconds) / math.sqrt(rate * seconds / shape)
        for seed in SEEDS
    ]
    assert sum(abs(one) > 1.96 for one in z) <= FAILURES
    assert abs(statistics.fmean(z)) * math.sqrt(len(z)) < 2.6


def test_constant_arrivals():
    assert times(Constant(4.0), 1, 5) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])
    assert times(Constant(0.0), 1, 5) == times(Gamma(0.0), 1, 5) == []


@pytest.mark.parametrize(
    "ramp", [Ramp(0.0, 20.0, 60.0), Ramp(20.0, 4.0, 60.0), Ramp(2.0, 12.0, 60.0, 0.5), Ramp(6.0, 6.0, 60.0)], ids=str
)
def test_a_ramp_is_a_renewal_process_in_rescaled_time(ramp):
    """Through the integral of the rate the gaps are gamma with mean 1, on the slope and on the plateau after it."""

    def passed(at_s):
        on_slope = min(at_s, ramp.over_s)
        slope = (ramp.to_per_s - ramp.from_per_s) / ramp.over_s
        return ramp.from_per_s * on_slope + slope * on_slope**2 / 2 + ramp.to_per_s * (at_s - on_slope)

    p, plateau = [], []
    for seed in SEEDS:
        stamps = [a.at_s for a in until_s(ramp, seed, 90.0)]
        plateau.append(sum(at_s >= ramp.over_s for at_s in stamps))
        gaps = gaps_of([passed(at_s) for at_s in stamps])
        d = distance(gaps, lambda x: regularised_gamma(ramp.shape, ramp.shape * x))
        p.append(kolmogorov_p(d, len(gaps)))
    assert rejected(p) <= FAILURES
    assert statistics.fmean(plateau) == pytest.approx(30 * ramp.to_per_s, rel=0.15)


def test_a_ramp_down_to_nothing_ends():
    stamps = [arrival.at_s for arrival in schedule(Ramp(10.0, 0.0, 20.0), 3)]
    assert stamps == sorted(stamps)
    assert max(stamps) < 20.0
    assert len(stamps) == pytest.approx(100, abs=30)
    assert (rate_at(Ramp(10.0, 0.0, 20.0), 5.0), rate_at(Ramp(10.0, 0.0, 20.0), 99.0)) == (7.5, 0.0)


def test_heavy_clients_make_their_share_in_bursts():
    process, seconds = OnOff(per_s=5.0, clients=10, share=0.8, on_s=10.0, off_s=30.0), 2_000
    shares, rates, spreads = [], [], []
    for seed in SEEDS:
        arrivals = until_s(process, seed, seconds)
        stamps = [arrival.at_s for arrival in arrivals]
        assert stamps == sorted(stamps)
        heavy = [arrival.client for arrival in arrivals if arrival.client.startswith("h")]
        strangers = [arrival.client for arrival in arrivals if not arrival.client.startswith("h")]
        assert set(heavy) == {f"h{number}" for number in range(1, 11)}
        assert len(set(strangers)) == len(strangers)
        shares.append(len(heavy) / len(arrivals))
        rates.append(len(arrivals) / seconds)
        spreads.append(dispersion(counts_of(stamps, 5.0, seconds)))
    assert statistics.fmean(shares) == pytest.approx(0.8, abs=0.02)
    assert statistics.fmean(rates) == pytest.approx(5.0, rel=0.05)
    assert min(spreads) > 1.5, "no more bursty than Poisson"


def test_a_heavy_client_is_silent_while_it_is_off():
    """One client alone: within an on-time its gaps are short, between two of them there is an off-time."""
    process = OnOff(per_s=2.0, clients=1, share=1.0, on_s=5.0, off_s=45.0)
    stamps = [arrival.at_s for arrival in until_s(process, 1, 20_000)]
    gaps = gaps_of(stamps)[1:]
    silences = [gap for gap in gaps if gap > 5.0]  # 100 gaps of an on-time
    assert len(silences) == pytest.approx(20_000 / 50, rel=0.15)
    assert statistics.fmean(silences) == pytest.approx(50, rel=0.15)
    inside = [gap for gap in gaps if gap < 1.0]
    assert statistics.fmean(inside) == pytest.approx(1 / 20, rel=0.1)


PROCESSES = [Constant(5.0), Gamma(5.0, 0.25), Ramp(1.0, 9.0, 10.0), OnOff(5.0)]


@pytest.mark.parametrize("process", PROCESSES, ids=in_words)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_workers_parts_make_the_whole_schedule(process, workers):
    whole = list(itertools.islice(schedule(process, 7), 300))
    assert [arrival.number for arrival in whole] == list(range(300))
    parts = [
        list(itertools.islice(mine(schedule(process, 7), worker, workers), 300 // workers)) for worker in range(workers)
    ]
    assert sorted(itertools.chain(*parts), key=lambda arrival: arrival.number) == whole
    assert all(arrival.number % workers == worker for worker, part in enumerate(parts) for arrival in part)


@pytest.mark.parametrize("process", PROCESSES[1:], ids=in_words)
def test_another_seed_is_another_schedule(process):
    assert times(process, 1, 50) == times(process, 1, 50)
    assert times(process, 1, 50) != times(process, 2, 50)


def test_a_script_is_its_requests_in_order_whatever_the_seed():
    script = Script([ScriptedRequest(0.5, 40, 3, "a"), ScriptedRequest(2.0, 9, 1, "b", "long", 1)])
    first, second = schedule(script, 1)
    assert (first.at_s, first.number, first.client, first.row[1:], first.priority) == (0.5, 0, "a", (40, 3), 0)
    assert (second.at_s, second.number, second.behaviour, second.priority) == (2.0, 1, "long", 1)
    assert list(schedule(script, 2)) == [first, second]
    assert [arrival.number for arrival in mine(schedule(script, 1), 1, 2)] == [1]
    assert (rate_at(script, 1.0), in_words(script), check(script)) == (None, "script of 2 requests", "")


@pytest.mark.parametrize(
    ("requests", "part"),
    [
        ([ScriptedRequest(1.0, 1, 1, "a"), ScriptedRequest(0.5, 1, 1, "a")], "in order of time"),
        ([ScriptedRequest(-1.0, 1, 1, "a")], "from 0 on"),
        ([ScriptedRequest(1.0, 1, 0, "a")], "at least one token"),
    ],
)
def test_a_script_that_cannot_be_played_is_refused(requests, part):
    assert part in check(Script(requests))


def test_a_trace_at_any_speed(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,10,5\n2023-11-16 18:00:30,20,6\n")
    found = list(schedule(Replay(str(path), speed=10.0), 1))
    assert [(a.at_s, a.number, a.client, a.row.prompt_tokens) for a in found] == [
        (0.0, 0, "o0", 10),
        (3.0, 1, "o1", 20),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant:2", Constant(2.0)),
        ("poisson:0.5", Gamma(0.5)),
        ("gamma:2:0.25", Gamma(2.0, 0.25)),
        ("ramp:0:8:120", Ramp(0.0, 8.0, 120.0)),
        ("ramp:0:8:120:0.5", Ramp(0.0, 8.0, 120.0, 0.5)),
        ("onoff:2", OnOff(2.0)),
        ("onoff:2:5:0.9", OnOff(2.0, 5, 0.9)),
        ("replay:a/b.csv", Replay("a/b.csv")),
        ("replay:a/b.csv:10", Replay("a/b.csv", 10.0)),
        ("replay:od:d.csv", Replay("od:d.csv")),
    ],
)
def test_arrivals_on_a_command_line(text, expected):
    assert parse_arrivals(text) == expected
    assert in_words(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "poisson",
        "poisson:x",
        "poisson:1:2",
        "poisson:nan",
        "constant:-1",
        "constant:1:2",
        "gamma:2:0",
        "gamma:2:nan",
        "gamma:inf",
        "ramp:1:2",
        "ramp:1:2:0",
        "ramp:0:0:10",
        "ramp:1:2:nan",
        "onoff:2:0",
        "onoff:2:inf",
        "onoff:2:nan",
        "onoff:2:10:0",
        "onoff:2:10:1.5",
        "replay:",
        "replay:x:0",
        "replay:x:nan",
        "fly:1",
    ],
)
def test_what_cannot_be_carried_out_is_said_in_one_sentence(text):
    with pytest.raises(ValueError, match=r"^[^\n]{20,}\.$") as refused:
        parse_arrivals(text)
    assert "Error" not in str(refused.value)


def test_a_process_from_elsewhere_is_checked_too():
    assert check(OnOff(1.0, off_s=-1.0))
    assert check(OnOff(1.0, on_s=0.0))
    assert check(OnOff(1.0, clients=10_001))
    assert not check(OnOff(1.0, clients=10_000))
    assert check(Gamma(1e7))
    assert not any(check(process) for process in PROCESSES)


def test_generators_repeat_and_do_not_share_state():
    one = [generator(1, "patient-1").random() for _ in range(2)]
    assert one[0] == one[1]
    others = {generator(seed, name).random() for seed in (1, 2, 12) for name in ("a", "b", "2/a")}
    assert len(others) == 9


def test_think_times_are_exponential():
    n = 1_000
    draws = [[think_s(rng, 8.0) for _ in range(n)] for rng in (generator(seed, "p") for seed in SEEDS)]
    assert rejected([kolmogorov_p(distance(one, exponential(1 / 8)), n) for one in draws]) <= FAILURES
    rng = generator(7, "p")
    assert think_s(rng, 0.0) == 0.0
    firsts = [first_think_s(rng, 8.0) for _ in range(2_000)]
    assert kolmogorov_p(distance(firsts, lambda x: x / 8), 2_000) > 0.01


def test_request_ids_are_version_4_and_follow_the_seed():
    ids = [request_id(rng) for rng in (generator(1, "p"), generator(1, "p"), generator(2, "p"))]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 32
    assert ids[0][12] == "4"
