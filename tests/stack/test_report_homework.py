"""Homework: blank, filled in by a student, filled in by a run, and never a word of theirs lost."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_recordings import CPU, H100
from test_report_page import searched

from server.report import ReportError, gather, gathered, homework, markdown, source_of
from server.report.homework import (
    MARK,
    HomeworkError,
    blank,
    emptied,
    fill,
    filled,
    is_homework,
    predictions,
    read,
    write_blank,
)
from server.report.order import Order, carry_out
from server.report.predictions import QUESTIONS, Asked, Guess, Measured, comparison, guess
from server.report.rows import Run
from server.telemetry.snapshot import Snapshot


@pytest.fixture(scope="module")
def run() -> Run:
    return gathered(CPU)


@pytest.fixture(scope="module")
def told(run: Run) -> str:
    return markdown(run, source_of(CPU))


@pytest.fixture(scope="module")
def small() -> tuple[Run, str]:
    found = gather([Snapshot(seq=n, at=1.0 + n, wall=1e9) for n in range(3)])
    return found, markdown(found, "a test")


def answered(*texts: str) -> str:
    """The blank one with these predictions, in order."""
    left = iter(texts)
    lines = [f"prediction: {next(left, '')}" if line == "prediction:" else line for line in blank().split("\n")]
    return "\n".join(lines)


def test_there_is_room_for_everything() -> None:
    text = blank()
    found = predictions(text)
    assert [p.asked for p in found] == list(QUESTIONS)
    assert {p.text for p in found} == {""}
    assert "users ──▶ API endpoint ──▶ queue" in text
    for number in range(1, 7):
        assert [a.kind for a in QUESTIONS if a.section == number] == ["waits", "fails", "measure"]
    assert QUESTIONS[-1].kind == "knee"


def test_what_was_predicted_stands_beside_what_happened(run: Run, told: str) -> None:
    text = answered("2 ms", "none", "", "", "", "", "1 to 3 s, I guess", "", "about 8")
    found = filled(text, run, told)
    queue = found.split("## 3. queue")[1].split("## 4.")[0]
    assert "**Measured:** 6.70 s (48 % of a mean request's 14.0 s, n=41)" in queue
    assert "predicted 1 s to 3 s, measured 6.70 s: off, 2.2 times too low." in queue
    assert "predicted 8, measured 8: right." in queue
    people = found.split("## 1. people")[1].split("## 2.")[0]
    assert "predicted 2.0 ms, measured 1.5 ms: close, 1.4 times too high." in people
    assert "predicted 0, measured 0: right." in people
    assert "no prediction was given." in found
    knee = found.split("## 7. the knee")[1].split("## What surprised")[0]
    assert "**Measured:** — (no capacity search answered in this run: `spark-serve capacity`)" in knee
    assert "Of 19 predictions 4 were given and 4 could be compared by number: 2 right, 1 close." in found
    assert "\n## Request log: SmolLM2-135M-Instruct on CPU\n" in found
    assert emptied(found) == text


def test_the_knee_is_compared_with_its_band() -> None:
    found = gather([Snapshot(seq=n, at=1.0 + n, wall=1e9, capacity=searched()) for n in range(3)])
    asked = QUESTIONS[-1]
    measured = asked.of(found)
    assert (measured.v, measured.low, measured.high) == (80.0, 70.0, 92.0)
    said = comparison("40 people", asked, measured)
    assert said == "predicted 40 people, measured 80 (70–92): close, 1.8 times too low."
    assert comparison("75", asked, measured).endswith("right.")
    assert comparison("perhaps 1,000", asked, measured).endswith("off, 11 times too high.")


def test_filling_in_again_replaces_the_figures_and_nothing_else(run: Run, told: str) -> None:
    text = answered("3 ms")
    other = gathered(H100)
    first = filled(text, other, markdown(other, source_of(H100)))
    assert "qwen3-8b" in first
    again = filled(first, run, told)
    assert again == filled(text, run, told)
    assert "qwen3-8b" not in again


def test_what_somebody_wrote_into_our_lines_stays(run: Run, told: str) -> None:
    first = filled(answered("3 ms"), run, told)
    mine = first.replace("**Measured:** 1.5 ms", "MY NOTE, not to be lost\n**Measured:** 1.5 ms", 1)
    again = filled(mine, run, told)
    assert again.count("MY NOTE, not to be lost") == 1
    assert again.count("## 1. people") == 1
    assert filled(again, run, told) == again


def test_a_prediction_may_go_on_and_its_place_may_be_decorated(run: Run, told: str) -> None:
    text = blank().replace("prediction:\n", "**Prediction:** because of the slots\nI say 7 seconds\n", 7)
    found = predictions(text)
    assert found[6].text == "because of the slots I say 7 seconds"
    assert found[6].guess == Guess(7.0, 7.0)
    assert "predicted 7 s, measured 6.70 s: right, within 4 %." in filled(text, run, told)


def test_windows_line_ends_stay(run: Run, told: str) -> None:
    text = answered("3 ms").replace("\n", "\r\n")
    found = filled(text, run, told)
    assert emptied(found) == text
    assert "\n" not in found.replace("\r\n", "")
    assert filled(found.replace("\r\n", "\n"), run, told) == filled(answered("3 ms"), run, told), (
        "another editor's ends"
    )


KNOWN = [
    *blank().split("\n"),
    "```",
    "prediction: 5",
    MARK,
    "<!-- spark-serve end -->",
    "<!-- spark-serve wrote 000000000000 -->",
]
LINES = st.one_of(
    st.sampled_from(KNOWN), st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40)
)


@given(st.lists(LINES, max_size=30), st.booleans())
def test_no_byte_of_a_student_is_ever_lost(small: tuple[Run, str], lines: list[str], ends: bool) -> None:
    """Whatever was written where, what was there is there in its order, and the figures of a later run replace the former's."""
    text = "\n".join([MARK, *lines, *([""] if ends else [])])
    found = filled(text, *small)
    assert emptied(found).rstrip("\r\n") == text.rstrip("\r\n")
    assert emptied(found).startswith(text)
    assert filled(found, *small) == found


