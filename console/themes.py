"""The inks of each theme. What is drawn with which is `console.palette`'s."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace


class Theme(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Inks as `#rrggbb`, one for each thing that a style can say; what is written on a badge has the ground's."""

    name: str
    says: str
    dark: bool = True
    colour: bool = True
    """False: nothing of it reaches the terminal but bold, dim, underline and reverse."""
    loud: bool = False
    """Whether what is ill differs from what is well by an attribute too, not by its colour alone."""

    ground: str
    sheet: str
    """Behind questions, sheets and tooltips."""
    calm: str
    """Behind the badge of a verdict that alarms nobody."""
    keycap: str
    rule: str
    text: str
    bright: str
    label: str
    faint: str
    good: str
    warn: str
    bad: str
    work: str
    prefill: str
    brand: str
    median: str
    tail: str
    line: str
    spark: str
    spark_wait: str


DARK = Theme(
    name="dark",
    says="light on dark",
    ground="#0c1118",
    sheet="#17202b",
    calm="#18212b",
    keycap="#2b3643",
    rule="#2b3643",
    text="#c6d0db",
    bright="#f3f7fb",
    label="#97a3b1",
    faint="#77838f",
    good="#4cc38a",
    warn="#f2b23e",
    bad="#f2665e",
    work="#58a6e8",
    prefill="#b08cf0",
    brand="#4fc1c8",
    median="#4fc1c8",
    tail="#58a6e8",
    line="#66727f",
    spark="#44759f",
    spark_wait="#b98a35",
)
LIGHT = Theme(
    name="light",
    says="dark on light, for a bright room",
    dark=False,
    ground="#f6f7f9",
    sheet="#e9edf2",
    calm="#e3e8ee",
    keycap="#d3dae2",
    rule="#c3ccd6",
    text="#2a333d",
    bright="#0b1016",
    label="#4d5965",
    faint="#66717c",
    good="#12733f",
    warn="#8a5a00",
    bad="#c0261d",
    work="#1763b0",
    prefill="#7740c4",
    brand="#0b6e75",
    median="#0b6e75",
    tail="#1763b0",
    line="#7d8894",
    spark="#5a8dc0",
    spark_wait="#a8751a",
)
HIGH_CONTRAST = Theme(
    name="high-contrast",
    says="on black, every text at 7 to 1 or more",
    loud=True,
    ground="#000000",
    sheet="#101010",
    calm="#1e1e1e",
    keycap="#303030",
    rule="#8f99a3",
    text="#ffffff",
    bright="#ffffff",
    label="#d6dce3",
    faint="#b4bcc5",
    good="#4dff9a",
    warn="#ffd400",
    bad="#ff8d85",
    work="#7cc8ff",
    prefill="#d7b8ff",
    brand="#5ff2f2",
    median="#5ff2f2",
    tail="#7cc8ff",
    line="#b4bcc5",
    spark="#7cc8ff",
    spark_wait="#ffd400",
)
COLOUR_BLIND = replace(
    DARK,
    name="colour-blind",
    says="blue, yellow and orange instead of green, amber and red",
    loud=True,
    good="#56b4e9",
    warn="#f0e442",
    bad="#e8662a",
    work="#4c8dd8",
    prefill="#cc79a7",
    brand="#56b4e9",
    median="#f3f7fb",
    tail="#56b4e9",
    spark_wait="#a39a35",
)
NO_COLOUR = replace(DARK, name="no-colour", says="bold, dim, underlined and reversed alone", colour=False, loud=True)

THEMES = {theme.name: theme for theme in (DARK, LIGHT, HIGH_CONTRAST, COLOUR_BLIND, NO_COLOUR)}
THEME_CHOICES = ("auto", *THEMES)


def theme_of(choice: str, environment: Mapping[str, str]) -> Theme:
    """The theme of this name. `auto` is light where the terminal says so in COLORFGBG (`0;15`: the last one is the
    background's ANSI colour), else dark.

    Asking it (OSC 11) would tell more terminals, but hold up the first paint by a round trip of the line, and an answer that
    comes later than that would be read as keys.
    """
    if choice != "auto":
        return THEMES[choice]
    behind = environment.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT if behind in {"7", "15"} else DARK
