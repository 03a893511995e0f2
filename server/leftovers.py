"""What a stack writes down about its processes, so that a crashed one can be cleaned up after.

A pid alone may be somebody else's by now: each entry carries the process's start time as well.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil

from server.config import Paths
from server.supervisor import lives


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


def find_leftovers(paths: Paths) -> list[tuple[Entry, psutil.Process]]:
    """Processes of the last stack that still live."""
    try:
        entries = msgspec.json.decode(paths.pidfile.read_bytes(), type=list[Entry])
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    alive = []
    for entry in entries:
        try:
            process = psutil.Process(entry.pid)
            if abs(process.create_time() - entry.started) < 0.05 and lives(process):
                alive.append((entry, process))
        except (psutil.Error, ValueError, OverflowError):  # gone, somebody else's, or no pid at all
            continue
    return alive


def end_leftovers(paths: Paths, grace_s: float = 10.0) -> list[str]:
    """End what a crashed stack left, with all descendants; returns `name (pid)` for each one that was ended."""
    names: list[str] = []
    doomed: dict[int, psutil.Process] = {}
    for entry, process in find_leftovers(paths):
        names.append(f"{entry.name} ({entry.pid})")
        doomed[process.pid] = process
        try:
            doomed.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.NoSuchProcess:
            continue
    for process in doomed.values():
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(list(doomed.values()), timeout=grace_s)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=grace_s)
    paths.pidfile.unlink(missing_ok=True)
    if names:
        paths.socket.unlink(missing_ok=True)
    return names


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return
