"""Presenter: a few figures for a projector, over the keys that disturb them."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.panels.foot import keys, status
from console.panels.header import small
from console.panels.presenter import presenter
from console.screens.base import CockpitScreen
from console.widgets.canvas import Canvas


class PresenterScreen(CockpitScreen):
    """Key `v`; again, escape, or any screen's key leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.presenter", "leave", show=False)]

    def compose(self) -> ComposeResult:
        """The figures, status and keys: what is in the header of other screens is big here."""
        yield Canvas(presenter, id="presenter")
        yield Canvas(status, id="status", fades=False)
        yield Canvas(keys, id="keys", fades=False)
        yield Canvas(small, id="small", fades=False)
