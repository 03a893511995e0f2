"""A TCP proxy that does to its connections what toxics say.

Half-closes go through, and so do resets. No more than `BUFFER_BYTES` of a direction wait here, and about as much in the
kernel's buffers, so that a side that stops reading is felt on the other one; with a latency that bounds a connection to
`BUFFER_BYTES` per latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from server.faults.records import ProxyRecord
from server.faults.toxics import End, Link, Stream, Toxic

BUFFER_BYTES = 64 * 1024
READ_BYTES = 16 * 1024
CONNECT_TIMEOUT_S = 5.0
LOOK_S = 1.0
"""How often a connection that is not being read is looked at for a reset."""

_NO_LINGER = struct.pack("ii", 1, 0)


class Direction:
    """One direction of a connection: what one side sends, and how it goes on to the other."""

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        self.link = link
        self.swallowed = 0
        """Bytes that no one got."""
        self._source = source
        self._sink = sink
        self._pending: deque[tuple[float, bytes]] = deque()
        """Chunks and when they came; an empty one is the end of the stream."""
        self._pending_bytes = 0
        self._stirred = asyncio.Event()
        """Something came, or the toxics changed."""
        self._room = asyncio.Event()
        self._room.set()

    def stir(self) -> None:
        """The toxics have changed: what waits is decided anew."""
        self._stirred.set()

    async def read(self) -> None:
        """Until the end of the stream. Raises OSError."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.wait()
            data = await loop.sock_recv(self._source, READ_BYTES)
            self._put(time.monotonic(), data)
            if not data:
                return

    async def write(self) -> End | None:
        """Until the end of the stream is passed on, or the end that a toxic makes. Raises OSError."""
        while True:
            arrived, data = await self._take()
            if not data:
                if await self._until(self.link.eof_due(time.monotonic()), self.link.toxics):
                    self._put(arrived, data)
                    continue
                with contextlib.suppress(OSError):
                    self._sink.shutdown(socket.SHUT_WR)
                return None
            if (end := await self._pass_on(data, arrived)) is not None:
                return end

    async def _pass_on(self, data: bytes, arrived: float) -> End | None:
        loop, toxics = asyncio.get_running_loop(), self.link.toxics
        passing = self.link.decide(data, arrived, time.monotonic())
        self.swallowed += len(data) - sum(len(piece.data) for piece in passing.pieces)
        for number, piece in enumerate(passing.pieces):
            if await self._until(piece.due, toxics):
                rest = b"".join(piece.data for piece in passing.pieces[number:])
                self._pending.appendleft((time.monotonic(), rest))
                self._pending_bytes += len(rest)
                return None
            await loop.sock_sendall(self._sink, piece.data)
            self.link.passed += len(piece.data)
        if passing.end is not None and await self._until(passing.end.due, toxics):
            return None
        return passing.end

    def _put(self, arrived: float, data: bytes) -> None:
        self._pending.append((arrived, data))
        self._pending_bytes += len(data)
        if self._pending_bytes >= BUFFER_BYTES:
            self._room.clear()
        self._stirred.set()

    async def _take(self) -> tuple[float, bytes]:
        while not self._pending:
            self._stirred.clear()
            await self._stirred.wait()
        arrived, data = self._pending.popleft()
        self._pending_bytes -= len(data)
        if self._pending_bytes < BUFFER_BYTES:
            self._room.set()
        return arrived, data

    async def _until(self, due: float, toxics: tuple[Toxic, ...]) -> bool:
        """Wait; True when these are not the toxics any more."""
        while self.link.toxics is toxics and (wait_s := due - time.monotonic()) > 0:
            self._stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stirred.wait()
        return self.link.toxics is not toxics


