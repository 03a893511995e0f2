"""A list of snapshots, for tests and measurements. The screen says SCRIPTED."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from console.sources.base import SourceGoneError
from server.commands import Answer, Command
from server.telemetry.snapshot import JoinedRequest, Snapshot


class ScriptedSource:
    """Yields its snapshots, `every_s` seconds apart (None: at once), then stays silent, or is gone with `lost`."""

    retry_s = 3600.0
    behind = 0

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
        requests: Sequence[JoinedRequest] = (),
        no_requests: str = "",
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
        self.finished = list(requests)
        """What is told of single requests, by `sealed_at`."""
        self.no_requests = no_requests
        self.asked: list[tuple[float, float]] = []
        """Since and until when requests were asked for."""

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

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """Those of the script, or why there are none."""
        self.asked.append((since, until))
        if self.no_requests:
            raise SourceGoneError(self.no_requests)
        return [request for request in self.finished if since < request.sealed_at <= until][-limit:]

    async def send(self, command: Command) -> Answer:
        """Note it and give the one answer."""
        self.sent.append(command)
        return self._answer

    def hold(self, still: bool) -> None:
        """Note it."""
        self.held = still

    async def close(self) -> None:
        """Nothing to let go of."""
