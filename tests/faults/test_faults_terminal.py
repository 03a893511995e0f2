"""What the terminal is put through: signals, a terminal that is lost or does not read, sizes, failures of the console itself.

No engine is needed: the console draws a script, through its own command line. Requests: none are under way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.ledger import Row, enter
from tests.faults.terminal import Terminal, modes_left

SCRIPTED = str(Path(__file__).with_name("scripted_console.py"))
ROOT = str(Path(__file__).parents[2])
DRAWN = "SCRIPTED"
BOUND_S = 20.0


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens consoles on the script; those that still live at the end are killed."""
    opened: list[Terminal] = []

    def start(what: str = "nothing", **options: object) -> Terminal:
        variables = {"SPARK_SERVE_HOME": str(tmp_path), "PYTHONPATH": ROOT}
        terminal = Terminal(what, argv=(sys.executable, SCRIPTED), **{**variables, **options})  # type: ignore[arg-type]
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)


def lives(pid: int) -> int:
    """1 if the process is still there, not even reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    return 1


def gone(pid: int, limit_s: float = BOUND_S) -> int:
    """Wait for a child and give its exit code, without touching its terminal."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        select.select([], [], [], 0.02)
    raise AssertionError("the console did not leave")


def last_words(terminal: Terminal) -> str:
    """What was printed once the screen was given back."""
    tail = terminal.raw.rpartition(b"\x1b[?1049l")[2].decode("utf-8", "replace")
    return " ".join(re.sub(r"\x1b\[[0-9;?<>=]*[a-zA-Z]", "", tail).split())


LONG = pytest.mark.faults


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGINT,
        pytest.param(signal.SIGHUP, marks=LONG),
        pytest.param(signal.SIGQUIT, marks=LONG),
    ],
)
def test_a_signal_gives_the_terminal_back(console: Callable[..., Terminal], number: signal.Signals) -> None:
    terminal = console()
    terminal.until(DRAWN)
    before = termios.tcgetattr(terminal.fd)
    began = time.monotonic()
    assert terminal.end(number) == 128 + number
    took = time.monotonic() - began
    assert b"\x1b[?1049h" in terminal.raw
    assert modes_left(terminal.raw) == []
    assert not before[3] & termios.ECHO
    words = last_words(terminal)
    assert words == f"Detached by {number.name}."
    enter(Row(fault=f"console: {number.name}", said=words, after_s=took, left=lives(terminal.pid)))


def test_a_lost_terminal_ends_the_console(console: Callable[..., Terminal]) -> None:
    terminal = console()
    terminal.until(DRAWN)
    began = time.monotonic()
    os.close(terminal.fd)
    code = gone(terminal.pid)
    assert code == 128 + signal.SIGHUP
    took = time.monotonic() - began
    enter(Row(fault="console: the terminal is lost", said=f"exit code {code}", after_s=took, left=lives(terminal.pid)))


def test_a_terminal_that_does_not_read_holds_nobody_up(console: Callable[..., Terminal]) -> None:
    terminal = console()
    terminal.until(DRAWN)
    terminal.resize(300, 100)
    assert full(terminal), "its writes were not held up"
    began = time.monotonic()
    os.kill(terminal.pid, signal.SIGTERM)
    code = gone(terminal.pid)
    took = time.monotonic() - began
    while terminal.read(0.2):
        if not select.select([terminal.fd], [], [], 0.2)[0]:
            break
    assert code == 128 + signal.SIGTERM
    assert modes_left(terminal.raw) == []
    said = f"exit code {code}, screen given back"
    enter(Row(fault="console: the terminal reads nothing, SIGTERM", said=said, after_s=took, left=lives(terminal.pid)))


