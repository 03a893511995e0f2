"""A real console in a pty, read by a terminal emulator; the raw bytes are kept as well."""

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
from collections.abc import Callable, Sequence

import pyte

# pyte does not know these private sequences and would print their ends.
_MODE = re.compile(rb"\x1b\[\?([0-9;]+)([hl])|\x1b\[([<>])[0-9]*u")
_ON_AT_FIRST = {7, 25}
"""Wrapping, and the cursor is shown."""
_UNKNOWN = re.compile(rb"\x1b\[[<>=?][0-9;]*[a-zA-Z$]+|\x1b\[\?[0-9;]*\$p")


def modes_left(raw: bytes) -> list[str]:
    """What these bytes leave other than a fresh terminal has it: private modes by number, and kitty's keys."""
    on, keys = set(_ON_AT_FIRST), 0
    for numbers, way, pushed in _MODE.findall(raw):
        for number in map(int, filter(None, numbers.split(b";"))):
            (on.add if way == b"h" else on.discard)(number)
        keys += {b">": 1, b"<": -1}.get(pushed, 0)
    return [str(number) for number in sorted(on ^ _ON_AT_FIRST)] + ["kitty keys"] * max(0, keys)


def readable(data: bytes) -> bytes:
    """Without what pyte would print the ends of."""
    return _UNKNOWN.sub(b"", data)


class Terminal:
    """`argv` (default: the console) in a pty of `cells` x `rows`."""

    def __init__(
        self,
        *arguments: str,
        argv: Sequence[str] = (sys.executable, "-m", "console.cli", "console"),
        cells: int = 160,
        rows: int = 48,
        **environment: str | None,
    ) -> None:
        """`environment`: variables beside this process's own; None takes one away."""
        self.screen = pyte.Screen(cells, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            chosen = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC", "COLUMNS": None, "LINES": None}
            variables = {name: value for name, value in {**os.environ, **chosen, **environment}.items() if value}
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cells, 0, 0))
            os.execve(argv[0], [*argv, *arguments], variables)  # not execv: readline sets COLUMNS behind our back

    def resize(self, cells: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cells, 0, 0))
        self.screen.resize(rows, cells)

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def read(self, wait_s: float) -> bool:
        """Feed the screen what there is; False when the child has closed its end."""
        if not select.select([self.fd], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.feed(data)
        return bool(data)

    def feed(self, data: bytes) -> None:
        """What the child wrote."""
        self.raw += data
        self._stream.feed(readable(data))

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def shows(self, pattern: str) -> bool:
        return re.search(pattern, self.text) is not None

    def until(self, condition: str | Callable[[], bool], limit_s: float = 60.0) -> float:
        """Seconds until the screen matches a pattern or the condition holds. Raises AssertionError with the screen."""
        pattern = condition if isinstance(condition, str) else ""
        holds = (lambda: self.shows(pattern)) if isinstance(condition, str) else condition
        began = time.monotonic()
        while not holds():
            alive = self.read(0.05)
            assert holds() or (alive and time.monotonic() - began < limit_s), (
                f"not within {limit_s:g} s: {condition}\n{self.text}"
            )
        return time.monotonic() - began

    def line(self, pattern: str) -> str:
        """The words around a match, frame and padding left out; empty without one."""
        for row in self.screen.display:
            if re.search(pattern, row):
                return " ".join(re.sub(r"[─│┌┐└┘├┤┬┴┼╭╮╰╯▏▕▀▄█▌▐]+", " ", row).split())
        return ""

    def end(self, number: int | None = signal.SIGTERM, limit_s: float = 20.0) -> int:
        """Signal it (None: it leaves by itself), wait for it and give its exit code, -n for a signal."""
        if number is not None:
            os.kill(self.pid, number)
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.read(0.1):
            pass
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        while not pid and time.monotonic() < end:
            time.sleep(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
        assert pid, "the console did not leave"
        return os.waitstatus_to_exitcode(status)
