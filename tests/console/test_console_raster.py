from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import raster


@pytest.mark.parametrize(
    ("value", "top"), [(0.0, 1.0), (0.84, 1.0), (1.01, 1.5), (18.0, 20.0), (250.0, 300.0), (0.03, 0.03)]
)
def test_nice_top(value: float, top: float) -> None:
    assert raster.nice_top(value) == pytest.approx(top)


@given(st.floats(1e-6, 1e9))
def test_nice_top_is_above_and_not_far_above(value: float) -> None:
    top = raster.nice_top(value)
    assert value <= top * (1 + 1e-6)
    assert top <= value * 1.7


def test_a_spike_of_one_sample_survives() -> None:
    columns: list[raster.Column] = [(0.0, 0.0)] * 9
    columns[4] = (0.0, 1.0)
    rows = [raster.characters(row) for row in raster.braille(columns, 3, 1.0)]
    assert rows[0].strip(), "the top row shows the spike"
    assert rows[0].index(rows[0].strip()) == 2


def test_gaps_stay_empty_and_are_not_joined() -> None:
    rows = raster.braille([(0.0, 0.0), (0.0, 0.0), None, None, (1.0, 1.0), (1.0, 1.0)], 2, 1.0)
    assert [row[1] for row in rows] == [0, 0]
    assert raster.characters(rows[0]) == "  ⠉"
    assert raster.characters(rows[1]) == "⣀  "


def test_neighbours_are_joined() -> None:
    rows = raster.braille([(0.0, 0.0), (1.0, 1.0)], 2, 1.0)
    assert [raster.characters(row) for row in rows] == ["⢸", "⡸"]


@given(
    st.lists(st.one_of(st.none(), st.tuples(st.floats(0, 2), st.floats(0, 2)).map(sorted).map(tuple)), max_size=40),
    st.integers(1, 6),
)
def test_every_known_column_has_a_dot_and_no_gap_has_one(columns: list[raster.Column], rows: int) -> None:
    grid = raster.braille(columns, rows, 1.0)
    for x, column in enumerate(columns):
        bits = (0x47, 0xB8)[x % 2]
        assert any(row[x // 2] & bits for row in grid) == (column is not None)


def test_spark_tells_absent_zero_and_little_apart() -> None:
    assert raster.spark([None, 0.0, 0.001, 0.5, 1.0, 3.0], 1.0) == [" ▁▂▄██"]


def test_spark_of_two_rows() -> None:
    assert raster.spark([0.5, 1.0, 0.0], 1.0, 2) == [" █ ", "██▁"]


def test_bar_shows_more_than_nothing() -> None:
    assert raster.bar(0.001, 4) == ("━", "───")
    assert raster.bar(0.0, 4) == ("", "────")
    assert raster.bar(None, 4) == ("", "────")
    assert raster.bar(7.0, 4) == ("━━━━", "")


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=10), st.integers(10, 200))
def test_apportion_adds_up_and_shows_every_part(parts: list[float], width: int) -> None:
    cells = raster.apportion(parts, width)
    if sum(parts) <= 0:
        assert cells == [0] * len(parts)
        return
    assert sum(cells) == width
    assert all(c > 0 for c, part in zip(cells, parts, strict=True) if part > 0)


@pytest.mark.parametrize(
    ("value", "place"),
    [(1.0, 0), (10.0, 5), (100.0, 10), (0.9, 0), (120.0, 10), (150.0, None), (0.5, None), (0.0, None), (-3.0, None)],
)
def test_along_log_places_by_ratio(value: float, place: int | None) -> None:
    assert raster.along_log(value, 1.0, 100.0, 11) == place


def test_along_log_has_no_place_on_a_degenerate_axis() -> None:
    assert raster.along_log(1.0, 1.0, 1.0, 10) is None
    assert raster.along_log(1.0, 0.0, 8.0, 10) is None
    assert raster.along_log(math.nan, 1.0, 8.0, 10) is None
