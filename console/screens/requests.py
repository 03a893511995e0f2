"""Requests: who waits now, what became of those that finished, and where the time of the chosen one went."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container

from console.deeds import bindings
from console.kept import ONLY, Choice, Listing, Only
from console.messages import RequestsWanted
from console.panels.inside import in_flight, waiting
from console.panels.requests import list_rows, requests
from console.panels.waterfall import waterfall
from console.screens.base import CockpitScreen
from console.view import View
from console.widgets.canvas import Canvas

ASK_EVERY_S = 1.0
"""By the snapshots' own clock, while this screen is in front."""
WHEEL_ROWS = 3


class RequestsScreen(CockpitScreen):
    """Key 2."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("requests")

    def __init__(self) -> None:
        super().__init__()
        self._choice = Choice()
        self._listing = Listing()
        self._drawn: View | None = None
        self._asked_at: float | None = None

    def compose_middle(self) -> ComposeResult:
        """Who is inside, the list, and the chosen one below it."""
        with Container(id="inside"):
            yield Canvas(waiting, id="waiting")
            yield Canvas(in_flight, id="flying")
        yield Canvas(requests, id="requests")
        yield Canvas(waterfall, id="waterfall")

    def show(self, view: View) -> None:
        """Draw what is kept, and ask for what is new."""
        if self._drawn is not None and view.kept is not self._drawn.kept:  # what was chosen may not have been by then
            self._choice, self._asked_at = Choice(self._choice.only), None
        self._drawn = view
        super().show(self._listed(view))
        self._ask(view)

    def renew(self) -> None:
        """Draw what came; the rest of the screen waits for the next snapshot."""
        if self._drawn is not None:
            view = self._listed(self._drawn)
            for name in ("#requests", "#waterfall"):
                self.query_one(name, Canvas).show(view)

    def _listed(self, view: View) -> View:
        self._listing = self._choice.listing(view.kept)
        if not self._listing.following and self._listing.chosen is not None:
            self._choice = replace(self._choice, chosen=self._listing.chosen)
        return replace(view, listing=self._listing)

    def _ask(self, view: View) -> None:
        if view.snapshot is None or view.frozen_s is not None or not self.is_current:
            return
        at = view.snapshot.at
        # A replay of another recording, or a stack on another host, may be earlier.
        if self._asked_at is None or not 0 <= at - self._asked_at < ASK_EVERY_S:
            self._asked_at = at
            self.post_message(RequestsWanted(at))

    def action_filter(self, only: Only) -> None:
        """Show these only."""
        self._choose(self._choice.filtered(only))

    def action_only(self, step: int) -> None:
        """The next filter, or the one before."""
        self.action_filter(ONLY[(ONLY.index(self._choice.only) + step) % len(ONLY)])

    def action_move(self, step: int) -> None:
        """So many requests down the list, to older ones."""
        self._choose(self._choice.moved(self._listing, step, self._rows))

    def action_page(self, sign: int) -> None:
        """A list's height down."""
        self._choose(self._choice.moved(self._listing, sign * max(1, self._rows), self._rows))

    def action_newest(self) -> None:
        """The newest, whatever comes."""
        self._choose(Choice(self._choice.only))

    def action_oldest(self) -> None:
        """The last of the list."""
        self._choose(self._choice.at(self._listing, len(self._listing.shown) - 1, self._rows))

    def action_point(self, index: int) -> None:
        """The one that was drawn there."""
        self._choose(self._choice.at(self._listing, index, self._rows))

    def action_zoom(self) -> None:
        """The chosen one alone, with all that is known of it; or the list again."""
        self.toggle_class("-zoomed")

    def action_list(self) -> None:
        """The list again."""
        self.remove_class("-zoomed")

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves the choice."""
        event.stop()
        self.action_move(WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the choice."""
        event.stop()
        self.action_move(-WHEEL_ROWS)

    @property
    def _rows(self) -> int:
        return max(1, list_rows(self.query_one("#requests", Canvas).size.height))

    def _choose(self, choice: Choice) -> None:
        self._choice = choice
        self.renew()
