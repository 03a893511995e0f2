"""The scan against prometheus_client's parser, and against what a broken network and a wrong service send."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from server.telemetry.dialects.vllm import VllmDialect
from server.telemetry.exposition import parse_labels, parse_number, scan

DATA = Path(__file__).parent.parent / "data"
PAGES = sorted(DATA.glob("*.prom"))


def oracle(text: str, wanted: frozenset[str]) -> list[tuple[str, dict[str, str], float]]:
    """What prometheus_client finds, infinities and NaN left out."""
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in wanted and math.isfinite(sample.value)
    ]


def found(text: str, wanted: frozenset[str]) -> list[tuple[str, dict[str, str], float]]:
    return [(sample.name, dict(sample.labels), sample.value) for sample in scan(text, wanted).samples]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_real_pages_agree_with_the_oracle(page: Path) -> None:
    text, wanted = page.read_text(), VllmDialect.wanted
    expected = oracle(text, wanted)
    assert len(expected) > 100
    assert sorted(found(text, wanted), key=repr) == sorted(expected, key=repr)
    assert scan(text, wanted).refused == 0


label_values = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\\"\n{},= '), max_size=8)
labels = st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True), label_values, max_size=3)
values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**9), 10**9).map(str),
    st.sampled_from(["NaN", "+Inf", "-Inf", "1e3", "1E-3", "+5", ".5", "5."]),
)


def written(name: str, pairs: dict[str, str], value: str) -> str:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in pairs.items()}
    inside = ",".join(f'{k}="{v}"' for k, v in escaped.items())
    return f"{name}{{{inside}}} {value}\n" if pairs else f"{name} {value}\n"


@given(st.lists(st.tuples(st.sampled_from(["a", "ab", "b:c_total", "z"]), labels, values), max_size=8))
def test_generated_pages_agree_with_the_oracle(lines: list[tuple[str, dict[str, str], str]]) -> None:
    wanted = frozenset({"a", "b:c_total"})
    text = "".join(written(*line) for line in lines)
    assert sorted(found(text, wanted), key=repr) == sorted(oracle(text, wanted), key=repr)


@given(st.text(max_size=200))
def test_any_text_is_survived(text: str) -> None:
    for sample in scan("a 1\n" + text + "\na{" + text + "\n", frozenset({"a"})).samples:
        assert math.isfinite(sample.value)


@given(st.data())
def test_a_cut_page_never_gives_a_wrong_value(data: st.DataObject) -> None:
    text = PAGES[0].read_text()
    cut = data.draw(st.integers(0, len(text)))
    whole = found(text, VllmDialect.wanted)
    part = found(text[:cut], VllmDialect.wanted)
    assert part == whole[: len(part)]


@pytest.mark.parametrize("text", ["1_000", "0x10", "", "1e", "--1", "١", "1 ", "infinity", "nan5"])
def test_numbers_prometheus_refuses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        parse_number(text)


def test_a_bad_line_costs_itself_alone() -> None:
    text = 'a 1_000\na{x="1"} 2\na{x=1} 3\na{x="1" 4\na 5 6 7\na 8 1700000000\na{x="}"} 9\n'
    page = scan(text, frozenset({"a"}))
    assert [sample.value for sample in page.samples] == [2, 8, 9]
    assert page.refused == 4


def test_html_holds_nothing() -> None:
    assert scan("<html>\n<body>a</body>\n</html>\n", frozenset({"a", "<html>"})).samples == []


def test_label_escapes() -> None:
    assert parse_labels(r'a="x\"y\\z\nw",b="{,}",') == {"a": 'x"y\\z\nw', "b": "{,}"}
