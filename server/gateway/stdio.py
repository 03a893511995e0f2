"""JSON lines over stdin and stdout, in threads of their own so that neither a stuck reader nor any kind of file stops the loop.

They use the bare descriptors: a thread inside a buffered stdin at exit kills the interpreter.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

BACKLOG_LINES = 10_000
REST_S = 0.02
"""Between two writes, so that a line a request does not cost its loop a change of threads a request."""


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
        while (lines := self._batch()) is not None:
            data = memoryview(b"".join(lines))
            try:
                while open_ and data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                open_ = False  # the reader is gone
            if not open_:
                for _ in lines:
                    self._dropped()
            time.sleep(REST_S)

    def _batch(self) -> list[bytes] | None:
        """What has come since, with newlines; None when that was all."""
        lines: list[bytes] = []
        line = self._lines.get()
        while line is not None:
            lines.append(line + b"\n")
            if self._lines.empty():
                return lines
            line = self._lines.get()
        if lines:
            self._lines.put(None)
        return lines or None


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
