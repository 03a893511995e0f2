"""Going through panels, and one of them by itself with what there is to say about it."""

from __future__ import annotations

import re

import pytest
import requests_samples
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until
from textual.widgets import OptionList

from console.app import CockpitApp
from console.ink import Span, line
from console.panels.explained import explanation, explanation_rows, explanations, field_of, pages
from console.panels.feel import event_marks
from console.screens.base import CockpitScreen
from console.sources.scripted import ScriptedSource
from console.view import draw
from console.widgets.canvas import Canvas, pointed
from server.telemetry.snapshot import Event, Snapshot

OLD, WIDE = (80, 24), (160, 48)
MARKED = samples.change(
    samples.LOADED,
    events=[
        Event(samples.AT - 100, samples.WALL - 100, "marker", "prompt cache [on]", "m"),
        *samples.LOADED.events,
    ],
)


def screen_of(app: CockpitApp) -> CockpitScreen:
    assert isinstance(app.screen, CockpitScreen)
    return app.screen


def shown(app: CockpitApp) -> list[str]:
    """The panels that have room."""
    return [canvas.id or "" for canvas in screen_of(app).query(Canvas) if canvas.display and all(canvas.size)]


@pytest.mark.parametrize("mode", sorted(CockpitApp.MODES))
async def test_every_panel_of_every_screen_is_explained(mode: str) -> None:
    app = CockpitApp(ScriptedSource([samples.ANSWERED], requests=requests_samples.FINISHED))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        app.action_show_screen(mode)
        await until(pilot, lambda: app.current_mode == mode)
        names = {canvas.id for canvas in screen_of(app).panels()}
        assert names - explanations().keys() == set()


@pytest.mark.parametrize("name", sorted(explanations()))
def test_every_explanation_is_whole_and_its_figures_exist(name: str) -> None:
    known = explanations()[name]
    for text in (known.what, known.source, known.good, known.otherwise, known.plain):
        assert text.endswith((".", "!", "?")), text
        assert "  " not in text
    assert known.figures
    for path in known.figures:
        field_of(Snapshot(seq=0, at=0.0, wall=0.0), path)
        field_of(samples.ANSWERED, path)


@pytest.mark.parametrize("name", sorted(explanations()))
def test_the_plain_paragraph_needs_no_term(name: str) -> None:
    text = text_of(
        draw(lambda view, cells, _: explanation_rows(view, name, cells), view_of(samples.LOADED, words="plain"), 76, 40)
    )
    assert text
    assert not re.search(
        r"\b(TTFT|TPOT|KV|batch|prefill|tokens?|GPU|queue|gateway|engine|p95|slots?)\b", text, re.IGNORECASE
    )


def test_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError):
        field_of(samples.LOADED, "feel.ttft_seconds")


@pytest.mark.parametrize("name", sorted(explanations()))
def test_all_of_an_explanation_can_be_read_on_a_small_terminal(name: str) -> None:
    view, rows = view_of(samples.LOADED), 10
    whole = [text_of([one]) for one in explanation_rows(view, name, 76)]
    told = text_of(
        [one for page in range(pages(view, name, 80, rows)) for one in explanation(view, name, 80, rows, page)]
    )
    assert all(one.strip() in told for one in whole)


def test_the_figures_behind_a_panel_stand_there_with_their_source() -> None:
    text = text_of(explanation(view_of(samples.LOADED), "feel", 64, 46))
    assert re.search(r"ttft_s +p50 310 ms, p95 840 ms +load, n=750, 30 s", text)


async def test_tab_goes_through_the_panels_and_enter_zooms_one() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=OLD) as pilot:
        await until(pilot, lambda: "batch" in screen_text(app))
        before = shown(app)
        await pilot.press("tab", "tab")
        await until(pilot, lambda: getattr(app.focused, "id", "") == "stages")
        stages = screen_of(app).query_one("#stages", Canvas)
        await until(pilot, lambda: stages.render_line(0).text.startswith("▌people"))
        assert not screen_of(app).query_one("#header", Canvas).render_line(0).text.startswith("▌")
        await pilot.press("shift+tab")
        await until(pilot, lambda: getattr(app.focused, "id", "") == "header")
        await pilot.press("tab", "tab", "tab", "enter")
        await until(pilot, lambda: shown(app) == ["header", "feel", "explanation", "status", "keys"])
        await until(pilot, lambda: "TTFT: from the moment" in screen_text(app))
        assert "━ p95" in screen_text(app)
        await pilot.press("tab")
        await until(pilot, lambda: "The engine's slots, one cell each" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: shown(app) == before)
        await pilot.press("escape")
        await until(pilot, lambda: app.focused is None)


