"""A console that is served in this process, and browsers' side of it without a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pyte
from websockets.asyncio.client import ClientConnection, connect

from console.web.child import Child
from console.web.serving import Figures, Invitation, Web, listen, serve
from tests.faults.terminal import _UNKNOWN

PAINTER = str(Path(__file__).parent / "painter.py")
CELLS, ROWS = 60, 16
BOUND_S = 60.0


@dataclass
class Served:
    child: Child
    web: Web
    base: str
    invitations: list[Invitation] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    task: asyncio.Task[tuple[int, bytes]] | None = None

    @property
    def host(self) -> str:
        return self.base.removeprefix("http://")

    async def cookie(self) -> str:
        """The operator's, for the link given last."""
        async with httpx.AsyncClient(verify=False) as client:
            answer = await client.get(self.invitations[-1].link)
        return answer.headers["set-cookie"].split(";")[0]

    async def joined(self, code: str | None = None, **headers: str) -> httpx.Response:
        """What comes of a code; None: the one given last."""
        async with httpx.AsyncClient(verify=False) as client:
            return await client.post(
                f"{self.base}/join",
                content=self.invitations[-1].code if code is None else code,
                headers={"Origin": self.base, **headers},
            )

    async def viewers_cookie(self) -> str:
        return str((await self.joined()).headers["set-cookie"].split(";")[0])


class Watcher:
    """One who watches, with a terminal emulator for eyes."""

    def __init__(self, socket: ClientConnection, cells: int, rows: int) -> None:
        self.socket = socket
        self.screen = pyte.Screen(cells, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.received = 0

    async def read(self) -> None:
        self.see(await self.take())

    async def take(self) -> bytes:
        """The next message, without a look at it."""
        data = await asyncio.wait_for(self.socket.recv(), BOUND_S)
        assert isinstance(data, bytes)
        self.received += len(data)
        return data

    def see(self, data: bytes) -> None:
        self._stream.feed(_UNKNOWN.sub(b"", data))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not holds():
                await self.read()

    async def rest(self) -> None:
        """What is on its way."""
        with contextlib.suppress(TimeoutError):
            while True:
                self.see(await asyncio.wait_for(self.socket.recv(), 0.1))  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """The figure that the painter changes; -1 before it is there."""
        _, _, text = self.screen.display[1].partition("▁▂▃ ")
        return int(text.split()[0]) if text.strip() else -1

    @property
    def cells(self) -> dict[int, dict[int, object]]:
        return {y: dict(self.screen.buffer[y]) for y in range(self.screen.lines)}


@contextlib.asynccontextmanager
async def watching(served: Served, cookie: str, *, holds: int | None = None) -> AsyncIterator[Watcher]:
    """A websocket as a page of this site opens it; its side of the line `holds` so many bytes that it has not read."""
    line = socket.socket()
    if holds is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
    line.connect(("127.0.0.1", int(served.host.rpartition(":")[2])))
    async with connect(
        f"ws://{served.host}/watch",
        sock=line,
        max_queue=1 if holds is not None else 16,
        additional_headers={"Cookie": cookie},
        origin=served.base,  # type: ignore[arg-type]
    ) as opened:
        yield Watcher(opened, served.web.cells, served.web.rows)


@contextlib.asynccontextmanager
async def serving(
    every_s: float = 0.05,
    padding: int = 0,
    *,
    write: bool = False,
    people: int = 60,
    command: Sequence[str] = (),
    size: tuple[int, int] = (CELLS, ROWS),
) -> AsyncIterator[Served]:
    """A painter, or another command that draws a screen, served until the block ends."""
    web = Web("127.0.0.1", 0, *size, write, people, 30.0)
    listener = listen(web.host, web.port)
    command = command or [sys.executable, "-S", PAINTER, str(every_s), str(padding)]
    child = Child(command, *size, {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"})
    served = Served(child, web, f"http://127.0.0.1:{listener.getsockname()[1]}")
    invited = asyncio.Event()

    def invite(invitation: Invitation) -> None:
        served.invitations.append(invitation)
        invited.set()

    served.task = asyncio.create_task(serve(child, listener, web, invite=invite, look=served.figures.append))
    try:
        await asyncio.wait_for(invited.wait(), BOUND_S)
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, 15)
        await asyncio.wait_for(asyncio.shield(served.task), BOUND_S)
        listener.close()