@given(st.data())
def test_wherever_a_student_writes_into_a_filled_one_it_stays(small: tuple[Run, str], data: st.DataObject) -> None:
    lines = filled(answered("3 ms"), *small).split("\n")
    at = data.draw(st.integers(0, len(lines)))
    lines.insert(at, "WRITTEN BY HAND")
    again = filled("\n".join(lines), *small)
    assert again.count("WRITTEN BY HAND") >= 1
    assert "WRITTEN BY HAND" in filled(again, *small)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_text_survive(small: tuple[Run, str], junk: bytes) -> None:
    text = (blank().encode() + b"\n" + junk).decode("utf-8", "surrogateescape")
    kept = emptied(filled(text, *small)).encode("utf-8", "surrogateescape")
    assert kept.startswith(blank().encode() + b"\n" + junk)


def test_a_file_is_written_at_once_and_keeps_what_it_is(
    tmp_path: Path, small: tuple[Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "log.md", tmp_path / "link.md"
    write_blank(path)
    with pytest.raises(HomeworkError, match="exists already"):
        write_blank(path)
    path.chmod(0o640)
    link.symlink_to(path)
    fill(link, *small)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = path.read_bytes()
    assert b"**Measured:**" in before
    assert len(os.listdir(tmp_path)) == 2

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HomeworkError, match="No space left"):
        fill(path, *small)
    assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) == 2, "nothing half-written is left"


