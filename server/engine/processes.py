"""Which process of a vLLM does what, by the titles that they give themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from server.engine.errors import EngineError

API_SERVER, ENGINE_CORE, WORKER, OTHER = "api-server", "engine-core", "worker", "other"
_TITLES = (("::APIServer", API_SERVER), ("::EngineCore", ENGINE_CORE), ("::Worker", WORKER))
_SPAWNED = "multiprocessing.spawn"
"""What is in the command line of a child that has no title (yet): `setproctitle` is missing, or it is still importing."""


def roles(root_pid: int) -> dict[str, list[int]]:
    """The living processes of the engine whose API server is or was `root_pid`, by role: `api-server`, `engine-core`,
    `worker`, and `other` (helpers, e.g. multiprocessing's resource tracker). A role that nobody has is left out.

    Those that outlived the API server are found by its session, which they share if it was started in one of its own.
    One without a title is taken for the engine core if the API server started it, else for a worker.
    """
    found: dict[str, list[int]] = {}
    for process in _tree(root_pid):
        try:
            role = role_of(process.cmdline(), process.ppid() == root_pid) if process.pid != root_pid else API_SERVER
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:
            continue
        found.setdefault(role, []).append(process.pid)
    return found


def role_of(command_line: Iterable[str], of_root: bool) -> str:
    """By a command line, which is the title once a process has given itself one."""
    said = " ".join(command_line)
    for title, role in _TITLES:
        if title in said.partition(" ")[0]:
            return role
    if _SPAWNED in said:
        return ENGINE_CORE if of_root else WORKER
    return OTHER


def _tree(root_pid: int) -> list[psutil.Process]:
    """The root and its descendants, and whoever is in its session; the lowest pid first."""
    if root_pid <= 1:
        raise EngineError(f"{root_pid} is no engine's process.")
    members, parents = {}, {}
    for process in psutil.process_iter():
        try:
            parents[process.pid] = process.ppid()
            if process.pid == root_pid or os.getsid(process.pid) == root_pid:
                members[process.pid] = process
        except (psutil.Error, OSError):
            continue
    known = {root_pid, *members}
    while newborn := {pid for pid, parent in parents.items() if parent in known} - known:
        known |= newborn
    for pid in known - set(members):
        try:
            members[pid] = psutil.Process(pid)
        except psutil.Error:
            continue
    return [members[pid] for pid in sorted(members)]
