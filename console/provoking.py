"""What is set of the faults on the fault sheet before one is provoked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server import commands
from server.faults.catalogue import CATALOGUE, NAMES, FaultKind, Setting
from server.telemetry.snapshot import ActiveFault, Snapshot

ROWS = tuple(kind.name for kind in CATALOGUE)
FOR = "for"
"""The setting that every fault has which lasts: how long."""


@dataclass(frozen=True)
class FaultDraft:
    """Settings that were changed here, by fault; and which of the chosen fault's settings the arrow keys change."""

    settings: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    place: int = 0

    def of(self, kind: FaultKind) -> dict[str, Setting]:
        """All that is set of it, how long it lasts among it."""
        own: dict[str, Setting] = {parameter.name: parameter.default for parameter in kind.parameters}
        if kind.seconds is not None:
            own[FOR] = kind.seconds
        return {**own, **self.settings.get(kind.name, {})}

    def place_in(self, kind: FaultKind) -> int:
        return self.place % max(1, len(self.of(kind)))

    def changed(self, kind: FaultKind, sign: int) -> FaultDraft:
        """One step of the setting that the arrow keys are on."""
        settings = self.of(kind)
        if not settings:
            return self
        name = list(settings)[self.place_in(kind)]
        steps: tuple[Setting, ...] = kind.lengths
        if name != FOR:
            steps = next(parameter.steps for parameter in kind.parameters if parameter.name == name)
        at = steps.index(settings[name]) if settings[name] in steps else 0
        after = {**self.settings.get(kind.name, {}), name: steps[(at + sign) % len(steps)]}
        return FaultDraft({**self.settings, kind.name: after}, self.place)

    def command(self, kind: FaultKind) -> commands.Fault:
        settings = self.of(kind)
        seconds = settings.pop(FOR, None)
        return commands.Fault(kind.name, settings, None if seconds is None else float(seconds))


def shown(kind: FaultKind, name: str, value: Setting) -> str:
    """One setting, as the sheet says it."""
    if name == FOR:
        return f"{value:g} s" if isinstance(value, float) else str(value)
    return next(parameter for parameter in kind.parameters if parameter.name == name).shown(value)


def lasting(snapshot: Snapshot | None, name: str) -> ActiveFault | None:
    """The one of this name that lasts, the oldest where there are several."""
    faults = snapshot.faults if snapshot is not None else []
    return next((fault for fault in faults if fault.name == name), None)


def wanted(snapshot: Snapshot | None, draft: FaultDraft, name: str) -> commands.Fault | commands.Unfault:
    """What enter does: undo what lasts, else provoke it."""
    if lasting(snapshot, name) is not None:
        return commands.Unfault(name)
    return draft.command(NAMES[name])


def kill_question(command: commands.Fault) -> str:
    """What becomes of it."""
    process = command.settings.get("process", NAMES["kill"].parameters[0].default)
    after = {
        "gateway": "every reply under way breaks off; it is started again within seconds",
        "load": "the people are gone; others come in their place",
    }.get(str(process), "every reply under way breaks off, and the engine has to start again")
    return f"Kill the {str(process).replace('-', ' ').replace('api', 'API')}? {after[:1].upper()}{after[1:]}."
