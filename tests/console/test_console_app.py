from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import samples
from console_waiting import screen_text, until
from textual.events import Key
from textual.widgets import Input

from console.app import CockpitApp
from console.deeds import DEEDS, REPLAY, people_step, why_not
from console.screens.ask import AskKey, AskNote, HelpScreen
from console.sources.base import SourceGoneError
from console.sources.scripted import ScriptedSource
from loadgen.arrivals import Gamma
from server import commands
from server.commands import Answer
from server.compare.progress import CompareProgress
from server.telemetry.snapshot import Snapshot

SIZE = (160, 48)


class SteppedSource(ScriptedSource):
    """Hands out what the test puts in; an exception is raised, None ends it."""

    retry_s = 0.0

    def __init__(self) -> None:
        super().__init__([], kind="live")
        self.queue: asyncio.Queue[Snapshot | Exception | None] = asyncio.Queue()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while (item := await self.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def later(snapshot: Snapshot, seconds: float, **parts: object) -> Snapshot:
    return samples.change(snapshot, at=snapshot.at + seconds, seq=snapshot.seq + 1, **parts)


async def test_the_past_is_kept_and_not_shown() -> None:
    source = SteppedSource()
    source.behind = 1
    app = CockpitApp(source)
    async with app.run_test(size=(160, 48)) as pilot:
        source.queue.put_nowait(samples.IDLE)
        await until(pilot, lambda: app.history.at == samples.IDLE.at)
        assert app.snapshot is None
        source.behind = 0
        source.queue.put_nowait(later(samples.IDLE, 1.0))
        await until(pilot, lambda: app.snapshot is not None)
        source.queue.put_nowait(None)


async def test_a_snapshot_is_shown_with_its_verdict_and_figures() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "273 chatting" in screen_text(app))
        text = screen_text(app)
        assert "SCRIPTED" in text
        assert "10 waiting" in text
        assert "batch 62/64" in text


async def test_the_start_takes_the_pictures_place_and_gives_it_back() -> None:
    source = SteppedSource()
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(samples.STARTING)
        await until(pilot, lambda: "about 47 s to go" in screen_text(app))
        assert "what people feel" not in screen_text(app)
        source.queue.put_nowait(later(samples.LOADED, 5))
        await until(pilot, lambda: "what people feel" in screen_text(app))
        assert "to go" not in screen_text(app)


async def test_a_lost_source_is_said_dated_and_found_again() -> None:
    now = [1000.0]
    source = SteppedSource()
    app = CockpitApp(source, clock=lambda: now[0])
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(samples.LOADED)
        await until(pilot, lambda: app.snapshot is not None)
        source.queue.put_nowait(SourceGoneError("no stack answers on the socket"))
        await until(pilot, lambda: "no stack answers on the socket; trying again" in screen_text(app))
        now[0] += 12
        app._tick()
        assert "lost 12 s ago" in screen_text(app)
        assert "273 chatting" in screen_text(app), "the last figures stay, greyed"
        source.queue.put_nowait(later(samples.LOADED, 15))
        await until(pilot, lambda: "● live" in screen_text(app))


async def test_a_source_that_breaks_does_not_end_the_application() -> None:
    source = SteppedSource()
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(ValueError("odd"))
        await until(pilot, lambda: "ValueError: odd" in screen_text(app))
        source.queue.put_nowait(samples.LOADED)
        await until(pilot, lambda: "273 chatting" in screen_text(app))


