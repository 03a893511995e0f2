"""Themes, keys by file and the presenter view in a running application; what the pointer does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until
from textual.app import SystemCommand
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import Input, Static

from console import format as fmt
from console.app import CockpitApp, Left
from console.panels.feel import feel
from console.panels.letters import big, big_size
from console.panels.presenter import THIN, headlines, presenter
from console.panels.stages import LEADS_TO, stages
from console.screens.ask import AskKey, AskNote, HelpScreen
from console.screens.presenter import PresenterScreen
from console.settings import Settings, read_settings
from console.sources.scripted import ScriptedSource
from console.themes import LIGHT, NO_COLOUR, THEMES, Theme
from console.widgets.canvas import Canvas
from server import commands
from server.telemetry.snapshot import Snapshot

SIZE = (160, 48)
STATES = ["LOADED", "QUEUE_FULL", "IDLE", "CPU", "GB10", "STRANGERS", "READ_ONLY", "STALE", "STALLED", "VOID"]


@pytest.fixture(autouse=True)
def _coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)


def app_of(last: Snapshot = samples.LOADED, **more: object) -> CockpitApp:
    return CockpitApp(ScriptedSource(samples.course(last), kind="live"), **more)  # type: ignore[arg-type]


async def shown(pilot: Pilot[Left], app: CockpitApp, last: Snapshot = samples.LOADED) -> None:
    await until(pilot, lambda: app.snapshot is last)
    await pilot.pause()


def grounds(app: CockpitApp) -> set[str]:
    """Behind the text of every canvas in front."""
    canvases = [canvas for canvas in app.screen.query(Canvas) if canvas.display and canvas.size]
    strips = [canvas.render_line(y) for canvas in canvases for y in range(canvas.size.height)]
    styles = {segment.style for strip in strips for segment in strip if segment.style}
    return {style.bgcolor.get_truecolor().hex for style in styles if style.bgcolor}


def drawn_ground(app: CockpitApp) -> Color:
    return app.screen.styles.background


# Themes


async def test_the_next_theme_is_on_everything_at_once_and_remembered(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("# mine\n")
    app = app_of(remember_in=file)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.press("3")
        await pilot.press("1")
        seen = []
        for theme in [*list(THEMES.values())[1:], THEMES["dark"]]:
            await pilot.press("T")
            await until(pilot, lambda theme=theme: app.look is theme and f"Theme {theme.name}" in screen_text(app))
            seen.append(app.look.name)
            assert read_settings(file).theme == theme.name
            if theme.colour:
                assert theme.ground in grounds(app)
                assert THEMES["dark"].ground not in grounds(app) or theme.ground == THEMES["dark"].ground
                await until(pilot, lambda theme=theme: drawn_ground(app) == Color.parse(theme.ground))
            else:
                assert not grounds(app)
        assert seen == ["light", "high-contrast", "colour-blind", "no-colour", "dark"]
        assert file.read_text() == '# mine\ntheme = "dark"\n'


async def test_a_screen_that_was_drawn_before_comes_back_in_the_new_theme() -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.press("3")
        await until(pilot, lambda: app.current_mode == "engine")
        await pilot.press("1", "T", "3")
        await until(pilot, lambda: app.current_mode == "engine" and LIGHT.ground in grounds(app))
        await until(pilot, lambda: drawn_ground(app) == Color.parse(LIGHT.ground))
        strips = app.screen._compositor.render_strips()
        behind = {s.style.bgcolor.get_truecolor().hex for strip in strips for s in strip if s.style and s.style.bgcolor}
        assert THEMES["dark"].ground not in behind


async def test_questions_and_the_palette_wear_the_theme_too() -> None:
    app = app_of(look=LIGHT)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, AskNote))
        box = app.screen.query(".ask").first()
        assert box.styles.background == Color.parse(LIGHT.sheet)
        field = app.screen.query_one(Input)
        ratio = field.styles.color.brightness - field.background_colors[1].brightness
        assert ratio < -0.4


async def test_every_theme_is_in_the_palette() -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        found: dict[str, SystemCommand] = {one.title: one for one in app.get_system_commands(app.screen)}
        assert {f"Theme: {name}" for name in THEMES} <= set(found)
        assert "Presenter (v)" in found
        found["Theme: light"].callback()
        await until(pilot, lambda: app.look is LIGHT)


async def test_where_it_cannot_be_remembered_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('theme = """\ndark"""\n')
    app = app_of(remember_in=file)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.press("T")
        await until(pilot, lambda: "not remembered" in screen_text(app))
        assert app.look is LIGHT


async def test_no_color_is_stronger_than_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_of(look=LIGHT)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        assert app.look is NO_COLOUR
        await pilot.press("T")
        await until(pilot, lambda: "NO_COLOR is set" in screen_text(app))
        assert app.look is NO_COLOUR


class SteppedSource(ScriptedSource):
    """Hands out what the test puts in."""

    def __init__(self) -> None:
        super().__init__([], kind="live")
        self.queue: asyncio.Queue[Snapshot] = asyncio.Queue()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            yield await self.queue.get()


async def test_figures_are_drawn_no_more_often_than_asked() -> None:
    now, source = [100.0], SteppedSource()
    app = CockpitApp(source, settings=Settings(refresh_s=10.0), clock=lambda: now[0])

    def after(seconds: float, waiting: float) -> Snapshot:
        now[0] += seconds
        queue = {"depth": msgspec.structs.replace(samples.LOADED.queue.depth, v=waiting)}
        one = samples.change(samples.LOADED, at=samples.AT + now[0], seq=5000 + int(now[0]), queue=queue)
        source.queue.put_nowait(one)
        return one

    async with app.run_test(size=SIZE) as pilot:
        first = after(0.0, 11)
        await until(pilot, lambda: app.snapshot is first and "11 waiting" in screen_text(app))
        early = after(9.0, 12)
        await until(pilot, lambda: app.snapshot is early)
        assert "11 waiting" in screen_text(app)
        assert app.history.at == early.at
        due = after(1.5, 13)
        await until(pilot, lambda: app.snapshot is due and "13 waiting" in screen_text(app))


async def test_a_terminal_that_has_not_taken_the_last_frame_gets_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each key waits behind all the figures that were drawn meanwhile."""
    source = SteppedSource()
    app = CockpitApp(source)
    lags = [False]
    monkeypatch.setattr(app, "_terminal_lags", lambda: lags[0])

    def come(seq: int, waiting: float) -> Snapshot:
        queue = {"depth": msgspec.structs.replace(samples.LOADED.queue.depth, v=waiting)}
        one = samples.change(samples.LOADED, at=samples.AT + seq, seq=5000 + seq, queue=queue)
        source.queue.put_nowait(one)
        return one

    async with app.run_test(size=SIZE) as pilot:
        first = come(1, 11)
        await until(pilot, lambda: app.snapshot is first and "11 waiting" in screen_text(app))
        lags[0] = True
        later = come(2, 12)
        await until(pilot, lambda: app.snapshot is later)
        assert "11 waiting" in screen_text(app)
        lags[0] = False
        await until(pilot, lambda: "12 waiting" in screen_text(app))
        last = come(3, 13)
        await until(pilot, lambda: app.snapshot is last and "13 waiting" in screen_text(app))


