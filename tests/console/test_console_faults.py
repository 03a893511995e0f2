"""The fault sheet, the clause of what lasts on every screen, and the palette's entries."""

from __future__ import annotations

from typing import Any

import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import until

from console.app import CockpitApp
from console.deeds import DEEDS
from console.panels.faults import clause, fault_sheet
from console.panels.header import header
from console.provoking import ROWS, FaultDraft
from console.screens.ask import AskKey
from console.screens.faults import FaultScreen
from console.sources.scripted import ScriptedSource
from console.widgets.canvas import Canvas
from server import commands
from server.commands import Answer
from server.faults.catalogue import CATALOGUE, NAMES
from server.telemetry.snapshot import ActiveFault

SIZE = (160, 48)
LATENCY = {"ms": 500.0, "jitter": 0.0, "on": "engine", "stream": "down", "toxicity": 1.0}


@pytest.mark.parametrize(("cells", "rows"), [(160, 24), (80, 22)])
def test_every_fault_can_be_reached_and_says_what_it_does(cells: int, rows: int) -> None:
    for kind in CATALOGUE:
        view = view_of(samples.LOADED, chosen=kind.name)
        text = " ".join(text_of(fault_sheet(view, cells, rows)).replace("│", " ").split())
        assert f"▸ {kind.name}" in text
        assert kind.says in text
        assert "provokes" in text


def test_the_sheet_says_what_lasts_and_why_nothing_can_be_done() -> None:
    text = text_of(fault_sheet(view_of(samples.FAULTY, chosen="pause"), 160, 24))
    assert "● engine core paused, 4 s left" in text
    assert "● latency 500 ms on engine, 18 s left" in text
    assert "undoes: engine core paused" in text
    assert "not now: a replay" in text_of(fault_sheet(view_of(samples.LOADED, greyed="a replay"), 160, 24))


@pytest.mark.parametrize(("cells", "rows"), [(160, 3), (80, 2), (60, 2)])
def test_a_fault_that_lasts_is_in_the_head_of_every_screen(cells: int, rows: int) -> None:
    assert "fault: engine core paused, 4 s left and 1 more" in text_of(header(view_of(samples.FAULTY), cells, rows))
    assert "fault:" not in text_of(header(view_of(samples.LOADED), cells, rows))


def test_a_long_clause_gives_up_its_text_and_keeps_its_seconds() -> None:
    fault = ActiveFault("x", "a" * 90 + "\x1b[31m", "i", 1.0, 7.0)
    text = text_of([clause(samples.change(samples.LOADED, faults=[fault]), 52)])
    assert text.startswith("fault: aaa")
    assert text.endswith("…, 7 s left")
    assert len(text) == 52
    assert "\x1b" not in text


def test_a_setting_changes_by_its_steps_and_round() -> None:
    kind = NAMES["pause"]
    draft = FaultDraft()
    assert draft.changed(kind, 1).of(kind) == {"process": "api-server", "for": 6.0}
    assert draft.changed(kind, -1).of(kind)["process"] == "load"
    turned = FaultDraft(place=1).changed(kind, 1).changed(kind, 1)
    assert turned.of(kind) == {"process": "engine-core", "for": 90.0}
    assert turned.command(kind) == commands.Fault("pause", {"process": "engine-core"}, 90.0)


def sheet_text(app: CockpitApp) -> str:
    screen = next(screen for screen in reversed(app.screen_stack) if isinstance(screen, FaultScreen))
    canvas = screen.query_one(Canvas)
    return "\n".join(canvas.render_line(y).text for y in range(canvas.size.height))


async def opened(app: CockpitApp, pilot: Any) -> None:
    await until(pilot, lambda: app.snapshot is not None)
    await pilot.press("x")
    await until(pilot, lambda: isinstance(app.screen, FaultScreen) and ROWS[0] in sheet_text(app))


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ([*["down"] * 4, "right", "enter"], commands.Fault("burst", {"count": 200})),
        ([*["down"] * 5, "enter"], commands.Fault("latency", LATENCY, 30.0)),
        (
            [*["down"] * 5, "right", "tab", "tab", "right", "enter"],
            commands.Fault("latency", {**LATENCY, "ms": 1000.0, "on": "people"}, 30.0),
        ),
        ([*["up"] * 4, "tab", "left", "enter"], commands.Fault("pause", {"process": "engine-core"}, 90.0)),
        ([*["up"] * 3, "left", "enter", "y"], commands.Fault("kill", {"process": "load"})),
        (["b"], commands.Burst()),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_keys_of_the_fault_sheet(keys: list[str], command: object) -> None:
    source = ScriptedSource([samples.LOADED], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press(*keys)
        await until(pilot, lambda: "So be it." in sheet_text(app))
        assert source.sent == [command]


async def test_enter_undoes_what_lasts_and_a_kill_that_is_not_confirmed_is_none() -> None:
    source = ScriptedSource([samples.FAULTY], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press(*["up"] * 4, "enter")
        await until(pilot, lambda: "So be it." in sheet_text(app))
        assert source.sent == [commands.Unfault("pause")]
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, FaultScreen))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, FaultScreen))
        assert len(source.sent) == 1


async def test_every_fault_is_in_the_palette() -> None:
    source = ScriptedSource([samples.LOADED], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    named = {deed.named for deed in DEEDS if deed.action.startswith("fault(")}
    assert {"Fault: latency", "Fault: burst 200", "Fault: pause engine-core", "Fault: kill load"} <= named
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await app.run_action("fault('pause','gateway')")
        await app.run_action("fault('disk-full')")
        await app.run_action("unfault")
        await until(pilot, lambda: len(source.sent) == 3)
        pause, full, undo = source.sent
        assert pause == commands.Fault("pause", {"process": "gateway"}, 6.0)
        assert full == commands.Fault("disk-full", {}, 30.0)
        assert undo == commands.Unfault()
        await app.run_action("fault('kill','gateway')")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        await pilot.press("y")
        await until(pilot, lambda: len(source.sent) == 4)
        assert source.sent[-1] == commands.Fault("kill", {"process": "gateway"})