def full(terminal: Terminal) -> bool:
    """Wait until no more goes in: the bytes that wait to be read stay as many for a second, while the console draws on."""
    end, since, waiting = time.monotonic() + BOUND_S, time.monotonic(), -1
    while time.monotonic() < end:
        now = int.from_bytes(fcntl.ioctl(terminal.fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        if now != waiting:
            waiting, since = now, time.monotonic()
        if waiting and time.monotonic() - since > 1.0:
            return True
        select.select([], [], [], 0.05)
    return False


def test_a_terminal_without_a_session_is_missed_too(tmp_path: Path) -> None:
    """Nobody sends SIGHUP there: the kernel does so only for a controlling terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    variables = {"SPARK_SERVE_HOME": str(tmp_path), "PYTHONPATH": ROOT, "TERM": "xterm-256color"}
    argv = [sys.executable, SCRIPTED, "nothing"]
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **variables}, start_new_session=True
    ) as child:
        os.close(theirs)
        seen = b""
        while b"SCRIPTED" not in seen:
            assert select.select([ours], [], [], BOUND_S)[0], seen[-500:]
            seen += os.read(ours, 65536)
        began = time.monotonic()
        os.close(ours)
        code = child.wait(BOUND_S)
    took = time.monotonic() - began
    assert code == 128 + signal.SIGHUP
    row = Row(fault="console: a lost terminal that is nobody's session", said=f"exit code {code}", after_s=took, left=0)
    enter(row)


def stopped(terminal: Terminal) -> None:
    """Read on until the console is stopped: one whose output nobody takes cannot come to it."""
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        terminal.read(0.02)
        found, status = os.waitpid(terminal.pid, os.WNOHANG | os.WUNTRACED)
        if found:
            assert os.WIFSTOPPED(status), status
            return
    raise AssertionError("it was not stopped")


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(console: Callable[..., Terminal]) -> None:
    terminal = console()
    terminal.until(DRAWN)
    terminal.press("\x1a")
    stopped(terminal)
    while select.select([terminal.fd], [], [], 0.1)[0]:
        terminal.read(0.1)
    assert modes_left(terminal.raw) == []
    terminal.screen.reset()
    began = time.monotonic()
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.until(DRAWN)
    terminal.until("what people feel")
    said, took = terminal.line(DRAWN), time.monotonic() - began
    os.kill(terminal.pid, signal.SIGSTOP)
    stopped(terminal)
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.press("?")
    terminal.until("Leave; the stack lives on")
    assert terminal.end() == 128 + signal.SIGTERM
    assert modes_left(terminal.raw) == []
    enter(Row(fault="console: ctrl+z, fg, then SIGSTOP and SIGCONT", said=said, after_s=took, left=lives(terminal.pid)))


def test_a_source_that_raises_is_said_and_asked_again(console: Callable[..., Terminal]) -> None:
    terminal = console("source")
    took = terminal.until("the source failed: ValueError: a source that is broken")
    said = terminal.line("the source failed")
    terminal.until(DRAWN)
    terminal.until("what people feel")
    assert terminal.end() == 128 + signal.SIGTERM
    enter(Row(fault="console: its source raises", said=said, after_s=took, left=lives(terminal.pid)))


@pytest.mark.parametrize(
    ("what", "key", "says"),
    [
        ("panel", "", r"this panel failed \(KeyError\)"),
        ("action", " ", "freeze failed: KeyError: 'a thing'"),
        ("worker", "b", "send failed: KeyError: 'a thing'"),
    ],
)
def test_what_breaks_is_said_in_one_line_and_the_rest_lives_on(
    console: Callable[..., Terminal], tmp_path: Path, what: str, key: str, says: str
) -> None:
    terminal = console(what)
    terminal.until(DRAWN)
    terminal.press(key)
    took = terminal.until(says)
    said = terminal.line(says)
    if what == "panel":
        terminal.until("the panel batch failed: KeyError: 'a thing'; `spark-serve logs console`")
        terminal.until("batch: 62 of 64|batch  62|62 of 64")
    terminal.press("2")
    terminal.until("follow|newest|choose")
    assert terminal.end() == 128 + signal.SIGTERM
    assert modes_left(terminal.raw) == []
    log = tmp_path / "state" / "logs" / "console.log"
    assert log.read_text().count("KeyError: 'a thing'") == 1
    assert log.stat().st_mode & 0o777 == 0o600
    enter(Row(fault=f"console: {what} raises", said=said, after_s=took, left=lives(terminal.pid)))


def test_what_nobody_can_catch_ends_in_one_sentence(console: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = console("fatal")
    terminal.until(DRAWN)
    assert terminal.end(None) == 1
    assert modes_left(terminal.raw) == []
    words = last_words(terminal)
    why = "The console failed: KeyError: 'a thing'"
    assert words == f"spark-serve: {why}; `spark-serve logs console` has the details."
    assert "breaks" in (tmp_path / "state" / "logs" / "console.log").read_text()
    enter(Row(fault="console: a failure nobody catches", said=words, left=lives(terminal.pid)))
