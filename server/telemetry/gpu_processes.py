"""Who holds memory on a GPU: the engine, or somebody else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import psutil
import pynvml

from server.telemetry.gpm import reason
from server.telemetry.snapshot import GpuProcess, Value

EVERY_S = 2.0
HIDDEN = "the driver's process ids are not of this container: whose memory it is cannot be told"
UNSEEN = "the driver lists no process here, as in a container"
NOBODYS = "which processes are the engine's is not known"
SMALL_BYTES = 2**30
"""What a device may hold without any process: the driver's own."""


NOT_ASKED = Value(src="nvml", why="not asked yet")


@dataclass(frozen=True, slots=True)
class Holders:
    """The processes on one device."""

    processes: list[GpuProcess] = field(default_factory=list)
    others_bytes: Value = NOT_ASKED
    engines: bool | None = None


def process_name(pid: int) -> str:
    """Empty when there is no such process here."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""


def holders(
    nvml: Any,
    handle: Any,
    ours: Collection[int] | None,
    used_bytes: float | None,
    name_of: Callable[[int], str] = process_name,
) -> Holders:
    """Ask the driver. `ours` are the engine's processes (None: nobody knows them); `used_bytes` is all that is in use.

    In a container the driver may list the host's ids (the names are empty then) or nothing at all.
    """
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        listed = [*listed, *_graphics(nvml, handle)]
    except pynvml.NVMLError as error:
        return Holders(others_bytes=Value(src="nvml", why=reason(error)))
    memory: dict[int, float | None] = {}
    for one in listed:
        memory.setdefault(int(one.pid), None if one.usedGpuMemory is None else float(one.usedGpuMemory))
    mine = frozenset(ours or ())
    processes = [GpuProcess(pid, name_of(pid), held, pid in mine) for pid, held in memory.items()]
    processes.sort(key=lambda process: -(process.mem_bytes or 0.0))
    return Holders(processes, _others(processes, ours, used_bytes), _engines(processes, ours))


def _graphics(nvml: Any, handle: Any) -> Iterable[Any]:
    """A desktop holds memory too; devices without a display say that they cannot tell."""
    try:
        found: Iterable[Any] = nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    except pynvml.NVMLError:
        return ()
    return found


def _others(processes: list[GpuProcess], ours: Collection[int] | None, used_bytes: float | None) -> Value:
    if not processes and (used_bytes or 0.0) > SMALL_BYTES:
        return Value(src="nvml", why=UNSEEN)
    if processes and not any(process.name for process in processes):
        return Value(src="nvml", why=HIDDEN)
    if ours is None and processes:
        return Value(src="nvml", why=NOBODYS)
    rest = [process for process in processes if not process.engines]
    untold = sum(process.mem_bytes is None for process in rest)
    if untold:
        return Value(src="nvml", why=f"{untold if untold > 1 else 'one'} more, whose memory the driver does not tell")
    return Value(v=sum(process.mem_bytes or 0.0 for process in rest), src="nvml", n=len(rest))


def _engines(processes: list[GpuProcess], ours: Collection[int] | None) -> bool | None:
    if any(process.engines for process in processes):
        return True
    visible = processes and all(process.name for process in processes)
    return False if ours and visible else None
