"""What each style looks like in each theme: few inks, each with one meaning, and attributes that carry it without any.

`tests/console/test_palette.py` holds every style of every theme to a contrast, and to eyes that miss a kind of cone.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from console.format import UNPRINTABLE
from console.themes import DARK, Theme

_STYLES: dict[str, tuple[str, str, str]] = {
    # name: (ink, ink behind it, attributes)
    "text": ("text", "", ""),
    "figure": ("bright", "", "bold"),
    "bright": ("bright", "", "bold"),
    "label": ("label", "", ""),
    "faint": ("faint", "", ""),
    "absent": ("faint", "", ""),
    "stale": ("faint", "", ""),
    "frame": ("rule", "", ""),
    "title": ("label", "", "bold"),
    "brand": ("brand", "", "bold"),
    "good": ("good", "", "bold"),
    "warn": ("warn", "", "bold"),
    "bad": ("bad", "", "bold"),
    "digits-warn": ("warn", "", "bold"),
    "digits-bad": ("bad", "", "bold"),
    "wait": ("warn", "", ""),
    "prefill": ("prefill", "", ""),
    "work": ("work", "", ""),
    "over": ("label", "", ""),
    "spark": ("spark", "", ""),
    "spark-wait": ("spark_wait", "", ""),
    "median": ("median", "", ""),
    "tail": ("tail", "", ""),
    "late": ("warn", "", ""),
    "limit-line": ("line", "", ""),
    "mark": ("prefill", "", "bold"),
    "change": ("median", "", ""),
    "focus": ("median", "", "bold"),
    "glow": ("ground", "warn", "bold"),
    "key": ("bright", "keycap", "bold"),
    "key-off": ("faint", "", ""),
    "key-label": ("label", "", ""),
    "live": ("good", "", ""),
    "rec": ("bad", "", "bold"),
    "frozen": ("ground", "work", "bold"),
    "badge-good": ("ground", "good", "bold"),
    "badge-warn": ("ground", "warn", "bold"),
    "badge-bad": ("ground", "bad", "bold"),
    "badge-calm": ("label", "calm", "bold"),
    "badge-busy": ("ground", "work", "bold"),
}
STYLES = tuple(_STYLES)

LOUD = {"warn": "underline", "bad": "reverse"}
"""What is added in a theme in which colour is not enough."""
_REVERSED = frozenset({"glow", "key", "frozen", "badge-good", "badge-warn", "badge-bad", "badge-busy"})
"""Without colour these are reversed, so that they still stand out."""
_DIMMED = frozenset(
    {"label", "faint", "absent", "stale", "frame", "limit-line", "key-off", "key-label", "over", "median"}
)


@lru_cache(maxsize=512)
def style_of(name: str, theme: Theme = DARK, *, stale: bool = False) -> Style:
    """The terminal style of a name; `stale` greys it whatever it is, an unknown name looks like text."""
    if stale and name != "frame":
        name = "stale"
    front, behind, attributes = _STYLES.get(name, _STYLES["text"])
    loud = LOUD.get(name, "") if theme.loud else ""
    if not theme.colour:
        return Style(
            bold="bold" in attributes or name == "late" or None,
            underline=loud == "underline" or None,
            reverse=loud == "reverse" or name in _REVERSED or None,
            dim=name in _DIMMED or None,
        )
    return Style(
        color=getattr(theme, front),
        bgcolor=getattr(theme, behind or "ground"),
        bold="bold" in attributes or None,
        underline=loud == "underline" or None,
        reverse=loud == "reverse" or None,
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


class Colourless(LineFilter):
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
