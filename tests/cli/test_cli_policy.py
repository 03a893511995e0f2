"""The verbs `policy` and `knobs`, and the policy a stack is started with: from words to commands."""

from __future__ import annotations

import pytest

from console import cli
from server import commands
from server.client import StackClient
from server.commands import Answer, Command
from server.gateway.policy import Policy, PolicyChange
from server.telemetry.snapshot import Queue, Snapshot


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What would go to the running stack."""
    commands_sent: list[Command] = []

    def send(_: StackClient, command: Command) -> Answer:
        commands_sent.append(command)
        return Answer(ok=True, message="Done.")

    monkeypatch.setattr(StackClient, "send", send)
    return commands_sent


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("policy fair", commands.Policy(order="fair")),
        ("policy shortest --ageing off", commands.Policy(order="shortest", ageing_s=0.0)),
        ("policy --limit tokens --token-budget 900", commands.Policy(limit="tokens", token_budget=900)),
        ("policy --during-restart reject", commands.Policy(hold=False)),
        (
            "policy --overload estimate --max-wait 2 --max-queue 0 --max-in-flight 3",
            commands.Policy(overload="estimate", max_wait_s=2.0, max_queue=0, max_in_flight=3),
        ),
        (
            "policy --deadline 9 --queue-timeout 8 --silence 60 --keep-alive 1.5",
            commands.Policy(deadline_s=9.0, queue_timeout_s=8.0, silence_s=60.0, keep_alive_s=1.5),
        ),
        (
            "policy --limit adaptive --ttft-target 0.5 --tpot-target 0.05",
            commands.Policy(limit="adaptive", ttft_target_s=0.5, tpot_target_s=0.05),
        ),
        (
            "knobs --scheduling-policy priority --chunked-prefill off",
            commands.Knobs(scheduling_policy="priority", chunked_prefill=False),
        ),
        (
            "knobs --max-num-batched-tokens 512 --max-num-queued-reqs 7",
            commands.Knobs(max_num_batched_tokens=512, max_num_queued_reqs=7),
        ),
    ],
)
def test_words_become_one_command(sent: list[Command], words: str, command: Command) -> None:
    assert cli.main(words.split()) == 0
    assert sent == [command]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("policy fastest", "invalid choice"),
        ("policy --ageing never", "positive number or off"),
        ("policy --deadline 0", "positive number or off"),
        ("knobs", "at least one"),
    ],
)
def test_what_is_not_understood_is_said(
    sent: list[Command], capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    try:
        code = cli.main(words.split())
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    assert says in capsys.readouterr().err
    assert sent == []


def test_without_words_the_policy_in_force_is_printed(
    sent: list[Command], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = Policy(order="shortest", ageing_s=None, deadline_s=2.5, hold=False)
    monkeypatch.setattr(StackClient, "snapshot", lambda _: Snapshot(seq=1, at=0.0, wall=0.0, queue=Queue(rules=rules)))
    assert cli.main(["policy"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (said["order"], said["ageing"], said["deadline"], said["hold"]) == ("shortest", "off", "2.5 s", "no")
    assert (said["max-queue"], said["token-budget"]) == ("256", "off")
    assert sent == []


def test_a_stack_may_begin_with_a_policy() -> None:
    words = "up --order priority --ageing 5 --overload shed --limit adaptive --max-queue 9"
    settings = cli._settings(cli._parser().parse_args(words.split()))
    assert settings.policy == PolicyChange(order="priority", ageing_s=5.0, overload="shed", limit="adaptive")
    assert settings.max_queue == 9
    assert cli._settings(cli._parser().parse_args(["up"])).policy == PolicyChange()
