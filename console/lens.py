"""How the picture is looked at: in which words, against which baseline, one panel by itself. It changes this display only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from textual import work
from textual.app import App, SystemCommand

from console import format as fmt
from console.baseline import Baseline, Then, counterparts, stable_minute
from console.history import CELL_S
from console.screens.base import CockpitScreen
from console.sources.base import Source
from console.view import View
from console.words import Wording
from server.telemetry.snapshot import Event, Snapshot

R = TypeVar("R")


class Lens(App[R]):
    """What the cockpit's application has for it."""

    words: Wording = "standard"
    baseline: Baseline | None = None
    source: Source
    _told: Snapshot | None = None
    """The one whose changes are shown: as charts, they move every `CELL_S`."""

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

    def compared(self, snapshot: Snapshot | None) -> Mapping[int, Then]:
        """What the readings of a snapshot are compared with."""
        if self.baseline is None or snapshot is None:
            self._told = None
            return {}
        if self._told is None or int(self._told.at) // CELL_S != int(snapshot.at) // CELL_S:
            self._told = snapshot
        return counterparts(snapshot, self.baseline.snapshot, self._told)

    def action_baseline(self) -> None:
        """Hold what the screen shows; again lets it go."""
        shown = self.view().snapshot
        if self.baseline is not None:
            self.flash(f"The baseline {self.baseline.name} is let go.")
            self.baseline = None
        elif shown is None:
            self.flash("There are no figures to hold yet.", "warn")
        else:
            self.baseline = Baseline(shown, fmt.time_of_day(shown.wall))
            self.flash("Held: every figure shows its change from now on. z lets go.")
        self.redraw()

    @work(exit_on_error=False, group="baseline")  # not in the group of the one that collects, which is alone in its own
    async def hold_recording(self, path: Path) -> None:
        """Hold the last stable minute of a recording."""
        from server.telemetry.recording import RecordingError, read  # noqa: PLC0415 - only who asks for one pays for it

        try:
            found = await asyncio.to_thread(lambda: stable_minute(read(path)))
        except RecordingError as error:
            self.flash(str(error), "bad")
            return
        if found is None:
            self.flash(f"In {path.name} the engine never served: there is nothing to compare with.", "warn")
            return
        self.baseline = Baseline(found, f"{path.name} {fmt.time_of_day(found.wall)}")
        self.redraw()

    def action_markers(self) -> None:
        """Every marker of the past that is kept; in a replay go to one."""
        from console.screens.markers import MarkersScreen  # noqa: PLC0415 - its widgets are nobody else's

        skip = getattr(self.source, "skip", None)
        shown = self.view()

        def chosen(event: Event | None) -> None:
            if event is None or shown.snapshot is None:
                return
            if skip is not None:
                skip(event.at - shown.snapshot.at)
            else:
                self.flash(f"{fmt.time_of_day(event.wall)} {event.text}")

        markers = [event for event in shown.history.events if event.kind == "marker"]
        self.push_screen(MarkersScreen(markers, can_go=skip is not None), chosen)

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
