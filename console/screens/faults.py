"""The faults over the picture that they disturb: the strip and the charts go on above them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.deeds import bindings
from console.messages import Wanted
from console.panels.faults import fault_sheet
from console.provoking import ROWS, FaultDraft, kill_question, wanted
from console.screens.ask import AskKey
from console.screens.overlay import Sheet
from console.view import View
from console.widgets.canvas import Canvas
from server import commands
from server.faults.catalogue import NAMES


class FaultScreen(Sheet):
    """Key `x`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("faults"),
        Binding("x", "leave", "leave", id="cockpit.faults", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(ROWS[0])
        self._draft = FaultDraft()

    def compose(self) -> ComposeResult:
        """One canvas."""
        yield Canvas(fault_sheet, id="faults", fades=False)

    def show(self, view: View) -> None:
        """Draw, with what is chosen and what is set here."""
        status = self.unread(view)
        for canvas in self.query(Canvas):
            if canvas.is_mounted:
                canvas.show(replace(view, chosen=self._chosen, faults=self._draft, status=status))

    def action_choose(self, step: int) -> None:
        """The next fault up or down."""
        self.action_point(ROWS[(ROWS.index(self._chosen) + step) % len(ROWS)])

    def action_point(self, name: str) -> None:
        """This fault."""
        self._chosen = name
        self._draft = replace(self._draft, place=0)
        self._again()

    def action_turn(self) -> None:
        """The next of its settings."""
        kind = NAMES[self._chosen]
        self._draft = replace(self._draft, place=self._draft.place_in(kind) + 1)
        self._again()

    def action_change(self, sign: int) -> None:
        """One step of that setting."""
        self._draft = self._draft.changed(NAMES[self._chosen], sign)
        self._again()

    def action_take(self) -> None:
        """Provoke it, after asking where it asks; or undo it."""
        snapshot = self._drawn.snapshot if self._drawn is not None else None
        command = wanted(snapshot, self._draft, self._chosen)
        self._read = ""
        if not (isinstance(command, commands.Fault) and NAMES[command.name].asks):
            self.post_message(Wanted(command))
            return

        def answered(key: str | None) -> None:
            if key == "y":
                self.post_message(Wanted(command))

        self.app.push_screen(AskKey(kill_question(command), {"y": "yes, kill it"}), answered)

    def _again(self) -> None:
        if self._drawn is not None:
            self._read = self._drawn.status
            self.show(self._drawn)
