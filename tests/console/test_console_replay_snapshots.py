"""What a replay looks like: playing, paused, at its end, and while it is sought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import samples
from console_waiting import until
from textual.pilot import Pilot

from console.app import cockpit
from console.sources.replay import ReplaySource
from server.telemetry.snapshot import Event, Snapshot

Compare = Callable[..., bool]
SIZES = [(160, 48), (80, 24)]
EVENTS = tuple(
    Event(samples.AT - 200 + at, samples.WALL - 200 + at, "x", text, mark)
    for at, text, mark in ((30, "64 people", "p"), (90, "burst +200", "b"), (170, "16 slow readers", "s"))
)


pytestmark = pytest.mark.usefixtures("one_time_zone")


def recorded() -> list[Snapshot]:
    """The minutes that lead to the loaded sample."""
    return [
        samples.change(one, events=[event for event in EVENTS if event.at <= one.at])
        for one in samples.course(samples.LOADED)
    ]


def look(compare: Compare, size: tuple[int, int], *keys: str, position_s: float | None = None, note: str = "") -> bool:
    source = ReplaySource(recorded(), stays=True, clock=lambda: 0.0, note=note or "a real H100")
    app = cockpit(source, clock=lambda: 0.0)

    async def shown(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: source.tape.whole and app.snapshot is not None)
        source.seek(source.tape.length_s if position_s is None else position_s)
        wanted = source.tape.find(source.tape.length_s if position_s is None else position_s)
        await until(pilot, lambda: source.shown == wanted and app.snapshot.at == source.tape.at[wanted])
        await pilot.press(*keys)
        await until(pilot, lambda: source.ended == (position_s is None))
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=shown)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_playing(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, size, "right_parenthesis", position_s=120.0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_paused(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, size, "space", position_s=120.0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_at_the_end(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, size)


def test_help_of_a_replay(snap_compare: Compare) -> None:
    assert look(snap_compare, (160, 48), "space", "question_mark", position_s=120.0)
