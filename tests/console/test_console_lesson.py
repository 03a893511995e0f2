"""The Lesson screen with a scripted source: keys, commands in order, undo on every way out, and what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lesson_scenes
import pytest
import samples
from console_waiting import screen_text, until
from lesson_scenes import PushedSource, alone, together
from textual.pilot import Pilot

from console.app import CockpitApp, Left
from console.classroom import Classroom
from console.lessons.reading import parse
from console.lessons.shelf import FOLDER, shipped
from console.sources.scripted import ScriptedSource
from server import commands
from server.telemetry.snapshot import Snapshot

Compare = Callable[..., bool]
WIDE, OLD = (160, 48), (80, 24)
BASE = lesson_scenes.CPU
GPU = lesson_scenes.H100


pytestmark = pytest.mark.usefixtures("one_time_zone")


async def enter(app: CockpitApp, pilot: Pilot[Any], phase: str) -> None:
    """Press enter (which goes down a long text first) until the lesson is so far."""

    def there() -> bool:
        return app.classroom.run is not None and app.classroom.run.phase == phase

    for _ in range(6):
        if there():
            return
        await pilot.press("enter")
        await pilot.pause()
    await until(pilot, there)


async def opened(app: CockpitApp, pilot: Pilot[Any], place: int) -> None:
    """The lesson at this place of the list."""
    await until(pilot, lambda: app.snapshot is not None)
    await pilot.press("6", *["down"] * place, "enter")
    await until(pilot, lambda: app.classroom.run is not None)


async def push(app: CockpitApp, pilot: Pilot[Any], snapshot: Snapshot) -> None:
    """Give it to the source, and wait until the lesson has seen it."""
    assert isinstance(app.source, PushedSource)
    app.source.push(snapshot)
    await until(pilot, lambda: app.snapshot is snapshot)


async def to_the_prediction(app: CockpitApp, pilot: Pilot[Any], base: Snapshot) -> None:
    """Ten friends, at the question of its second step."""
    await opened(app, pilot, 1)
    await enter(app, pilot, "wait")
    await push(app, pilot, alone(base, 9.0, 62, 21.0))
    assert app.classroom.run is not None
    assert app.classroom.run.phase == "told"
    await enter(app, pilot, "ask")


async def to_the_reveal(app: CockpitApp, pilot: Pilot[Any], base: Snapshot) -> None:
    await to_the_prediction(app, pilot, base)
    await pilot.press("down", "down")
    await enter(app, pilot, "wait")
    await push(app, pilot, together(base, 23.0, 76, 71.0))


async def test_a_lesson_from_its_list_to_its_end() -> None:
    source = PushedSource([BASE])
    app = CockpitApp(source, clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("6")
        await until(pilot, lambda: "lessons: the course's day" in screen_text(app))
        await to_the_reveal(app, pilot, BASE)
        assert "✓ seen     Several people shared a step" in screen_text(app)
        assert "3.4 times" in screen_text(app)
        await enter(app, pilot, "over")
        await until(pilot, lambda: source.sent[-1] == commands.Hold(on=False))
        assert "That was it: seen 3 of 3, predicted 0 of 1" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "✓ seen 3 of 3" in screen_text(app))
    sent = [type(command).__name__ for command in source.sent]
    assert sent == ["Hold", "Marker", "People", "Ask", "Hold", "Marker", "People", "Hold"]


async def test_it_goes_on_while_another_screen_is_in_front() -> None:
    app = CockpitApp(PushedSource([BASE]), clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await opened(app, pilot, 1)
        await enter(app, pilot, "wait")
        await pilot.press("1")
        await push(app, pilot, alone(BASE, 2.0, 58, 21.0))
        assert "lesson, step 1 of 2: waiting" in screen_text(app)
        await push(app, pilot, alone(BASE, 9.0, 62, 21.0))
        await until(pilot, lambda: "The lesson has something to show: 6 goes back to it." in screen_text(app))
        await pilot.press("6")
        await until(pilot, lambda: "Keep these two in mind" in screen_text(app))


@pytest.mark.parametrize("key", ["escape", "q"])
async def test_leaving_puts_people_back(key: str) -> None:
    source = PushedSource([BASE])
    app = CockpitApp(source, clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await opened(app, pilot, 1)
        await enter(app, pilot, "wait")
        assert commands.Hold(on=False) not in source.sent
        await pilot.press(key)
        await until(pilot, lambda: source.sent[-1] == commands.Hold(on=False))
        if key == "q":
            await until(pilot, lambda: not app.is_running or app.return_value is not None)
            assert isinstance(app.return_value, Left)
            assert app.return_value.how == "detached"
        else:
            await until(pilot, lambda: "lessons: the course's day" in screen_text(app))


async def test_a_refusal_stands_on_the_screen_and_sends_nothing_more() -> None:
    source = PushedSource([BASE], refuse=[commands.People])
    app = CockpitApp(source, clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await opened(app, pilot, 1)
        await pilot.press("enter")
        await until(pilot, lambda: app.classroom.run is not None and bool(app.classroom.run.refusal))
        assert "The engine is starting; wait for it." in screen_text(app)
        assert [type(command).__name__ for command in source.sent] == ["Hold", "Marker", "People"]


async def test_on_somebody_elses_engine_a_lesson_is_read_and_acting_greyed() -> None:
    source = ScriptedSource([samples.READ_ONLY], kind="live")
    app = CockpitApp(source, clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("6")
        await until(pilot, lambda: "To read only: somebody else's engine" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "not done here: somebody else's engine" in screen_text(app))
        await pilot.press("down")
        await enter(app, pilot, "told")
        assert "only read: somebody else's engine" in screen_text(app)
        assert "recorded 2.3 %" in screen_text(app)
        assert source.sent == []


async def test_a_lesson_is_in_the_palette_and_on_the_command_line() -> None:
    app = CockpitApp(PushedSource([BASE]), clock=lambda: 0.0)
    app.first_lesson = shipped("cold-start")
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.current_mode == "lesson" and "A warm engine" in screen_text(app))
        names = [one.title for one in app.get_system_commands(app.screen)]
        assert "Lesson: The lunch rush (6)" in names
        await app.run_action("lesson('lunch-rush')")
        await until(pilot, lambda: "Half past eleven" in screen_text(app))


def test_somebodys_own_lesson_stands_on_the_shelf() -> None:
    room = Classroom()
    room.keep(shipped("lunch-rush"))
    assert (room.at, room.files) == (3, [])
    own = parse((FOLDER / "one-chat.toml").read_text().replace("One chat barely", "My chat barely"), "mine")
    room.keep(own)
    assert (room.at, room.files) == (8, [own])
    assert room.shelf()[8] is own


async def test_the_list_fits_the_smallest_terminal() -> None:
    app = CockpitApp(PushedSource([BASE]), clock=lambda: 0.0)
    async with app.run_test(size=(60, 16)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("6", "up")
        await until(pilot, lambda: "▸ 8  How many people?" in screen_text(app))
        assert "opens it" in screen_text(app)


async def test_a_click_answers_the_question() -> None:
    app = CockpitApp(PushedSource([BASE]), clock=lambda: 0.0)
    async with app.run_test(size=WIDE) as pilot:
        await to_the_prediction(app, pilot, BASE)
        await app.run_action("lesson_pick(3)")
        assert app.classroom.run is not None
        assert app.classroom.run.chosen == 3


async def test_a_long_text_is_gone_down_before_the_lesson_goes_on() -> None:
    app = CockpitApp(PushedSource([BASE]), clock=lambda: 0.0)
    async with app.run_test(size=OLD) as pilot:
        await to_the_reveal(app, pilot, BASE)
        assert "more lines: enter" in screen_text(app)
        await pilot.press("enter")
        assert app.classroom.run is not None
        assert app.classroom.run.phase == "told"
        assert app.classroom.scroll > 0
        await pilot.press("pageup", "pageup", "pageup")
        assert app.classroom.scroll == 0


def look(compare: Compare, size: tuple[int, int], base: Snapshot, to: Callable[..., Any]) -> bool:
    app = CockpitApp(PushedSource([*samples.course(base)]), clock=lambda: 0.0)

    async def shown(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: app.snapshot is base)
        await to(app, pilot)
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=shown)


async def _list(app: CockpitApp, pilot: Pilot[Any]) -> None:
    await pilot.press("6", "down")


async def _prediction(app: CockpitApp, pilot: Pilot[Any]) -> None:
    await to_the_prediction(app, pilot, BASE)
    await pilot.press("down", "down")


async def _running(app: CockpitApp, pilot: Pilot[Any]) -> None:
    await _prediction(app, pilot)
    await enter(app, pilot, "wait")
    await push(app, pilot, together(BASE, 15.0, 66, 60.0))


async def _reveal(app: CockpitApp, pilot: Pilot[Any]) -> None:
    await to_the_reveal(app, pilot, BASE)


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("to", [_list, _prediction, _running, _reveal], ids=lambda to: to.__name__.strip("_"))
def test_lesson_screen(snap_compare: Compare, to: Callable[..., Any], size: tuple[int, int]) -> None:
    assert look(snap_compare, size, BASE, to)


def test_lesson_screen_where_a_gpu_is_missing(snap_compare: Compare) -> None:
    async def to(app: CockpitApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, 0)
        await pilot.press("down", "right")
        await enter(app, pilot, "wait")
        await push(app, pilot, alone(BASE, 13.0, 62, 21.0))

    assert look(snap_compare, WIDE, BASE, to)


def test_lesson_screen_to_read_only(snap_compare: Compare) -> None:
    async def to(app: CockpitApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, 3)

    assert look(snap_compare, OLD, samples.READ_ONLY, to)
