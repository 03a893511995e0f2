from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (math.nan, "—"),
        (0.0, "0 s"),
        (0.0004, "0.4 ms"),
        (0.016, "16 ms"),
        (0.0994, "99 ms"),
        (0.0999, "100 ms"),
        (2.94, "2.94 s"),
        (9.999, "10.0 s"),
        (31.2, "31.2 s"),
        (134.0, "134 s"),
        (720.0, "12 min"),
        (0.31, "310 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert fmt.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0.0, "0 %"),
        (0.0001, "<0.1 %"),
        (0.003, "0.3 %"),
        (0.58, "58 %"),
        (0.992, "99.2 %"),
        (1.0, "100 %"),
    ],
)
def test_share(value: float | None, text: str) -> None:
    assert fmt.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.37, "0.37"), (25.0, "25.0"), (3750.0, "3 750"), (math.inf, "—")]
)
def test_rate(value: float, text: str) -> None:
    assert fmt.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(8192.0, "8192"), (9_999.6, "10.0k"), (48_120.0, "48.1k"), (1.2e6, "1.2M"), (999_950.0, "1.0M")]
)
def test_short_count_stays_short(value: float, text: str) -> None:
    assert fmt.short_count(value) == text


def test_size_is_binary() -> None:
    assert [fmt.size(v) for v in (512.0, 16_384.0, 71.3 * 2**30, 119.6 * 2**30)] == [
        "512 B",
        "16.0 KiB",
        "71.3 GiB",
        "120 GiB",
    ]


def test_a_figure_is_dated_only_when_it_is_old() -> None:
    assert (fmt.age(3.0), fmt.age(8.2), fmt.age(300.0)) == ("", " ·8s", " ·5m")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;aGk=\x07after", "after"),
        ("\x1b]0;title\x1b\\after", "after"),
        ("\x9b31mred", "red"),
        ("a\u202eb\u2066c", "abc"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("null\x00 bell\x07", "null bell"),
        ("[/red] stays", "[/red] stays"),
        ("名前", "名前"),
    ],
)
def test_sanitize(raw: str, clean: str) -> None:
    assert fmt.sanitize(raw) == clean


@given(st.text())
def test_nothing_that_steers_a_terminal_survives(text: str) -> None:
    clean = fmt.sanitize(text)
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in clean)
    assert not set(clean) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert fmt.sanitize(clean) == clean


def test_sanitize_cuts_what_is_long() -> None:
    assert fmt.sanitize("x" * 500, 10) == "x" * 9 + "…"
