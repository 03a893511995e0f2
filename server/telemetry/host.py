"""The machine and our processes on it, by psutil: cheap enough for every tick."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import psutil

from server.telemetry.snapshot import ABSENT, Host, Value

Group = Literal["engine", "gateway", "load", "stack"]
Pids = Mapping[Group, Sequence[int]]
"""The root processes of each part; their descendants count with them, unless they are another part's root."""

TREE_S = 5.0
"""How often the trees are walked; in between, the known processes are read."""


class HostReader:
    """Call `read` at each tick; shares and cores are means since the call before. Blocks for some milliseconds."""

    def __init__(self) -> None:
        self._cores = os.cpu_count() or 1
        self._read_at: float | None = None
        self._busy: tuple[float, float] | None = None
        self._walked_at: float | None = None
        self._roots: dict[int, Group] = {}
        self._members: dict[Group, dict[int, psutil.Process]] = {}
        self._seconds: dict[int, float] = {}

    def read(self, pids: Pids, now: float) -> Host:
        elapsed_s = None if self._read_at is None else now - self._read_at
        self._read_at = now
        roots: dict[int, Group] = {pid: group for group, group_pids in pids.items() for pid in group_pids}
        if self._walked_at is None or now - self._walked_at >= TREE_S or roots != self._roots:
            self._walked_at, self._roots = now, roots
            self._members = _trees(roots)
        memory = psutil.virtual_memory()
        cores = self._cpu_cores(elapsed_s)
        return Host(
            cores=self._cores,
            cpu_share=self._cpu_share(elapsed_s),
            mem_available_bytes=Value(v=float(memory.available), src="host"),
            mem_total_bytes=Value(v=float(memory.total), src="host"),
            engine_cpu_cores=cores.get("engine", ABSENT),
            gateway_cpu_cores=cores.get("gateway", ABSENT),
            load_cpu_cores=cores.get("load", ABSENT),
            stack_cpu_cores=cores.get("stack", ABSENT),
        )

    def members(self, group: Group) -> frozenset[int] | None:
        """The process ids of a part when its tree was last walked; None when it has no process."""
        found = self._members.get(group)
        return frozenset(found) if found else None

    def _cpu_share(self, elapsed_s: float | None) -> Value:
        times = psutil.cpu_times()
        total = sum(times[:8])  # guest times are already in user and nice
        idle = times.idle + getattr(times, "iowait", 0.0)
        before, self._busy = self._busy, (total - idle, total)
        if before is None or elapsed_s is None or total <= before[1]:
            return Value(src="host", why="needs two readings")
        share = (total - idle - before[0]) / (total - before[1])
        return Value(v=min(1.0, max(0.0, share)), src="host", window_s=elapsed_s)

    def _cpu_cores(self, elapsed_s: float | None) -> dict[Group, Value]:
        """CPU seconds a wall second of each part. A process seen for the first time counts from its next reading on."""
        cores: dict[Group, Value] = {}
        seconds: dict[int, float] = {}
        for group, members in self._members.items():
            used_s, known = 0.0, 0
            for pid, process in list(members.items()):
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    del members[pid]
                    continue
                seconds[pid] = times.user + times.system
                if pid in self._seconds:
                    known += 1
                    used_s += max(0.0, seconds[pid] - self._seconds[pid])
            if not members:
                cores[group] = Value(src="host", why="no such process")
            elif not known or not elapsed_s:
                cores[group] = Value(src="host", why="needs two readings")
            else:
                cores[group] = Value(v=used_s / elapsed_s, src="host", n=known, window_s=elapsed_s)
        self._seconds = seconds
        return cores


def _trees(roots: Mapping[int, Group]) -> dict[Group, dict[int, psutil.Process]]:
    """Every living process under each root; the stack is everybody's parent, so a walk stops at another part's root."""
    trees: dict[Group, dict[int, psutil.Process]] = {group: {} for group in roots.values()}
    if not roots:
        return trees
    processes: dict[int, psutil.Process] = {}
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        processes[process.pid] = process
        children.setdefault(process.info["ppid"], []).append(process.pid)
    for root, group in roots.items():
        for pid in _under(root, children, roots):
            if pid in processes:
                trees[group][pid] = processes[pid]
    return trees


def _under(root: int, children: Mapping[int, list[int]], roots: Mapping[int, Group]) -> Iterable[int]:
    todo = [root]
    while todo:
        pid = todo.pop()
        yield pid
        todo += [child for child in children.get(pid, []) if child not in roots]
