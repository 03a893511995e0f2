from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until

from console.app import CockpitApp
from console.panels.asking import asking, preset_list
from console.panels.crowds import crowds
from console.panels.measured import generator, measured
from console.sources.scripted import ScriptedSource
from server import commands
from server.commands import Answer
from server.telemetry.snapshot import Snapshot, Value

SIZE = (160, 48)


@pytest.mark.parametrize("cells", [80, 160])
def test_each_behaviour_shows_its_mark(cells: int) -> None:
    text = text_of(crowds(view_of(samples.CROWDED, chosen="slow"), cells, 13))
    for part in ("12", "held", "192 KiB", "14.2 left/min", "x1.18 requests", "prefill 100 ms", "+16"):
        assert part in text


def test_slow_readers_are_said_to_spare_the_engine_on_any_size() -> None:
    for cells, rows in ((80, 8), (160, 13)):
        text = text_of(crowds(view_of(samples.CROWDED, chosen="slow"), cells, rows))
        assert "runs on" in text
        assert "kernel and server hold the backlog" in text
    chosen_else = text_of(crowds(view_of(samples.CROWDED, chosen="long"), 160, 13))
    assert "held connections, and buffers in the gateway" in chosen_else


def test_nobody_of_a_behaviour_has_no_mark() -> None:
    text = text_of(crowds(view_of(samples.PICKED), 160, 13))
    assert "held" not in text
    assert "left/min" not in text
    assert "as in flash crowd" in text
    assert "31  still there" in text


def test_a_figure_that_is_not_known_is_absent() -> None:
    gone = samples.change(samples.CROWDED, people={"amplification": Value(), "left_per_min": Value()})
    text = text_of(crowds(view_of(gone), 160, 13))
    assert "—" in text
    assert "x0.00" not in text


def test_settings_in_words() -> None:
    text = text_of(asking(view_of(samples.CROWDED, chosen="think"), 80, 11))
    for part in (
        "closed loop: people who come back",
        "◂ 8 s ▸",
        "even 512/128 tokens",
        "0.4 % clipped",
        "naive",
        "ignored",
    ):
        assert part in text
    assert "chat: TTFT ≤ 1 s, TPOT ≤ 200 ms" in text
    opened = text_of(asking(view_of(samples.STRANGERS), 80, 11))
    assert "open loop: gamma 30 /s, shape 0.25" in opened
    assert "30 requests/s" in opened


def test_settings_nobody_knows_are_absent() -> None:
    assert text_of(asking(view_of(samples.READ_ONLY), 60, 10)).count("—") == 6


def test_the_preset_that_was_picked_is_marked() -> None:
    marked = [row for row in text_of(preset_list(view_of(samples.PICKED), 100, 10)).splitlines() if "●" in row]
    assert len(marked) == 1
    assert "E  flash crowd" in marked[0]


def test_measured_has_quantiles_with_n_and_the_servers_ttft() -> None:
    text = text_of(measured(view_of(samples.CROWDED), 156, 14))
    for part in (
        "TTFT",
        "TPOT",
        "gap",
        "whole",
        "95 213",
        "99 % of token deadlines met",
        "140 ms mean, as the engine counts",
    ):
        assert part in text
    assert "TTFT 61  left 22  refused 11  errors 1" in text
    brief = text_of(measured(view_of(samples.CROWDED), 78, 2))
    assert "n=750" in brief
    assert "server's TTFT 140 ms + gap 240 ms" in brief


