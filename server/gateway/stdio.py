"""JSON lines over stdin and stdout, in threads of their own so that neither a stuck reader nor any kind of file stops the loop.

They use the bare descriptors: a thread inside a buffered stdin at exit kills the interpreter.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

BACKLOG_LINES = 10_000


class LineWriter:
    """Writes lines to a descriptor; what doesn't fit the backlog is dropped and told."""

    def __init__(self, descriptor: int, dropped: Callable[[], None], backlog: int = BACKLOG_LINES) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._lines: queue.Queue[bytes | None] = queue.Queue(backlog)
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Never blocks. `line` without its newline."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped()

    def close(self, timeout_s: float) -> None:
        """Write what is left, for at most so long."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        open_ = True
        while (line := self._lines.get()) is not None:
            if not open_:
                self._dropped()
                continue
            data = memoryview(line + b"\n")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                open_ = False  # the reader is gone


def read_lines(descriptor: int, line: Callable[[bytes], None], end: Callable[[], None]) -> None:
    """Start a thread that calls `line` for each line read and `end` at the end of file."""

    def run() -> None:
        rest = b""
        while data := _read(descriptor):
            *lines, rest = (rest + data).split(b"\n")
            for each in lines:
                if each.strip():
                    line(each)
        end()

    threading.Thread(target=run, name="line-reader", daemon=True).start()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