async def test_pages_turn_while_a_panel_is_zoomed() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=OLD) as pilot:
        await until(pilot, lambda: "batch" in screen_text(app))
        app.action_zoom("batch")
        await until(pilot, lambda: "pgdn 1 of" in screen_text(app))
        await pilot.press("pagedown", "pagedown", "pagedown", "pagedown")
        await until(pilot, lambda: "that guest waits" in screen_text(app))
        await pilot.press("pageup", "pageup", "pageup", "pageup")
        await until(pilot, lambda: "pgdn 1 of" in screen_text(app))


async def test_a_zoomed_chart_gets_the_room() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "batch" in screen_text(app))
        canvas = screen_of(app).query_one("#gpu", Canvas)
        small = canvas.size
        app.action_zoom("gpu")
        await until(pilot, lambda: canvas.size.height > small.height and canvas.size.width > small.width)
        assert shown(app) == ["header", "gpu", "explanation", "status", "keys"]
        await pilot.press("n")
        await until(pilot, lambda: "What the chef really does" in screen_text(app))


async def test_enter_and_arrows_stay_with_a_screen_that_has_them_until_a_panel_is_gone_to() -> None:
    app = CockpitApp(ScriptedSource([requests_samples.SERVING], requests=requests_samples.FINISHED))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: "following the newest" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.has_class("-zoomed"))
        await pilot.press("escape")
        await until(pilot, lambda: not app.screen.has_class("-zoomed"))
        app.action_zoom("requests")
        await until(pilot, lambda: "requests" in shown(app) and "waterfall" not in shown(app))
        await pilot.press("down", "down")
        await until(pilot, lambda: "following the newest" not in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "waterfall" in shown(app))


async def test_the_mouse_zooms_by_the_title_and_by_two_clicks() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "batch" in screen_text(app))
        await pilot.click("#batch", offset=(4, 0))
        await until(pilot, lambda: screen_of(app).zoomed == "batch")
        await pilot.click("#batch", offset=(4, 0))
        await until(pilot, lambda: not screen_of(app).zoomed)
        await pilot.click("#feel", offset=(20, 8))
        assert not screen_of(app).zoomed
        await pilot.click("#feel", offset=(20, 8), times=2)
        await until(pilot, lambda: screen_of(app).zoomed == "feel")


async def test_every_panel_of_the_screen_is_in_the_palette() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        titles = {one.title: one for one in app.get_system_commands(app.screen)}
        assert {"Zoom: header", "Zoom: batch", "Zoom: gpu", "Zoom: limit"} <= titles.keys()
        titles["Zoom: batch"].callback()
        await until(pilot, lambda: screen_of(app).zoomed == "batch")


async def test_a_smaller_terminal_puts_the_explanation_below() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "batch" in screen_text(app))
        app.action_zoom("feel")
        told = screen_of(app).query_one("#explanation", Canvas)
        await until(pilot, lambda: told.region.x > 80)
        await pilot.resize_terminal(*OLD)
        await until(pilot, lambda: told.region.x == 0 and told.region.width == 80 and told.region.y > 5)


def test_a_panel_that_is_gone_to_stands_out_with_and_without_a_frame() -> None:
    framed = pointed(line(Span("╭─ ", "frame"), Span("batch", "title"), Span(" 62", "figure")))
    assert [span.style for span in framed] == ["focus", "focus", "figure"]
    bare = pointed(line(Span(" limit", "title"), Span(" x", "text")))
    assert bare[0] == Span("▌", "focus")
    assert "".join(span.text for span in bare) == "▌limit x"
    assert "".join(span.text for span in pointed(line(Span("▸ a", "text")))) == "▸ a"


def test_a_markers_note_stands_at_its_mark_and_other_events_keep_their_letter() -> None:
    text = text_of([event_marks(view_of(MARKED), 60)])
    assert re.search(r"m prompt cache", text)
    spans = event_marks(view_of(MARKED), 60)
    assert any("prompt cache [on]" in span.note for span in spans if span.text == "m")
    assert any("burst +200" in span.note for span in spans if span.text == "b")
    assert sum(len(span.text) for span in spans) == 60


async def test_markers_are_listed_and_in_a_replay_one_is_gone_to() -> None:
    class Sought(ScriptedSource):
        skipped = 0.0

        def skip(self, seconds: float) -> None:
            self.skipped = seconds

    source = Sought([MARKED])
    app = CockpitApp(source)
    async with app.run_test(size=OLD) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        app.action_markers()
        await until(pilot, lambda: bool(app.screen.query(OptionList)))
        listed = app.screen.query_one(OptionList)
        assert listed.option_count == 1
        assert "prompt cache [on]" in str(listed.get_option_at_index(0).prompt)
        listed.focus()
        await pilot.press("enter")
        await until(pilot, lambda: source.skipped == -100.0)


async def test_without_markers_the_list_says_how_to_drop_one() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=OLD) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        app.action_markers()
        await until(pilot, lambda: not isinstance(app.screen, CockpitScreen))
        assert not app.screen.query(OptionList)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CockpitScreen))
