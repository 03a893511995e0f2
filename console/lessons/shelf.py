"""The lessons that come along, in the order of the day, and those of anybody's files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the list alone needs no reader, and a console lists them at its start
    from console.lessons.lesson import Lesson

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
SHIPPED: dict[str, str] = {
    "one-chat": "One chat barely wakes the GPU",
    "ten-friends": "Ten friends at once",
    "long-prompt": "The long prompt that blocks the short one",
    "lunch-rush": "The lunch rush",
    "slow-client": "The slow client",
    "retry-storm": "The retry storm",
    "cold-start": "The cold start",
    "how-many": "How many people?",
}
"""Name -> title, so that a list needs no file; the files say the same (a test holds them to it)."""


def find(name: str) -> Lesson:
    """One that comes along, by its name or its number in the list, or the one in a file. Raises LessonError."""
    from console.lessons.reading import LessonError, read  # noqa: PLC0415

    if name.isdecimal() and 0 < int(name) <= len(SHIPPED):
        name = list(SHIPPED)[int(name) - 1]
    if name in SHIPPED:
        return shipped(name)
    path = Path(name)
    if path.suffix == SUFFIX:
        try:
            return read(path)
        except LessonError as error:
            raise LessonError([f"{name}: {mistake}" for mistake in error.mistakes]) from None
    raise LessonError(
        [f"There is no lesson {name!r}; there are {', '.join(SHIPPED)}, or give a file ending in {SUFFIX}"]
    )


@cache
def shipped(name: str) -> Lesson:
    """One that comes along. Raises LessonError where its file was changed for the worse, KeyError for another name."""
    from console.lessons.reading import read  # noqa: PLC0415

    if name not in SHIPPED:
        raise KeyError(name)
    return read(FOLDER / f"{name}{SUFFIX}")
