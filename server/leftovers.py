"""What a stack writes down about its processes, so that a crashed one can be cleaned up after.

A pid alone may be somebody else's by now: each entry carries the process's start time as well.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import psutil

from loadgen.lines import UNREADABLE
from server.config import Paths
from server.supervisor import WAIT_POLL_S, SupervisorError, bears, lives


class Entry(msgspec.Struct, frozen=True):
    """One process of ours."""

    name: str
    pid: int
    started: float
    """psutil's create_time, Unix seconds."""


def note(path: Path, processes: dict[str, int]) -> None:
    """Write the pid file anew (name -> pid), atomically, mode 0600."""
    entries = []
    for name, pid in processes.items():
        try:
            entries.append(Entry(name, pid, psutil.Process(pid).create_time()))
        except psutil.NoSuchProcess:
            continue
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(entries))
    temporary.replace(path)


def noted(paths: Paths) -> list[tuple[Entry, psutil.Process]]:
    """Of the processes that the last stack wrote down, those that live: the same pid, and the same start time."""
    alive = []
    for entry in _entries(paths):
        try:
            process = psutil.Process(entry.pid)
            if abs(process.create_time() - entry.started) < 0.05 and lives(process):
                alive.append((entry, process))
        except (psutil.Error, ValueError, OverflowError):  # gone, somebody else's, or no pid at all
            continue
    return alive


def find_leftovers(paths: Paths) -> list[tuple[Entry, psutil.Process]]:
    """Processes of the last stack that still live, and those that they begot since it last wrote.

    Who was orphaned since is found by its session or its mark. The kernel gives the number of a session to no new process
    while anybody is in it, so one that is known proves that the others in it are no strangers.
    """
    found = {process.pid: (entry, process) for entry, process in noted(paths)}
    roots = {entry.pid for entry in _entries(paths)}
    sessions = {session: entry for entry, process in found.values() if (session := _session(process.pid)) in roots}
    mark, unnoted = str(paths.pidfile), Entry("engine", 0, 0.0)
    for process in psutil.process_iter():
        if process.pid in found or process.pid == os.getpid():
            continue
        entry = sessions.get(_session(process.pid) or 0) or (unnoted if bears(process, mark) else None)
        if entry is not None and lives(process):
            found[process.pid] = (_begotten(entry, process), process)
    for entry, process in list(found.values()):
        try:
            children = process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        for child in children:
            if child.pid not in found and lives(child):
                found[child.pid] = (_begotten(entry, child), child)
    return list(found.values())


def end_leftovers(paths: Paths, grace_s: float = 5.0) -> list[str]:
    """End what a crashed stack left, with all descendants; returns `name (pid)` for each one that was ended.

    Raises SupervisorError if one of them outlives SIGKILL; the pid file stays then.
    """
    found = find_leftovers(paths)
    doomed = [process for _, process in found]
    for process in doomed:
        _signal(process, "terminate")
    for process in _wait(doomed, grace_s):
        _signal(process, "kill")
    if alive := _wait(doomed, grace_s):
        left = ", ".join(str(process.pid) for process in alive)
        raise SupervisorError(f"What the crashed stack left cannot be ended: {left} does not react to SIGKILL.")
    paths.pidfile.unlink(missing_ok=True)
    if found:
        paths.socket.unlink(missing_ok=True)
    return said(found)


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that live after at most so long. A zombie that nobody waits for has ended."""
    deadline = time.monotonic() + timeout_s
    while (alive := [process for process in processes if lives(process)]) and time.monotonic() < deadline:
        time.sleep(WAIT_POLL_S)
    return alive


def said(found: list[tuple[Entry, psutil.Process]]) -> list[str]:
    """`name (pid)` of each."""
    return [f"{entry.name} ({entry.pid})" for entry, _ in found]


def _entries(paths: Paths) -> list[Entry]:
    try:
        return msgspec.json.decode(paths.pidfile.read_bytes(), type=list[Entry])
    except (FileNotFoundError, *UNREADABLE):
        return []


def _begotten(entry: Entry, process: psutil.Process) -> Entry:
    name = entry.name.partition(" ")[0]
    return Entry(f"{name} child", process.pid, process.create_time())


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return
