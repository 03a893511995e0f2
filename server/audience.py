"""Who looks on and who acts: a list beside the charts, never on them.

The user is known by the kernel (SO_PEERCRED of the socket), from where (a terminal, a verb) by the other side's own word.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from server.telemetry.snapshot import Audience, Notice, Viewer

LATEST = 12
SO_PEERGROUPS = 59
"""Linux 4.13; Python's `socket` has no name for it."""
GROUPS_BYTES = 1024
"""What Python's getsockopt takes: 256 groups."""
_PLACE = re.compile(r"[^\w./:+-]+")


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Raises OSError."""
        pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
        except OSError:  # an older kernel, or more of them than that: those the user has by the system's account
            return cls(pid, uid, gid, frozenset(os.getgrouplist(user_name(uid), gid)))
        return cls(pid, uid, gid, frozenset(struct.unpack(f"{len(raw) // 4}I", raw)))

    @property
    def user(self) -> str:
        return user_name(self.uid)

    def place(self, said: str) -> str:
        """From where it asks: what it says, else the program's name."""
        text = _PLACE.sub(" ", said).strip()[:24]
        if text:
            return text
        with contextlib.suppress(OSError):
            return _PLACE.sub(" ", Path(f"/proc/{self.pid}/comm").read_text(encoding="utf-8", errors="replace")).strip()
        return ""


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """The user's name, or its number where nobody knows it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def who(user: str, where: str) -> str:
    """`ada@pts/3` at a terminal, `ada (verb)` elsewhere."""
    if not where:
        return user
    return f"{user}@{where}" if where.startswith(("pts/", "tty")) else f"{user} ({where})"


class Gallery:
    """Those who are there, and what was noted of them lately."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._viewers: dict[int, Viewer] = {}
        self._latest: deque[Notice] = deque(maxlen=LATEST)
        self._next = 0
        self.group = ""
        self.socket = ""

    @contextlib.contextmanager
    def watched_by(self, user: str, where: str, role: Literal["operator", "watcher"]) -> Iterator[None]:
        """Somebody reads the stream for as long as the block lasts."""
        key, self._next = self._next, self._next + 1
        name, verb = who(user, where), "watches" if role == "watcher" else "looks on"
        self._viewers[key] = Viewer(user, where, role, round(self._clock(), 3))
        self._note(name, verb)
        try:
            yield
        finally:
            del self._viewers[key]
            self._note(name, "has left")

    def acted(self, name: str, text: str) -> None:
        """Somebody's command was carried out, or refused: what became of it."""
        self._note(name, text[:80], acts=True)

    def seen(self) -> Audience:
        return Audience(list(self._viewers.values()), self.group, self.socket, list(self._latest))

    def _note(self, name: str, text: str, *, acts: bool = False) -> None:
        self._latest.append(Notice(round(self._clock(), 3), name, text, acts))


@dataclass
class _Actor:
    name: str
    over: bool = False


_ACTOR: ContextVar[_Actor | None] = ContextVar("actor", default=None)


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    """What happens until the block ends is `name`'s doing; what tasks begun in it do later is not."""
    actor = _Actor(name)
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        actor.over = True
        _ACTOR.reset(token)


def actor() -> str:
    """Whose doing it is; empty: nobody's just now."""
    found = _ACTOR.get()
    return "" if found is None or found.over else found.name
