"""A child that speaks JSON lines: real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from loadgen.commands import Burst
from server.child import DEATHS, JsonChild, KeptChild
from tests.fakes.waiting import until

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
    echo.send(Burst(3))
    await asyncio.wait_for(heard.first.wait(), 10)
    assert heard.lines == [b'got {"op":"burst","count":3}\n']
    await echo.stop(5)
    assert heard.codes == [0]
    assert echo.pid is None
    echo.send(Burst(4))  # gone: lost, not raised


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


async def test_a_listener_that_fails_loses_neither_later_lines_nor_the_exit(tmp_path: Path) -> None:
    heard = Heard()

    def listen(line: bytes) -> None:
        heard.line(line)
        raise RuntimeError("not today")

    echo = JsonChild(
        "echo",
        [sys.executable, "-c", "print(1, flush=True); print(2, flush=True)"],
        log=tmp_path / "child.log",
        on_line=listen,
        on_exit=heard.codes.append,
    )
    await echo.start()
    await until(lambda: heard.codes)
    assert heard.lines == [b"1\n", b"2\n"]
    await echo.stop(5)


async def test_one_that_dies_is_started_again_with_new_arguments_until_it_is_enough(tmp_path: Path) -> None:
    heard, ends = Heard(), []
    starts = iter(range(10))
    kept = KeptChild(
        "frail",
        lambda: [sys.executable, "-c", f"print({next(starts)}); raise SystemExit(7)"],
        log=tmp_path / "child.log",
        on_line=heard.line,
        on_ended=ends.append,
    )
    await kept.start()
    await until(lambda: len(ends) == DEATHS)
    assert heard.lines == [b"0\n", b"1\n", b"2\n"]
    assert "(exit code 7): starting it again" in ends[0]
    assert ends[-1] == kept.fault == "frail ended (exit code 7), the 3rd time in a minute: it is left alone"
    assert not kept.send(Burst(1))
    await kept.stop(5)


async def test_one_that_was_told_to_go_stays_away(tmp_path: Path) -> None:
    heard, ends = Heard(), []
    kept = KeptChild(
        "echo",
        lambda: [sys.executable, "-c", ECHO],
        log=tmp_path / "child.log",
        on_line=heard.line,
        on_ended=ends.append,
    )
    await kept.start()
    assert kept.send(Burst(3))
    await asyncio.wait_for(heard.first.wait(), 10)
    await kept.stop(5)
    assert (ends, kept.pid, kept.fault) == ([], None, "")


async def test_one_that_cannot_even_be_started_again_says_so(tmp_path: Path) -> None:
    ends: list[str] = []
    argv = iter([[sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], ["/no/such/program"]])
    kept = KeptChild("frail", lambda: next(argv), log=tmp_path / "log", on_line=lambda _: None, on_ended=ends.append)
    await kept.start()
    await until(lambda: len(ends) == 2)
    assert ends == [
        "frail ended (killed by SIGKILL): starting it again",
        "frail cannot be started (No such file or directory): it is left alone",
    ]
    await kept.stop(5)
