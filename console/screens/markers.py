"""Every marker with its note, the latest first; in a replay one of them can be gone to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from console import format as fmt
from console.screens.overlay import Overlay
from server.telemetry.snapshot import Event


class MarkersScreen(Overlay[Event | None]):
    """A list; enter gives the chosen one, escape none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]

    def __init__(self, markers: Sequence[Event], *, can_go: bool) -> None:
        super().__init__()
        self._markers = list(reversed(markers))
        self._can_go = can_go

    def compose(self) -> ComposeResult:
        """A heading and a row each."""
        head = Text("markers", style="bold")
        if not self._markers:
            head.append("\n\nnone yet: m drops one with a note", style="not bold")
        elif self._can_go:
            head.append("   enter goes there, esc leaves", style="not bold dim")
        with Vertical(classes="ask"):
            yield Static(head, markup=False)
            if self._markers:
                yield OptionList(*(Option(_told(event)) for event in self._markers))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click."""
        event.stop()
        self.leave(self._markers[event.option_index])

    def action_leave(self) -> None:
        """Escape leaves it."""
        self.leave()


def _told(event: Event) -> Text:
    return Text.assemble(
        (fmt.time_of_day(event.wall), "dim"),
        f"  {fmt.sanitize(event.mark, 1)}  ",
        fmt.sanitize(event.text, 60),
        no_wrap=True,
        overflow="ellipsis",
    )
