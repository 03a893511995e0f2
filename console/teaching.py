"""The application's part for lessons: keys become answers, commands go out in order, and all is put back on leaving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from textual import work
from textual.app import App, ReturnType

from console.classroom import Classroom
from console.deeds import POLICY_CHANGE, why_not
from console.messages import Answered
from console.sources.base import Source
from console.view import View
from server.commands import Answer, Command, Hold, Marker
from server.telemetry.snapshot import Snapshot

if TYPE_CHECKING:
    from console.lessons.lesson import Lesson

UNDO_S = 2.0
"""Seconds that leaving waits for the stack to put people and policy back; after that it does so by itself."""


class Teaching(App[ReturnType]):
    """What an application needs to give a lesson."""

    source: Source
    snapshot: Snapshot | None
    first_lesson: Lesson | None = None
    """To be opened at the start."""

    def __init__(self, *of_others: Any) -> None:
        """`of_others`: what the next class in line takes."""
        super().__init__(*of_others)
        self.classroom = Classroom()
        self._turn = asyncio.Lock()
        """Of one step's commands: those of two are never mixed."""

    def on_ready(self) -> None:
        """Open what was asked for on the command line."""
        if self.first_lesson is not None:
            self.classroom.keep(self.first_lesson)
            self._tell(self.classroom.open(self.first_lesson))
            self.switch_mode("lesson")

    def teach(self, snapshot: Snapshot) -> None:
        """One snapshot more for the lesson, whichever screen is in front."""
        before = self.classroom.run
        if before is None:
            return
        self._tell(self.classroom.look(snapshot))
        self._say_reveal(before.phase)

    def _say_reveal(self, before: str) -> None:
        run = self.classroom.run
        if run is not None and run.phase == "told" != before and self.current_mode != "lesson":
            self.flash("The lesson has something to show: 6 goes back to it.", "good")

    def flash(self, text: str, style: str = "text") -> None:
        """The application's own."""
        raise NotImplementedError

    def redraw(self) -> None:
        """The application's own."""
        raise NotImplementedError

    def view(self) -> View:
        """The application's own."""
        raise NotImplementedError

    def action_lesson_go(self) -> None:
        """Open the chosen lesson, or its next part; where the text goes on below the screen, its next page."""
        if rows := self._unread():
            self.action_lesson_scroll(rows)
            return
        self._tell(self.classroom.go_on(self.snapshot, why_not(POLICY_CHANGE, self.snapshot, self.source.can_send)))
        self.redraw()

    def _unread(self) -> int:
        from console.screens.lesson import LessonScreen  # noqa: PLC0415

        reads = self.classroom.run is not None and self.classroom.run.phase in {"ask", "told"}
        return self.screen.unread(self.view()) if reads and isinstance(self.screen, LessonScreen) else 0

    def action_lesson_answer(self, by: int) -> None:
        """Another answer, or another lesson."""
        self.classroom.move(by)
        self.redraw()

    def action_lesson_pick(self, place: int) -> None:
        """What was clicked: an answer, or a lesson, which a second click opens."""
        if self.classroom.run is None and self.classroom.at == place:
            self.action_lesson_go()
        elif self.classroom.run is None:
            self.classroom.at = place
        else:
            self.classroom.run = self.classroom.run.pick(place)
        self.redraw()

    def action_lesson_scroll(self, by: int) -> None:
        """Further down, or back up, where the text is longer than the screen."""
        self.classroom.scroll = max(0, self.classroom.scroll + by)
        self.redraw()

    def action_lesson_leave(self) -> None:
        """Back to the list; people and policy as they were."""
        self._tell(self.classroom.leave())
        self.redraw()

    def action_lesson(self, name: str) -> None:
        """This lesson."""
        from console.lessons.shelf import shipped  # noqa: PLC0415

        self._tell(self.classroom.open(shipped(name)))
        if self.current_mode != "lesson":
            self.switch_mode("lesson")
        self.redraw()

    def _tell(self, sent: Sequence[Command]) -> None:
        if sent and self.source.can_send:
            self._tell_in_order(sent)

    @work(exit_on_error=False, group="lesson")
    async def _tell_in_order(self, sent: Sequence[Command]) -> None:
        """Each command once the one before it was answered; the first that is refused ends it."""
        answers: list[Answer] = []
        async with self._turn:
            for command in sent:
                answers.append(await self.source.send(command))
                if not answers[-1].ok or not isinstance(command, Hold | Marker):
                    self.post_message(Answered(answers[-1]))
                if not answers[-1].ok:
                    break
        if any(isinstance(command, Marker) for command in sent):
            before = self.classroom.run
            self.classroom.answered(answers)
            self._say_reveal(before.phase if before else "")
            self.redraw()

    def exit(
        self, result: ReturnType | None = None, return_code: int = 0, message: RenderableType | None = None
    ) -> None:
        """Textual's own, after what a lesson changed was put back."""
        undo = self.classroom.leave()
        if not undo or not self.source.can_send:
            super().exit(result, return_code, message)
            return
        self._undo_and_exit(undo, result, return_code, message)

    @work(exit_on_error=False, group="leaving")
    async def _undo_and_exit(
        self, undo: Sequence[Command], result: ReturnType | None, return_code: int, message: RenderableType | None
    ) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNDO_S), self._turn:
                    for command in undo:
                        await self.source.send(command)
        finally:
            super().exit(result, return_code, message)
