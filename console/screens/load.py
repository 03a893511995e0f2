"""Load: who is out there and what they ask, edited live; what they feel, and whether its measure can be believed."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container

from console.deeds import bindings
from console.editing import changed, expected, rows, taken
from console.messages import Wanted
from console.panels.asking import asking, preset_list
from console.panels.crowds import crowds
from console.panels.measured import generator, measured
from console.screens.base import CockpitScreen
from console.view import View
from console.widgets.canvas import Canvas
from loadgen.prompts import Mix
from loadgen.records import RESIDENTS
from server.commands import Command
from server.telemetry.snapshot import People

ECHO_S = 2.0
"""So long, by the snapshots' own clock, an edit is shown as made before the stack has confirmed it."""


class LoadScreen(CockpitScreen):
    """Key 4."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("load")

    def __init__(self) -> None:
        super().__init__()
        self._chosen = "patient"
        self._drawn: View | None = None
        self._edited: tuple[People, float] | None = None
        """People as they should be after edits that no snapshot shows yet, and the snapshot's `at` of the last one."""
        self._even: Mix | None = None

    def compose_middle(self) -> ComposeResult:
        """Behaviours on top, settings and presets below them, then the figures."""
        yield Canvas(crowds, id="crowds")
        with Container(id="choices"):
            yield Canvas(asking, id="asking")
            yield Canvas(preset_list, id="presets")
        yield Canvas(measured, id="measured")
        yield Canvas(generator, id="generator")

    def show(self, view: View) -> None:
        """Draw, with the edits that are under way."""
        self._drawn = view
        if view.snapshot is not None:
            people = self._people(view)
            view = replace(view, snapshot=msgspec.structs.replace(view.snapshot, people=people))
            if people.profile is not None and people.profile.mix.name == "even":
                self._even = people.profile.mix
            if self._chosen not in rows(people):
                self._chosen = "arrivals"
        self.set_class(self._chosen not in RESIDENTS, "-choosing")
        super().show(replace(view, chosen=self._chosen))

    def _people(self, view: View) -> People:
        """The snapshot's, or while it lags behind those that an edit asked for."""
        assert view.snapshot is not None
        people = view.snapshot.people
        if self._edited is None:
            return people
        edited, at = self._edited
        same = (edited.weights, edited.profile, edited.arrivals) == (people.weights, people.profile, people.arrivals)
        if same or view.snapshot.at - at > ECHO_S:
            self._edited = None
            return people
        return msgspec.structs.replace(
            people,
            weights=edited.weights,
            profile=edited.profile,
            arrivals=edited.arrivals,
            preset=edited.preset,
            rate_asked_per_s=edited.rate_asked_per_s if edited.arrivals else people.rate_asked_per_s,
        )

    def action_choose(self, step: int) -> None:
        """The next row up or down."""
        if self._drawn is None:
            return
        known = rows(self._people(self._drawn) if self._drawn.snapshot else People())
        self.action_point(known[(known.index(self._chosen) + step) % len(known)])

    def action_point(self, row: str) -> None:
        """This row."""
        self._chosen = row
        if self._drawn is not None:
            self.show(self._drawn)

    def action_change(self, sign: int) -> None:
        """One step of the chosen row."""
        if self._drawn is not None and self._drawn.snapshot is not None:
            self._want(changed(self._people(self._drawn), self._chosen, sign, self._even))

    def action_take(self) -> None:
        """Load the preset, bring the behaviour or send it home, or the setting's next value."""
        if self._drawn is not None and self._drawn.snapshot is not None:
            self._want(taken(self._people(self._drawn), self._chosen, self._even))

    def _want(self, wanted: Command | str) -> None:
        drawn = self._drawn
        if not isinstance(wanted, str) and drawn is not None and drawn.snapshot is not None:
            before = self._people(drawn)
            after = expected(before, wanted)
            if after is not before:
                self._edited = (after, drawn.snapshot.at)
                self.show(drawn)
        self.post_message(Wanted(wanted))