async def test_freeze_stops_the_display_and_not_the_collecting() -> None:
    source = SteppedSource()
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(samples.LOADED)
        await until(pilot, lambda: "273 chatting" in screen_text(app))
        await pilot.press("space")
        assert source.held
        new = later(samples.LOADED, 8, people={"people": samples.V(400)})
        source.queue.put_nowait(new)
        await until(pilot, lambda: "FROZEN 8 s" in screen_text(app))
        assert "273 chatting" in screen_text(app)
        assert app.history.at == new.at
        await pilot.press("space")
        await until(pilot, lambda: "400 chatting" in screen_text(app))
        assert "FROZEN" not in screen_text(app)


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        (["b"], commands.Burst()),
        (["s"], commands.Extra("slow")),
        (["a"], commands.Extra("abandoner")),
        (["t"], commands.Extra("retrier")),
        (["l"], commands.Extra("long")),
        (["f"], commands.Flash()),
        (["e"], commands.Report()),
        (["plus"], commands.People(delta=25)),
        (["equals_sign"], commands.People(delta=25)),
        (["minus"], commands.People(delta=-25)),
        (["underscore"], commands.People(delta=-25)),
        (["r"], commands.Record(on=False)),
        (["c", "p"], commands.Restart("process")),
        (["c", "c"], commands.Restart("compile")),
        (["c", "d"], commands.Restart("disk")),
        (["m", "h", "i", "enter"], commands.Marker("hi")),
        (["m", "enter"], commands.Marker("")),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_keys_become_commands_and_the_answer_is_one_line(keys: list[str], command: object) -> None:
    source = ScriptedSource([samples.LOADED], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press(*keys)
        await until(pilot, lambda: "So be it." in screen_text(app))
        assert source.sent == [command]
        assert "273 chatting" in screen_text(app)


async def test_the_answer_goes_after_a_while() -> None:
    now = [0.0]
    app = CockpitApp(ScriptedSource([samples.LOADED], answer=Answer(False, "Not so.")), clock=lambda: now[0])
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("b")
        await until(pilot, lambda: "Not so." in screen_text(app))
        now[0] += 9
        app._tick()
        assert "Not so." not in screen_text(app)


@pytest.mark.parametrize(
    "keys", [["c", "escape"], ["c", "x", "escape"], ["m", "escape"], ["Q", "escape"], ["Q", "n", "escape"]]
)
async def test_questions_can_be_left(keys: list[str]) -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press(keys[0])
        await until(pilot, lambda: isinstance(app.screen, AskKey | AskNote))
        await pilot.press(*keys[1:])
        await until(pilot, lambda: not isinstance(app.screen, AskKey | AskNote))
        assert source.sent == []


@pytest.mark.parametrize("key", ["b", "s", "a", "t", "l", "f", "c", "plus", "minus"])
async def test_a_greyed_key_says_why_and_sends_nothing(key: str) -> None:
    source = ScriptedSource([samples.READ_ONLY])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press(key)
        await until(pilot, lambda: "somebody else's engine: --drive allows load on it" in screen_text(app))
        assert source.sent == []
        assert app.check_action("burst", ()) is None
        assert app.check_action("freeze", ()) is True


def test_why_not_tells_the_attached_from_the_watcher_and_the_replay() -> None:
    reasons = {deed.action: why_not(deed, samples.READ_ONLY, True) for deed in DEEDS}
    assert reasons["burst"]
    assert not reasons["stop"], "our stack around somebody else's engine can be stopped"
    watcher = samples.change(samples.LOADED, read_only="you are watching")
    assert {deed.action for deed in DEEDS if why_not(deed, watcher, True) == "you are watching"} >= {
        "burst",
        "stop",
        "record",
        "marker",
    }
    assert all(why_not(deed, samples.LOADED, False) for deed in DEEDS if deed.touches != "nothing")
    assert not any(why_not(deed, samples.LOADED, True) for deed in DEEDS)
    assert not any(why_not(deed, None, False) for deed in DEEDS if deed.touches == "nothing")


@pytest.mark.parametrize(("count", "step"), [(None, 1), (0, 1), (9, 1), (10, 5), (60, 10), (273, 25), (900, 50)])
def test_people_step(count: float | None, step: int) -> None:
    assert people_step(count) == step


async def test_detach_says_that_the_stack_lives_on() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED], kind="live"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("q")
    assert app.return_value is not None
    assert app.return_value.how == "detached"
    assert "lives on" in app.return_value.message
    assert app.return_code == 0


async def test_stop_asks_and_sends_down() -> None:
    source = ScriptedSource([samples.LOADED], answer=Answer(True, "Going down."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("Q")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        assert source.sent == []
        await pilot.press("y")
        await until(pilot, lambda: app.return_value is not None)
    assert source.sent == [commands.Down()]
    assert app.return_value is not None
    assert app.return_value.how == "stopped"


async def test_a_stop_that_is_refused_keeps_the_console() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED], answer=Answer(False, "Somebody else's.")))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("Q")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        await pilot.press("y")
        await until(pilot, lambda: "Somebody else's." in screen_text(app))
        assert app.return_value is None


async def test_screens_by_number_and_help_by_question_mark() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("3")
        await until(pilot, lambda: "max-model-len" in screen_text(app))
        await pilot.press("1")
        await until(pilot, lambda: "what people feel" in screen_text(app))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("x")
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))


