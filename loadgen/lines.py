"""JSON lines out of a process and in, without ever holding up its event loop."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import msgspec

from loadgen.records import IntervalRecord, LoadRecord

INTERVALS_KEPT = 64
"""With more lines than this unwritten, interval records are dropped: they are stale by the time anybody reads them."""
REQUESTS_KEPT = 100_000
"""With more lines than this unwritten, request records are dropped too (about 50 MB)."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no document of the wanted type: not JSON, not UTF-8, or nested without end."""


class LineWriter:
    """Writes records to a file descriptor from a thread of its own.

    A reader that stops reading costs interval records first, and request records only past `REQUESTS_KEPT`; both are
    counted, and `complain` gets a sentence when request records begin to be lost and `close` one with the totals.
    """

    def __init__(self, fd: int, complain: Callable[[str], None], *, on_broken: Callable[[], None]) -> None:
        self._fd = fd
        self._complain = complain
        self._on_broken = on_broken
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._encoder = msgspec.json.Encoder()
        self._broken = False
        self.dropped_intervals = 0
        self.dropped_requests = 0
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)
        self._thread.start()

    def put(self, record: LoadRecord) -> None:
        """Never blocks."""
        waiting = self._lines.qsize()
        if isinstance(record, IntervalRecord) and waiting >= INTERVALS_KEPT:
            self.dropped_intervals += 1
        elif waiting >= REQUESTS_KEPT:
            if not self.dropped_requests:
                self._complain("nobody reads the records: request records are being dropped")
            self.dropped_requests += 1
        else:
            self._lines.put(self._encoder.encode(record) + b"\n")

    def close(self, timeout_s: float) -> None:
        """Wait until everything is written, at most `timeout_s` seconds; what could not be is counted and said."""
        self._lines.put(None)
        self._thread.join(timeout_s)
        unwritten = self._lines.qsize() if self._broken or self._thread.is_alive() else 0  # and one in hand
        if self.dropped_intervals or self.dropped_requests or unwritten:
            self._complain(
                f"records dropped: {self.dropped_requests} requests, {self.dropped_intervals} intervals; "
                f"{unwritten} lines unwritten at the end"
            )

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:
                self._broken = True
                self._on_broken()
                return


def follow_lines(fd: int, on_line: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
    """Read lines in a daemon thread (a pipe, a terminal and a file alike) until the end or an error.

    Both callbacks run in that thread. os.read, because a buffered reader's lock would outlive the interpreter.
    """

    def read() -> None:
        rest = b""
        while True:
            try:
                data = os.read(fd, 65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(line)
        on_end()

    threading.Thread(target=read, name="commands", daemon=True).start()
