"""Several replicas and several people on one screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import samples
import several_samples as several
from console_drawn import text_of, view_of
from console_waiting import until
from textual.pilot import Pilot

from console.app import CockpitApp
from console.deeds import DEEDS, why_not
from console.ink import width
from console.panels.audience import audience_sheet
from console.panels.batch import batch
from console.panels.engine import engine
from console.panels.foot import ticker
from console.panels.header import header
from console.panels.replicas import replicas
from console.sources.scripted import ScriptedSource
from server.telemetry.snapshot import Snapshot

Compare = Callable[..., bool]
WIDE, OLD = (160, 48), (80, 24)
STATES = {name: value for name, value in vars(several).items() if isinstance(value, Snapshot)}


pytestmark = pytest.mark.usefixtures("one_time_zone")


def look(
    compare: Compare, last: Snapshot, size: tuple[int, int], *keys: str, note: str = "", can_send: bool = True
) -> bool:
    source = ScriptedSource(samples.course(last), kind="live", can_send=can_send)
    app = CockpitApp(source, clock=lambda: 0.0, title_note=note)

    async def shown(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: app.snapshot is last)
        await pilot.press(*keys)
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=shown)


both = pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")


@both
def test_replicas_on_flow(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, several.REPLICAS, size)


@both
def test_a_dead_and_a_full_replica(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, several.ONE_DEAD, size)


@both
def test_replicas_on_the_engine_screen(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, several.ONE_DEAD, size, "3")


@both
def test_a_watchers_console(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, several.WATCHED, size, note="watching ada's stack", can_send=False)


@both
def test_who_is_here(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, several.VISITED, size, "w")


@pytest.mark.parametrize("panel", [replicas, batch, engine, audience_sheet, header])
def test_panels_fill_their_cells_and_no_more(panel: Any) -> None:
    for state in STATES.values():
        view = view_of(state)
        for cells in (36, 56, 76, 118, 160):
            for rows in (4, 6, 9, 18, 30):
                lines = panel(view, cells, rows)
                assert len(lines) <= rows
                assert {width(line) for line in lines} <= {cells}


def test_a_row_a_replica_and_their_sum() -> None:
    text = text_of(replicas(view_of(several.REPLICAS), 120, 12))
    for name in (":8001", ":8002", ":8003", ":8004", "sum", "164 of 256"):
        assert name in text
    assert "least under way first" in text
    assert "max / mean 1.07  even  n=20, 10 s" in text


def test_a_dead_one_is_named_and_the_sum_says_of_how_many() -> None:
    text = text_of(replicas(view_of(several.ONE_DEAD), 100, 12))
    assert "✕ :8003" in text
    assert "nothing listens there" in text
    assert "3 of 4 answer" in text
    assert "uneven: most at :8002" in text


def test_where_there_is_little_room_the_ill_one_is_shown() -> None:
    text = text_of(replicas(view_of(several.ONE_DEAD), 44, 6))
    assert ":8003" in text
    assert "more" in text


def test_one_engine_looks_as_ever() -> None:
    assert "replicas" not in text_of(batch(view_of(samples.LOADED), 60, 16))
    assert "replicas" not in text_of(engine(view_of(samples.LOADED), 160, 40))


def test_events_say_whose_they_were() -> None:
    assert "burst +200 ada@pts/3" in text_of([ticker(several.VISITED, 100)])


def test_the_head_counts_the_others_and_only_those() -> None:
    assert "2 watching" in text_of(header(view_of(several.VISITED), 160, 3))
    alone = samples.change(samples.LOADED, audience={"viewers": [several.OPERATOR]})
    assert "console" not in text_of(header(view_of(alone), 160, 3))


def test_a_watcher_may_look_at_everything_and_do_nothing() -> None:
    for deed in DEEDS:
        reason = why_not(deed, several.WATCHED, can_send=False)
        assert (reason == "") == (deed.touches == "nothing"), deed
        assert not reason or reason == "you watch ada's stack: only ada acts here"


async def test_w_opens_and_closes_the_sheet() -> None:
    app = CockpitApp(ScriptedSource([several.VISITED], kind="live"))
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("w")
        await until(pilot, lambda: type(app.screen).__name__ == "AudienceScreen")
        await pilot.press("w")
        await until(pilot, lambda: type(app.screen).__name__ == "FlowScreen")


async def test_what_a_watcher_presses_is_answered_with_the_reason() -> None:
    source = ScriptedSource([several.WATCHED], kind="live", can_send=False)
    app = CockpitApp(source)
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("b", "c", "m", "Q")
        await until(pilot, lambda: "only ada acts here" in app.view().status)
        assert source.sent == []
