"""Engine: how it starts, what it is, what it was told."""

from __future__ import annotations

from textual.app import ComposeResult

from console.panels.engine import engine
from console.screens.base import CockpitScreen
from console.widgets.canvas import Canvas


class EngineScreen(CockpitScreen):
    """Key 3."""

    def compose_middle(self) -> ComposeResult:
        """One canvas."""
        yield Canvas(engine, id="engine")
