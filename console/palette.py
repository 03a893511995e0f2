"""What each style looks like: few colours, each with one meaning, and attributes that carry it without any colour."""

from __future__ import annotations

import re
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from console.format import UNPRINTABLE

BACKGROUND = "#0c1118"
_TEXT = "#c6d0db"
_BRIGHT = "#f3f7fb"
_LABEL = "#7f8c9b"
_FAINT = "#4b5766"
_RULE = "#2b3643"
_GREEN = "#4cc38a"
_AMBER = "#f2b23e"
_RED = "#f2665e"
_BLUE = "#58a6e8"
_VIOLET = "#b08cf0"
_TEAL = "#4fc1c8"

_STYLES: dict[str, tuple[str, str, str]] = {
    # name: (colour, colour behind it, attributes)
    "text": (_TEXT, "", ""),
    "figure": (_BRIGHT, "", "bold"),
    "bright": (_BRIGHT, "", "bold"),
    "label": (_LABEL, "", ""),
    "faint": (_FAINT, "", ""),
    "absent": (_FAINT, "", ""),
    "stale": ("#6d7a89", "", ""),
    "frame": (_RULE, "", ""),
    "title": (_LABEL, "", "bold"),
    "brand": (_TEAL, "", "bold"),
    "good": (_GREEN, "", "bold"),
    "warn": (_AMBER, "", "bold"),
    "bad": (_RED, "", "bold"),
    "wait": (_AMBER, "", ""),
    "prefill": (_VIOLET, "", ""),
    "work": (_BLUE, "", ""),
    "over": (_LABEL, "", ""),
    "spark": ("#3c6a97", "", ""),
    "spark-wait": ("#b98a35", "", ""),
    "median": (_TEAL, "", ""),
    "tail": (_BLUE, "", ""),
    "late": (_AMBER, "", ""),
    "limit-line": (_FAINT, "", ""),
    "mark": (_VIOLET, "", "bold"),
    "change": (_TEAL, "", ""),
    "focus": (_TEAL, "", "bold"),
    "glow": ("#14100a", _AMBER, "bold"),
    "key": (_BRIGHT, _RULE, "bold"),
    "key-off": (_FAINT, "", ""),
    "key-label": (_LABEL, "", ""),
    "live": (_GREEN, "", ""),
    "rec": (_RED, "", "bold"),
    "frozen": ("#0c1118", _BLUE, "bold"),
    "badge-good": ("#06130d", _GREEN, "bold"),
    "badge-warn": ("#14100a", _AMBER, "bold"),
    "badge-bad": ("#180605", _RED, "bold"),
    "badge-calm": (_LABEL, "#18212b", "bold"),
    "badge-busy": ("#06101a", _BLUE, "bold"),
}

_REVERSED = frozenset({"glow", "key", "frozen", "badge-good", "badge-warn", "badge-bad", "badge-busy"})
"""Without colour these are reversed, so that they still stand out."""
_DIMMED = frozenset({"label", "faint", "absent", "stale", "frame", "limit-line", "key-off", "key-label", "over"})


@lru_cache(maxsize=256)
def style_of(name: str, *, colour: bool = True, stale: bool = False) -> Style:
    """The terminal style of a name; `stale` greys it whatever it is, an unknown name looks like text."""
    front, behind, attributes = _STYLES.get(name, _STYLES["text"])
    if not colour:
        return Style(
            bold=("bold" in attributes and not stale) or None,
            reverse=name in _REVERSED or None,
            dim=stale or name in _DIMMED or None,
        )
    if stale and name != "frame":
        front, behind, attributes = "#6d7a89", "", ""
    return Style(
        color=front, bgcolor=behind or BACKGROUND, bold="bold" in attributes or None, dim="dim" in attributes or None
    )


class Harmless(LineFilter):
    """The last gate before the terminal: no text of any widget reaches it as a control, whoever forgot to sanitize it.

    Blanks keep the cells that the layout gave to what is taken out (most of it has none).
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments, those with something unprintable in them cleaned; controls are Textual's own."""
        del background
        if not any(UNPRINTABLE.search(text) for text, _, control in segments if not control):
            return segments
        return [
            Segment(text if control else UNPRINTABLE.sub(_blanks, text), style, control)
            for text, style, control in segments
        ]


HARMLESS = Harmless()


def _blanks(found: re.Match[str]) -> str:
    return " " * cell_len(found[0])


class ColourBlind(LineFilter):
    """Takes every colour out of what goes to the terminal and keeps bold, dim and reverse."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same text without colours."""
        del background
        return [
            Segment(text, None if style is None else _without_colour(style), control)
            for text, style, control in segments
        ]


@lru_cache(maxsize=1024)
def _without_colour(style: Style) -> Style:
    return style.without_color
