"""Is an engine's GPU memory returned after its death? By the driver's list of processes, and by what was in use before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

from server.telemetry.gpu_processes import process_name

SLACK_BYTES = 2**30
"""Others may have taken so much meanwhile, or the driver itself."""
_GIB = 2**30


@dataclass(frozen=True)
class DeviceMemory:
    """Of one GPU."""

    used_bytes: float | None
    """None where the device has no memory of its own (GB10) or does not tell."""
    held: Mapping[int, float | None]
    """Process id -> bytes, None where the driver does not tell. In a container it may list nobody, or the host's ids."""


def read(nvml: Any = pynvml) -> list[DeviceMemory]:
    """All devices; empty without a driver. Blocks for some milliseconds."""
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def unreturned(
    now: list[DeviceMemory],
    before: list[DeviceMemory],
    dead: Collection[int],
    name_of: Callable[[int], str] = process_name,
) -> str:
    """What is still held, and by whom, in one clause; empty once all of it is back.

    `before` is from before the engine's start (empty: not known), `dead` are all pids that it ever had.
    """
    said = []
    for index, device in enumerate(now):
        known = before[index].used_bytes if index < len(before) else None
        grown = device.used_bytes is not None and known is not None and device.used_bytes > known + SLACK_BYTES
        ours = [pid for pid in device.held if pid in dead]
        if not ours and not grown:
            continue
        used = "memory" if device.used_bytes is None else f"{device.used_bytes / _GIB:.1f} GiB in use"
        was = "" if known is None else f" ({known / _GIB:.1f} before the engine)"
        by = ", ".join(_holder(pid, device.held[pid], name_of) for pid in (ours or device.held))
        said.append(f"GPU {index}: {used}{was}" + (f", held by {by}" if by else ""))
    return "; ".join(said)


def in_words(devices: list[DeviceMemory]) -> str:
    """What is in use, e.g. `0.5 GiB in use`; empty where that is not known."""
    known = [device.used_bytes for device in devices if device.used_bytes is not None]
    return f"{sum(known) / _GIB:.1f} GiB in use" if known else ""


def _device(nvml: Any, handle: Any) -> DeviceMemory:
    try:
        used: float | None = float(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        used = None
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        listed = []
    return DeviceMemory(
        used, {int(one.pid): None if one.usedGpuMemory is None else float(one.usedGpuMemory) for one in listed}
    )


def _holder(pid: int, held_bytes: float | None, name_of: Callable[[int], str]) -> str:
    name = f"{name_of(pid)} ({pid})".strip()
    return name if held_bytes is None else f"{name} {held_bytes / _GIB:.1f} GiB"
