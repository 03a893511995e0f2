"""Lesson: the course's day as steps to predict, do and see, over the picture that they move."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType

from console.deeds import bindings
from console.panels.foot import limit
from console.panels.lesson import hidden, lesson
from console.panels.stages import stages
from console.screens.base import CockpitScreen
from console.view import View
from console.widgets.canvas import Canvas

WHEEL_ROWS = 3


class LessonScreen(CockpitScreen):
    """Key 6."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("lesson")

    def compose_middle(self) -> ComposeResult:
        """The strip where there is room for it, the lesson, the limit and the events."""
        yield Canvas(stages, id="stages")
        yield Canvas(lesson, id="lesson", fades=False)
        yield Canvas(limit, id="limit")

    def unread(self, view: View) -> int:
        """Rows by which enter goes down the text before it goes on; 0 when all was shown."""
        size = self.query_one("#lesson", Canvas).size
        return max(1, size.height - 4) if size and hidden(view, size.width, size.height) else 0

    async def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel goes down the text."""
        event.stop()
        await self.app.run_action(f"lesson_scroll({WHEEL_ROWS})")

    async def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel goes back up."""
        event.stop()
        await self.app.run_action(f"lesson_scroll(-{WHEEL_ROWS})")