class Connection:
    """A client and the target, and what goes between them."""

    def __init__(self, client: socket.socket, server: socket.socket, rng: random.Random) -> None:
        self._sockets = (client, server)
        self.up = Direction(Link("up", rng), client, server)
        self.down = Direction(Link("down", rng), server, client)
        self.by_toxic = False
        """A toxic has ended it."""
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Once it ends otherwise than by both sides closing it: whether by an RST."""
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def swallowed(self) -> int:
        return self.up.swallowed + self.down.swallowed

    def change(self, toxics: Sequence[Toxic]) -> None:
        """From now on these."""
        now = time.monotonic()
        for direction in (self.up, self.down):
            if (end := direction.link.change(toxics, now)) is not None:
                self.end(end)
            direction.stir()
        ends = [end for direction in (self.up, self.down) if (end := direction.link.end) is not None]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if ends:
            first = min(ends, key=lambda end: end.due)
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, first.due - now), self.end, first)

    def end(self, end: End) -> None:
        """By a toxic, now."""
        if not self._over.done():
            self.by_toxic = True
            self._over.set_result(end.reset)

    def reset(self) -> None:
        """One side has reset it: the other is to see that."""
        if not self._over.done():
            self._over.set_result(True)

    def look(self) -> None:
        """For a reset that nobody has noticed, as nothing is read there now."""
        if any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in self._sockets):
            self.reset()

    async def run(self) -> None:
        """Until it is over and closed."""
        tasks = [asyncio.create_task(step) for d in (self.up, self.down) for step in (d.read(), d.write())]
        for task in tasks:
            task.add_done_callback(self._noted)
        try:
            both = asyncio.gather(*tasks, return_exceptions=True)
            over: set[asyncio.Future[Any]] = {self._over, both}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            reset = self._over.done() and self._over.result()
            for sock in self._sockets:
                close(sock, reset=reset)

    def _noted(self, task: asyncio.Task[End | None]) -> None:
        if task.cancelled():
            return
        if task.exception() is not None:
            self.reset()
        elif (end := task.result()) is not None:
            self.end(end)


class Proxy:
    """Accepts on a bound socket and connects each client to the target of the moment."""

    def __init__(self, host: str, port: int, toxics: Sequence[Toxic] = (), seed: int | None = None) -> None:
        self._target = (host, port)
        self._toxics = tuple(toxics)
        self._rng = random.Random(seed)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._total = self._refused = self._ended = 0
        self._gone: dict[Stream, int] = {"up": 0, "down": 0}
        """Bytes of connections that are over."""
        self._swallowed = 0

    def set_target(self, host: str, port: int) -> None:
        """For connections that come from now on."""
        self._target = (host, port)

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """On the connections there are and on those that come."""
        if tuple(toxics) == self._toxics:
            return
        self._toxics = tuple(toxics)
        for connection in list(self._connections):
            connection.change(self._toxics)

    def record(self) -> ProxyRecord:
        """The connections, now."""
        return ProxyRecord(
            at=time.monotonic(),
            open=len(self._connections),
            total=self._total,
            refused=self._refused,
            ended=self._ended,
            bytes_up=self._gone["up"] + sum(c.up.link.passed for c in self._connections),
            bytes_down=self._gone["down"] + sum(c.down.link.passed for c in self._connections),
            swallowed=self._swallowed + sum(c.swallowed for c in self._connections),
        )

    async def serve(self, listening: socket.socket) -> None:
        """Until it is cancelled; then every connection is closed."""
        loop = asyncio.get_running_loop()
        looking = loop.create_task(self._look())
        try:
            while True:
                try:
                    client, _ = await loop.sock_accept(listening)
                except OSError:  # no descriptor is left: some will be
                    await asyncio.sleep(LOOK_S)
                    continue
                task = loop.create_task(self._carry(client))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in (looking, *self._tasks):
                task.cancel()
            await asyncio.gather(looking, *self._tasks, return_exceptions=True)

    async def _carry(self, client: socket.socket) -> None:
        self._total += 1
        try:
            server = await connect(*self._target)
        except BaseException as error:
            close(client, reset=True)
            if isinstance(error, OSError):
                self._refused += 1
                return
            raise
        _prepare(client)
        connection = Connection(client, server, self._rng)
        connection.change(self._toxics)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            self._ended += connection.by_toxic
            self._swallowed += connection.swallowed
            self._gone["up"] += connection.up.link.passed
            self._gone["down"] += connection.down.link.passed

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for connection in list(self._connections):
                connection.look()


async def connect(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        family, kind, proto, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            _prepare(sock)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
    return sock


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: the kernel chooses. Raises OSError."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _prepare(sock)  # what is accepted inherits it
        sock.bind((host, port))
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def close(sock: socket.socket, *, reset: bool = False) -> None:
    with contextlib.suppress(OSError):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        sock.close()


def _prepare(sock: socket.socket) -> None:
    """Small buffers in the kernel, so that neither side hides behind them."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES * 2)
