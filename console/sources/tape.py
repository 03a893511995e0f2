"""A recording that can be entered anywhere: where its snapshots are, what charts need of each, what happened.

Built once, in a thread, while it is played already; about 3 MB an hour of recording. Whatever place is asked for, at most some
200 snapshots are unpacked and one is decoded.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from console.history import KEEP_EVENTS, KEEP_S, SERIES, History, new_events, readings
from loadgen.lines import UNREADABLE
from server.telemetry.recording import Bookmark, Lines, RecordingError, check
from server.telemetry.snapshot import Event, Snapshot, snapshot_decoder

MARK_EVERY = 150
"""Snapshots between two bookmarks, at least."""
_BREATH, _BREATH_S = 20, 0.005
"""After so many snapshots the thread that indexes lets the screen go first for so long."""


@dataclass(frozen=True, eq=False)
class Happened:
    """An event and the first snapshot that shows it."""

    index: int
    event: Event


class Tape:
    """The snapshots of a recording, each newer than the one before, by their index."""

    def __init__(self, recording: Path | Iterable[Snapshot]) -> None:
        self._path = recording if isinstance(recording, Path) else None
        self._script: Sequence[Snapshot] = () if isinstance(recording, Path) else _newer(recording)
        self.at: array[float] = array("d")
        """Monotonic seconds of each snapshot indexed so far."""
        self.happened: list[Happened] = []
        self.whole = False
        """All of it is indexed."""
        self.failure: RecordingError | None = None
        """Why there is nothing to play."""
        self.wall = math.nan
        """Unix seconds of the first snapshot."""
        self._columns: dict[str, tuple[array[int], array[float]]] = {name: (array("I"), array("d")) for name in SERIES}
        """Series -> the snapshots in which it was known, and its readings there."""
        self._bookmarks: list[tuple[int, int, Bookmark | None]] = [(0, 1, None)]
        """(snapshot, its line, where to go on reading for it), ascending; the first line is the header."""
        self._lines: Lines | None = None
        self._line = 0
        """The next that `_lines` gives."""
        self._next = 0
        """The snapshot that the next call of `snapshot` finds without looking for it."""
        self._line_of: array[int] = array("I")
        self._thread: threading.Thread | None = None
        self._stopped = self._hurried = False

    def __len__(self) -> int:
        return len(self.at)

    def start(self) -> None:
        """Index in a thread; doing so again does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self.index, name="tape", daemon=True)
            self._thread.start()

    def index(self) -> None:
        """Index all of it. What is wrong with it is in `failure`."""
        try:
            for line, snapshot, bookmark in self._read():
                if self._stopped:
                    return
                self._take(line, snapshot, bookmark)
                if len(self.at) % _BREATH == 0 and not self._hurried:
                    time.sleep(_BREATH_S)
            if not self.at:
                raise RecordingError(f"{self._path or 'this recording'} holds no snapshots.")
        except RecordingError as error:
            if not self.at:
                self.failure = error
        finally:
            self.whole = True

    def wait(self) -> None:
        """Until all of it is indexed. Raises RecordingError when there is nothing to play."""
        self._hurried = True
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    @property
    def length_s(self) -> float:
        """Seconds from the first snapshot to the last one indexed."""
        return self.at[-1] - self.at[0] if self.at else 0.0

    def find(self, position_s: float) -> int:
        """The last snapshot at or before so many seconds from the first; the first one for anything earlier."""
        return max(0, bisect.bisect_right(self.at, self.at[0] + position_s + 1e-9) - 1)

    def position_s(self, index: int) -> float:
        """Seconds from the first snapshot to this one."""
        return self.at[index] - self.at[0]

    def jumps(self) -> list[Happened]:
        """The events of the recording itself, without those from before its begin."""
        return [one for one in list(self.happened) if one.event.at >= self.at[0]] if self.at else []

    def snapshot(self, index: int) -> Snapshot:
        """Raises RecordingError when the file is not what it was."""
        if self._path is None:
            return self._script[index]
        if self._lines is None or index != self._next:
            self._go_to(index)
        assert self._lines is not None
        wanted = self._line_of[index]
        for line in self._lines:
            self._line += 1
            if self._line > wanted:
                self._next = index + 1
                try:
                    return snapshot_decoder.decode(line)
                except UNREADABLE:
                    break
        raise RecordingError(f"{self._path} has changed while it was played.")

    def history(self, index: int) -> History:
        """The past as it is when all snapshots up to this one were played; none for -1."""
        if index < 0:
            return History()
        columns = {name: self._tail(*column, index) for name, column in self._columns.items()}
        last = bisect.bisect_right(self.happened, index, key=lambda one: one.index)
        events = [one.event for one in self.happened[max(0, last - KEEP_EVENTS) : last]]
        return History.rebuilt(self.at[index], columns, events)

    def close(self) -> None:
        """Let go of the file."""
        self._stopped = True
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _tail(self, where: array[int], values: array[float], index: int) -> list[tuple[float, float]]:
        """The readings of one series that fill a History's buckets at this snapshot."""
        last = first = bisect.bisect_right(where, index)
        seconds = 0
        second: int | None = None
        while first:
            before = int(self.at[where[first - 1]])
            if before != second:
                if seconds == KEEP_S:
                    break
                second, seconds = before, seconds + 1
            first -= 1
        return [(self.at[where[n]], values[n]) for n in range(first, last)]

    def _take(self, line: int, snapshot: Snapshot, bookmark: Bookmark | None) -> None:
        index = len(self.at)
        if index == 0:
            self.wall = snapshot.wall
        if bookmark is not None and index - self._bookmarks[-1][0] >= MARK_EVERY:
            self._bookmarks.append((index, line, bookmark))
        self._line_of.append(line)
        for name, value in readings(snapshot).items():
            where, values = self._columns[name]
            values.append(value)
            where.append(index)
        newest = self.happened[-1].event.at if self.happened else -math.inf
        self.happened.extend(Happened(index, event) for event in new_events(snapshot, newest))
        self.at.append(snapshot.at)  # last: whoever sees it may ask for all of the above

    def _read(self) -> Iterator[tuple[int, Snapshot, Bookmark | None]]:
        """(line, snapshot, where the lines around it can be read again)."""
        if self._path is None:
            for number, snapshot in enumerate(self._script):
                yield number, snapshot, None
            return
        newest = -math.inf
        with Lines(self._path) as lines:
            check(self._path, next(lines, None))
            for number, line in enumerate(lines, 1):
                try:
                    snapshot = snapshot_decoder.decode(line)
                except UNREADABLE:
                    return
                if newest < snapshot.at < math.inf:
                    newest = snapshot.at
                    yield number, snapshot, lines.bookmark

    def _go_to(self, index: int) -> None:
        """So that the next lines come to this snapshot."""
        assert self._path is not None
        if self._lines is not None:
            self._lines.close()
        place = bisect.bisect_right(self._bookmarks, index, key=lambda one: one[0]) - 1
        bookmark = self._bookmarks[place][2]
        self._lines = Lines(self._path, bookmark)
        self._line = bookmark.lines if bookmark is not None else 0


def _newer(script: Iterable[Snapshot]) -> list[Snapshot]:
    found: list[Snapshot] = []
    for snapshot in script:
        if (found[-1].at if found else -math.inf) < snapshot.at < math.inf:
            found.append(snapshot)
    return found
