"""The socket's API: a Unix domain socket, mode 0600, spoken by consoles, CLI verbs and curl alike.

GET  /v1/snapshot                one Snapshot as JSON
GET  /v1/snapshots?history=150   JSON lines: up to that many past snapshots, then one a tick
GET  /v1/requests?limit=200&since=0   the latest finished requests, joined, newest last; with `since` those with a later
                                 `sealed_at`, so that the greatest one seen asks for what is new
GET  /v1/logs?child=engine&lines=200
GET  /v1/tasks                   how many asyncio tasks the daemon has, by name
POST /v1/commands                one `server.commands.Command`; answers an `Answer`

Who asks says from where in the header `server.commands.FROM`. Watchers (`server.watching`) get the first three, and a
snapshot without the engine's log.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loadgen.lines import UNREADABLE
from server.audience import Gallery, Peer, acting, who
from server.commands import FROM, PAST, Answer, Command, command_decoder
from server.telemetry.snapshot import JoinedRequest, Snapshot, snapshot_encoder

HISTORY_S = 300.0
"""How far back a console that attaches can look."""


PIECE = 100
"""Requests in one piece of an answer."""


class Feed:
    """The latest snapshots as encoded lines, and the wake-up for those who stream them."""

    def __init__(self, interval_s: float) -> None:
        self._lines: deque[bytes] = deque(maxlen=max(1, round(HISTORY_S / interval_s)))
        self._count = 0
        self._changed = asyncio.Condition()
        self._closed = False
        self.latest: Snapshot | None = None

    async def publish(self, snapshot: Snapshot) -> None:
        line = snapshot_encoder.encode(snapshot) + b"\n"
        async with self._changed:
            self._lines.append(line)
            self._count += 1
            self.latest = snapshot
            self._changed.notify_all()

    def history(self, count: int) -> list[bytes]:
        """At most `count` lines spread evenly over what is kept, oldest first, the newest always among them."""
        lines = list(self._lines)
        if count <= 0 or not lines:
            return []
        step = max(1, -(-len(lines) // count))
        return lines[::-1][::step][::-1]

    def stream(self, history: int) -> tuple[int, AsyncIterator[bytes]]:
        """So many past lines, then each new one. A reader that is too slow gets the newest, not a backlog.

        Counted and taken at once: a line more may be what halves the past.
        """
        past = self.history(history)
        return len(past), self._lines_after(past, self._count)

    async def _lines_after(self, past: list[bytes], seen: int) -> AsyncIterator[bytes]:
        for line in past:
            yield line
        while True:
            async with self._changed:
                while not self._closed and self._count == seen:
                    await self._changed.wait()
                if self._closed:
                    return
                seen = self._count
                line = self._lines[-1]
            yield line

    async def close(self) -> None:
        """End every stream."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()


Execute = Callable[[Command], Awaitable[Answer]]
_encoder = msgspec.json.Encoder()


async def in_pieces(items: Sequence[object]) -> AsyncIterator[bytes]:
    """A JSON list: some thousand requests at once are megabytes that the process would keep."""
    between = b"["
    for begin in range(0, len(items), PIECE):
        yield between + _encoder.encode(items[begin : begin + PIECE])[1:-1]
        between = b","
    yield b"]" if items else b"[]"


