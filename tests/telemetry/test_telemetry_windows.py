"""Windows: differences over real time, restarts seen, quantiles only where they are known."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.histogram import Histogram
from server.telemetry.windows import (
    Buckets,
    Gain,
    HistogramWindow,
    SampleWindow,
    bucket_quantile,
    bucket_quantiles,
    bucket_window,
    counter_window,
)

EDGES = (0.1, 0.2, 0.4, math.inf)


def buckets(*counts: float, total: float = 1.0) -> Buckets:
    return Buckets(EDGES, counts, total)


def test_a_rate_uses_real_elapsed_time() -> None:
    window = counter_window(30)
    for at, value in ((0.0, 100.0), (0.7, 107.0), (2.0, 120.0)):
        window.add(at, value)
    assert window.over(30) == Gain(20.0, 2.0, 2.0)
    assert window.over(1.5) == Gain(13.0, 1.3, 2.0)


def test_one_reading_is_no_rate() -> None:
    window = counter_window(30)
    assert window.over(10) is None
    window.add(1.0, 5.0)
    assert window.over(10) is None


def test_a_decrease_begins_the_window_anew() -> None:
    window = counter_window(30)
    for at, value in ((0.0, 1000.0), (1.0, 1010.0), (2.0, 3.0), (3.0, 8.0)):
        window.add(at, value)
    assert window.over(30) == Gain(5.0, 1.0, 3.0)


def test_a_gap_is_bridged_with_its_real_length() -> None:
    window = counter_window(10)
    for at in range(5):
        window.add(float(at), at * 10.0)
    window.add(60.0, 600.0)
    assert window.over(10) == Gain(560.0, 56.0, 60.0)
    window.add(61.0, 610.0)
    assert window.over(10) == Gain(10.0, 1.0, 61.0)


def test_a_stamp_that_does_not_advance_is_ignored() -> None:
    window = counter_window(10)
    window.add(1.0, 1.0)
    window.add(1.0, 9.0)
    window.add(0.5, 0.0)
    assert window.latest == (1.0, 1.0)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 20), st.integers(0, 100), st.booleans()),
        min_size=2,
        max_size=60,
    )
)
def test_a_gain_is_never_negative_and_never_spans_a_restart(steps: list[tuple[float, int, bool]]) -> None:
    """Each step: seconds, what the process counted in them, and whether it had restarted before."""
    window = counter_window(30)
    at, value, since_restart = 0.0, 50.0, 0.0
    window.add(at, value)
    readings_since = 1
    for seconds, gained, restarted in steps:
        at += seconds
        seen_restart = restarted and gained < value
        value = gained if restarted else value + gained
        window.add(at, value)
        if seen_restart:
            since_restart, readings_since = at, 1
        else:
            readings_since += 1
        gain = window.over(30)
        if readings_since < 2:
            assert gain is None
            continue
        assert gain is not None
        assert gain.amount >= 0
        assert 0 < gain.seconds <= at - since_restart + 1e-9


def test_bucket_differences_see_restarts_and_changed_edges() -> None:
    window = bucket_window(30)
    window.add(0.0, buckets(1, 2, 3, 4, total=1.0))
    window.add(1.0, buckets(2, 4, 6, 8, total=3.0))
    gain = window.over(30)
    assert gain is not None
    assert gain.amount == buckets(1, 2, 3, 4, total=2.0)
    window.add(2.0, buckets(1, 4, 6, 8, total=3.0))
    assert window.over(30) is None
    window.add(3.0, Buckets((0.1, math.inf), (1, 9), 4.0))
    assert window.over(30) is None


def test_interpolation_inside_a_bucket() -> None:
    assert bucket_quantile(buckets(0, 10, 10, 10), 0.5) == (pytest.approx(0.15), "")
    value, why = bucket_quantile(buckets(10, 10, 10, 10), 0.5)
    assert value is None
    assert why == "in the first bucket (under 0.1)"
    value, why = bucket_quantile(buckets(0, 0, 1, 10), 0.5)
    assert value is None
    assert why == "beyond the last bucket (over 0.4)"


@given(st.lists(st.floats(0.001, 0.39), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_an_interpolated_quantile_lies_in_the_true_ones_bucket(values: list[float], q: float) -> None:
    counts = [float(sum(v <= edge for v in values)) for edge in EDGES]
    value, why = bucket_quantile(buckets(*counts), q)
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    if value is None:
        assert true <= EDGES[0]
        assert "first bucket" in why
    else:
        high = next(edge for edge in EDGES if true <= edge)
        low = EDGES[EDGES.index(high) - 1]
        assert low <= value <= high + 1e-12


def test_high_quantiles_need_samples() -> None:
    few = bucket_quantiles(Gain(buckets(0, 99, 99, 99, total=9.9), 30.0, 5.0), 6.0, 30.0)
    assert (few.n, few.p95, few.p99, few.exact, few.age_s) == (99, None, None, False, 1.0)
    assert few.mean == pytest.approx(0.1)
    enough = bucket_quantiles(Gain(buckets(0, 100, 100, 100), 30.0, 5.0), 5.0, 30.0)
    assert enough.p95 == pytest.approx(0.195)
    assert enough.p99 is None
    assert bucket_quantiles(Gain(buckets(0, 500, 500, 500), 30.0, 5.0), 5.0, 30.0).p99 is not None


def test_why_names_the_quantiles_it_is_about() -> None:
    found = bucket_quantiles(Gain(buckets(96, 100, 100, 100), 30.0, 0.0), 0.0, 30.0)
    assert found.p50 is None
    assert found.p95 is None
    assert found.why == "p50, p95 in the first bucket (under 0.1)"


def test_nothing_observed_has_no_mean() -> None:
    found = bucket_quantiles(Gain(buckets(0, 0, 0, 0, total=0.0), 30.0, 0.0), 0.0, 30.0)
    assert (found.n, found.mean, found.p50) == (0, None, None)
    assert found.why
    assert bucket_quantiles(None, 0.0, 30.0).why == "needs two readings"


def test_sample_quantiles_are_values_that_occurred() -> None:
    window = SampleWindow(30.0)
    for i in range(500):
        window.add(i / 100, float(i))
    found = window.quantiles(5.0)
    assert (found.n, found.p50, found.p95, found.p99, found.max) == (500, 249, 474, 494, 499)
    assert found.mean == pytest.approx(249.5)
    assert found.exact


@pytest.mark.parametrize(
    ("n", "p95", "p99"), [(1, False, False), (99, False, False), (100, True, False), (500, True, True)]
)
def test_sample_quantiles_need_samples(n: int, p95: bool, p99: bool) -> None:
    window = SampleWindow(30.0)
    for _ in range(n):
        window.add(1.0, 2.0)
    found = window.quantiles(1.0)
    assert found.p50 == 2.0
    assert ((found.p95 is not None), (found.p99 is not None)) == (p95, p99)


def test_samples_leave_the_window() -> None:
    window = SampleWindow(30.0)
    window.add(0.0, 1.0)
    window.add(20.0, 2.0)
    assert window.quantiles(31.0).max == 2.0
    gone = window.quantiles(51.0)
    assert (gone.n, gone.mean, gone.p50, gone.max) == (0, None, None, None)


def test_a_full_sample_window_says_how_far_back_it_reaches() -> None:
    window = SampleWindow(30.0, limit=10)
    for i in range(40):
        window.add(float(i) / 2, 1.0)
    found = window.quantiles(20.0)
    assert found.n == 10
    assert found.window_s == pytest.approx(5.0)


def histogram(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=700), st.integers(1, 50))
def test_histogram_window_is_within_one_percent(values: list[float], batch: int) -> None:
    window = HistogramWindow(30.0)
    for i in range(0, len(values), batch):
        window.add(i / 100, histogram(values[i : i + batch]))
    found = window.quantiles(len(values) / 100)
    exact = sorted(values)
    n = len(exact)
    assert found.n == n
    assert not found.exact
    assert found.max == exact[-1]
    assert found.mean == pytest.approx(sum(exact) / n)
    for q, got in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        if got is not None:
            assert got == pytest.approx(exact[math.ceil(q * n) - 1], rel=0.0101, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 20), st.lists(st.floats(0, 10), max_size=20)), min_size=1, max_size=30))
def test_histogram_window_holds_what_is_in_it_and_no_more(batches: list[tuple[float, list[float]]]) -> None:
    """After whatever came and went, it says what a fresh one of the same batches says."""
    window, at, kept = HistogramWindow(30.0), 0.0, []
    for seconds, values in batches:
        at += seconds
        window.add(at, histogram(values))
        kept.append((at, values))
        fresh = HistogramWindow(30.0)
        for stamp, some in kept:
            if stamp >= at - 30.0:
                fresh.add(stamp, histogram(some))
        assert msgspec.structs.astuple(window.quantiles(at)) == msgspec.structs.astuple(fresh.quantiles(at))


def test_histogram_window_forgets_whole_batches() -> None:
    window = HistogramWindow(30.0)
    window.add(0.0, histogram([5.0] * 10))
    window.add(20.0, histogram([1.0] * 10))
    window.add(21.0, Histogram())
    assert window.quantiles(25.0).n == 20
    later = window.quantiles(45.0)
    assert (later.n, later.max) == (10, 1.0)
    assert window.quantiles(60.0).p50 is None