def test_what_an_editor_saves_in_the_meantime_is_filled_in(
    tmp_path: Path, small: tuple[Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.md"
    write_blank(path)
    saved = answered("saved by an editor: 5 s")
    real, calls = homework.filled, []

    def slowly(text: str, run: Run, report: str) -> str:
        calls.append(text)
        if len(calls) == 1:
            path.write_text(saved)
        return real(text, run, report)

    monkeypatch.setattr(homework, "filled", slowly)
    fill(path, *small)
    assert len(calls) == 2
    assert "saved by an editor: 5 s" in path.read_text()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "lacks the line"),
        (b"# my notes\nprediction: 5\n", "lacks the line"),
        (b"<!-- spark-serve homework 2 -->\n", "version 2"),
        (b"x" * (4 * 1024 * 1024 + 1), "over 4 MiB"),
        (None, "No such file"),
    ],
    ids=["nothing", "notes", "of another version", "too long", "not there"],
)
def test_what_is_no_homework_is_refused_in_a_sentence(tmp_path: Path, data: bytes | None, why: str) -> None:
    path = tmp_path / "log.md"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(HomeworkError, match=why) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert not is_homework(path)
    if data is not None:
        assert path.read_bytes() == data


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path, recording = tmp_path / "log.md", tmp_path / "run.sparkrec"
    write_blank(path)
    recording.write_bytes(CPU.read_bytes())
    with pytest.raises(ReportError, match="somebody's homework"):
        carry_out(Order(recording=str(recording), outputs={"md": str(path)}))
    assert path.read_text() == blank()
    with pytest.raises(ReportError, match="the recording itself"):
        carry_out(Order(recording=str(recording), outputs={"html": str(tmp_path / "." / "run.sparkrec")}))
    assert recording.read_bytes() == CPU.read_bytes()
    assert carry_out(Order(recording=str(recording), homework=str(path))) == [str(path)]
    assert "SmolLM2" in path.read_text()


@pytest.mark.parametrize(
    ("text", "unit", "wanted"),
    [
        ("about 20 s", "s", (20, 20)),
        ("150ms", "s", (0.15, 0.15)),
        ("80-120 ms", "s", (0.08, 0.12)),
        ("80 ms to 1.2 s", "s", (0.08, 1.2)),
        ("2 min", "s", (120, 120)),
        ("2,5 s", "s", (2.5, 2.5)),
        ("5 µs", "s", (5e-6, 5e-6)),
        ("1,200 people", "n", (1200, 1200)),
        ("1 200", "n", (1200, 1200)),
        ("1k", "n", (1000, 1000)),
        ("64 slots, so 64", "n", (64, 64)),
        ("60 %", "%", (60, 60)),
        ("none", "n", (0, 0)),
        ("Nothing, I hope", "n", (0, 0)),
        (".5 s", "s", (0.5, 0.5)),
        ("no idea", "", None),
        ("many", "n", None),
        ("", "s", None),
        ("v2", "n", None),
    ],
)
def test_a_number_is_found_as_people_write_it(text: str, unit: str, wanted: tuple[float, float] | None) -> None:
    found = guess(text, unit)  # type: ignore[arg-type]
    assert (None if found is None else (found.low, found.high)) == (wanted if wanted is None else pytest.approx(wanted))


@given(st.text(max_size=200), st.sampled_from(["s", "%", "n", ""]))
def test_whatever_is_predicted_is_compared_or_not(text: str, unit: str) -> None:
    asked = Asked(1, "waits", "?", unit, lambda _: Measured("1", 1.0))  # type: ignore[arg-type]
    said = comparison(text, asked, Measured("1", 1.0))
    assert said.endswith(".")
    assert not re.search(r"\b(nan|inf|None)\b", said)


def test_a_share_is_off_by_points() -> None:
    asked = next(a for a in QUESTIONS if a.unit == "%")
    assert comparison("60", asked, Measured("", 37.0)) == "predicted 60 %, measured 37 %: off, 23 points too high."
    assert comparison("40", asked, Measured("", 37.0)).endswith("right, 3.0 points too high.")
    assert comparison("40", asked, Measured("—")) == "predicted 40 %; not measured."
