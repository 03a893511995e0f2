"""A recording, at the speed of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from console.sources.base import SourceGoneError
from server.commands import Answer, Command
from server.telemetry.recording import RecordingError, read
from server.telemetry.snapshot import Snapshot

READ_ONLY = "a replay: nothing to act on"


class ReplaySource:
    """Plays a recording once. It stands still with the display and does not loop."""

    kind: Literal["replay"] = "replay"
    can_send = False
    retry_s = 3600.0

    def __init__(self, recording: Path | Iterable[Snapshot], *, speed: float = 1.0) -> None:
        self._recording = recording
        self._speed = speed
        self._going = asyncio.Event()
        self._going.set()

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
            yield msgspec.structs.replace(snapshot, read_only=READ_ONLY, recording_s=None)

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
        """Nothing to let go of."""
