"""What stands above a screen until it is left."""

from __future__ import annotations

from textual.screen import ModalScreen, ScreenResultType


class Overlay(ModalScreen[ScreenResultType]):
    """A question or a sheet."""

    def leave(self, result: ScreenResultType | None = None) -> None:
        """Go, once: a key that was typed before it had gone reaches it still, and must not take the screen below along."""
        if self.is_current:
            self.dismiss(result)
