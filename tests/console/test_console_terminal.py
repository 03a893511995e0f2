"""The cockpit in a real pty, seen by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from rich.color import Color, ColorSystem
from rich.style import Style

from console.spans import turn

CHILD = """
import sys
sys.path.insert(0, {folder!r})
import samples
from console.app import CockpitApp
from console.sources.scripted import ScriptedSource
full = [samples.change(samples.QUEUE_FULL, at=samples.AT + 1 + n / 2, seq=2000 + n) for n in range(9)]
script = [*samples.course(samples.LOADED, 30), *full]
app = CockpitApp(ScriptedSource(script, every_s={every_s}))
left = app.run()
print("left:", left.how)
sys.exit(app.return_code)
"""
CELLS, ROWS = 120, 36
BOUND_S = 30.0


class Console:
    """A child in a pty and the screen it makes."""

    def __init__(self, every_s: float | None, **environment: str) -> None:
        self.screen = pyte.Screen(CELLS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.seen = b""
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC", **environment})
            code = CHILD.format(folder=str(Path(__file__).parent), every_s=every_s)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, CELLS, 0, 0))
            os.execv(sys.executable, [sys.executable, "-c", code])
        self.pid = pid

    def read_until(self, condition: Callable[[], bool]) -> bool:
        """Feed the screen until the condition holds, the child ends, or the bound is reached."""
        end = time.monotonic() + BOUND_S
        while not condition() and time.monotonic() < end:
            if not self.read(0.1):
                break
        return condition()

    def read(self, wait_s: float) -> bool:
        """Feed the screen what there is; False when the child has closed its end."""
        if not select.select([self.terminal], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.seen += data
        # pyte does not know these private sequences and would print their ends.
        self._stream.feed(re.sub(rb"\x1b\[[<>=?][0-9;]*[a-zA-Z$]+|\x1b\[\?[0-9;]*\$p", b"", data))
        return bool(data)

    def shows(self, text: str) -> bool:
        return any(text in row for row in self.screen.display)

    def end(self) -> int:
        """Wait for the child and give its exit code, -n for a signal."""
        self.read_until(lambda: False)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)


def test_many_small_updates_make_the_same_screen_as_one_paint() -> None:
    step, whole = Console(0.02), Console(None)

    def same() -> bool:
        whole.read(0.0)
        return step.shows("61 % of 822") and step.screen.display == whole.screen.display

    try:
        assert step.read_until(same), (step.screen.display, whole.screen.display)
        assert {y: dict(row) for y, row in step.screen.buffer.items()} == {
            y: dict(row) for y, row in whole.screen.buffer.items()
        }
    finally:
        for console in (step, whole):
            os.kill(console.pid, signal.SIGTERM)
            console.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal_and_exits_128_and_n(number: signal.Signals) -> None:
    console = Console(None)
    assert console.read_until(lambda: console.shows("61 % of 822"))
    os.kill(console.pid, number)
    assert console.end() == 128 + number
    assert b"\x1b[?1049l" in console.seen
    assert b"left: signal" in console.seen


def test_a_lost_terminal_ends_it() -> None:
    console = Console(None)
    assert console.read_until(lambda: console.shows("61 % of 822"))
    os.close(console.terminal)
    end = time.monotonic() + BOUND_S
    pid = 0
    while not pid and time.monotonic() < end:
        pid, _ = os.waitpid(console.pid, os.WNOHANG)
        select.select([], [], [], 0.02)
    if not pid:
        os.kill(console.pid, signal.SIGKILL)
        os.waitpid(console.pid, 0)
    assert pid, "it went with its terminal"


def test_no_color_means_no_colour_at_all() -> None:
    console = Console(None, NO_COLOR="1")
    assert console.read_until(lambda: console.shows("61 % of 822"))
    os.write(console.terminal, b"?")
    assert console.read_until(lambda: console.shows("Leave; the stack lives on"))
    os.kill(console.pid, signal.SIGTERM)
    console.end()
    codes = {code for sgr in re.findall(rb"\x1b\[([0-9;]*)m", console.seen) for code in sgr.split(b";")}
    assert codes <= {b"", b"0", b"1", b"2", b"3", b"4", b"7", b"9"}, codes
    assert b"7" in codes


RED, BLUE = Style(color="#ff0000", bgcolor="#000000"), Style(color="#0000ff", bgcolor="#000000")


def test_turn_names_only_what_differs() -> None:
    system = ColorSystem.TRUECOLOR
    assert turn(RED, BLUE, system) == "\x1b[38;2;0;0;255m"
    assert turn(RED, RED + Style(bold=True), system) == "\x1b[1m"
    assert turn(RED + Style(bold=True), RED, system) == "\x1b[0;38;2;255;0;0;48;2;0;0;0m"
    assert turn(RED, Style(), system) == "\x1b[0m"
    assert turn(Style(), Style(), system) == ""
    assert turn(Style(), Style(color=Color.from_ansi(1)), ColorSystem.STANDARD) == "\x1b[31m"
