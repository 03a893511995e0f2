"""The cockpit in a real pty, seen by a terminal emulator. Signals and other faults of a terminal: `tests/faults`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.color import Color, ColorSystem
from rich.style import Style

from console.spans import turn
from tests.faults.terminal import Terminal

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


def console(every_s: float | None, **environment: str) -> Terminal:
    """A scripted console in a pty."""
    code = CHILD.format(folder=str(Path(__file__).parent), every_s=every_s)
    return Terminal(argv=(sys.executable, "-c", code), cells=120, rows=36, **environment)


def test_many_small_updates_make_the_same_screen_as_one_paint() -> None:
    step, whole = console(0.02), console(None)

    def same() -> bool:
        whole.read(0.0)
        return step.shows("61 % of 822") and step.screen.display == whole.screen.display

    try:
        step.until(same)
        assert {y: dict(row) for y, row in step.screen.buffer.items()} == {
            y: dict(row) for y, row in whole.screen.buffer.items()
        }
    finally:
        for one in (step, whole):
            one.end()


def test_no_color_means_no_colour_at_all() -> None:
    terminal = console(None, NO_COLOR="1")
    terminal.until("61 % of 822")
    terminal.press("?")
    terminal.until("Leave; the stack lives on")
    terminal.end()
    codes = {code for sgr in re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw) for code in sgr.split(b";")}
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
