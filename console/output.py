"""What the verbs print: text that no terminal takes for a command.

Names, log lines and errors come from elsewhere. What is unprintable in them leaves as `\\u001b`: it can be seen, and JSON
stays the same JSON.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Generator
from typing import IO, Any

from console.format import UNPRINTABLE

WIPE = "\r\x1b[2K"
"""Begins the line anew; the one sequence of our own."""
_OURS = re.compile(r"[\n\t]|\r\x1b\[2K")
_COLOUR = re.compile(r"[\n\t\r]|\x1b\[[0-9;]*m")


class PrintableOutput:
    """A text stream on which everything unprintable but what `ours` matches is written as an escape of JSON's."""

    def __init__(self, stream: IO[str], ours: re.Pattern[str] = _OURS) -> None:
        self._stream = stream
        self._unsafe = re.compile(f"({ours.pattern})|{UNPRINTABLE.pattern}")

    @property
    def rich_proxied_file(self) -> PrintableOutput:
        """Where rich writes when it wants this stream: its colours pass, nothing else does."""
        return PrintableOutput(self._stream, _COLOUR)

    def write(self, text: str) -> int:
        """All of `text`, in a form that can be printed; the number of its characters."""
        self._stream.write(self._unsafe.sub(_escaped, text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printable() -> Generator[None, None, None]:
    """stdout and stderr of this process, for as long as a verb runs."""
    with contextlib.ExitStack() as streams:
        if sys.stdout is not None:  # None where it was closed before we began
            streams.enter_context(contextlib.redirect_stdout(PrintableOutput(sys.stdout)))
        if sys.stderr is not None:
            streams.enter_context(contextlib.redirect_stderr(PrintableOutput(sys.stderr)))
        yield


def _escaped(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found[1]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
