"""The one widget that draws: a pure panel's lines as strips, refreshing the cells that changed and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from console.format import sanitize
from console.ink import Line, Span, fit, is_simple, line, text_width
from console.messages import PanelFailed
from console.palette import LOUD, style_of
from console.themes import DARK, Theme
from console.view import Panel, View, draw
from console.words import say, speaking

MERGE_WITHIN = 4
"""Changes this close are written as one span: moving the cursor and setting colours costs more than the cells between."""


class Canvas(Widget):
    """Draws a panel from the latest view. Its lines are diffed by cell, so that a frame costs what changed."""

    ALLOW_SELECT = False
    FOCUS_ON_CLICK = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.zoom_panel", "zoom", show=False),
        Binding("escape", "screen.unzoom", "back", show=False),
        Binding("pagedown", "turn(1)", "next page", show=False),
        Binding("pageup", "turn(-1)", "page before", show=False),
    ]
    """While a panel is gone to with `tab`, these are its own, whatever the screen uses them for."""

    def __init__(self, panel: Panel, *, name: str | None = None, id: str | None = None, fades: bool = True) -> None:  # noqa: A002 - Textual's name for it
        super().__init__(name=name, id=id)
        self._panel = panel
        self._fades = fades
        """Greyed while the source is lost."""
        self._view: View | None = None
        self._lines: list[Line] = []
        self._faded = False
        self._failed = False
        self._note = ""
        self._gone_to = False

    def show(self, view: View) -> None:
        """Draw this view now; nothing is refreshed where nothing changed."""
        self._view = view
        self._draw()

    def _draw(self) -> None:
        cells, rows = self.size
        if self._view is None or not cells or not rows:
            return
        lines = [fit(line, cells) for line in self._drawn(self._view, cells, rows)]
        lines += [fit((), cells)] * (rows - len(lines))
        if self._gone_to and not self.has_class("-shown"):
            lines = [pointed(one) for one in lines]
        faded = self._fades and self._view.link == "lost"
        before, was_faded = self._lines, self._faded
        self._lines, self._faded = lines, faded
        if len(before) != len(lines) or faded != was_faded:
            self.refresh()
            return
        regions = [
            Region(x1, y, x2 - x1, 1)
            for y, (old, new) in enumerate(zip(before, lines, strict=True))
            if old != new
            for x1, x2 in changed_spans(old, new)
        ]
        if regions:
            self.refresh(*regions)

    def _drawn(self, view: View, cells: int, rows: int) -> list[Line]:
        """The panel's lines, or one that says why it has none: no panel's failure takes the others along."""
        try:
            lines = draw(self._panel, view, cells, rows)
        except Exception as error:
            if not self._failed:
                self.app.post_message(PanelFailed(self._panel.__name__, error))
            self._failed = True
            return [line(Span(f"this panel failed ({type(error).__name__})", "bad"))]
        self._failed = False
        return lines

    def render_line(self, y: int) -> Strip:
        """One line of the panel."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width, style_of("text", self._theme))
        theme = self._theme
        spans = bared(self._lines[y]) if theme.loud else self._lines[y]
        segments = [Segment(span.text, style_of(span.style, theme, stale=self._faded)) for span in spans if span.text]
        return Strip(segments, self.size.width)

    @property
    def _theme(self) -> Theme:
        return getattr(self.app, "look", DARK)

    def on_resize(self) -> None:
        """Draw for the new size."""
        self._lines = []
        self._draw()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The note of the figure under the pointer becomes the tooltip."""
        found = self.span_at(event.x, event.y)
        note = sanitize(found.note) if found else ""
        with speaking(self._view.words if self._view else "standard"):
            note = say(note)
        if note != self._note:
            self._note = note
            self.tooltip = Text(note) if note else None  # a string would be read as markup

    def on_focus(self) -> None:
        """Show that it is gone to."""
        self._gone_to = True
        self._draw()

    def on_blur(self) -> None:
        """And that it is no more."""
        self._gone_to = False
        self._draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Pages are turned while the panel is zoomed; before, these keys are the screen's."""
        del parameters
        return action != "turn" or self.has_class("-shown")

    async def action_turn(self, step: int) -> None:
        """A page of the explanation."""
        await self.run_action(f"screen.turn({step})")

    async def on_click(self, event: events.Click) -> None:
        """Run the action of what was clicked; a click on a title, and two anywhere else, zoom the panel."""
        found = self.span_at(event.x, event.y)
        if found and found.action:
            await self.app.run_action(found.action)
        elif self.can_focus and (event.chain == 2 or (event.y == 0 and found and found.style == "title")):
            await self.run_action(f"screen.zoom_panel('{self.id}')")

    def span_at(self, x: int, y: int) -> Span | None:
        """The span under a cell of this widget."""
        if not 0 <= y < len(self._lines):
            return None
        for span in self._lines[y]:
            x -= text_width(span.text)
            if x < 0:
                return span
        return None


def bared(spans: Line) -> Line:
    """The same with the blanks around what is underlined or reversed as spans of their own, which are neither."""
    parts: list[Span] = []
    for span in spans:
        if span.style in LOUD and (span.text[0] == " " or span.text[-1] == " "):
            core = span.text.strip(" ")
            before, _, after = span.text.partition(core) if core else (span.text, "", "")
            parts += (Span(before), span._replace(text=core), Span(after))
        else:
            parts.append(span)
    return tuple(parts)


def pointed(spans: Line) -> Line:
    """A line of the panel that is gone to: its frame and its title stand out, and where it has neither a bar at the edge."""
    if spans and spans[0].style == "frame":
        return tuple(one._replace(style="focus") if one.style in {"frame", "title"} else one for one in spans)
    first = spans[0] if spans else Span("")
    if first.text[:1] in {"", " "}:
        spans = (Span("▌", "focus"), first._replace(text=first.text[1:]), *spans[1:])
    return tuple(one._replace(style="focus") if one.style == "title" else one for one in spans if one.text)


def changed_spans(old: Line, new: Line) -> list[tuple[int, int]]:
    """[begin, end) cells in which two lines of one width differ, merged where they are close.

    A line with characters of other widths than one cell is taken whole.
    """
    if not all(is_simple(span.text) for span in (*old, *new)):
        return [(0, sum(text_width(span.text) for span in new))]
    found: list[tuple[int, int]] = []
    for x, (before, after) in enumerate(zip(_cells(old), _cells(new), strict=False)):
        if before == after:
            continue
        if found and x - found[-1][1] <= MERGE_WITHIN:
            found[-1] = (found[-1][0], x + 1)
        else:
            found.append((x, x + 1))
    return found


def _cells(line: Line) -> Iterator[tuple[str, str]]:
    for span in line:
        style = span.style
        for character in span.text:
            yield character, style
