"""A child that speaks JSON lines: real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from loadgen.records import SetPeople
from server.child import JsonChild

ECHO = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)"
STUBBORN = (
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
)


class Heard:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.codes: list[int] = []
        self.first = asyncio.Event()

    def line(self, line: bytes) -> None:
        self.lines.append(line)
        self.first.set()


def child(code: str, tmp_path: Path, heard: Heard) -> JsonChild:
    return JsonChild(
        "echo",
        [sys.executable, "-c", code],
        log=tmp_path / "child.log",
        on_line=heard.line,
        on_exit=heard.codes.append,
    )


async def test_commands_go_in_and_lines_come_out(tmp_path: Path) -> None:
    heard = Heard()
    echo = child(ECHO, tmp_path, heard)
    await echo.start()
    echo.send(SetPeople(3))
    await asyncio.wait_for(heard.first.wait(), 10)
    assert heard.lines == [b'got {"op":"people","count":3}\n']
    await echo.stop(5)
    assert heard.codes == [0]
    assert echo.pid is None
    echo.send(SetPeople(4))  # gone: lost, not raised


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    heard = Heard()
    stubborn = child(STUBBORN, tmp_path, heard)
    await stubborn.start()
    await asyncio.wait_for(heard.first.wait(), 10)
    await stubborn.stop(0.2)
    assert heard.codes == [-9]


async def test_an_overlong_line_loses_only_itself(tmp_path: Path) -> None:
    heard = Heard()
    noisy = child("print('x' * (17 << 20)); print('after', flush=True); import sys; sys.stdin.read()", tmp_path, heard)
    await noisy.start()
    await asyncio.wait_for(heard.first.wait(), 20)
    await noisy.stop(5)
    assert heard.lines[-1] == b"after\n"
