"""What the stack makes of a restart command, without an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server import commands
from server.commands import command_decoder
from server.config import Paths, SettingError, StackSettings
from server.stack import Stack
from server.telemetry.snapshot import Phase


class Engine:
    """One of ours, whose restarts wait."""

    attached = False
    phase: Phase = "ready"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()

    async def restart(self, kind: str) -> None:
        self.asked.append(kind)
        await self.go.wait()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))


async def test_each_kind_is_carried_out_and_says_what_is_cold_and_what_is_not(stack: Stack) -> None:
    for kind in ("process", "compile", "disk"):
        engine = Engine()
        stack._engine = engine  # type: ignore[assignment]
        answer = await stack.execute(commands.Restart(kind))
        assert answer.ok
        assert answer.message.startswith(f"Cold restart ({kind}-cold). Cold: ")
        assert "Warm still: " in answer.message
        engine.go.set()
        assert stack._restarting is not None
        await stack._restarting
        assert engine.asked == [kind]


async def test_one_restart_at_a_time_while_weights_are_still_being_written(stack: Stack) -> None:
    engine = Engine()
    stack._engine = engine  # type: ignore[assignment]
    assert (await stack.execute(commands.Restart("disk"))).ok
    refused = await stack.execute(commands.Restart("process"))
    assert not refused.ok
    assert refused.message == "A restart is being prepared; wait for it."
    engine.go.set()
    assert stack._restarting is not None
    await stack._restarting
    assert engine.asked == ["disk"]


async def test_what_cannot_be_restarted_says_why(stack: Stack) -> None:
    engine = Engine()
    stack._engine = engine  # type: ignore[assignment]
    unknown = await stack.execute(commands.Restart("luke"))
    assert unknown.message == "There is no 'luke' restart; the kinds are process, compile, disk."
    engine.phase = "starting"
    assert (await stack.execute(commands.Restart())).message == "The engine is starting; wait for it."
    engine.attached = True
    assert "Somebody else" in (await stack.execute(commands.Restart())).message


def test_a_restart_without_a_kind_is_process_cold() -> None:
    assert command_decoder.decode(b'{"command": "restart"}') == commands.Restart("process")


def test_a_wrong_slo_in_hand_written_settings_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no SLO 'brisk'; there are chat, interactive"):
        Stack(StackSettings(slo="brisk"), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))


async def test_the_policy_before_a_watched_engine_stays_as_it_is(tmp_path: Path) -> None:
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    watching = Stack(StackSettings(attach="http://127.0.0.1:8000"), paths)
    driving = Stack(StackSettings(attach="http://127.0.0.1:8000", drive=True), paths)
    for command in (commands.Policy(order="fair"), commands.Limits(max_queue=4)):
        assert (await watching.execute(command)).message.endswith("--drive allows load.")
        assert "--drive" not in (await driving.execute(command)).message
