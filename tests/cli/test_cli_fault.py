"""The verb `fault`: from words to a command, the list, and what is wrong with a command line."""

from __future__ import annotations

import pytest

from console import cli
from server import commands
from server.client import StackClient, StackError
from server.commands import Answer, Command
from server.faults.catalogue import CATALOGUE
from server.telemetry.snapshot import ActiveFault, Snapshot


class FakeStack:
    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.answer = Answer(ok=True, message="So be it.")
        self.faults: list[ActiveFault] = []
        self.up = True

    def snapshot(self) -> Snapshot:
        if not self.up:
            raise StackError("No stack is running.")
        return Snapshot(seq=1, at=0.0, wall=0.0, faults=self.faults)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    fake = FakeStack()

    def send(_: StackClient, command: Command) -> Answer:
        fake.sent.append(command)
        return fake.answer

    monkeypatch.setattr(StackClient, "send", send)
    monkeypatch.setattr(StackClient, "snapshot", lambda _: fake.snapshot())
    return fake


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("burst 200", commands.Fault("burst", {"count": 200})),
        ("burst", commands.Fault("burst")),
        ("latency --ms 500 --on engine --for 30", commands.Fault("latency", {"ms": 500.0, "on": "engine"}, 30.0)),
        ("latency 500 --toxicity 0.5", commands.Fault("latency", {"ms": 500.0, "toxicity": 0.5})),
        ("kill engine-core", commands.Fault("kill", {"process": "engine-core"})),
        ("pause gateway --for 90", commands.Fault("pause", {"process": "gateway"}, 90.0)),
        ("leave 50% --how half-close", commands.Fault("leave", {"at": "50%", "how": "half-close"})),
        ("disk-full", commands.Fault("disk-full")),
        ("--stop", commands.Unfault()),
        ("--stop latency", commands.Unfault("latency")),
    ],
)
def test_words_become_a_command(
    stack: FakeStack, words: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fault", *words.split()]) == 0
    assert stack.sent == [command]
    assert capsys.readouterr().out == "So be it.\n"


def test_a_refusal_is_exit_code_1(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.answer = Answer(ok=False, message="There is no worker process of its own now.")
    assert cli.main(["fault", "kill", "worker"]) == 1
    assert "no worker process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("flood", "invalid choice: 'flood'"),
        ("kill me", "must be one of engine-core, api-server, worker, gateway, load, not me"),
        ("latency soon", "ms must be a number, not 'soon'"),
        ("latency --on moon", "on must be one of engine, people, not moon"),
        ("burst 0", "count must be at least 1"),
        ("kill load --for 3", "unrecognized arguments: --for 3"),
        ("pause --for 0", "invalid positive number value"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    stack: FakeStack, words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["fault", *words.split()])
    assert left.value.code == 2
    assert says in capsys.readouterr().err
    assert stack.sent == []


def test_the_list_has_every_fault_and_what_lasts(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.faults = [ActiveFault("pause", "engine core paused", "i", 1.0, 4.2)]
    assert cli.main(["fault"]) == 0
    out = capsys.readouterr().out
    for kind in CATALOGUE:
        assert f"{kind.name:<12} {kind.says}" in out
    assert "  engine core paused, 4 s left" in out
    stack.faults = []
    cli.main(["fault"])
    assert "No fault lasts now." in capsys.readouterr().out
    stack.up = False
    assert cli.main(["fault"]) == 0
    assert "No stack is running." in capsys.readouterr().out


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.name)
def test_each_fault_has_its_help(kind: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = kind.name  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as left:
        cli.main(["fault", name, "--help"])
    assert left.value.code == 0
    assert f"usage: spark-serve fault {name}" in capsys.readouterr().out
