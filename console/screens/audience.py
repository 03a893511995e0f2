"""Who watches and who acts, over the foot of the picture."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.panels.audience import audience_sheet
from console.screens.overlay import Sheet
from console.view import View
from console.widgets.canvas import Canvas


class AudienceScreen(Sheet):
    """Key `w`."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "leave", "leave", show=False)]

    def __init__(self) -> None:
        super().__init__("")

    def compose(self) -> ComposeResult:
        """One canvas."""
        yield Canvas(audience_sheet, id="audience", fades=False)

    def show(self, view: View) -> None:
        """Draw."""
        for canvas in self.query(Canvas):
            if canvas.is_mounted:
                canvas.show(view)
