"""Histograms: within 1 %, merged without loss."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.histogram import RATIO, SMALLEST, Histogram, quantiles_of

durations = st.one_of(st.floats(0, 1e4), st.floats(0, 2e-6), st.sampled_from([SMALLEST, SMALLEST * RATIO, 1.0, -0.5]))


def histogram(values):
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(st.lists(durations, min_size=1, max_size=300), st.floats(0.001, 1.0))
def test_a_quantile_is_within_one_percent_of_the_nearest_rank(values, share):
    found = histogram(values)
    exact = sorted(max(0.0, value) for value in values)
    assert (found.n, found.largest) == (len(values), exact[-1])
    assert found.mean == pytest.approx(math.fsum(exact) / len(exact))
    true = exact[max(0, math.ceil(share * len(exact)) - 1)]
    assert found.quantile(share) == pytest.approx(true, rel=0.01, abs=SMALLEST)
    assert found.quantile(share) <= found.largest


@given(st.lists(st.lists(durations, max_size=60), max_size=5), st.randoms())
def test_merging_loses_nothing_in_whatever_order(parts, dice):
    whole = histogram(value for part in parts for value in part)
    made = [histogram(part) for part in parts]
    dice.shuffle(made)
    merged = Histogram()
    for part in made:
        before = msgspec.structs.astuple(part)
        merged.merge(part)
        assert msgspec.structs.astuple(part) == before
    assert (merged.counts, merged.n, merged.largest) == (whole.counts, whole.n, whole.largest)
    assert merged.total == pytest.approx(whole.total)
    assert sum(merged.counts.values()) == merged.n
    if merged.n:
        shares = (0.5, 0.95, 0.99)
        together = quantiles_of(merged.counts, merged.n, merged.largest, shares)
        assert together == [merged.quantile(share) for share in shares]


@given(st.lists(durations, max_size=50))
def test_it_travels_as_json(values):
    made = histogram(values)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Histogram) == made


def test_nothing_is_nothing_and_no_two_share_their_counts():
    assert (Histogram().mean, Histogram().quantile(0.5)) == (None, None)
    one, other = Histogram(), Histogram()
    one.add(1.0)
    assert other == Histogram(counts={})
