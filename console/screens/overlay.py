"""What stands above a screen until it is left."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, ScreenResultType

from console.spans import ExactCompositor
from console.view import View


class Overlay(ModalScreen[ScreenResultType]):
    """A question or a sheet."""

    def leave(self, result: ScreenResultType | None = None) -> None:
        """Go, once: a key that was typed before it had gone reaches it still, and must not take the screen below along."""
        if self.is_current:
            self.dismiss(result)


class Sheet(Overlay[None]):
    """Rows over the foot of the picture that they change, one of them chosen; the picture goes on above them.

    People and bursts can be had meanwhile, for it is under load that a change shows.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", show=False),
        Binding("b", "app.burst", "burst", id="cockpit.burst", show=False),
        Binding("plus,equals_sign", "app.people(1)", "more people", id="cockpit.people(1)", show=False),
        Binding("minus,underscore", "app.people(-1)", "fewer people", id="cockpit.people(-1)", show=False),
    ]

    def __init__(self, chosen: str) -> None:
        super().__init__()
        self._compositor = ExactCompositor()
        self._chosen = chosen
        self._drawn: View | None = None
        self._read = ""
        """The answer that stood at the bottom before the last change."""

    def on_mount(self) -> None:
        """The latest view, as soon as the layout is known."""
        self.call_after_refresh(self.app.run_action, "redraw")

    def show(self, view: View) -> None:
        """Draw this view."""
        raise NotImplementedError

    def unread(self, view: View) -> str:
        """The answer to show with this view: what was read goes with the next change."""
        self._drawn = view
        if view.status != self._read:
            self._read = ""
        return "" if self._read else view.status

    def action_leave(self) -> None:
        """What was not taken is forgotten."""
        self.leave()
