"""Where watchers' sockets lie, whose they are, and to whom one can be given. Used at both ends, and light to import."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from server.config import Paths, SettingError

SHARED = Path("/tmp")  # noqa: S108 - a folder of ours in it, whose owner and mode are checked at both ends
NAME = "spark-serve-watch"
SOCKET = "stack.sock"
CONNECT_TIMEOUT_S = 5.0


def folder_of(paths: Paths) -> Path:
    """Where this stack's watchers' socket lies; several stacks of one user have one each."""
    digest = hashlib.sha256(os.fsencode(paths.runtime)).hexdigest()[:8]
    return SHARED / f"{NAME}-{os.getuid()}-{digest}"


def group_id(name: str) -> int:
    """A group that this process can give things to. Raises SettingError."""
    try:
        gid = grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise SettingError(
            f"There is no group {name!r} on this machine; `getent group` lists those there are."
        ) from None
    mine = {os.getegid(), *os.getgroups()}
    if gid not in mine and os.geteuid() != 0:
        names = ", ".join(sorted(_group_name(one) for one in mine))
        raise SettingError(
            f"You are not in the group {name}, so nothing of yours can be given to it; your groups are {names} "
            "(a new membership counts from the next login)."
        )
    return gid


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@dataclass(frozen=True)
class WatchPlace:
    """A stack that can be watched."""

    socket: Path
    owner: str
    """The user whose stack it is."""


def find(asked: str) -> WatchPlace:
    """The stack to watch: of a socket's path, of a user, or, with an empty text, the only one there is. Raises SettingError
    with one sentence."""
    if "/" in asked:
        return _checked(Path(asked).absolute())
    uid = None if not asked else _uid(asked)
    places, why = [], None
    for folder in sorted(SHARED.glob(f"{NAME}-{'*' if uid is None else uid}-*")):
        try:
            place = _checked(folder / SOCKET)
        except SettingError as error:
            why = error
            continue
        if uid is None or place.owner == _name(uid):
            places.append(place)
    if len(places) == 1:
        return places[0]
    if places:
        told = ", ".join(f"{place.socket} ({place.owner}'s)" for place in places)
        raise SettingError(f"Several stacks can be watched: {told}; name one of them with --watch.")
    if why is not None:
        raise why
    whose = f"{asked}'s stack cannot be watched" if asked else "No stack can be watched here"
    raise SettingError(f"{whose}; its operator allows it with `spark-serve watchers GROUP`.")


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SettingError(f"There is no user {name!r} here, and a socket's path has a slash in it.") from None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _checked(path: Path) -> WatchPlace:
    """The socket is its folder's owner's, nobody else could have put it there, and he himself listens. Raises SettingError."""
    try:
        folder = path.parent.lstat()
        if not stat.S_ISDIR(folder.st_mode) or folder.st_mode & 0o022:
            raise SettingError(
                f"{path.parent} is no folder that its owner alone can write to; it is not to be trusted."
            )
        seen = path.lstat()
        if not stat.S_ISSOCK(seen.st_mode) or seen.st_uid != folder.st_uid:
            raise SettingError(f"{path} is not a socket of its folder's owner; it is not to be trusted.")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect(os.fspath(path))
            _, listener, _ = struct.unpack("iII", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except PermissionError:
        raise SettingError(
            f"{path} is for a group that you are not in (a new membership counts from the next login)."
        ) from None
    except FileNotFoundError:
        raise SettingError(f"There is no socket {path}; the stack is down, or nobody may watch it any more.") from None
    except OSError as error:
        raise SettingError(f"Nothing answers on {path} ({error.strerror or error}); the stack is down.") from None
    if listener != folder.st_uid:
        raise SettingError(f"Another user than its owner listens on {path}; it is not to be trusted.")
    return WatchPlace(path, _name(folder.st_uid))