async def test_a_greyed_key_is_named_by_its_own_label() -> None:
    app = CockpitApp(ScriptedSource([samples.READ_ONLY]))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("t")
        await until(pilot, lambda: "retry storm: somebody else's engine" in screen_text(app))


async def test_in_open_loop_plus_raises_the_rate() -> None:
    source = ScriptedSource([samples.STRANGERS])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("plus", "minus")
        await until(pilot, lambda: len(source.sent) == 2)
        assert source.sent == [commands.Open(Gamma(40.0, 0.25)), commands.Open(Gamma(20.0, 0.25))]


def test_every_key_stands_once_on_each_screen() -> None:
    for screen in ("", "requests", "load", "capacity", "lesson", "policy", "faults"):
        keys = [key for deed in DEEDS if deed.where in {"", screen} and deed.keys for key in deed.keys.split(",")]
        assert len(keys) == len(set(keys))


async def test_the_footer_fits_80_columns_with_what_matters_most() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "burst" in screen_text(app))
        footer = screen_text(app).splitlines()[-1]
        assert "…" not in footer
        for part in ("b burst", "s slow", "x faults", "c cold", "+ -", "p policy", "4 load", "5 capacity", "? help"):
            assert part in footer


async def test_every_deed_is_in_the_palette() -> None:
    app = CockpitApp(ScriptedSource([samples.READ_ONLY]))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        commands_ = [one for one in app.get_system_commands(app.screen) if not one.title.startswith("Zoom: ")]
    assert len(commands_) == len(
        [deed for deed in DEEDS if not deed.action.startswith("screen.") and deed.where != REPLAY]
    )
    assert any(one.title == "Preset: lunch rush (C)" for one in commands_)
    assert next(one for one in commands_ if one.title.startswith("Burst")).help.startswith("not now: somebody else's")


async def test_the_pointer_learns_why_a_figure_is_absent() -> None:
    app = CockpitApp(ScriptedSource([samples.GB10]))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.pause()
        canvas = app.screen.query_one("#gpu")
        row = next(y for y in range(canvas.size.height) if "tensor" in canvas.render_line(y).text)
        await pilot.hover(canvas, offset=(canvas.render_line(row).text.index("—"), row))
        await until(pilot, lambda: "GPM" in str(canvas.tooltip))


async def test_a_click_on_a_key_acts() -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "burst" in screen_text(app))
        await pilot.click("#keys", offset=(2, 0))
        await until(pilot, lambda: source.sent == [commands.Burst()])


async def test_a_terminal_that_is_too_small_says_so_and_recovers() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=(50, 12)) as pilot:
        await until(pilot, lambda: "the cockpit needs 60 x 16" in screen_text(app))
        assert "chatting" not in screen_text(app)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "273 chatting" in screen_text(app))


async def test_a_note_is_plain_text() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED], answer=Answer(True, "[/red] \x1b[31mmarked")))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, AskNote))
        app.screen.query_one(Input).value = "[/red]"
        await pilot.press("enter")
        await until(pilot, lambda: "[/red] marked" in screen_text(app))


async def test_a_comparison_asks_first_and_again_stops_it() -> None:
    running = samples.change(samples.LOADED, comparison=CompareProgress(runs_planned=4))
    for snapshot, keys, sent in (
        (samples.LOADED, "y", commands.Compare(arms=["fifo", "shortest"])),
        (running, "", commands.Compare(on=False)),
    ):
        source = ScriptedSource([snapshot], kind="live")
        app = CockpitApp(source)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda app=app: app.snapshot is not None)
            await app.run_action("compare")
            assert not keys or source.sent == []
            await pilot.press(*keys)
            await until(pilot, lambda source=source, sent=sent: source.sent == [sent])


@pytest.mark.parametrize("opened_by", ["question_mark", "c", "m", "p", "x"])
async def test_keys_typed_ahead_leave_what_is_above_a_screen_and_not_the_screen(opened_by: str) -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED], kind="live"))
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        below = app.screen
        await pilot.press(opened_by)
        await until(pilot, lambda: app.screen is not below)
        above = app.screen
        for _ in range(3):
            above.post_message(Key("escape", "\x1b"))
            if action := getattr(above, "action_leave", None):
                above.call_later(action)
        await until(pilot, lambda: app.screen is below)
        await pilot.pause()
        assert app.is_running
        assert app.failure is None
