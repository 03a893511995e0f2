"""The cockpit over a recording: the same screens, with keys to go about in it instead of keys that act."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import SystemCommand
from textual.binding import BindingType
from textual.markup import escape
from textual.screen import Screen

from console import format as fmt
from console.app import CockpitApp
from console.deeds import DEEDS, REPLAY, bindings
from console.history import History
from console.kept import Kept
from console.panels.progress import Playing, Tick, recorded_on
from console.screens.base import CockpitScreen
from console.screens.late import late
from console.sources.base import Source
from console.sources.replay import ReplaySource
from console.view import KeyHint, View

NOT_HERE = frozenset({"freeze", "faults", "policy"})
"""Keys that the footer of a replay leaves out: what they lead to acts, or is another thing here."""


class ReplayApp(CockpitApp):
    """Draws what `source` plays. Wherever somebody goes, the past is as if it had been played to there."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(REPLAY)

    def __init__(self, source: ReplaySource, **options: Any) -> None:
        super().__init__(source, **options)
        self.replay = source
        source.on_jump = self._jumped
        source.on_change = self._changed

    def _jumped(self, history: History, back: bool) -> None:
        self.history = history
        if back:
            self.kept = Kept()

    def _changed(self) -> None:
        if self.is_running:
            self.redraw()

    # Drawing

    def view(self) -> View:
        """What the screen shows now."""
        view = super().view()
        still = self.replay.paused or self.replay.ended
        moves = [
            KeyHint(
                deed.shown, "play" if still and deed.action == "freeze" else deed.label, deed.action, rank=deed.rank
            )
            for deed in DEEDS
            if deed.where == REPLAY and deed.rank
        ]
        others = [
            replace(key, rank=5) if key.action == "detach" else key
            for key in view.keys
            if not key.why_not and key.action not in NOT_HERE
        ]
        return replace(
            view,
            link="ended" if self.replay.ended and view.link == "replay" else view.link,
            playing=self._playing(),
            keys=(*moves, *others),
        )

    def _playing(self) -> Playing:
        replay, tape = self.replay, self.replay.tape
        return Playing(
            position_s=replay.position_s,
            length_s=tape.length_s,
            speed=replay.speed,
            paused=replay.paused,
            ended=replay.ended,
            seeking=replay.seeking,
            loops=replay.loops,
            ticks=tuple(Tick(tape.position_s(one.index), one.event.mark, one.event.text) for one in tape.jumps()),
            note=", ".join(part for part in (replay.note, recorded_on(tape.wall)) if part),
        )

    # Acting

    def action_freeze(self) -> None:
        """Stand still, or play on; at the end, play again."""
        self.replay.hold(not (self.replay.paused or self.replay.ended))

    def action_seek(self, position_s: float) -> None:
        """Go to so many seconds from the begin."""
        self.replay.seek(position_s)

    def action_skip(self, seconds: float) -> None:
        """So much on, or back."""
        self.replay.skip(seconds)

    def action_to_event(self, sign: int) -> None:
        """To the event after, or before."""
        if not self.replay.to_event(sign):
            self.flash("There is no event after this." if sign > 0 else "There is no event before this.", "warn")

    def action_faster(self, sign: int) -> None:
        """Faster, or slower."""
        self.replay.faster(sign)

    def action_to_start(self) -> None:
        """Where the recording begins."""
        self.replay.seek(0.0)

    def action_help(self) -> None:
        """Keys, and how to read the screen."""
        if isinstance(self.screen, CockpitScreen):
            self.push_screen(late("ask", "HelpScreen")(REPLAY))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every deed, and every event of the recording."""
        elsewhere = {deed.named for deed in DEEDS if deed.where != REPLAY and deed.action in NOT_HERE}
        yield from (command for command in super().get_system_commands(screen) if command.title not in elsewhere)
        for deed in DEEDS:
            if deed.where == REPLAY:
                yield self._command(deed.named, deed.explained, deed.action)
        for tick in self._playing().ticks:
            where = fmt.clock(tick.position_s)
            yield self._command(f"jump to: {fmt.sanitize(tick.text, 60)}", where, f"seek({tick.position_s:.3f})")

    def _command(self, title: str, text: str, action: str) -> SystemCommand:
        return SystemCommand(title, escape(text), lambda: self.call_later(self.run_action, action))


def replay_app(source: Source, **options: Any) -> CockpitApp:
    """For what plays a recording; a source that only looks like one has no keys to go about in it."""
    return ReplayApp(source, **options) if isinstance(source, ReplaySource) else CockpitApp(source, **options)
