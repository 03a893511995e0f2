"""The policy of the queue over the picture it changes: the strip and the charts go on above it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.deeds import bindings
from console.messages import Wanted
from console.panels.policy import policy_panel
from console.rules import Draft, changed, drafted, rows, taken, tuned, wont_start
from console.screens.ask import AskKey
from console.screens.overlay import Sheet
from console.view import View
from console.widgets.canvas import Canvas
from server import commands
from server.gateway.policy import Policy
from server.telemetry.snapshot import Snapshot

ECHO_S = 2.0
"""So long, by the snapshots' own clock, a change is shown as made before the gateway has confirmed it."""


class PolicyScreen(Sheet):
    """Key `p`. What is changed is a draft until enter takes it, as one command and one event."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("policy"),
        Binding("p", "leave", "leave", id="cockpit.policy", show=False),
    ]

    def __init__(self) -> None:
        super().__init__("order")
        self._draft = Draft()
        self._taken: tuple[Policy, float] | None = None
        """The policy that was asked for and that no snapshot shows yet, and the snapshot's `at` then."""

    def compose(self) -> ComposeResult:
        """One canvas."""
        yield Canvas(policy_panel, id="policy", fades=False)

    def show(self, view: View) -> None:
        """Draw, with the draft and with what was taken and not confirmed yet."""
        status = self.unread(view)
        snapshot = self._snapshot(view)
        if snapshot is not None and (policy := drafted(snapshot, self._draft)) is not None:
            known = rows(policy)
            if self._chosen not in known:
                self._chosen = known[0]
        for canvas in self.query(Canvas):
            if canvas.is_mounted:
                canvas.show(replace(view, snapshot=snapshot, chosen=self._chosen, draft=self._draft, status=status))

    def _snapshot(self, view: View) -> Snapshot | None:
        snapshot = view.snapshot
        if snapshot is None or self._taken is None:
            return snapshot
        policy, at = self._taken
        if snapshot.queue.rules == policy or snapshot.at - at > ECHO_S:
            self._taken = None
            return snapshot
        return msgspec.structs.replace(snapshot, queue=msgspec.structs.replace(snapshot.queue, rules=policy))

    def action_choose(self, step: int) -> None:
        """The next row up or down."""
        snapshot = self._snapshot(self._drawn) if self._drawn is not None else None
        policy = drafted(snapshot, self._draft) if snapshot is not None else None
        if policy is not None:
            known = rows(policy)
            self.action_point(known[(known.index(self._chosen) + step) % len(known)])

    def action_point(self, row: str) -> None:
        """This row."""
        self._chosen = row
        if self._drawn is not None:
            self.show(self._drawn)

    def action_change(self, sign: int) -> None:
        """One step of the chosen row, in the draft alone."""
        snapshot = self._snapshot(self._drawn) if self._drawn is not None else None
        if snapshot is None or self._drawn is None:
            return
        after = changed(snapshot, self._draft, self._chosen, sign)
        if isinstance(after, str):
            self.post_message(Wanted(after))
            return
        self._draft = after
        self._read = self._drawn.status
        self.show(self._drawn)

    def action_take(self) -> None:
        """Send what was changed; for the engine's knobs ask once."""
        snapshot = self._snapshot(self._drawn) if self._drawn is not None else None
        if snapshot is None:
            return
        wanted = taken(snapshot, self._draft, self._chosen)
        if isinstance(wanted, commands.Knobs):
            self._ask(snapshot, wanted)
            return
        if isinstance(wanted, commands.Policy):
            expected = drafted(snapshot, self._draft)
            assert expected is not None
            self._taken = (expected, snapshot.at)
            self._draft = Draft(knobs=self._draft.knobs)
        self.post_message(Wanted(wanted))

    def _ask(self, snapshot: Snapshot, wanted: commands.Knobs) -> None:
        def answered(key: str | None) -> None:
            if key == "y":
                self._draft = Draft(policy=self._draft.policy)
                self.post_message(Wanted(wanted))

        ill = wont_start(snapshot.engine, tuned(snapshot.engine, self._draft))
        if ill:
            self.post_message(Wanted(ill))
            return
        self.app.push_screen(AskKey(restart_question(snapshot, wanted), {"y": "yes, restart it"}), answered)


def restart_question(snapshot: Snapshot, knobs: commands.Knobs) -> str:
    """What the restart changes, and what becomes of those who are inside."""
    queue = snapshot.queue
    flying, waiting = queue.in_flight.v or 0, queue.depth.v or 0
    holds = queue.rules is None or queue.rules.hold
    cut = f"{flying:.0f} replies under way break off" if flying else "No reply is under way"
    rest = "who waits or comes is held until it is back" if holds else "who waits or comes gets 503"
    held = f" ({waiting:.0f} wait now)" if waiting else ""
    return f"Restart the engine with {knobs.in_words()}? {cut}; {rest}{held}."