def test_the_generator_tells_when_it_is_the_limit() -> None:
    good = text_of(generator(view_of(samples.CROWDED), 160, 3))
    assert "figures hold ✓" in good
    for cells, rows in ((80, 1), (160, 3)):
        text = text_of(generator(view_of(samples.VOID), cells, rows))
        assert "VOID" in text
        assert "hold ✓" not in text
    assert "the generator's clock was 240 ms late" in text
    assert "began 25.0 of 30.0/s asked" in text_of(generator(view_of(samples.STRANGERS), 160, 3))


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        (["down", "down", "right"], commands.Mix({"patient": 7.0, "abandoner": 3.0, "retrier": 1.0})),
        (["down", "enter"], commands.Extra("slow")),
        (["C"], commands.Preset("lunch-rush")),
        (["up", "enter"], commands.Preset("replay")),
        (["up", "down", "down", "down", "left"], commands.Mix({"patient": 7.0, "abandoner": 1.0, "retrier": 1.0})),
        (["a"], commands.Extra("abandoner")),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_keys_of_the_load_screen(keys: list[str], command: object) -> None:
    source = ScriptedSource([samples.CROWDED], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4")
        await until(pilot, lambda: "who is out there" in screen_text(app))
        await pilot.press(*keys)
        await until(pilot, lambda: "So be it." in screen_text(app))
        assert source.sent == [command]


async def test_letters_and_arrows_do_nothing_on_other_screens() -> None:
    source = ScriptedSource([samples.CROWDED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("C", "right", "enter", "g")
        await pilot.pause()
        assert source.sent == []


class Heard(ScriptedSource):
    """Does what it is told, but only when the test hands the snapshot out."""

    retry_s = 0.0

    def __init__(self) -> None:
        super().__init__([], kind="live")
        self.queue: asyncio.Queue[Snapshot] = asyncio.Queue()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            yield await self.queue.get()


async def test_edits_add_up_before_the_stack_has_confirmed_them() -> None:
    source = Heard()
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(samples.CROWDED)
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4", "down", "down", "right", "right", "right")
        await until(pilot, lambda: len(source.sent) == 3)
        assert source.sent[-1] == commands.Mix({"patient": 7.0, "abandoner": 5.0, "retrier": 1.0})
        assert "38 %" in screen_text(app), "shown as it will be"


async def test_an_edit_that_is_not_carried_out_is_shown_no_longer() -> None:
    source = Heard()
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        source.queue.put_nowait(samples.CROWDED)
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4", "down", "down", "right")
        await until(pilot, lambda: "27 %" in screen_text(app))
        source.queue.put_nowait(msgspec.structs.replace(samples.CROWDED, at=samples.AT + 1))
        source.queue.put_nowait(msgspec.structs.replace(samples.CROWDED, at=samples.AT + 4))
        await until(pilot, lambda: "27 %" not in screen_text(app) and "20 %" in screen_text(app))


async def test_a_click_chooses_a_row_and_a_preset() -> None:
    source = ScriptedSource([samples.CROWDED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4")
        await until(pilot, lambda: "loads with a name" in screen_text(app))
        await pilot.click("#crowds", offset=(8, 4))
        await pilot.press("right")
        await until(pilot, lambda: source.sent == [commands.Mix({"patient": 7.0, "abandoner": 3.0, "retrier": 1.0})])
        await pilot.click("#presets", offset=(5, 2))
        await until(pilot, lambda: source.sent[-1] == commands.Preset("ten-friends"))


async def test_a_watcher_edits_nothing() -> None:
    source = ScriptedSource([samples.READ_ONLY])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4", "down", "right")
        await until(pilot, lambda: "change: somebody else's engine" in screen_text(app))
        await pilot.press("A")
        await until(pilot, lambda: "one chat: somebody else's engine" in screen_text(app))
        assert source.sent == []


async def test_a_low_terminal_shows_the_half_that_is_chosen() -> None:
    app = CockpitApp(ScriptedSource([samples.CROWDED]))
    async with app.run_test(size=(60, 16)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("4")
        await until(pilot, lambda: "who is out there" in screen_text(app))
        assert "loads with a name" not in screen_text(app)
        assert "? help" in screen_text(app)
        await pilot.press("up")
        await until(pilot, lambda: "loads with a name" in screen_text(app))
        assert "who is out there" not in screen_text(app)
