"""Lessons as data: those that come along are good, and every kind of mistake is said with its place."""

from __future__ import annotations

from pathlib import Path

import lesson_scenes
import pytest
import samples

from console.lessons.acts import ACTS, ActError, checked
from console.lessons.conditions import ConditionError, Watch, parse_condition, parse_measure
from console.lessons.figures import FIGURES
from console.lessons.reading import LessonError, parse, read
from console.lessons.shelf import FOLDER, SHIPPED, find, shipped
from server import commands
from server.telemetry.snapshot import Snapshot

GOOD = """
title = "A lesson"
says = "About something"
minutes = 1
origin = "somewhere else"

[[step]]
name = "one"
title = "First"
text = "A text."

[step.predict]
ask = "How many?"
measure = "queue.depth@peak"
stops = [1, 2, 3]
recorded = 2

[[step.act]]
do = "burst"
of_slots = 2

[step.wait]
says = "a line"
until = ["queue.depth >= 1"]
seconds = 30

[step.reveal]
text = "So it is."

[[step.reveal.figure]]
label = "in the queue"
show = "queue.depth"
than = "before"

[[step.check]]
says = "A line formed"
when = ["queue.depth@peak >= 1"]
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_lesson_that_comes_along_is_good_and_keeps_its_title(name: str) -> None:
    lesson = shipped(name)
    assert lesson.title == SHIPPED[name]
    assert lesson.predictions >= 1
    assert any(step.checks for step in lesson.steps)
    assert all(step.plain for step in lesson.steps), "the restaurant stands beside every step"
    assert all(step.acts or step.wait or not step.figures for step in lesson.steps)


def test_every_file_is_on_the_shelf() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(SHIPPED)


def test_a_lesson_is_found_by_name_number_and_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(GOOD)
    assert find("2").name == find("ten-friends").name == "ten-friends"
    assert find(str(own)).title == "A lesson"
    with pytest.raises(LessonError, match="There is no lesson 'nine'; there are one-chat, ten-friends"):
        find("nine")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "A lesson"\n', "", "`title` is missing"),
        ("minutes = 1", "minutes = true", "`minutes` is a number from 0.5 to 120, not True"),
        ('says = "About', 'sais = "About', "`sais` means nothing here; did you mean `says`?"),
        ('origin = "somewhere else"\n', "", "`origin` is missing: recorded figures say where"),
        ('text = "A text."', 'text = ""', "step 1 (line 7): `text` is a text, and not empty"),
        ('text = "A text."', f'text = "{"long " * 200}"', "step 1 (line 7): `text` has 999 characters; at most 620"),
        ('text = "A text."', 'text = "\\u001b[31mred"', "step 1 (line 7): `text` has a control character in it"),
        ('name = "one"', 'name = "peak"', "step 1 (line 7): name 'peak' is small letters"),
        ("stops = [1, 2, 3]", "stops = [3, 2, 1]", "predict: stops are 3 to 12 numbers of 0 and more, each larger"),
        ("stops = [1, 2, 3]", "", "predict: give either `choice`"),
        ("stops = [1, 2, 3]", 'unit = "ms"\nstops = [1, 2, 3]', "unit 'ms' does not fit queue.depth@peak: no unit"),
        ('"queue.depth@peak"', '"queue.dept"', "there is no figure `queue.dept`; did you mean queue.depth?"),
        ('"queue.depth@peak"', '"queue.depth@then"', "behind @ stands one of before, peak, least, gained"),
        ('do = "burst"', 'do = "dance"', "step 1 (line 7), act 1: there is no action 'dance'; there are preset, people"),
        ("of_slots = 2", "of_slots = 0", "act 1: of_slots is a number from 0.05 to 100, not 0"),
        ("of_slots = 2", "tables = 2", "act 1: the action burst has no 'tables'; it has count, of_slots"),
        ('do = "burst"', 'do = "people"\ncount = 3', "act 1: the action people needs one of count or of_slots"),
        ('do = "burst"\nof_slots = 2', 'do = "preset"\nname = "ten"', "act 1: name is one of one-chat, ten-friends"),
        ('do = "burst"\nof_slots = 2', 'do = "policy"\norder = "best"', "act 1: the policy cannot be so: Invalid enum"),
        ('do = "burst"\nof_slots = 2', 'do = "policy"', "act 1: the action policy needs something to change: in_flight"),
        ('do = "burst"\nof_slots = 2', 'do = "fault"\nname = "kill"\nprocess = "me"', "act 1: process must be one of"),
        ('do = "burst"\nof_slots = 2', 'do = "arrivals"\nprocess = "often"', "act 1: process is no process of arrivals"),
        ('["queue.depth >= 1"]', '["queue.depth"]', "wait: `until`: 'queue.depth' compares nothing"),
        ('["queue.depth >= 1"]', '["engine.phase >= 1"]', "`until`: engine.phase is a word: compare it with is"),
        ('["queue.depth >= 1"]', '["queue.depth is full"]', "queue.depth is a number: compare it with one of >=, <=, >, <"),
        ('["queue.depth >= 1"]', '["queue.depth >= 1 + 2"]', "behind a number stands nothing, or `* FIGURE`"),
        ('["queue.depth >= 1"]', "[]", "wait: `until` is a list of conditions"),
        ("seconds = 30", "seconds = 9000", "wait: `seconds` is a number from 1 to 900, not 9000"),
        ('[step.reveal]\ntext = "So it is."\n', "", "step 1 (line 7), reveal: `text` is missing"),
        ('than = "before"', 'than = "later"', "reveal, figure 1: `than`: `queue.depth@later`: behind @ stands"),
        ("[step.wait]", "[[step.wait]]", "step 1 (line 7): `wait` is a table: [step.wait], once a step"),
        ("[step.wait]", "[step.weight]", "it acts and does not `wait`: say until when"),
        ("minutes = 1", "minutes = ", "it is not TOML: invalid value (at line 4, column 11)"),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_is_said_with_its_place(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(LessonError) as caught:
        parse(GOOD.replace(old, new), "lesson")
    assert any(said in mistake for mistake in caught.value.mistakes), caught.value.mistakes


def test_all_mistakes_are_said_at_once() -> None:
    wrong = GOOD.replace("minutes = 1", "").replace('do = "burst"', 'do = "dance"').replace("seconds = 30", "")
    with pytest.raises(LessonError) as caught:
        parse(wrong, "lesson")
    assert len(caught.value.mistakes) == 3


def test_a_lesson_has_steps() -> None:
    with pytest.raises(LessonError, match=r"between 1 and 12 of \[\[step\]\] are wanted; there is none"):
        parse(GOOD[: GOOD.index("[[step]]")], "lesson")


def test_an_action_without_a_wait_has_nothing_to_show() -> None:
    start, end = GOOD.index("[step.wait]"), GOOD.index("[step.reveal]")
    with pytest.raises(LessonError, match="it acts and does not `wait`"):
        parse(GOOD[:start] + GOOD[end:], "lesson")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "it is not UTF-8 text (byte 0)"),
        (b"#" * 300_000, "it is larger than 256 KiB"),
        (b"x = " + b"[" * 100_000, "it is not TOML"),
        (None, "it cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_text_at_all(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "lesson.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LessonError) as caught:
        read(path)
    assert caught.value.mistakes[0].startswith(said)


# figures and conditions


@pytest.mark.parametrize("snapshot", [samples.LOADED, samples.CPU, samples.GB10, samples.DOWN, samples.SEARCHING])
def test_every_figure_can_be_read_and_written_or_says_why_not(snapshot: Snapshot) -> None:
    for figure in FIGURES.values():
        found = figure.read(snapshot)
        assert found.v is not None or found.why, figure.name
        assert figure.written(found.v)
        assert isinstance(found.v, str | None) if figure.kind == "word" else isinstance(found.v, float | None)


def test_a_figure_that_no_gpu_can_tell_says_so() -> None:
    assert FIGURES["device.tensor"].read(samples.CPU).why == samples.CPU.gpu_note
    assert "needs 100 requests" in FIGURES["feel.ttft_s.p95"].read(samples.CPU).why


def test_conditions_look_at_now_before_and_the_extremes() -> None:
    base = lesson_scenes.CPU
    watch = Watch().begin(["engine.running", "people.ok", "engine.max_num_seqs", "engine.phase"], base)
    for running, ok in ((8.0, 60), (2.0, 63)):
        watch = watch.look(lesson_scenes.together(base, 1.0, ok, 60.0, running))

    def holds(text: str) -> bool | None:
        return parse_condition(text).judge(watch).holds

    assert holds("engine.running@before >= 4")
    assert holds("engine.running@peak >= 1 * engine.max_num_seqs")
    assert not holds("engine.running >= 0.5 * engine.max_num_seqs")
    assert holds("engine.running@least <= 2")
    assert holds("people.ok@gained >= 5")
    assert holds("engine.running@peak / engine.running > 3.9")
    assert holds("engine.phase is down or ready")
    assert holds("device.tensor >= 0") is None
    assert parse_condition("engine.running >= 3").judge(watch).because == "requests in the batch: 2, wanted: at least 3"


def test_a_step_that_is_over_can_be_named() -> None:
    with pytest.raises(ConditionError, match=r"one of before, peak, least, gained, or an earlier step: one$"):
        parse_measure("queue.depth@two", ["one"])
    measure = parse_measure("queue.depth / queue.depth@one", ["one"])
    watch = Watch().begin(["queue.depth"], lesson_scenes.together(lesson_scenes.CPU, 0, 58, 60.0)).tell("one")
    watch = watch.look(lesson_scenes.together(lesson_scenes.CPU, 1, 58, 60.0, 2.0))
    assert watch.measured(measure).v == 4.0


# actions


@pytest.mark.parametrize(
    ("do", "settings", "command"),
    [
        ("preset", {"name": "one-chat"}, commands.Preset("one-chat")),
        ("people", {"of_slots": 0.5}, commands.People(4)),
        ("burst", {}, commands.Burst()),
        ("flash", {"of_slots": 4, "asks": 1}, commands.Flash(32, 5.0, 1)),
        ("extra", {"who": "slow", "count": 0}, commands.Extra("slow", 0)),
        ("stall", {"count": 3}, commands.Stall(3)),
        ("leave", {"at": "50%"}, commands.Leave(at="50%")),
        ("policy", {"order": "shortest", "ageing_s": 30}, commands.Policy(order="shortest", ageing_s=30.0)),
        ("policy", {"in_flight_of_slots": 0.5, "order": "fifo"}, commands.Policy(order="fifo", max_in_flight=4)),
        ("restart", {}, commands.Restart("process")),
        ("capacity", {"cap_s": 60}, commands.Capacity(cap_s=60.0)),
        ("fault", {"name": "pause", "seconds": 5}, commands.Fault("pause", {}, 5)),
        ("unfault", {}, commands.Unfault()),
        ("mix", {"weights": {"patient": 3, "slow": 1}}, commands.Mix({"patient": 3, "slow": 1})),
        ("marker", {"note": "look"}, commands.Marker("look")),
    ],
)
def test_an_action_is_a_command(do: str, settings: dict[str, object], command: commands.Command) -> None:
    assert checked(do, settings).command(lesson_scenes.CPU) == command


def test_asking_changes_what_is_named_and_nothing_else() -> None:
    made = checked("ask", {"think_s": 0.5, "retries": "budget", "output_tokens": 99_999}).command(lesson_scenes.CPU)
    assert isinstance(made, commands.Ask)
    before = samples.PROFILE
    assert (made.profile.think_s, made.profile.turns) == (0.5, before.turns)
    assert made.profile.mix.output.median == before.mix.context // 4, "what the context holds"
    assert made.profile.manners.retry.kind == "budget"
    with pytest.raises(ActError, match="not known yet"):
        checked("ask", {"think_s": 1}).command(samples.IDLE)


def test_every_action_of_the_vocabulary_is_tried_here() -> None:
    tried = {"preset", "people", "burst", "flash", "extra", "stall", "leave", "policy", "restart", "capacity"}
    assert set(ACTS) == tried | {"fault", "unfault", "mix", "marker", "ask", "arrivals"}
