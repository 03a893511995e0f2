"""A lesson from start to end on a live stack with the real vLLM CPU engine, by the keys of the cockpit.

Needs `spark-serve engine install`. Conditions are waited for; nothing here asserts a speed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from console.app import CockpitApp
from console.screens.base import CockpitScreen
from console.sources.live import LiveSource
from console.widgets.canvas import Canvas
from server.telemetry.snapshot import Snapshot
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PEOPLE = 3
LIMIT_S = 180.0
"""Of each wait: longer than any wait of the lesson's own."""


async def until(pilot: Pilot[Any], condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"not within {LIMIT_S:.0f} s: {what}\n{shown(pilot.app)}"
        await asyncio.sleep(0.1)
        await pilot.pause()


def shown(app: Any) -> str:
    screen = next(screen for screen in reversed(app.screen_stack) if isinstance(screen, CockpitScreen))
    canvases = [canvas for canvas in screen.query(Canvas) if canvas.display and canvas.size]
    return "\n".join(canvas.render_line(y).text for canvas in canvases for y in range(canvas.size.height))


def wanted(snapshot: Snapshot) -> tuple[Any, ...]:
    """What was asked of the people, and the policy."""
    people = snapshot.people
    return (
        people.wanted,
        people.extras,
        people.preset,
        None if people.profile is None else msgspec.to_builtins(people.profile),
        snapshot.queue.rules,
    )


async def test_ten_friends_on_the_real_engine(stack: Stack) -> None:
    stack.up(
        *("--model", "smollm2", "--max-num-seqs", "8", "--people", str(PEOPLE), "--turns", "1"),
        *("--prompt-tokens", "24", "--output-tokens", "16"),
    )
    before = stack.until("people are served", lambda s: s.people.outcomes.get("ok", 0) >= 2, 120)
    app = CockpitApp(LiveSource(stack.paths.socket))

    def phase() -> str:
        return app.classroom.run.phase if app.classroom.run is not None else ""

    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None, "the console sees the stack")
        await pilot.press("6", "down", "enter")
        await until(pilot, lambda: phase() == "ask", "the lesson is opened")
        for step, moves in (("one", 0), ("ten", 3)):
            await pilot.press(*["down"] * moves, "enter")
            await until(pilot, lambda: phase() in {"wait", "told"}, f"{step} is done")
            assert app.classroom.run is not None
            assert not app.classroom.run.refusal
            await until(pilot, lambda: phase() == "told", f"{step} is revealed")
            told = app.classroom.run.last
            assert told is not None
            assert told.cut_short == "", shown(app)
            assert [(check.says, check.seen) for check in told.checks if check.seen is not True] == [], shown(app)
            assert all(row.text != "—" or row.why for row in told.rows)
            if step == "ten":
                assert told.guess is not None
                assert told.guess.predicted == "8 times"
                assert told.guess.value is not None
                assert told.guess.value > 1.2, "ten share what one had alone"
                assert not told.guess.recorded
            await pilot.press("enter")
        await until(pilot, lambda: phase() == "over", "it is over")
        assert "That was it: seen 3 of 3" in shown(app)
        back = stack.until("people and policy are as they were", lambda s: wanted(s) == wanted(before))
        texts = [event.text for event in back.events]
        assert "lesson ten-friends 1/2: First one person, to compare with" in texts
        assert "lesson ten-friends 2/2: Nine friends sit down" in texts
        assert texts[-1] == "people and policy as they were before"
        await pilot.press("q")


def test_a_lesson_that_is_broken_off_leaves_nothing_behind(stack: Stack) -> None:
    before = stack.client.snapshot()
    argv = [sys.executable, "-m", "console.cli", "lesson", "run", "ten-friends"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        stack.until("one person chats", lambda s: s.people.wanted == 1)
        running.terminate()
        assert running.wait(timeout=60) == 130
    stack.until("people are as they were", lambda s: wanted(s) == wanted(before))
