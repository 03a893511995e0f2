"""Capacity: how many people this setup serves before the experience bends, searched live."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from console.deeds import bindings
from console.panels.capacity import answer, blocks, question
from console.panels.curve import curve, waits
from console.screens.base import CockpitScreen
from console.widgets.canvas import Canvas


class CapacityScreen(CockpitScreen):
    """Key 5."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("capacity")

    def compose_middle(self) -> ComposeResult:
        """The answer, what was asked, the curve, the waits where there is room, the blocks."""
        yield Canvas(answer, id="answer")
        yield Canvas(question, id="question")
        yield Canvas(curve, id="curve")
        yield Canvas(waits, id="waits")
        yield Canvas(blocks, id="blocks")
