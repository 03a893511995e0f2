"""The client edge: what people do to a server, by the load that there is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from loadgen.records import Behaviour
from server import commands
from server.faults.catalogue import FaultError, FaultKind, Settings
from server.faults.kit import Begun
from server.population import LoadChange, Population

EXTRAS: dict[str, Behaviour] = {"slow": "slow", "retry-storm": "retrier"}


class ClientEdge:
    """Asks the stack's own people."""

    def __init__(self, population: Callable[[], Population]) -> None:
        self._population = population

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun:
        if why := self._population().why_not:
            raise FaultError(why)
        count = int(settings["count"])
        if kind.name in EXTRAS:
            behaviour = EXTRAS[kind.name]
            self._more(behaviour, count)

            async def undo() -> None:
                self._more(behaviour, -count)

            return Begun(undo)
        event = self._change(_once(kind.name, settings, count))
        return Begun(kind=event if event == "burst" else "fault")

    def _more(self, behaviour: Behaviour, count: int) -> None:
        """Besides those whom somebody asked for before or meanwhile."""
        there = self._population().wanted.extras.get(behaviour, 0)
        self._change(commands.Extra(behaviour, max(0, there + count)))

    def _change(self, command: LoadChange) -> str:
        change = self._population().change(command)
        if not change.ok:
            raise FaultError(change.text)
        return change.kind


def _once(name: str, settings: Settings, count: int) -> LoadChange:
    if name == "leave":
        leave: commands.Leave = msgspec.convert({**settings, "count": count}, commands.Leave)
        return leave
    return commands.Stall(count) if name == "stall" else commands.Burst(count)
