"""A screen whose panels can be gone through, and zoomed one at a time with what there is to say about them."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.screen import Screen
from textual.widget import Widget

from console.ink import Line
from console.panels.explained import explanation, explanation_rows, pages
from console.view import View, draw
from console.widgets.canvas import Canvas

BESIDE_FROM = 120
"""Cells from which an explanation stands beside its panel; else it stands below."""
PANEL_ROWS = 10
"""What a panel keeps of a small terminal, be there ever so much to say about it; the rest of it is a page further on."""
FOOT = frozenset({"status", "keys", "small", "explanation"})
"""Canvases that are no panels."""


class ZoomingScreen(Screen[None], inherit_bindings=False):
    """`tab` and `enter`. While one panel is zoomed all others and what holds them are hidden, by style classes alone."""

    AUTO_FOCUS: ClassVar[str | None] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "panel(1)", "panels", show=False, id="cockpit.panel(1)"),
        Binding("shift+tab", "panel(-1)", "panel before", show=False, id="cockpit.panel(-1)"),
        Binding("enter", "zoom_panel", "zoom", show=False, id="cockpit.zoom"),
        Binding("escape", "unzoom", "all panels", show=False, id="cockpit.unzoom"),
    ]
    """Of screens that have nothing else for `enter` and `escape`; a panel that is gone to has them in any case."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self._explained = ""
        self._latest: View | None = None
        self._page = 0

    @property
    def zoomed(self) -> str:
        """The panel that has the screen for itself; empty when none has."""
        return self._explained

    def panels(self) -> list[Canvas]:
        """Those that can be zoomed now, in the order of the screen."""
        return [canvas for canvas in self.query(Canvas) if canvas.id not in FOOT and canvas.can_focus]

    def on_mount(self) -> None:
        """Every panel can be gone to, by keys; a click is for what is drawn in it."""
        for canvas in self.query(Canvas):
            canvas.can_focus = canvas.id not in FOOT

    def action_panel(self, step: int) -> None:
        """The next panel, or the one before; while one is zoomed, the next one zoomed."""
        if not self.zoomed:
            (self.focus_next if step > 0 else self.focus_previous)(Canvas)
            return
        known = [canvas.id or "" for canvas in self.panels()]
        self.zoom(known[(known.index(self.zoomed) + step) % len(known)])

    def action_zoom_panel(self, name: str = "") -> None:
        """Zoom this panel or the one that is gone to; zoomed, it goes back to its place."""
        focused = self.focused.id if isinstance(self.focused, Canvas) else ""
        name = name or focused or ""
        if not name:
            self.action_panel(1)
        elif name == self.zoomed:
            self.unzoom()
        else:
            self.zoom(name)

    def action_unzoom(self) -> None:
        """All panels again; without a zoom none is gone to any more."""
        if self.zoomed:
            self.unzoom()
        else:
            self.set_focus(None)

    def zoom(self, name: str) -> None:
        """Give this panel the screen."""
        self._release()
        self._explained, self._page = name, 0
        target = self.query_one(f"#{name}", Canvas)
        target.add_class("-shown")
        for holder in self._holders(target):
            holder.add_class("-shown", "-holds")
        self.add_class("-panel")
        self.set_focus(target)
        self._fit_explanation()
        self.call_after_refresh(self.app.run_action, "redraw")

    def unzoom(self) -> None:
        """Give it back."""
        self._release()
        self._explained = ""
        self.remove_class("-panel")
        self.call_after_refresh(self.app.run_action, "redraw")

    def _release(self) -> None:
        for widget in self.query(".-shown"):
            widget.remove_class("-shown", "-holds")

    def _holders(self, target: Widget) -> list[Widget]:
        """Containers between the panel and the screen's middle."""
        return [one for one in target.ancestors if isinstance(one, Widget) and one.id != "middle" and one is not self]

    def show_explanation(self, view: View) -> None:
        """Keep the view that the explanation is drawn from, and the room for its words."""
        self._latest = view
        if self.zoomed:
            self._fit_explanation()

    def explanation(self, view: View, cells: int, rows: int) -> list[Line]:
        """What there is to say about the zoomed panel."""
        return explanation(view, self._explained, cells, rows, self._page)

    def action_turn(self, step: int) -> None:
        """The next page of the explanation, or the one before."""
        canvas = self.query_one("#explanation", Canvas)
        view = self._latest or View()
        last = pages(view, self._explained, canvas.size.width, canvas.size.height) - 1
        self._page = min(last, max(0, self._page + step))
        canvas.show(view)

    def _fit_explanation(self) -> None:
        """Beside the panel, or below it with as many rows as it has."""
        beside = self.size.width >= BESIDE_FROM
        self.set_class(beside, "-beside")
        canvas = self.query_one("#explanation", Canvas)
        in_middle = any(one.id == "middle" for one in self.query_one(f"#{self.zoomed}").ancestors)
        if beside and in_middle:
            canvas.styles.width, canvas.styles.height = max(56, self.size.width * 2 // 5), "1fr"
            return
        view, cells = self._latest or View(), self.size.width
        rows = len(draw(lambda v, c, _: explanation_rows(v, self.zoomed, c - 4), view, cells, 99)) + 2
        most = max(4, self.query_one("#middle", Container).size.height - PANEL_ROWS)
        canvas.styles.width = "1fr"
        canvas.styles.height = min(rows, most) if in_middle else "1fr"

    def look_at_zoom(self, event: Resize) -> None:
        """Room for the explanation anew."""
        del event
        if self.zoomed:
            self.call_after_refresh(self._fit_explanation)
