"""The lesson that is under way in this console, and the shelf they stand on. State only; whoever holds it sends commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # files are read, and their reader imported, when somebody wants a lesson
    from console.lessons.lesson import Lesson
    from console.lessons.run import Run
    from server.commands import Answer, Command
    from server.telemetry.snapshot import Snapshot


@dataclass
class Classroom:
    """One lesson at a time."""

    run: Run | None = None
    at: int = 0
    """The place on the shelf."""
    files: list[Lesson] = field(default_factory=list)
    """Lessons of somebody's own, below those that come along."""
    scroll: int = 0
    done: dict[str, str] = field(default_factory=dict)
    """What came of lessons that were gone through to their end, by name."""

    @property
    def note(self) -> str:
        """For the header of every screen; empty while there is no lesson."""
        run = self.run
        if run is None or run.phase == "over":
            return ""
        words = {"wait": ": waiting", "told": ": something to see (6)"}.get(run.phase, "")
        return f"lesson, step {run.place + 1} of {len(run.lesson.steps)}{words}"

    def shelf(self) -> list[Lesson | str]:
        """Every lesson there is, or why one cannot be read."""
        from console.lessons.reading import LessonError  # noqa: PLC0415
        from console.lessons.shelf import SHIPPED, shipped  # noqa: PLC0415

        found: list[Lesson | str] = []
        for name in SHIPPED:
            try:
                found.append(shipped(name))
            except LessonError as error:
                found.append(f"{name}: {error.mistakes[0]}")
        return found + self.files

    def keep(self, lesson: Lesson) -> None:
        """Put somebody's own on the shelf, and the pointer on it."""
        from console.lessons.shelf import SHIPPED  # noqa: PLC0415

        if SHIPPED.get(lesson.name) != lesson.title:
            self.files.append(lesson)
        names = [*SHIPPED, *(one.name for one in self.files)]
        self.at = names.index(lesson.name)

    def move(self, by: int) -> None:
        """Another place on the shelf, or another answer of the question."""
        if self.run is None:
            self.at = (self.at + by) % len(self.shelf())
        else:
            self.run = self.run.choose(by)

    def open(self, lesson: Lesson) -> Sequence[Command]:
        """Begin this one; what the one before changed comes back."""
        from console.lessons.run import begin  # noqa: PLC0415

        undo = self.leave()
        self.run, self.scroll = begin(lesson), 0
        return undo

    def go_on(self, snapshot: Snapshot | None, why_not: str) -> Sequence[Command]:
        """What enter does; commands to be sent, in order."""
        self.scroll = 0
        if self.run is None:
            chosen = self.shelf()[self.at]
            return () if isinstance(chosen, str) else self.open(chosen)
        if self.run.phase == "over":
            self.run = None
            return ()
        self.run, sent = self.run.go_on(snapshot, why_not)
        if self.run.phase == "over":
            self.done[self.run.lesson.name] = summary(self.run)
        return sent

    def look(self, snapshot: Snapshot) -> Sequence[Command]:
        """One snapshot more."""
        if self.run is None:
            return ()
        self.run, sent = self.run.look(snapshot)
        return sent

    def answered(self, answers: Sequence[Answer]) -> None:
        """What became of a step's commands."""
        if self.run is not None:
            self.run = self.run.answered(answers)

    def leave(self) -> Sequence[Command]:
        """Back to the shelf; what was changed comes back."""
        if self.run is None:
            return ()
        _, undo = self.run.leave()
        self.run, self.scroll = None, 0
        return undo


def summary(run: Run) -> str:
    """What came of it, in one clause: `seen 4 of 5, predicted 2 of 3`."""
    checks = [check for told in run.told for check in told.checks]
    guesses = [told.guess for told in run.told if told.guess is not None and told.guess.predicted]
    parts = []
    if checks:
        parts.append(f"seen {sum(check.seen is True for check in checks)} of {len(checks)}")
    if guesses:
        parts.append(f"predicted {sum(one.right is True for one in guesses)} of {len(guesses)}")
    return ", ".join(parts) or "read"
