"""Failures of the console itself: one sentence for the screen, the whole story in a file."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from pathlib import Path

MOST_BYTES = 1024 * 1024
"""A log that has reached this takes no more: what broke stands at its beginning."""


class Trouble:
    """Writes failures into `path` (None: nowhere), each kind of failure once."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seen: set[tuple[str, str, str]] = set()

    def note(self, what: str, error: BaseException) -> str:
        """One sentence on `what` happened, with where the details are if they could be written."""
        said = f"{what}: {in_one_line(error)}"
        frames = traceback.extract_tb(error.__traceback__)
        key = (what, type(error).__name__, f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "")
        if key not in self._seen and self.path is not None:
            try:
                self._write(self.path, what, error)
            except OSError:
                return said
            self._seen.add(key)
        return f"{said}; `spark-serve logs console` has the details" if key in self._seen else said

    def _write(self, path: Path, what: str, error: BaseException) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8", errors="replace") as file:
            if os.fstat(file.fileno()).st_size < MOST_BYTES:
                story = "".join(traceback.format_exception(error))
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{story}\n")


def in_one_line(error: BaseException) -> str:
    """Its type and its first line."""
    text = ""
    with contextlib.suppress(Exception):
        text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
