"""Snapshots as no stack should send them: every text an attack, every number absurd. Each panel draws them all the same."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
import requests_samples
import samples
from console_waiting import until
from textual.widgets import Static

import console.panels
from console.app import CockpitApp
from console.format import UNPRINTABLE, sanitize
from console.history import History
from console.ink import Line, plain, width
from console.once import render_once
from console.palette import HARMLESS
from console.sources.scripted import ScriptedSource
from console.view import View
from console.widgets.canvas import Canvas
from server.telemetry.snapshot import JoinedRequest, Snapshot, snapshot_decoder, snapshot_encoder
from tests.faults.hostile import HOSTILE, PAYLOADS, poison

ABSURD = (-1.0, 0.0, 1e308, -1e308, 1e-320, 1e30, 2.0**63, 3.0)
SIZES = ((160, 46), (80, 22), (60, 14))


def _panels() -> dict[str, Callable[[View, int, int], list[Line]]]:
    """Every function of a panel module that draws a whole panel."""
    modules = [
        importlib.import_module(f"console.panels.{one.name}") for one in pkgutil.iter_modules(console.panels.__path__)
    ]
    return {
        f"{module.__name__}.{name}": one
        for module in modules
        for name, one in vars(module).items()
        if inspect.isfunction(one)
        and one.__module__ == module.__name__
        and not name.startswith("_")
        and list(inspect.signature(one).parameters)[:3] == ["view", "cells", "rows"]
        and inspect.signature(one).return_annotation == "list[Line]"
    }


PANELS = _panels()
NAMES = [
    name
    if name in {"LOADED", "STARTING", "DOWN", "SEARCHING", "COMPARED"}
    else pytest.param(name, marks=pytest.mark.faults)
    for name in sorted(vars(samples))
    if isinstance(getattr(samples, name), Snapshot)
]
REQUESTS = [one for one in vars(requests_samples).values() if isinstance(one, JoinedRequest)]


def check(snapshot: Snapshot, before: list[Snapshot]) -> None:
    """Every panel at every size: whole lines, nothing in them that a terminal obeys."""
    history = History()
    for one in (*before, snapshot):
        history.append(one)
    view = View(snapshot=snapshot, history=history, link="live")
    for name, panel in PANELS.items():
        for cells, rows in SIZES:
            for drawn in panel(view, cells, rows):
                assert UNPRINTABLE.search(plain(drawn)) is None, (name, plain(drawn))
                assert width(drawn) >= 0
    render_once(snapshot)


def test_there_are_panels() -> None:
    assert len(PANELS) > 20


@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_an_attack(name: str) -> None:
    check(poison(getattr(samples, name), lambda: HOSTILE), [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 30), marks=pytest.mark.faults)])
def test_every_number_is_absurd(name: str, seed: int | range) -> None:
    for one in [seed] if isinstance(seed, int) else seed:
        draw = partial(random.Random(f"{name} {one}").choice, ABSURD)
        made = [poison(getattr(samples, name), None, draw) for _ in range(3)]
        check(made[-1], made[:-1])


def test_no_number_at_all() -> None:
    """What JSON cannot carry comes as null, and a list that is empty is empty."""
    check(poison(samples.LOADED, None, lambda: float("nan")), [])
    check(Snapshot(seq=0, at=1.0, wall=1.0), [])


def test_ten_thousand_of_each() -> None:
    many = msgspec.structs.replace(
        samples.LOADED,
        events=samples.LOADED.events * 5_000,
        gpus=samples.LOADED.gpus * 200,
        queue=msgspec.structs.replace(samples.LOADED.queue, first=samples.LOADED.queue.first * 1_000),
        sources=dict.fromkeys((f"s{n}" for n in range(1_000)), samples.LOADED.sources["engine"]),
    )
    check(snapshot_decoder.decode(snapshot_encoder.encode(many)), [])


@pytest.mark.parametrize(
    "size", [(160, 48), *(pytest.param(one, marks=pytest.mark.faults) for one in ((80, 24), (60, 16)))]
)
async def test_the_application_lives_on_all_of_it(size: tuple[int, int]) -> None:
    chance = random.Random(str(size))
    finished = [msgspec.structs.replace(poison(one, lambda: HOSTILE), sealed_at=samples.AT) for one in REQUESTS]
    texts = poison(samples.LOADED, lambda: HOSTILE)
    numbers = msgspec.structs.replace(poison(samples.SEARCHING, None, lambda: chance.choice(ABSURD)), at=samples.AT + 9)
    app = CockpitApp(ScriptedSource([texts, numbers], kind="live", requests=finished))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot is numbers)
        for key in "12345p":
            await pilot.press(key)
            await pilot.pause()
        await pilot.press("escape", "ctrl+p")
        await pilot.pause()


async def test_the_gate_stops_what_nobody_sanitized() -> None:
    """A widget of Textual's own and a canvas whose panel forgot: no control leaves, and the cells stay where they were."""
    app = CockpitApp(ScriptedSource([samples.LOADED], kind="live"))
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        canvas = app.screen.query(Canvas).first()
        canvas._panel = lambda view, cells, rows: [(console.ink.Span(HOSTILE + "█"),)]
        await app.screen.mount(Static(HOSTILE, markup=False))
        app.redraw()
        await pilot.pause()
        for widget in (canvas, app.screen.query(Static).last()):
            for strip in widget.render_lines(widget.size.region):
                assert all(UNPRINTABLE.search(one.text) is None for one in strip if not one.control)
        assert HARMLESS in app.get_line_filters()


async def test_a_note_is_no_markup() -> None:
    """The pointer rests on a figure whose note is an attack."""
    app = CockpitApp(ScriptedSource([samples.LOADED], kind="live"), clock=lambda: 0.0)
    async with app.run_test(size=(160, 48), tooltips=True) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        canvas = app.screen.query(Canvas).first()
        canvas._panel = lambda view, cells, rows: [(console.ink.Span("x" * cells, note=HOSTILE),)]
        app.redraw()
        await pilot.hover(Canvas, offset=(3, 0))
        await pilot.pause(0.5)
        assert str(canvas.tooltip) == sanitize(HOSTILE)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_sanitize_leaves_nothing_for_the_gate(payload: str) -> None:
    assert UNPRINTABLE.search(sanitize(payload)) is None
