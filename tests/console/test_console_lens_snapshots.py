"""What the cockpit looks like in plain words, against a baseline, and with one panel zoomed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests_samples
import samples
from console_waiting import until
from test_console_baseline import HELD
from test_console_zoom import MARKED
from textual.pilot import Pilot

from console.app import CockpitApp
from console.screens.base import CockpitScreen
from console.sources.scripted import ScriptedSource
from server.telemetry.snapshot import Snapshot

Compare = Callable[..., bool]
SIZES = pytest.mark.parametrize("size", [(160, 48), (80, 24)], ids=lambda size: f"{size[0]}x{size[1]}")


pytestmark = pytest.mark.usefixtures("one_time_zone")


def look(
    compare: Compare,
    last: Snapshot,
    size: tuple[int, int],
    *,
    keys: tuple[str, ...] = (),
    zoom: str = "",
    prepare: Callable[[CockpitApp], None] = lambda app: None,
    **source: Any,
) -> bool:
    """Compare the picture after the keys, with a panel zoomed."""
    app = CockpitApp(ScriptedSource(samples.course(last), kind="live", **source), clock=lambda: 0.0)

    async def shown(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: app.snapshot is last)
        prepare(app)
        await pilot.press(*keys)
        if zoom:
            app.action_zoom(zoom)
            await until(pilot, lambda: isinstance(app.screen, CockpitScreen) and app.screen.zoomed == zoom)
        await pilot.pause()
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=shown)


@SIZES
def test_flow_in_plain_words(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.LOADED, size, keys=("n",))


@SIZES
def test_requests_in_plain_words(snap_compare: Compare, size: tuple[int, int]) -> None:
    last, finished = requests_samples.SERVING, requests_samples.FINISHED
    assert look(snap_compare, last, size, keys=("2", "n"), requests=finished)


def test_load_in_plain_words(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.CROWDED, (160, 48), keys=("4", "n"))


@SIZES
@pytest.mark.parametrize("panel", ["feel", "batch"])
def test_a_zoomed_panel(snap_compare: Compare, size: tuple[int, int], panel: str) -> None:
    assert look(snap_compare, MARKED, size, zoom=panel)


def test_the_zoomed_limit(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, (160, 48), zoom="limit")


def test_a_zoomed_panel_in_plain_words(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, (80, 24), keys=("n",), zoom="gpu")


@SIZES
def test_a_panel_that_is_gone_to(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.LOADED, size, keys=("tab",) * 4)


@SIZES
def test_against_a_baseline(snap_compare: Compare, size: tuple[int, int]) -> None:
    def hold(app: CockpitApp) -> None:
        app.baseline = HELD
        app.redraw()

    assert look(snap_compare, samples.LOADED, size, prepare=hold)
