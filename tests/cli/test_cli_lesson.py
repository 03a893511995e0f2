"""The verb `lesson`: list, show, check, and a lesson gone through as text on a stack that is told what to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from console import cli, lesson_verb
from console.lessons.acts import ACTS
from console.lessons.figures import FIGURES
from console.lessons.shelf import FOLDER, SHIPPED
from loadgen.profile import Profile
from server import commands
from server.client import StackClient, StackError
from server.commands import Answer, Command
from server.telemetry.snapshot import Engine, People, Quantiles, Queue, Snapshot, Value


class FakeStack:
    """Its people ask as they are told, at ten snapshots a second of its own clock."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.at = 0.0
        self.people = 4
        self.ok = 0
        self.up = True
        self.read_only = ""
        self.refuses: type | None = None
        self.stop_at: float | None = None

    def send(self, command: Command) -> Answer:
        self.sent.append(command)
        if self.refuses is not None and isinstance(command, self.refuses):
            return Answer(ok=False, message="A capacity search runs and needs the people as they are.")
        if isinstance(command, commands.People):
            self.people = command.count or 0
        return Answer(ok=True, message="Done.")

    def snapshot(self) -> Snapshot:
        if not self.up:
            raise StackError("No stack is running; start one.")
        self.at += 2.0
        self.ok += self.people
        if self.stop_at is not None and self.at >= self.stop_at:
            raise KeyboardInterrupt
        return Snapshot(
            seq=round(self.at),
            at=self.at,
            wall=0.0,
            read_only=self.read_only,
            people=People(mode="closed", outcomes={"ok": self.ok}, in_flight=Value(self.people), profile=Profile()),
            queue=Queue(depth=Value(0.0)),
            engine=msgspec.structs.replace(
                Engine(phase="ready", max_num_seqs=Value(8.0)),
                running=Value(min(8.0, self.people)),
                generation_tokens_per_s=Value(20.0 if self.people == 1 else 70.0),
            ),
            feel=msgspec.structs.replace(Snapshot(seq=0, at=0, wall=0).feel, ttft_s=Quantiles(n=9, p50=0.3)),
            gpu_note="no NVIDIA driver on this machine",
        )


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    fake = FakeStack()
    monkeypatch.setattr(StackClient, "send", lambda _, command: fake.send(command))
    monkeypatch.setattr(StackClient, "snapshot", lambda _: fake.snapshot())
    monkeypatch.setattr(lesson_verb.time, "sleep", lambda _: None)
    return fake


Out = pytest.CaptureFixture[str]


def test_the_list_and_each_lesson_can_be_read(capsys: Out) -> None:
    assert cli.main(["lesson"]) == 0
    listed = capsys.readouterr().out
    assert all(title in listed for title in SHIPPED.values())
    for name in SHIPPED:
        assert cli.main(["lesson", "show", name]) == 0
        assert "In the restaurant:" in capsys.readouterr().out


def test_the_words_that_a_lesson_may_use_are_told(capsys: Out) -> None:
    assert cli.main(["lesson", "words"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {word} " in told for word in (*FIGURES, *ACTS))


def test_a_lesson_is_gone_through_as_text(stack: FakeStack, capsys: Out) -> None:
    assert cli.main(["lesson", "run", "ten-friends"]) == 0
    text = capsys.readouterr().out
    assert "doing: people 10" in text
    assert "it was 3.5 times" in text
    assert "seen: Several people shared a step of the engine" in text
    kinds = [type(command).__name__ for command in stack.sent]
    assert kinds == ["Hold", "Marker", "People", "Ask", "Hold", "Marker", "People", "Hold"]
    assert stack.sent[-1] == commands.Hold(on=False)


def test_ctrl_c_puts_people_back(stack: FakeStack) -> None:
    stack.stop_at = 8.0
    assert cli.main(["lesson", "run", "2"]) == 130
    assert stack.sent[-1] == commands.Hold(on=False)


def test_a_refusal_ends_it_in_a_sentence_and_puts_people_back(stack: FakeStack, capsys: Out) -> None:
    stack.refuses = commands.People
    assert cli.main(["lesson", "run", "2"]) == 1
    assert "A capacity search runs" in capsys.readouterr().err
    assert stack.sent[-1] == commands.Hold(on=False)


def test_on_somebody_elses_engine_it_is_read(stack: FakeStack, capsys: Out) -> None:
    stack.read_only = "Somebody else started this engine."
    assert cli.main(["lesson", "run", "one-chat"]) == 0
    text = capsys.readouterr().out
    assert "only read: Somebody else started this engine." in text
    assert "it was 2.3 % (recorded)" in text
    assert stack.sent == []


def test_without_a_stack_it_says_so(stack: FakeStack, capsys: Out) -> None:
    stack.up = False
    assert cli.main(["lesson", "run", "one-chat"]) == 1
    assert "No stack is running" in capsys.readouterr().err


def test_a_prediction_is_asked_for_where_somebody_can_be_asked(
    stack: FakeStack, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "5")
    lesson = lesson_verb._found("ten-friends")
    client: Any = stack
    assert lesson_verb.Walk(client, lesson, asks=True).go() == 0
    assert "you said 4 times; it was 3.5 times (well predicted)" in capsys.readouterr().out


def test_check_says_every_mistake_with_its_place(tmp_path: Path, capsys: Out) -> None:
    good = FOLDER / "one-chat.toml"
    bad = tmp_path / "bad.toml"
    bad.write_text(good.read_text().replace('do = "people"', 'do = "peeple"').replace("minutes = 4", "minutes = 0"))
    assert cli.main(["lesson", "check", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: a good lesson, 2 steps, 2 predictions.\n"
    assert cli.main(["lesson", "check", str(good), str(bad)]) == 2
    error = capsys.readouterr().err
    assert f"{bad}: `minutes` is a number from 0.5 to 120, not 0" in error
    assert f"{bad}: step 2 (line 86), act 1: there is no action 'peeple'" in error
    assert "2 mistakes" in error


@pytest.mark.parametrize("words", [["show", "nine"], ["run", "nine"], ["show", "nine.toml"], ["check", "nine.toml"]])
def test_a_lesson_that_is_not_there_is_exit_code_2(stack: FakeStack, words: list[str], capsys: Out) -> None:
    assert cli.main(["lesson", *words]) == 2
    assert "nine" in capsys.readouterr().err


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path: Path, capsys: Out) -> None:
    hostile = tmp_path / "bad.toml"
    hostile.write_text('title = "\\u001b]0;owned\\u0007"\n"\\u001b[31mkey" = 1\n')
    assert cli.main(["lesson", "check", str(hostile)]) == 2
    assert "\x1b" not in capsys.readouterr().err
