"""Terminals of every size and kind: small, large, resized in a storm, without a size, without signs, in the background."""

from __future__ import annotations

import random
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.ledger import Row, enter
from tests.faults.terminal import Terminal, modes_left
from tests.faults.test_faults_terminal import DRAWN, ROOT, SCRIPTED, console, last_words, lives

__all__ = ["console"]
STORM, STORM_S = 200, 2.0


def whole(terminal: Terminal) -> bool:
    """The picture fills the terminal: the header above, the keys in the last row."""
    rows = [row.strip() for row in terminal.screen.display]
    return DRAWN in "".join(rows[:3]) and "help" in rows[-1]


def still(terminal: Terminal) -> list[str]:
    """What does not move with time: where the frames have their corners, and the keys."""
    rows = terminal.screen.display
    return [*(re.sub("[^╭╮╰╯]", " ", row) for row in rows), rows[-1]]


@pytest.mark.faults
def test_a_storm_of_sizes_ends_in_the_right_picture(console: Callable[..., Terminal]) -> None:
    wanted, terminal = console(cells=100, rows=30), console()
    wanted.until(lambda: whole(wanted))
    terminal.until(DRAWN)
    dice = random.Random(6)
    began = time.monotonic()
    for _ in range(STORM):
        terminal.resize(dice.choice([1, 2, 40, 60, 80, 160, 300]), dice.choice([1, 2, 16, 24, 48, 100, 200]))
        terminal.read(0.0)
        select.select([], [], [], STORM_S / STORM)
    storm_s = time.monotonic() - began
    terminal.resize(1, 1)
    terminal.resize(100, 30)
    took = terminal.until(lambda: wanted.read(0.0) and still(terminal) == still(wanted))
    said = terminal.line(DRAWN)
    assert terminal.end() == 128 + signal.SIGTERM
    assert modes_left(terminal.raw) == []
    fault = f"console: {STORM} sizes in {storm_s:.0f} s, 1x1 to 300x200"
    enter(Row(fault=fault, said=said, after_s=took, left=lives(terminal.pid)))


def test_every_size_is_lived_through(console: Callable[..., Terminal]) -> None:
    terminal = console(cells=60, rows=16)
    terminal.until(lambda: whole(terminal))
    terminal.resize(300, 100)
    terminal.until(lambda: whole(terminal))
    terminal.resize(2, 200)
    terminal.resize(1, 1)
    terminal.resize(40, 10)
    took = terminal.until("too small")
    said = terminal.line("too small")
    terminal.resize(60, 16)
    terminal.until(lambda: whole(terminal))
    assert terminal.end() == 128 + signal.SIGTERM
    enter(Row(fault="console: 60x16, 300x100, 2x200, 1x1, 40x10, 60x16", said=said, after_s=took, left=0))


@pytest.mark.parametrize(("cells", "rows"), [(1, 1), (2, 200)])
def test_a_terminal_too_small_to_begin_with_is_told_so(console: Callable[..., Terminal], cells: int, rows: int) -> None:
    terminal = console(cells=cells, rows=rows)
    assert terminal.end(None) == 1
    assert modes_left(terminal.raw) == []
    assert b"\x1b" not in terminal.raw
    said = " ".join(terminal.raw.decode().split())
    assert said == (f"spark-serve: The terminal is {cells}x{rows}; the console needs at least 60x16. Make it larger.")
    enter(Row(fault=f"console: started at {cells}x{rows}", said=said, left=lives(terminal.pid)))