# Keys by file


async def test_changed_keys_work_and_are_shown_everywhere() -> None:
    keys = {"burst": ("Z",), "help": ("f1",), "fault-disk-full": ("ctrl+f",), "policy": ("y",)}
    source = ScriptedSource(samples.course(samples.LOADED), kind="live", can_send=True)
    app = CockpitApp(source, settings=Settings(keys=keys))
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        footer = screen_text(app).splitlines()[-1]
        assert "Z burst" in footer
        assert "f1 help" in footer
        await pilot.press("b")
        await pilot.press("Z")
        await until(pilot, lambda: source.sent == [commands.Burst()])
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        told = str(app.screen.query_one(Static).render())
        assert "Z      Send 3 x" in told
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))
        titles = [one.title for one in app.get_system_commands(app.screen)]
        assert "Burst (Z)" in titles
        await pilot.press("y")
        await until(pilot, lambda: type(app.screen).__name__ == "PolicyScreen")
        await pilot.press("Z")
        await until(pilot, lambda: len(source.sent) == 2)
        await pilot.press("y")
        await until(pilot, lambda: type(app.screen).__name__ == "FlowScreen")
        await pilot.press("ctrl+f")
        await until(pilot, lambda: len(source.sent) == 3)


# The presenter view


@pytest.mark.parametrize("state", STATES)
def test_its_numbers_are_flows(state: str) -> None:
    snapshot = getattr(samples, state)
    view = view_of(snapshot)
    seen = text_of([*stages(view, 240, 4), *feel(view, 120, 20)])
    for headline in headlines(snapshot):
        if fmt.known(headline.value.v) is None:
            continue
        text, unit = headline.text, headline.unit
        told = {
            "people": f"{text} chatting",
            "sent": f"{text} sent/s",
            "inside": f"{text} requests inside",
            "waiting": f"{text} waiting",
            "queue full": f"{text} waiting FULL",
            "batch": f"batch {text}{unit}",
            "TTFT p50": f"TTFT {text} {unit}",
            "TTFT p95": f"{text} {unit}",
            "tokens/s": f"{text} tok/s",
            "GPU tensor": f"tensor {text} {unit}",
            "GPU MFU": f"MFU {text} {unit}",
            "CPU": f"all CPU {text} {unit}",
        }[headline.label]
        assert told in re.sub(" +", " ", seen), (headline, seen)


