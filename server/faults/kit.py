"""The kit: carries faults out, times them, undoes them, and knows which last. How each is done, an edge knows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from server.faults.catalogue import MARK, Edge, FaultError, FaultKind, Setting, Settings, fault_named
from server.population import Change, refused
from server.telemetry.snapshot import ActiveFault

LOOK_S = 0.5
"""How often it is looked whether what a fault was done to is still there."""
UNDO_S = 20.0
"""Longer than this no undoing may take when all go."""


async def _nothing() -> None:
    return


@dataclass(frozen=True)
class Begun:
    """What an edge has done."""

    undo: Callable[[], Awaitable[None]] = _nothing
    lives: Callable[[], bool] = lambda: True
    """Is what it was done to still there? A process that is gone has nothing to undo."""
    kind: str = "fault"
    """Of the event on the charts."""


class EdgeOf(Protocol):
    """One edge of the stack. Raises FaultError, having changed nothing, when it cannot be done."""

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun: ...


@dataclass(eq=False)
class _Active:
    kind: FaultKind
    settings: dict[str, Setting]
    text: str
    begun: Begun
    since: float
    until: float
    timer: asyncio.Task[None] | None = None


class FaultKit:
    """`note` gets (kind, text) of every event; what `begin` and `stop` return is for whoever asked."""

    def __init__(self, edges: Mapping[Edge, EdgeOf], note: Callable[[str, str], None]) -> None:
        self._edges = edges
        self._note = note
        self._active: list[_Active] = []
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    def active(self, now: float) -> list[ActiveFault]:
        """As a snapshot shows them; `now` in monotonic seconds."""
        return [
            ActiveFault(
                name=one.kind.name,
                text=one.text,
                mark=MARK,
                since_s=round(now - one.since, 3),
                left_s=round(max(0.0, one.until - now), 3),
                settings=one.settings,
            )
            for one in self._active
        ]

    async def begin(self, name: str, given: Settings, seconds: float | None = None) -> Change:
        """Provoke one fault, or say why not."""
        async with self._one_at_a_time:
            try:
                kind = fault_named(name)
                settings, lasts = kind.settled(given), kind.lasts(seconds)
                if self._closed:
                    raise FaultError("The stack is going down.")
                self._refuse_second(kind, settings)
                begun = await self._edges[kind.edge].begin(kind, settings)
            except FaultError as error:
                return refused(str(error))
            text = kind.words(settings)
            if lasts is not None:
                now = time.monotonic()
                one = _Active(kind, settings, text, begun, now, now + lasts)
                self._active.append(one)
                one.timer = asyncio.create_task(self._time(one), name=f"fault {name}")
                text = f"{text} for {lasts:g} s"
            return Change(text, begun.kind)

    async def stop(self, name: str | None) -> Change:
        """Undo the faults of this name, or all."""
        found = [one for one in self._active if name in (None, one.kind.name)]
        if not found:
            return refused("No fault lasts now." if name is None else self._why_none(name))
        for one in found:
            await self._end(one, "undone")
        return Change(f"undone: {'; '.join(one.text for one in found)}.")

    async def close(self) -> None:
        """Undo all of them, whatever fails on the way: nothing of a fault outlives the stack."""
        self._closed = True
        for one in list(self._active):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNDO_S):
                    await self._end(one, "undone, the stack goes down")

    def _refuse_second(self, kind: FaultKind, settings: Settings) -> None:
        """Of a kind there is one at a time; on the wire and of processes, one at each place."""
        place = _place(settings)
        for one in self._active:
            if one.kind is kind and _place(one.settings) == place:
                where = f" on {place}" if place else ""
                raise FaultError(
                    f"There is {kind.name}{where} already; `spark-serve fault --stop {kind.name}` ends it."
                )

    @staticmethod
    def _why_none(name: str) -> str:
        try:
            kind = fault_named(name)
        except FaultError as error:
            return str(error)
        if not kind.undoable:
            return f"The fault {name} is done at once; there is nothing to undo."
        return f"The fault {name} does not last now."

    async def _time(self, one: _Active) -> None:
        while True:
            left = one.until - time.monotonic()
            if left <= 0 or not one.begun.lives():
                break
            await asyncio.sleep(min(left, LOOK_S))
        await self._end(one, "over" if left <= 0 else "over: the process is gone")

    async def _end(self, one: _Active, how: str) -> None:
        """Once, whoever comes first."""
        if one not in self._active:
            return
        self._active.remove(one)
        if one.timer is not None and one.timer is not asyncio.current_task():
            one.timer.cancel()
        try:
            await one.begun.undo()
        except (FaultError, OSError) as error:
            how = f"cannot be undone: {error}"
        self._note("fault", f"{one.text}: {how}")


def _place(settings: Settings) -> str:
    return str(settings.get("on") or settings.get("process") or "")
