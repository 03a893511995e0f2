"""A list of snapshots, for tests and measurements. The screen says SCRIPTED."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from console.sources.base import SourceGoneError
from server.commands import Answer, Command
from server.telemetry.snapshot import Snapshot


class ScriptedSource:
    """Yields its snapshots, `every_s` seconds apart (None: at once), then stays silent, or is gone with `lost`."""

    retry_s = 3600.0

    def __init__(
        self,
        script: Sequence[Snapshot],
        *,
        kind: Literal["live", "replay", "scripted"] = "scripted",
        can_send: bool = True,
        every_s: float | None = None,
        lost: str = "",
        ends: bool = False,
        answer: Answer | None = None,
    ) -> None:
        self.kind: Literal["live", "replay", "scripted"] = kind
        self.can_send = can_send
        self.sent: list[Command] = []
        """The commands that came, in order."""
        self.held = False
        self._script = script
        self._every_s = every_s
        self._lost = lost
        self._ends = ends
        self._answer = answer or Answer(True, "Done.")

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The script."""
        for snapshot in self._script:
            if self._every_s is not None:
                await asyncio.sleep(self._every_s)
            yield snapshot
        if self._lost:
            raise SourceGoneError(self._lost)
        if not self._ends:
            await asyncio.Event().wait()

    async def send(self, command: Command) -> Answer:
        """Note it and give the one answer."""
        self.sent.append(command)
        return self._answer

    def hold(self, still: bool) -> None:
        """Note it."""
        self.held = still

    async def close(self) -> None:
        """Nothing to let go of."""
