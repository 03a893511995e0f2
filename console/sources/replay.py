"""A recording, at the speed of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from console.sources.base import SourceGoneError
from loadgen.slo import CHAT
from server.commands import Answer, Command
from server.telemetry.recorded import RecordedRequests
from server.telemetry.recording import RecordingError, read
from server.telemetry.snapshot import JoinedRequest, Snapshot

READ_ONLY = "a replay: nothing to act on"


class ReplaySource:
    """Plays a recording once. It stands still with the display and does not loop."""

    kind: Literal["replay"] = "replay"
    can_send = False
    retry_s = 3600.0
    behind = 0

    def __init__(
        self, recording: Path | Iterable[Snapshot], *, speed: float = 1.0, requests_of: Path | None = None
    ) -> None:
        """`requests_of`: the recording whose requests belong to snapshots that come without one."""
        self._recording = recording
        self._requests_of = recording if isinstance(recording, Path) else requests_of
        self._speed = speed
        self._going = asyncio.Event()
        self._going.set()
        self._slo = CHAT
        self._requests: RecordedRequests | None = None
        self._reading = asyncio.Lock()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The recorded snapshots at the distances they were taken at, each marked read-only.

        Raises SourceGoneError when it is no recording that can be read.
        """
        try:
            async for snapshot in self._play():
                yield snapshot
        except (RecordingError, OSError) as error:
            raise SourceGoneError(str(error)) from error

    async def _play(self) -> AsyncIterator[Snapshot]:
        recorded = read(self._recording) if isinstance(self._recording, Path) else self._recording
        begun: tuple[float, float] | None = None
        for snapshot in recorded:
            if begun is None:
                begun = (time.monotonic(), snapshot.at)
            due = begun[0] + (snapshot.at - begun[1]) / self._speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self._going.is_set():
                await self._going.wait()
                begun = (time.monotonic(), snapshot.at)
            self._slo = snapshot.feel.slo
            yield msgspec.structs.replace(snapshot, read_only=READ_ONLY, recording_s=None)

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """Those of the file beside the recording, up to the moment it has come to. Raises SourceGoneError."""
        async with self._reading:
            try:
                return await asyncio.to_thread(self._recorded, since, until, limit)
            except (RecordingError, OSError) as error:
                raise SourceGoneError(str(error)) from error

    def _recorded(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        if self._requests is None:
            if self._requests_of is None:
                raise RecordingError("only snapshots are played, without the requests behind them")
            self._requests = RecordedRequests(self._requests_of, self._slo)
        return self._requests.upto(until, since, limit)

    async def send(self, command: Command) -> Answer:
        """Refused: there is nobody."""
        del command
        return Answer(False, "This is a replay: nothing to act on.")

    def hold(self, still: bool) -> None:
        """Stop and go with the display."""
        if still:
            self._going.clear()
        else:
            self._going.set()

    async def close(self) -> None:
        """Close the file of requests."""
        if self._requests is not None:
            self._requests.close()