def test_a_terminal_that_has_no_size_is_taken_for_80x24(console: Callable[..., Terminal]) -> None:
    shell = ("/bin/sh", "-c", f"stty rows 0 cols 0; exec {sys.executable} {SCRIPTED} nothing")
    variables = {"PYTHONPATH": ROOT, "SPARK_SERVE_HOME": "/nonexistent"}
    terminal = Terminal(argv=shell, cells=80, rows=24, **variables)
    took = terminal.until(lambda: whole(terminal))
    said = terminal.line(DRAWN)
    assert terminal.end() == 128 + signal.SIGTERM
    enter(Row(fault="console: a terminal of 0x0", said=said, after_s=took, left=lives(terminal.pid)))


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_draw_is_told_what_can_be_done(tmp_path: Path, term: str | None) -> None:
    terminal = Terminal(TERM=term, SPARK_SERVE_HOME=str(tmp_path), PYTHONPATH=ROOT)
    assert terminal.end(None) == 2
    assert b"\x1b" not in terminal.raw
    said = " ".join(terminal.raw.decode().split())
    assert "--once prints one frame" in said
    enter(Row(fault=f"console: TERM is {term or 'unset'}", said=said, left=lives(terminal.pid)))


@pytest.mark.faults
def test_a_terminal_nobody_has_heard_of_is_drawn_on(console: Callable[..., Terminal]) -> None:
    terminal = console(TERM="vt9000")
    took = terminal.until(DRAWN)
    said = terminal.line(DRAWN)
    assert terminal.end() == 128 + signal.SIGTERM
    enter(Row(fault="console: an unknown TERM", said=said, after_s=took, left=lives(terminal.pid)))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "variables", "ascii_only"),
    [
        ("LC_ALL=C", {"LC_ALL": "C"}, False),
        ("LC_ALL=C and no UTF-8 mode", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, True),
    ],
)
def test_a_locale_without_signs_is_drawn_in(
    console: Callable[..., Terminal], name: str, variables: dict[str, str], ascii_only: bool
) -> None:
    """UTF-8 wherever Python may; where it may not, a `?` for every sign, and the words stay."""
    terminal = console(PYTHONIOENCODING=None, **variables)
    terminal.until(DRAWN)
    took = terminal.until("what people feel")
    said = terminal.line("what people feel")
    assert terminal.raw.isascii() == ascii_only
    assert terminal.end() == 128 + signal.SIGTERM
    assert last_words(terminal) == "Detached by SIGTERM."
    enter(Row(fault=f"console: {name}", said=said, after_s=took, left=lives(terminal.pid)))


BACKGROUND = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
_, status = os.waitpid(pid, os.WUNTRACED)
print("stopped" if os.WIFSTOPPED(status) else "ended", flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, pid)
os.kill(pid, signal.SIGCONT)
_, status = os.waitpid(pid, 0)
os.tcsetpgrp(0, os.getpgrp())
print("code", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.faults
def test_one_that_is_started_in_the_background_waits_for_fg(tmp_path: Path) -> None:
    terminal = Terminal(
        argv=(sys.executable, "-c", BACKGROUND, SCRIPTED, "nothing"), PYTHONPATH=ROOT, SPARK_SERVE_HOME=str(tmp_path)
    )
    terminal.until("stopped")
    assert b"\x1b" not in terminal.raw
    terminal.press("\n")
    took = terminal.until(DRAWN)
    said = terminal.line(DRAWN)
    terminal.press("q")
    terminal.until("code 0")
    assert terminal.end(None) == 0
    assert modes_left(terminal.raw) == []
    enter(Row(fault="console: started in the background, then fg", said=said, after_s=took, left=lives(terminal.pid)))


def test_a_console_that_nobody_reads_on_stdout_is_refused(tmp_path: Path) -> None:
    variables = {"PYTHONPATH": ROOT, "SPARK_SERVE_HOME": str(tmp_path)}
    shell = ("/bin/sh", "-c", f"{sys.executable} -m console.cli console | cat; echo done")
    terminal = Terminal(argv=shell, **variables)
    terminal.until("done")
    said = terminal.line("needs a terminal")
    assert terminal.end(None) == 0
    assert said == "spark-serve: The console needs a terminal; --once prints one frame without one."
    enter(Row(fault="console: stdout is a pipe", said=said, left=lives(terminal.pid)))
