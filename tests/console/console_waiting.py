"""Waiting on conditions in a running application, never on time."""

from __future__ import annotations

from collections.abc import Callable

from textual.pilot import Pilot

from console.app import CockpitApp, Left
from console.screens.base import CockpitScreen
from console.widgets.canvas import Canvas


async def until(pilot: Pilot[Left], condition: Callable[[], bool]) -> None:
    """Let the application work until the condition holds; fails after many rounds."""
    for _ in range(400):
        if condition():
            return
        await pilot.pause()
    raise AssertionError("the condition never came to hold")


def screen_text(app: CockpitApp) -> str:
    """What the canvases of the cockpit's screen show."""
    screen = next(screen for screen in reversed(app.screen_stack) if isinstance(screen, CockpitScreen))
    shown = [canvas for canvas in screen.query(Canvas) if canvas.display and canvas.size]
    return "\n".join(canvas.render_line(y).text for canvas in shown for y in range(canvas.size.height))
