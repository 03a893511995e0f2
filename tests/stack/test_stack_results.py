"""Saved capacity searches: kept, listed, refused in a sentence, and compared."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.capacity import Answer, Block, Progress, Question
from loadgen.slo import INTERACTIVE
from server.results import About, Result, ResultError, agree, comparable, compare, listed, listing_lines, load, save
from server.telemetry.snapshot import Engine, Queue, Snapshot, Value

ABOUT = About(
    wall=1_795_445_000.0,
    engine="vLLM",
    version="0.24.0",
    model="qwen3-8b",
    model_kind="shape",
    device="NVIDIA H100 80GB HBM3",
    max_num_seqs=64,
    max_model_len=8192,
    policy="fifo",
    max_in_flight=64,
    max_queue=256,
)
QUESTION = Question(mix="128/64 tokens, 3 turns", cache="fresh salt")
BLOCK = Block(people=64, phase="refine", begin_s=40.0, seconds=30.0, good=190, due=200, misses={"ttft": 10})


def search(best: float | None = 200.0, low: float = 180.0, high: float = 225.0, **question: Any) -> Progress:
    answer = Answer(
        resolved=best is not None,
        best=best,
        low=low,
        high=high,
        safe=int(low),
        clear_break=256,
        limit="TTFT",
        evidence="64 of 64 slots",
        confirmed=True,
        sentence=f"{best} people.",
    )
    asked = msgspec.structs.replace(QUESTION, **question)
    return Progress(question=asked, phase="done", people=64, blocks=[BLOCK], elapsed_s=340.0, answer=answer)


def result(progress: Progress, **about: Any) -> Result:
    return Result(about=msgspec.structs.replace(ABOUT, **about), progress=progress)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", search(), ABOUT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name.startswith("capacity-2026112")
    assert msgspec.json.encode(load(path)) == msgspec.json.encode(result(search()))


def test_two_of_one_second_do_not_replace_each_other(tmp_path: Path) -> None:
    paths = [save(tmp_path, search(best), ABOUT) for best in (100.0, 101.0, 102.0)]
    assert len(set(paths)) == 3
    assert [load(path).answer.best for path in paths] == [100.0, 101.0, 102.0]


def test_a_search_without_an_answer_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no answer yet"):
        save(tmp_path, msgspec.structs.replace(search(), answer=None), ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be saved"):
        save(tmp_path / "file", search(), ABOUT)
    assert listed(tmp_path / "nothing").saved == []
    assert listing_lines(listed(tmp_path / "nothing")) == ["No capacity search has been saved yet."]


def test_the_newest_comes_first_and_what_is_broken_is_named(tmp_path: Path) -> None:
    for day, best in ((2, 102.0), (0, 100.0), (1, 101.0)):
        save(tmp_path, search(best), msgspec.structs.replace(ABOUT, wall=ABOUT.wall + day * 86_400))
    (tmp_path / "capacity-torn.json").write_bytes(b'{"format": "spark-ser')
    (tmp_path / "notes.txt").write_text("not ours")
    listing = listed(tmp_path)
    assert [entry.result.answer.best for entry in listing.saved] == [102.0, 101.0, 100.0]
    assert len(listing.unreadable) == 1
    lines = listing_lines(listing)
    assert "102 (180 to 225)" in lines[1]
    assert "capacity-torn.json" in lines[-1]


def damaged(**changes: Any) -> bytes:
    content = msgspec.to_builtins(result(search()))
    return msgspec.json.encode(content | changes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a capacity result"),
        (b"\xff\xfe\x00", "not a capacity result"),
        (b"[]", "not a capacity result"),
        (b'{"a": 1}', "not a capacity result"),
        (damaged(format="something"), "not a capacity result"),
        (damaged(schema_version=99), "schema version 99"),
        (damaged(progress={"people": "many"}), "damaged"),
        (damaged(progress=msgspec.to_builtins(msgspec.structs.replace(search(), answer=None))), "no answer"),
        (damaged()[:-40], "damaged"),
        (b"[" * 100_000, "not a capacity result"),
    ],
)
def test_a_foreign_or_damaged_file_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(ResultError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        load(tmp_path / "x.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(ResultError, match="too large"):
        load(tmp_path / "large.json")


def test_another_seed_or_cap_is_the_same_question() -> None:
    assert comparable(result(search()), result(search(seed=9, cap_s=600.0, careful=True), wall=0.0)) == ""


@pytest.mark.parametrize(
    ("question", "about", "words"),
    [
        ({"slo": INTERACTIVE}, {}, "TTFT limit 1 s and 500 ms, TPOT limit 200 ms and 50 ms"),
        ({"attainment": 0.9}, {}, "attainment 95 % and 90 %"),
        ({"think_s": 2.0}, {}, "think time 8 s and 2 s"),
        ({"mix": "code"}, {}, "mix 128/64 tokens, 3 turns and code"),
        ({"cache": ""}, {}, "cache fresh salt and —"),
        ({}, {"device": "CPU"}, "device NVIDIA H100 80GB HBM3 and CPU"),
        ({}, {"model": "smollm2"}, "model qwen3-8b (shape) and smollm2 (shape)"),
        ({}, {"version": "0.32.0"}, "version 0.24.0 and 0.32.0"),
        ({}, {"max_num_seqs": None}, "max-num-seqs 64 and —"),
        ({}, {"max_in_flight": 32}, "max in-flight 64 and 32"),
    ],
)
def test_what_makes_it_another_question(question: dict[str, Any], about: dict[str, Any], words: str) -> None:
    a, b = result(search()), result(search(**question), **about)
    assert comparable(a, b) == words
    assert f"not the same question: {words}" in compare(a, b)


@pytest.mark.parametrize(
    ("other", "agrees", "word"),
    [
        (search(210.0, 190.0, 230.0), True, "yes"),
        (search(226.0, 195.0, 260.0), False, "no"),
        (search(210.0, 205.0, 215.0), False, "no"),
        (search(None), None, "—"),
    ],
)
def test_two_answers_agree_when_each_lies_in_the_others_band(other: Progress, agrees: bool | None, word: str) -> None:
    a, b = result(search()), result(other)
    assert agree(a, b) is agree(b, a) is agrees
    assert f"within each other's bands: {word}" in compare(a, b)


def test_both_stand_side_by_side() -> None:
    lines = compare(result(search()), result(search(210.0, 190.0, 230.0, seed=3)))
    table = {cells[0]: cells[1:] for line in lines[1:11] if (cells := re.split(" {2,}", line))}
    assert table["best estimate (90 % band)"] == ["200 (180 to 225)", "210 (190 to 230)"]
    assert table["safe"] == ["180", "190"]
    assert table["recovered"] == ["—", "—"]
    assert table["seed"] == ["0", "3"]
    assert not any(line.startswith("not the same") for line in lines)


def test_a_file_edited_by_somebody_writes_nothing_to_the_terminal() -> None:
    nasty = result(search(), device="\x1b]52;c;xx\x07CPU\n")
    assert all(line.isprintable() for line in compare(nasty, result(search())))


def test_about_is_taken_from_a_snapshot() -> None:
    snapshot = Snapshot(
        seq=1,
        at=1.0,
        wall=ABOUT.wall,
        engine=Engine(
            phase="ready",
            model="qwen3-8b",
            model_kind="shape",
            version="0.24.0",
            device="NVIDIA H100 80GB HBM3",
            max_num_seqs=Value(v=64.0),
            max_model_len=Value(v=8192.0),
        ),
        queue=Queue(max_in_flight=Value(v=64.0), max_queue=Value(v=256.0)),
    )
    assert About.of(snapshot) == ABOUT
