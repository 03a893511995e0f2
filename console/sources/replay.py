"""A recording, at the speed of life or another, and from wherever it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from console.history import History
from console.sources.base import SourceGoneError
from console.sources.player import Moment, Player, beside
from console.sources.tape import Tape
from loadgen.slo import CHAT
from server.commands import Answer, Command
from server.telemetry.recorded import RecordedRequests
from server.telemetry.recording import RecordingError
from server.telemetry.snapshot import JoinedRequest, Snapshot

READ_ONLY = "a replay: nothing to act on"
FRAME_S = 0.1
"""However fast it goes, a screen is not drawn more often than this."""
LOOK_S = 0.02
"""How often it is looked whether the tape has been indexed so far."""
BREATH = 50
"""Snapshots taken in before anything else gets its turn."""
LOOP_HOLD_S = 4.0
"""What the last frame of a loop gets."""


class ReplaySource:
    """Plays a recording. Whoever seeks hears of it (`on_jump`) before the snapshot of that place comes."""

    kind: Literal["replay"] = "replay"
    can_send = False
    retry_s = 3600.0

    def __init__(
        self,
        recording: Path | Iterable[Snapshot],
        *,
        speed: float = 1.0,
        requests_of: Path | None = None,
        at: Moment | None = None,
        loop: bool = False,
        stays: bool = False,
        note: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`requests_of`: the recording whose requests belong to snapshots that come without one. `at`: where to begin, and
        where a `loop` begins again. `stays`: the end is not the end of `snapshots`, as somebody may seek back.
        `note`: what was recorded, in a few words."""
        self.tape = Tape(recording)
        self.note = note
        self.behind = 0
        self.on_jump: Callable[[History, bool], None] = lambda _history, _back: None
        """Told the past up to a place that was gone to, and whether it lies before what was shown."""
        self.on_change: Callable[[], None] = lambda: None
        """Told that it stands, goes or goes otherwise."""
        self.ended = False
        self.seeking = False
        """The place that is wanted has not been indexed yet."""
        self.shown = -1
        """The snapshot that came last."""
        self._requests_of = recording if isinstance(recording, Path) else requests_of
        self._clock = clock
        self._player = Player(clock(), speed)
        self._begin = at or Moment()
        self.loops = loop
        """It begins again by itself."""
        self._stays = stays or loop
        self._jump = False
        self._wake = asyncio.Event()
        self._slo = CHAT
        self._requests: RecordedRequests | None = None
        self._read_to = -math.inf
        self._reading = asyncio.Lock()

    @property
    def speed(self) -> float:
        """Recorded seconds a second."""
        return self._player.speed

    @property
    def paused(self) -> bool:
        """It stands still, because somebody wants it to."""
        return self._player.paused

    @property
    def position_s(self) -> float:
        """Of the snapshot that came last, in seconds from the first."""
        return self.tape.position_s(self.shown) if self.shown >= 0 else 0.0

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
        self.tape.start()
        await self._indexed(0)
        await self._to_the_begin()
        while True:
            self._wake.clear()
            upto = await self._due()
            while self.shown < upto and not self._jump:
                self.behind = upto - self.shown - 1
                if self.behind % BREATH == BREATH - 1:
                    await asyncio.sleep(0)
                snapshot = self.tape.snapshot(self.shown + 1)
                self.shown += 1
                self._slo = snapshot.feel.slo
                yield msgspec.structs.replace(snapshot, read_only=READ_ONLY, recording_s=None)
            if self._jump:
                continue
            if self.tape.whole and self.shown == len(self.tape) - 1:
                if not self._stays:
                    return
                await self._at_the_end()
            else:
                await self._until_next()

    async def _to_the_begin(self) -> None:
        """Where it is to begin; an event has to be found first."""
        if self._begin.event:
            await self._indexed_whole()
        try:
            position_s = self._begin.position_s(self.tape.jumps(), self.tape.at[0])
        except ValueError as error:
            raise RecordingError(str(error)) from None
        self._begin = Moment(position_s)
        self._player.seek(self._clock(), position_s)
        self._jump = position_s > 0

    async def _due(self) -> int:
        """The snapshot up to which it should have come. After a jump whoever listens gets the past there first."""
        jumped, self._jump = self._jump, False
        position_s = self._player.position_s(self._clock())
        if jumped:
            self.seeking = True
            await self._indexed(position_s)
            self.seeking = False
        upto = self.tape.find(position_s)
        if jumped:
            back = upto <= self.shown
            self.on_jump(self.tape.history(upto - 1), back)
            self.shown = upto - 1
            self.ended = False
        return upto

    async def _until_next(self) -> None:
        """The next snapshot is due, or something else is wanted. At high speed several are waited for."""
        if self.shown + 1 >= len(self.tape):
            await self._sleep(LOOK_S)
            return
        due_s = self._player.due_s(self._clock(), self.tape.position_s(self.shown + 1))
        await self._sleep(None if due_s is None else max(due_s, 0.0 if self.speed <= 1 else FRAME_S))

    async def _at_the_end(self) -> None:
        """It stays there until it is wanted elsewhere; a loop goes back by itself."""
        last_s = self.tape.length_s
        if not self.ended:
            self.ended = True
            self._player.seek(self._clock(), last_s)
            self.on_change()
        await self._sleep(LOOP_HOLD_S if self.loops and not self.paused else None)
        if self.loops and not self.paused and not self._jump and not self._wake.is_set():
            self.seek(self._begin.seconds if self._begin.seconds < last_s else 0.0)

    async def _sleep(self, seconds: float | None) -> None:
        """So long, or until it is woken."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _indexed(self, position_s: float) -> None:
        """Until the tape knows this place, or its end. Raises RecordingError."""
        while not self.tape.whole and (not self.tape.at or self.tape.length_s <= position_s):  # noqa: ASYNC110 - for a thread
            await asyncio.sleep(LOOK_S)
        if self.tape.failure is not None:
            raise self.tape.failure

    async def _indexed_whole(self) -> None:
        while not self.tape.whole:  # noqa: ASYNC110 - as above
            await asyncio.sleep(LOOK_S)

    # What a person does

    def hold(self, still: bool) -> None:
        """Stand still, or go on. At the end, going on begins anew."""
        if not still and self.ended:
            self.seek(0.0)
        self._player.pause(self._clock(), still)
        self._changed()

    def seek(self, position_s: float) -> None:
        """Go to so many seconds from the first snapshot."""
        self._player.seek(self._clock(), position_s)
        self._jump = True
        self._changed()

    def skip(self, seconds: float) -> None:
        """So much on, or back."""
        position_s = self._player.position_s(self._clock())
        self.seek((min(position_s, self.tape.length_s) if self.tape.whole else position_s) + seconds)

    def to_event(self, sign: int) -> bool:
        """To the event after, or before; False where there is none."""
        if self.shown < 0:
            return False
        index = beside(self.tape.jumps(), self.shown, sign, self.tape.at, self.paused or self.ended)
        if index is not None:
            self.seek(self.tape.position_s(index))
        return index is not None

    def faster(self, sign: int) -> None:
        """The next speed up, or down."""
        self._player.faster(self._clock(), sign)
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
        self.on_change()

    # Requests and commands

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """Those of the file beside the recording, up to the moment it has come to. Raises SourceGoneError."""
        async with self._reading:
            try:
                return await asyncio.to_thread(self._recorded, since, until, limit)
            except (RecordingError, OSError) as error:
                raise SourceGoneError(str(error)) from error

    def _recorded(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        if self._requests_of is None:
            raise RecordingError("only snapshots are played, without the requests behind them")
        if self._requests is not None and until < self._read_to:
            self._requests.close()
            self._requests = None
        if self._requests is None:
            self._requests = RecordedRequests(self._requests_of, self._slo)
        self._read_to = until
        return self._requests.upto(until, since, limit)

    async def send(self, command: Command) -> Answer:
        """Refused: there is nobody."""
        del command
        return Answer(False, "This is a replay: nothing to act on.")

    async def close(self) -> None:
        """Let go of the files."""
        self.tape.close()
        if self._requests is not None:
            self._requests.close()
