from __future__ import annotations

import msgspec
import samples

from console.history import CELL_S, History
from server.telemetry.snapshot import Event, Value


def at(seconds: float, depth: float | None, events: list[Event] | None = None) -> object:
    queue = msgspec.structs.replace(samples.LOADED.queue, depth=Value(depth))
    return msgspec.structs.replace(samples.LOADED, at=seconds, queue=queue, events=events or [])


def test_a_chart_moves_only_when_a_cell_is_full() -> None:
    history = History()
    for tick in range(200):
        history.append(at(1000 + tick / 2, tick))
    before = history.cells("waiting", 10)
    history.append(at(1100.0, 7.0))
    moved = history.cells("waiting", 10)
    assert moved != before
    history.append(at(1100.5, 900.0))
    history.append(at(1101.5, 901.0))
    assert history.cells("waiting", 10) == moved
    history.append(at(1100.0 + CELL_S, 1.0))
    assert history.cells("waiting", 10) != moved


def test_columns_keep_low_and_high_of_a_second() -> None:
    history = History()
    for seconds, depth in ((1000.0, 3.0), (1000.5, 90.0), (1001.2, 4.0), (1002.0, 0.0)):
        history.append(at(seconds, depth))
    assert history.columns("waiting", 1) == [(3.0, 90.0), (4.0, 4.0)]


def test_absent_is_a_gap() -> None:
    history = History()
    for seconds, depth in ((1000.0, 3.0), (1002.0, None), (1004.0, 5.0), (1006.0, 5.0)):
        history.append(at(seconds, depth))
    assert history.cells("waiting", 3) == [3.0, None, 5.0]


def test_what_is_not_newer_is_refused() -> None:
    history = History()
    assert history.append(at(1000.0, 1.0))
    assert not history.append(at(1000.0, 2.0))
    assert not history.append(at(999.0, 2.0))


def test_marks_stand_in_the_cell_of_their_event_and_come_once() -> None:
    burst = Event(1003.1, 0.0, "burst", "burst +5", "b")
    history = History()
    for tick in range(21):
        history.append(at(1000 + tick / 2, 1.0, [burst] if tick >= 7 else None))
    assert history.marks(5) == " b   "


def test_a_copy_stands_still() -> None:
    history = History()
    history.append(at(1000.0, 1.0))
    history.append(at(1002.0, 1.0))
    copy = history.copy()
    history.append(at(1010.0, 5.0))
    assert copy.cells("waiting", 1) == [1.0]
    assert history.cells("waiting", 1) == [None]
