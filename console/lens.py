"""How the picture is looked at: in which words, against which baseline, one panel by itself. It changes this display only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from textual.app import App, SystemCommand

from console.screens.base import CockpitScreen
from console.view import View
from console.words import Wording

R = TypeVar("R")


class Lens(App[R]):
    """What the cockpit's application has for it."""

    words: Wording = "standard"

    def view(self) -> View:
        """What the screen shows now."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw the view."""
        raise NotImplementedError

    def flash(self, text: str, style: str = "text") -> None:
        """One sentence for some seconds."""
        raise NotImplementedError

    def action_words(self) -> None:
        """Plain words, or the field's terms again."""
        self.words = "standard" if self.words == "plain" else "plain"
        self.redraw()

    def action_panel(self, step: int) -> None:
        """The next panel of the screen."""
        if isinstance(self.screen, CockpitScreen):
            self.screen.action_panel(step)

    def action_zoom(self, name: str = "") -> None:
        """A panel of the screen by itself, with its explanation."""
        if isinstance(self.screen, CockpitScreen):
            self.screen.action_zoom_panel(name)

    def action_unzoom(self) -> None:
        """All panels again."""
        if isinstance(self.screen, CockpitScreen):
            self.screen.action_unzoom()

    def zooms(self) -> Iterator[SystemCommand]:
        """The screen's panels, for the palette."""
        screen = self.screen
        if isinstance(screen, CockpitScreen):
            for canvas in screen.panels():
                name = canvas.id or ""
                yield SystemCommand(
                    f"Zoom: {name.replace('-', ' ')}",
                    "This panel by itself, with what it is and what good looks like",
                    lambda name=name: self.call_later(self.run_action, f"zoom('{name}')"),
                )