@pytest.mark.parametrize("size", [(160, 46), (80, 22), (60, 14), (200, 58), (100, 30)])
@pytest.mark.parametrize("state", [*STATES, "STARTING", "DOWN", "NO_ENGINE", "WRONG_SERVICE"])
def test_it_fits_whatever_the_room(state: str, size: tuple[int, int]) -> None:
    lines = presenter(view_of(getattr(samples, state)), *size)
    assert len(lines) <= size[1] or size[1] < 20
    assert all(sum(len(span.text) for span in one) <= size[0] for one in lines)


def test_absent_is_a_dash_and_stale_is_dated() -> None:
    nothing = text_of(presenter(view_of(msgspec.structs.replace(samples.IDLE, gpus=[])), *SIZE))
    assert "half of them see their first word" in nothing
    stale = samples.change(samples.LOADED, engine={"running": msgspec.structs.replace(samples.H100.running, age_s=8.0)})
    assert "·8s old" in text_of(presenter(view_of(stale), *SIZE))


def test_a_second_never_looks_like_a_five() -> None:
    late = msgspec.structs.replace(samples.LOADED.feel.ttft_s, p95=1.84)
    loaded = samples.change(samples.LOADED, feel=msgspec.structs.replace(samples.LOADED.feel, ttft_s=late))
    assert "1.84" in headlines(loaded)[3].text
    small = text_of(presenter(view_of(loaded), 80, 22)).splitlines()
    label = next(y for y, row in enumerate(small) if row.startswith(" TTFT p95"))
    assert any(row[:26].rstrip().endswith(" s") for row in small[label : label + 7])
    assert not any(len(row) and row.rstrip().endswith("…") for row in small[7:])


def test_digits_are_as_large_as_told() -> None:
    assert big_size("0.84", 2) == (26, 5)
    assert [len(row) for row in big(f"3{THIN}752", 3)] == [48] * 8


async def test_v_goes_there_and_back_and_a_screens_key_leaves() -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        for leaves in ("v", "escape", "1", "5"):
            await pilot.press("4")
            await until(pilot, lambda: app.current_mode == "load")
            await pilot.press("v")
            await until(
                pilot, lambda: isinstance(app.screen, PresenterScreen) and "see their first" in screen_text(app)
            )
            await pilot.press(leaves)
            wanted = {"1": "flow", "5": "capacity"}.get(leaves, "load")
            await until(pilot, lambda wanted=wanted: app.current_mode == wanted)


async def test_it_can_be_where_the_console_opens() -> None:
    app = app_of(settings=Settings(screen="presenter"))
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot, app)
        assert isinstance(app.screen, PresenterScreen)
        assert "● live" in screen_text(app)
        await pilot.press("v")
        await until(pilot, lambda: app.current_mode == "flow")


# The pointer


@pytest.mark.parametrize("column", range(6))
async def test_a_click_on_a_stage_goes_where_it_leads(column: int) -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.click("#stages", offset=(6 + column * 26, 1))
        wanted = LEADS_TO[column]
        if wanted == "policy":
            await until(pilot, lambda: type(app.screen).__name__ == "PolicyScreen")
        else:
            await until(pilot, lambda: f"show_screen('{app.current_mode}')" == wanted)


async def test_a_click_on_an_answer_gives_it() -> None:
    source = ScriptedSource(samples.course(samples.LOADED), kind="live", can_send=True)
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        text = app.screen.query_one(Static)
        row = next(y for y in range(text.size.height) if "compile-cold" in text.render_line(y).text)
        await pilot.click(Static, offset=(8, row))
        await until(pilot, lambda: source.sent == [commands.Restart("compile")])


async def test_a_click_on_a_key_hint_does_it_and_one_on_the_help_closes_it() -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot, app)
        hints = screen_text(app).splitlines()[-1]
        await pilot.click("#keys", offset=(hints.index("? help"), 0))
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.click(Static)
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))


def test_theme_names_are_one_list() -> None:
    assert all(isinstance(theme, Theme) and name == theme.name for name, theme in THEMES.items())