def application(
    feed: Feed,
    execute: Execute,
    requests: Callable[[int, float], list[JoinedRequest]],
    log_tail: Callable[[str, int], list[str] | None],
    *,
    gallery: Gallery | None = None,
    cleared: Callable[[bytes], bytes] | None = None,
) -> Starlette:
    """The ASGI application behind the socket. `cleared`: for watchers, who get each snapshot's line as it makes it, and no
    log, no task and no command."""
    seen_by = gallery or Gallery()

    def answer(value: object, status: int = 200) -> Response:
        return Response(msgspec.json.encode(value), status, media_type="application/json")

    def number(request: Request, name: str, default: int, most: int) -> int:
        text = request.query_params.get(name, "")
        return min(int(text), most) if text.isdecimal() else default

    async def snapshot(_: Request) -> Response:
        if feed.latest is None:
            return answer(Answer(ok=False, message="No snapshot yet; ask again in a second."), 503)
        line = snapshot_encoder.encode(feed.latest)
        return Response(line if cleared is None else cleared(line), media_type="application/json")

    async def snapshots(request: Request) -> Response:
        past, lines = feed.stream(number(request, "history", 0, 600))
        if cleared is not None:
            lines = _each(lines, cleared)
        return Watched(seen_by, cleared is not None, lines, media_type=NDJSON, headers={PAST: str(past)})

    async def joined(request: Request) -> Response:
        try:
            since = float(request.query_params.get("since", "-inf"))
        except ValueError:
            return answer(Answer(ok=False, message="`since` is a number of seconds."), 400)
        found = requests(number(request, "limit", 200, 4000), since)
        return StreamingResponse(in_pieces(found), media_type="application/json")

    async def logs(request: Request) -> Response:
        child = request.query_params.get("child", "engine")
        lines = log_tail(child, number(request, "lines", 200, 5000))
        if lines is None:
            return answer(Answer(ok=False, message=f"There is no log named {child!r}."), 404)
        return answer(lines)

    async def tasks(_: Request) -> Response:
        names = Counter(task.get_name().rstrip("0123456789-") for task in asyncio.all_tasks())
        return answer(dict(names.most_common()))

    async def commands(request: Request) -> Response:
        try:
            command = command_decoder.decode(await request.body())
        except UNREADABLE as error:
            return answer(Answer(ok=False, message=f"That is not a command: {error}."), 400)
        name = who(*_asker(request.scope))
        with acting(name):
            result = await execute(command)
        seen_by.acted(name, result.message)
        return answer(result, 200 if result.ok else 409)

    watchable = [
        Route("/v1/snapshot", snapshot),
        Route("/v1/snapshots", snapshots),
        Route("/v1/requests", joined),
    ]
    if cleared is not None:
        return Starlette(routes=watchable)
    return Starlette(
        routes=[
            *watchable,
            Route("/v1/logs", logs),
            Route("/v1/tasks", tasks),
            Route("/v1/commands", commands, methods=["POST"]),
        ]
    )


NDJSON = "application/x-ndjson"


async def _each(lines: AsyncIterator[bytes], change: Callable[[bytes], bytes]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield change(line)


class Watched(StreamingResponse):
    """A stream whose reader is in the gallery for as long as it lasts."""

    def __init__(self, gallery: Gallery, watcher: bool, content: AsyncIterator[bytes], **more: Any) -> None:
        super().__init__(content, **more)
        self._gallery, self._watcher = gallery, watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gallery.watched_by(*_asker(scope), "watcher" if self._watcher else "operator"):
            await super().__call__(scope, receive, send)


def _asker(scope: Scope) -> tuple[str, str]:
    """User and place of whoever asks."""
    peer: Peer | None = scope.get("extensions", {}).get(PEER)
    if peer is None:
        return "", ""
    said = next((value for name, value in scope["headers"] if name == FROM.encode("ascii")), b"")
    return peer.user, peer.place(said.decode("ascii", "replace"))


def bind(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, mode 0600 from its first moment; replaces a stale one.

    Raises OSError when a live process listens there.
    """
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        path.unlink(missing_ok=True)
    else:
        raise OSError(f"a stack already listens on {path}")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener


_PEERS = frozenset({os.getuid(), 0})

PEER = "spark_serve.peer"
"""Key in the ASGI scope's `extensions` under which is who asks."""


class PeerProtocol(HttpToolsProtocol):
    """Knows who is at the other end; whom it does not admit is cut off before a byte is read."""

    peer: Peer
    refused = False

    def admits(self, peer: Peer) -> bool:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        try:
            self.peer = Peer.of(transport.get_extra_info("socket"))
        except OSError:
            self.refused = True
        if self.refused or not self.admits(self.peer):
            self.refused = True
            transport.abort()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.refused:
            super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope.setdefault("extensions", {})[PEER] = self.peer  # type: ignore[assignment]


class OwnersOnly(PeerProtocol):
    """Speaks with this user and with root; whoever else got past the socket's mode is cut off."""

    def admits(self, peer: Peer) -> bool:
        return peer.uid in _PEERS


@asynccontextmanager
async def serve(
    app: ASGIApp, listener: socket.socket, http: type[PeerProtocol] = OwnersOnly, name: str = "control"
) -> AsyncIterator[None]:
    """Serve until the block ends; streams still open then are cut, the path is removed."""
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]  # the stack owns its signals
    path = listener.getsockname()
    task = asyncio.create_task(server.serve(sockets=[listener]), name=name)
    try:
        yield
    finally:
        server.should_exit = True
        await task
        Path(path).unlink(missing_ok=True)
