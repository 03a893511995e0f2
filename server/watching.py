"""The watchers' socket: a second door to the running stack, for the members of one group, that can only be read.

It lies in a folder of its own (0750, the group's) under /tmp, which every user can pass through, while the operator's own
socket stays where nobody else comes. Watchers see snapshots and finished requests. They see no log: an engine writes into
its log what it likes, prompts among them where somebody asked it to, so the snapshots they get have no end of the log either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from server.audience import Gallery, Peer, user_name
from server.commands import Answer
from server.config import Paths, SettingError
from server.control import PeerProtocol, bind, serve
from server.telemetry.snapshot import snapshot_decoder, snapshot_encoder
from server.watch_place import SOCKET, folder_of, group_id

MOST_CONNECTIONS = 64
"""A console has two: one for the stream, one for single requests."""
MOST_OF_ONE_USER = 16


class Places:
    """How many may be connected: all together, and of one user."""

    def __init__(self) -> None:
        self._taken: Counter[int] = Counter()

    def take(self, uid: int) -> bool:
        if self._taken.total() >= MOST_CONNECTIONS or self._taken[uid] >= MOST_OF_ONE_USER:
            return False
        self._taken[uid] += 1
        return True

    def leave(self, uid: int) -> None:
        self._taken[uid] -= 1
        self._taken += Counter()  # forgets who has none


FULL = Answer(ok=False, message="As many watch as may; try again when somebody has left.")


class Members(PeerProtocol):
    """Speaks with members of the group, its owner and root."""

    gid: int
    places: Places
    _placed = False

    def admits(self, peer: Peer) -> bool:
        return peer.uid in {0, os.getuid()} or self.gid == peer.gid or self.gid in peer.groups

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.refused:
            return
        self._placed = self.places.take(self.peer.uid)
        if not self._placed:
            body = msgspec.json.encode(FULL)
            head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
            transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._placed:
            self._placed = False
            self.places.leave(self.peer.uid)
        super().connection_lost(exc)


class ReadOnly:
    """An app of which only GET is left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        body = msgspec.json.encode(Answer(ok=False, message="A watcher only looks: nothing but GET is taken here."))
        headers = [(b"allow", b"GET"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 405, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def cleared(owner: str) -> Callable[[bytes], bytes]:
    """What makes of a snapshot's line the one that `owner`'s watchers get: no log, and why nothing can be done."""
    why = f"you watch {owner}'s stack: only {owner} acts here"
    latest: tuple[bytes, bytes] = (b"", b"")

    def clear(line: bytes) -> bytes:
        nonlocal latest
        if line is not latest[0]:  # all watchers get the newest one
            snapshot = snapshot_decoder.decode(line)
            engine = msgspec.structs.replace(snapshot.engine, log_tail=[])
            shown = msgspec.structs.replace(snapshot, engine=engine, read_only=why)
            latest = (line, snapshot_encoder.encode(shown) + b"\n")
        return latest[1]

    return clear


class Watching:
    """The door, open or closed. One event loop uses it."""

    def __init__(self, paths: Paths, gallery: Gallery, make: Callable[[Callable[[bytes], bytes]], Starlette]) -> None:
        """`make` gives the app that watchers get, with what clears a snapshot's line."""
        self._folder = folder_of(paths)
        self._gallery = gallery
        self._make = make
        self._open: contextlib.AsyncExitStack | None = None

    async def let_in(self, group: str) -> str:
        """Open it for this group (and no other); returns the socket's path. Raises SettingError."""
        gid = group_id(group)
        await self.close()
        try:
            path = self._prepare()
            listener = self._bind(path, gid)
        except OSError as error:
            raise SettingError(
                f"The watchers' socket in {self._folder} cannot be made: {error.strerror or error}."
            ) from None
        app = ReadOnly(self._make(cleared(user_name(os.getuid()))))
        protocol = type("MembersOf", (Members,), {"gid": gid, "places": Places()})
        self._open = contextlib.AsyncExitStack()
        await self._open.enter_async_context(serve(app, listener, protocol, name="watchers"))
        self._gallery.group, self._gallery.socket = group, str(path)
        return str(path)

    async def close(self) -> bool:
        """Shut it: whoever watches is cut off. False when it was shut."""
        opened, self._open = self._open, None
        self._gallery.group = self._gallery.socket = ""
        if opened is None:
            return False
        await opened.aclose()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        return True

    def _prepare(self) -> Path:
        """The folder, ours and closed so far. Raises SettingError or OSError."""
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        seen = self._folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
            raise SettingError(f"{self._folder} is not a folder of yours; remove it, or have it removed.")
        self._folder.chmod(0o700)
        return self._folder / SOCKET

    def _bind(self, path: Path, gid: int) -> socket.socket:
        """Connecting needs the right to write (unix(7)), so the socket is 0660; the folder lets the group in last."""
        listener = bind(path)
        try:
            os.chown(path, -1, gid)
            path.chmod(0o660)
            os.chown(self._folder, -1, gid)
            self._folder.chmod(0o750)
        except OSError:
            listener.close()
            path.unlink(missing_ok=True)
            raise
        return listener
