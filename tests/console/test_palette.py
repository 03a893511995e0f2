"""Every style of every theme: contrast by WCAG, and what is left of the differences to eyes that miss a kind of cone."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import pytest
import samples
from colour_vision import Vision, contrast, distance
from console_drawn import view_of
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from console.ink import Span, line, width
from console.palette import LOUD, STYLES, Colourless, style_of
from console.panels.breakdown import breakdown
from console.themes import COLOUR_BLIND, DARK, HIGH_CONTRAST, LIGHT, NO_COLOUR, THEMES, Theme, theme_of
from console.widgets.canvas import bared

COLOURED = [theme for theme in THEMES.values() if theme.colour]
DRAWN = {"spark", "spark-wait", "limit-line"}
"""Never text: WCAG asks 3 to 1 of what is drawn."""
ORNAMENT = {"frame"}
VERDICTS, STAGES, COURSES = ("good", "warn", "bad"), ("wait", "prefill", "work"), ("median", "tail", "late")


def inks(style: Style) -> tuple[str, str]:
    """(front, behind) as they are seen."""
    assert style.color is not None
    assert style.bgcolor is not None
    front, behind = (one.get_truecolor().hex for one in (style.color, style.bgcolor))
    return (behind, front) if style.reverse else (front, behind)


def front(name: str, theme: Theme) -> str:
    style = style_of(name, theme)
    assert style.color is not None
    return style.color.get_truecolor().hex


def test_the_measures_themselves() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert distance("#000000", "#ffffff") == pytest.approx(100, abs=0.1)
    for vision in get_args(Vision):
        assert contrast("#808080", "#000000", vision) == pytest.approx(contrast("#808080", "#000000"), abs=0.1), vision
    # What the red-green blind are known to mix up, and what they are not.
    assert distance("#8a8a00", "#b06000", "deuteranopia") < distance("#8a8a00", "#b06000") / 2
    assert distance("#0000ff", "#ffff00", "deuteranopia") > 100


@pytest.mark.parametrize("theme", COLOURED, ids=lambda theme: theme.name)
def test_contrast_of_every_style(theme: Theme) -> None:
    least = 7.0 if theme is HIGH_CONTRAST else 4.5
    for name in STYLES:
        for stale in (False, True):
            ratio = contrast(*inks(style_of(name, theme, stale=stale)))
            if name in ORNAMENT:
                continue
            assert ratio >= (3.0 if name in DRAWN and not stale else least), (theme.name, name, stale, round(ratio, 2))


@pytest.mark.parametrize("theme", COLOURED, ids=lambda theme: theme.name)
def test_contrast_of_questions_sheets_and_tooltips(theme: Theme) -> None:
    assert contrast(theme.text, theme.sheet) >= (7.0 if theme is HIGH_CONTRAST else 4.5)


def test_high_contrast_holds_for_what_is_drawn_too() -> None:
    assert min(contrast(*inks(style_of(name, HIGH_CONTRAST))) for name in (*DRAWN, *ORNAMENT)) >= 4.5


@pytest.mark.parametrize("theme", COLOURED, ids=lambda theme: theme.name)
def test_colours_that_mean_different_things_differ(theme: Theme) -> None:
    for group in (VERDICTS, STAGES, COURSES):
        for one, other in combinations(group, 2):
            assert distance(front(one, theme), front(other, theme)) >= 30, (one, other)


@pytest.mark.parametrize("vision", ["protanopia", "deuteranopia", "tritanopia"])
def test_they_still_differ_to_the_colour_blind_in_their_theme(vision: Vision) -> None:
    for group, least in ((VERDICTS, 30), (STAGES, 20), (COURSES, 20)):
        for one, other in combinations(group, 2):
            seen = distance(front(one, COLOUR_BLIND), front(other, COLOUR_BLIND), vision)
            assert seen >= least, (vision, one, other, round(seen))
    for name in STYLES:
        if name not in DRAWN | ORNAMENT:
            assert contrast(*inks(style_of(name, COLOUR_BLIND)), vision) >= 4.3, name


def test_why_there_is_such_a_theme() -> None:
    """If this fails the usual colours have become safe, and one theme can go."""
    usual = [distance(front(a, DARK), front(b, DARK), "protanopia") for a, b in combinations(VERDICTS, 2)]
    assert min(usual) < 30


def test_without_colour_attributes_say_what_is_ill() -> None:
    assert not [name for name in STYLES if style_of(name, NO_COLOUR).color or style_of(name, NO_COLOUR).bgcolor]
    looks = {name: str(style_of(name, NO_COLOUR)) for name in ("text", "figure", "warn", "bad", "stale")}
    assert len(set(looks.values())) == len(looks)
    courses = {str(style_of(name, NO_COLOUR)) for name in COURSES}
    assert len(courses) == len(COURSES)


@pytest.mark.parametrize("state", ["LOADED", "QUEUE_FULL", "CPU", "GB10", "READ_ONLY"])
def test_stages_differ_by_their_pattern_too(state: str) -> None:
    marks: dict[str, set[str]] = {}
    for row in breakdown(view_of(getattr(samples, state)), 158, 3):
        for span in row:
            if set(span.text) <= set("▒▓█░·") and span.text:
                marks.setdefault(span.style, set()).update(span.text)
    assert {"wait", "prefill", "work"} <= set(marks)
    for one, other in combinations([marks[style] for style in ("wait", "prefill", "work", "over")], 2):
        assert not one & other


@pytest.mark.parametrize("theme", [theme for theme in THEMES.values() if theme.loud], ids=lambda theme: theme.name)
def test_in_loud_themes_ill_differs_from_well_by_an_attribute(theme: Theme) -> None:
    def attributes(name: str) -> tuple[bool, bool]:
        style = style_of(name, theme)
        return bool(style.underline), bool(style.reverse)

    assert len({attributes(name) for name in VERDICTS}) == 3


def test_a_stale_figure_is_grey_whatever_it_says() -> None:
    for theme in THEMES.values():
        assert {style_of(name, theme, stale=True) for name in STYLES if name != "frame"} == {style_of("stale", theme)}


def test_an_unknown_style_looks_like_text() -> None:
    assert style_of("nonsense", LIGHT) == style_of("text", LIGHT)


def test_blanks_around_a_loud_word_are_neither_underlined_nor_reversed() -> None:
    drawn = line(Span("ok "), Span("  they differ  ", "warn", "why", "act"), Span("   ", "bad"), Span("x", "bad"))
    parts = bared(drawn)
    assert width(parts) == width(drawn)
    loud = [part for part in parts if part.style in LOUD and part.text]
    assert loud == [Span("they differ", "warn", "why", "act"), Span("x", "bad")]
    assert bared(()) == ()


def test_colourless_leaves_attributes() -> None:
    coloured = Segment("x", Style(color="#ff0000", bgcolor="#00ff00", bold=True, reverse=True))
    (left,) = Colourless().apply([coloured], Color(0, 0, 0))
    assert left.style == Style(bold=True, reverse=True)


@pytest.mark.parametrize(
    ("choice", "told", "found"),
    [
        ("auto", "", DARK),
        ("auto", "15;0", DARK),
        ("auto", "0;15", LIGHT),
        ("auto", "0;default;7", LIGHT),
        ("auto", "nonsense", DARK),
        ("light", "15;0", LIGHT),
        ("no-colour", "0;15", NO_COLOUR),
    ],
)
def test_auto_goes_by_what_the_terminal_exports(choice: str, told: str, found: Theme) -> None:
    assert theme_of(choice, {"COLORFGBG": told} if told else {}) is found
