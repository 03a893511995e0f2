"""When: seeded, independent, and statistically what they claim."""

import math
import statistics

from loadgen.arrivals import first_think_s, generator, poisson_gap_s, request_id, think_s


def test_generators_repeat_and_do_not_share_state():
    one = [generator(1, 0, "w0-p1").random() for _ in range(2)]
    assert one[0] == one[1]
    others = {generator(seed, worker, name).random() for seed in (1, 2) for worker in (0, 1) for name in ("a", "b")}
    assert len(others) == 8


def test_poisson_gaps_have_the_rate_and_the_spread_of_a_poisson_process():
    rng = generator(7, 0, "arrivals")
    gaps = [poisson_gap_s(rng, 25.0) for _ in range(20_000)]
    assert math.isclose(statistics.fmean(gaps), 1 / 25, rel_tol=0.03)
    assert math.isclose(statistics.stdev(gaps), 1 / 25, rel_tol=0.05)
    counts = [0] * int(sum(gaps))
    at = 0.0
    for gap in gaps:
        at += gap
        if at < len(counts):
            counts[int(at)] += 1
    assert math.isclose(statistics.variance(counts), statistics.fmean(counts), rel_tol=0.15)


def test_think_times():
    rng = generator(7, 0, "p")
    assert math.isclose(statistics.fmean(think_s(rng, 8.0) for _ in range(20_000)), 8.0, rel_tol=0.03)
    assert think_s(rng, 0.0) == 0.0
    firsts = [first_think_s(rng, 8.0) for _ in range(2_000)]
    assert min(firsts) >= 0
    assert max(firsts) <= 8.0
    assert math.isclose(statistics.fmean(firsts), 4.0, rel_tol=0.05)


def test_request_ids_are_version_4_and_follow_the_seed():
    ids = [request_id(rng) for rng in (generator(1, 0, "p"), generator(1, 0, "p"), generator(2, 0, "p"))]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 32
    assert ids[0][12] == "4"
