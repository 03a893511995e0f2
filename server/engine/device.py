"""What the engine can run on: the GPUs NVML names, or the CPU."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pynvml

DeviceKind = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA device as the driver names it."""

    index: int
    name: str
    memory_bytes: int | None
    """None where the driver does not say: the memory is the host's (GB10)."""


@dataclass(frozen=True)
class Machine:
    """What this machine offers an engine."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    """Version of the NVIDIA driver; None without one."""
    why: str
    """Why there is no GPU; empty when there is one."""
    cores: int
    """CPU cores this process may use."""
    fast_bf16: bool = True
    """Whether the CPU is any good at bfloat16. With AVX2 alone vLLM emulates it: a step of 8 sequences took 1.2 s where
    float32 took 0.08 (SmolLM2-135M, one core)."""

    @property
    def kind(self) -> DeviceKind:
        return "cuda" if self.gpus else "cpu"

    @property
    def name(self) -> str:
        """The device's name for a header, e.g. `NVIDIA H100 80GB HBM3` or `CPU`."""
        return self.gpus[0].name if self.gpus else "CPU"

    @property
    def unified(self) -> bool:
        """GPU and host share one memory (GB10)."""
        return any(gpu.memory_bytes is None for gpu in self.gpus)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _by_nvml() -> tuple[tuple[Gpu, ...], str]:
    """Every GPU by NVML. Raises pynvml.NVMLError where the library or the driver is missing."""
    pynvml.nvmlInit()
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory: int | None = None
            with contextlib.suppress(pynvml.NVMLError):
                memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            gpus.append(Gpu(index, _text(pynvml.nvmlDeviceGetName(handle)), memory))
        return tuple(gpus), _text(pynvml.nvmlSystemGetDriverVersion())
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def parse_nvidia_smi(text: str) -> tuple[tuple[Gpu, ...], str]:
    """Devices and driver from `nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader,nounits`.

    memory.total is in MiB, or `[N/A]` on unified memory.
    """
    gpus: list[Gpu] = []
    driver = ""
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != 4 or not row[0].strip().isdigit():
            continue
        memory = row[2].strip()
        gpus.append(Gpu(int(row[0]), row[1].strip(), int(memory) * 2**20 if memory.isdigit() else None))
        driver = row[3].strip()
    return tuple(gpus), driver


def _by_nvidia_smi() -> tuple[tuple[Gpu, ...], str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return (), ""
    query = [tool, "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (), ""
    return parse_nvidia_smi(done.stdout) if done.returncode == 0 else ((), "")


def has_fast_bf16(cpuinfo: str) -> bool:
    """By the text of /proc/cpuinfo: an x86 processor needs AVX-512 or AMX; of others nothing is known against it."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return not flags or bool({"avx512f", "amx_bf16"} & set(flags.split()))


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def find_machine() -> Machine:
    """Look for GPUs by NVML, then by nvidia-smi; never raises."""
    cores = len(os.sched_getaffinity(0))
    try:
        gpus, driver = _by_nvml()
        why = "" if gpus else "the NVIDIA driver names no device"
    except pynvml.NVMLError as error:
        gpus, driver = _by_nvidia_smi()
        why = "" if gpus else f"no NVIDIA driver on this machine ({error})"
    fast = has_fast_bf16(_cpuinfo())
    return Machine(gpus=gpus, driver=driver or None, why=why, cores=cores, fast_bf16=fast)
