"""What every screen of the cockpit has: header, status line and keys around its middle."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container
from textual.events import Resize

from console.panels.foot import keys, status
from console.panels.header import header, small
from console.screens.zooming import ZoomingScreen
from console.spans import ExactCompositor
from console.view import View
from console.widgets.canvas import Canvas

MIN_CELLS, MIN_ROWS = 60, 16


class CockpitScreen(ZoomingScreen):
    """Draws a view on all its canvases."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-normal"), (180, "-wide")]  # noqa: RUF012 - Textual's type for it

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self._compositor = ExactCompositor()

    def compose(self) -> ComposeResult:
        """Header, middle, status, keys, and the sentence for a terminal that is too small."""
        yield Canvas(header, id="header", fades=False)
        with Container(id="middle"):
            yield from self.compose_middle()
            yield Canvas(self.explanation, id="explanation", fades=False)
        yield Canvas(status, id="status", fades=False)
        yield Canvas(keys, id="keys", fades=False)
        yield Canvas(small, id="small", fades=False)

    def compose_middle(self) -> ComposeResult:
        """What is this screen's own."""
        raise NotImplementedError

    def show(self, view: View) -> None:
        """Draw this view on all canvases that have a size."""
        self.show_explanation(view)
        for canvas in self.query(Canvas):
            if canvas.is_mounted:
                canvas.show(view)

    def renew(self) -> None:
        """Single requests came: nothing, where none are shown."""

    def on_resize(self, event: Resize) -> None:
        """Heights by the room there is."""
        self.set_class(event.size.height < 24, "-short")
        self.set_class(event.size.height >= 36, "-tall")
        self.set_class(event.size.height >= 44, "-high")
        self.set_class(event.size.height >= 54, "-grand")
        self.look_at_zoom(event)

    def on_screen_resume(self) -> None:
        """The latest view, as soon as the layout is known."""
        self.call_after_refresh(self.app.run_action, "redraw")
