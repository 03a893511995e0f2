"""Everybody who watches: one picture goes to all, and nobody holds up another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from console.web.entry import Role
from console.web.picture import ANSWER, Picture

BEHIND_BYTES = 256 * 1024
"""Not yet sent to one viewer; beyond it they are dropped and it gets the present screen instead."""
GATHER_S = 0.08
"""Between two sendings: what the console writes meanwhile goes in one."""
REPAINT_S = 1.0
"""The console is asked for a whole repaint no more often."""
BEAT_S = 2.0
"""After so long without a picture an empty message says that the line is open."""


class Console(Protocol):
    """What the audience asks of the console."""

    def type(self, data: bytes) -> None: ...

    def repaint(self) -> None: ...


class Viewer:
    """One browser's place."""

    def __init__(self, role: Role, *, types: bool) -> None:
        self.role, self.types = role, types
        self._pending: list[bytes] = []
        self._size = 0
        self._ready = asyncio.Event()
        self.waits = True
        """For a whole screen; what changes meanwhile is in that."""

    def push(self, data: bytes) -> bool:
        """To be sent, in order; empty bytes are a beat. False when it is too far behind and has lost what there was."""
        self._size += len(data)
        if self._size > BEHIND_BYTES:
            self._pending.clear()
            self._size = 0
            self.waits = True
        elif not data and self._pending:
            return True
        else:
            self._pending.append(data)
        self._ready.set()
        return not self.waits

    def seat(self, present: bytes) -> None:
        """The present screen, however large, and from here on what changes."""
        self._pending[:] = [present]
        self._size = 0
        self.waits = False
        self._ready.set()

    async def next(self) -> bytes | None:
        """What is to be sent now, as one; None when it has to ask for the present screen first."""
        await self._ready.wait()
        self._ready.clear()
        if self.waits:
            return None
        data = b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        return data


class Audience:
    """Fans one console's stream out."""

    def __init__(self, console: Console, rows: int, seats: int) -> None:
        self._console = console
        self._picture = Picture(rows)
        self._seats = seats
        self._viewers: set[Viewer] = set()
        self._gathered: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = -BEAT_S
        self._asked_at = asyncio.get_running_loop().time()  # it paints all of itself when it starts
        self._asking: asyncio.TimerHandle | None = None
        self.last_words = b""
        """The end of what the console wrote."""
        self.counts: Counter[str] = Counter()
        """`bytes` (of the picture), `sent` (to all), `dropped` (messages of who may not type), `behind`, `repaints`."""

    @property
    def watching(self) -> int:
        return len(self._viewers)

    @property
    def full(self) -> bool:
        return len(self._viewers) >= self._seats

    # The console's side

    def came(self, data: bytes) -> None:
        """The console has written."""
        self.last_words = (self.last_words + data)[-4096:]
        whole = self._picture.whole
        data = self._picture.feed(data)
        if self._picture.wants_frames:
            self._picture.wants_frames = False
            self._console.type(ANSWER)
        if not data:
            return
        self.counts["bytes"] += len(data)
        self._gathered.append(data)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._sent_at + GATHER_S), self._flush)
        if self._picture.whole and not whole:
            self._flush()
            self._seat_waiting()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data = b"".join(self._gathered)
        self._gathered.clear()
        if data:
            self._sent_at = asyncio.get_running_loop().time()
            self._push(data)

    def _push(self, data: bytes) -> None:
        for viewer in self._viewers:
            if not viewer.waits and not viewer.push(data):
                self.counts["behind"] += 1

    def beat(self) -> None:
        """To be called now and then: says that the line is open where the picture does not."""
        if asyncio.get_running_loop().time() - self._sent_at >= BEAT_S:
            self._push(b"")

    # The viewers' side

    def join(self, role: Role, *, types: bool) -> Viewer:
        """A new viewer, for `watch` and `leave`."""
        viewer = Viewer(role, types=types)
        self._viewers.add(viewer)
        self.wants_present(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)

    async def watch(self, viewer: Viewer, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send what there is for as long as it goes."""
        while True:
            data = await viewer.next()
            if data is None:
                self.wants_present(viewer)
                continue
            self.counts["sent"] += len(data)
            await send(data)

    def typed(self, viewer: Viewer, data: bytes) -> None:
        """A message of a viewer: keys from who may type, else nothing."""
        if viewer.types:
            self._console.type(data)
        else:
            self.counts["dropped"] += 1

    def wants_present(self, viewer: Viewer) -> None:
        """Give it the present screen, or see to it that there will be one."""
        viewer.waits = True
        if self._picture.whole:
            self._flush()
            self._seat_waiting()
        elif self._asking is None:
            loop = asyncio.get_running_loop()
            self._asking = loop.call_at(max(loop.time(), self._asked_at + REPAINT_S), self._ask)

    def _ask(self) -> None:
        self._asking = None
        if self._picture.whole or not any(viewer.waits for viewer in self._viewers):
            return
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self.counts["repaints"] += 1
        self._picture.begin()
        self._console.repaint()
        self._asking = loop.call_later(REPAINT_S, self._ask)  # it may not have been up yet

    def _seat_waiting(self) -> None:
        for viewer in self._viewers:
            if viewer.waits:
                viewer.seat(self._picture.present(types=viewer.types))
