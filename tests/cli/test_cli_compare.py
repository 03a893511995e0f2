"""The verb `compare`: from words to a command, followed to its end, and earlier ones shown again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from console import cli, compare_verb
from server import commands
from server.client import StackClient
from server.commands import Answer, Command
from server.compare.arm import parse_arms
from server.compare.mixture import Lengths, Mixture
from server.compare.plan import Question
from server.compare.progress import CompareProgress
from server.compare.result import Comparison, Measured, Run, save
from server.results import About
from server.telemetry.snapshot import Snapshot


def measured(ttft_s: float, *, long: bool = False) -> Measured:
    return Measured(0.0, long, "ok", ttft_s, 0.05, ttft_s + 1.0, ttft_s, 32, 16)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison in the state folder."""
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    question = Question(
        arms=parse_arms(["fifo", "shortest"]),
        mixture=Mixture(short=Lengths(32, 16), long=Lengths(512, 48)),
        rate_per_s=3.0,
        seconds=60.0,
        max_in_flight=8,
    )
    runs = [
        Run(
            arm=arm,
            planned=61,
            seconds=60.0,
            requests=[*(measured(mean + n * 0.01) for n in range(60)), measured(mean * 2, long=True)],
            text_seed=n,
        )
        for n, (arm, mean) in enumerate([(0, 1.0), (1, 0.2), (1, 0.21), (0, 1.01)])
    ]
    about = About(wall=1_795_445_000.0, model="m")
    return save(
        tmp_path / "state" / "comparisons", Comparison(about=about, question=question, runs=runs, elapsed_s=1.0)
    )


class FakeStack:
    """What the verb tells the stack, and what a stack would show next."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.shown: list[CompareProgress] = []
        self.answer = Answer(ok=True, message="Comparing fifo, shortest.")
        self.on_snapshot: Callable[[], None] = lambda: None

    def snapshot(self) -> Snapshot:
        self.on_snapshot()
        progress = self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]
        return Snapshot(seq=1, at=0.0, wall=0.0, comparison=progress)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    fake = FakeStack()

    def send(_: StackClient, command: Command) -> Answer:
        fake.sent.append(command)
        return fake.answer

    monkeypatch.setattr(StackClient, "send", send)
    monkeypatch.setattr(StackClient, "snapshot", lambda _: fake.snapshot())
    monkeypatch.setattr(compare_verb, "FOLLOW_S", 0.0)
    return fake


def test_a_comparison_is_followed_and_printed(
    saved: Path, stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"line {n}" for n in range(20)]
    stack.shown = [
        CompareProgress(said=2, lines=lines[:2]),
        CompareProgress(said=2, lines=lines[:2]),
        CompareProgress(said=18, lines=lines[6:18]),
        CompareProgress(phase="done", said=20, lines=lines[8:], saved=str(saved)),
    ]
    words = "compare fifo shortest:ageing=5 --rounds 2 --rate 3 --short 40/16 --max-in-flight 4 --long-share 0.2"
    assert cli.main(words.split()) == 0
    assert stack.sent == [
        commands.Compare(
            arms=["fifo", "shortest:ageing=5"], rounds=2, rate=3.0, short=[40, 16], max_in_flight=4, long_share=0.2
        )
    ]
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if line.startswith("line")] == [*lines[:2], *lines[6:]]
    assert f"Saved as {saved}" in err
    assert "Yes: under fifo a short prompt waits 1.30 s for its first token behind long ones, under shortest" in out
    assert "short requests: time to first token" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compare", "Give 2 to 6 policies"),
        ("compare fifo fifo", "are the same policy"),
        ("compare fifo fastest", "names no order"),
        ("compare fifo fair --short 12", "pair of tokens"),
    ],
)
def test_what_is_not_understood_is_said(
    stack: FakeStack, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    try:
        code = cli.main(words.split())
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    assert says in capsys.readouterr().err
    assert stack.sent == []


def test_a_refusal_is_an_error(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.answer = Answer(ok=False, message="A capacity search runs.")
    assert cli.main(["compare", "fifo", "fair"]) == 1
    assert "A capacity search runs." in capsys.readouterr().err


def test_ctrl_c_stops_it_and_shows_what_counts(
    saved: Path, stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.shown = [
        CompareProgress(message="run 2 of 4"),
        CompareProgress(message="run 2 of 4"),
        CompareProgress(phase="stopped", message="It was stopped by hand.", saved=str(saved)),
    ]

    def interrupted() -> None:
        stack.on_snapshot = lambda: None
        raise KeyboardInterrupt

    stack.on_snapshot = interrupted
    assert cli.main(["compare", "fifo", "shortest"]) == 1
    assert stack.sent[1:] == [commands.Compare(on=False)]
    out, err = capsys.readouterr()
    assert "being put back" in err
    assert "It was stopped by hand." in err
    assert "Yes: under fifo" in out


def test_without_a_run_that_counts_it_says_so(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.shown = [CompareProgress(phase="stopped", message="The engine is down: the comparison cannot go on.")]
    assert cli.main(["compare", "fifo", "shortest"]) == 1
    assert "The engine is down: the comparison cannot go on. No run counts." in capsys.readouterr().err


def test_stop(stack: FakeStack) -> None:
    assert cli.main(["compare", "--stop"]) == 0
    assert stack.sent == [commands.Compare(on=False)]


@pytest.mark.parametrize("by_name", [True, False])
def test_an_earlier_one_is_listed_and_shown_again(
    saved: Path, capsys: pytest.CaptureFixture[str], by_name: bool
) -> None:
    assert cli.main(["compare", "--list"]) == 0
    assert saved.name in capsys.readouterr().out
    assert cli.main(["compare", "--show", saved.name if by_name else str(saved)]) == 0
    assert "Yes: under fifo" in capsys.readouterr().out
    assert cli.main(["compare", "--show", str(saved), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Comparison).about.model == "m"


def test_what_is_no_comparison_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--show", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
