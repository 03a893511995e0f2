"""Where things live, and the frozen settings of one stack."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import platformdirs

from loadgen.records import Behaviour
from server.gateway.policy import Balance, PolicyChange

SOCKET_PATH_LIMIT = 107
"""sun_path holds 108 bytes with its terminator (unix(7))."""


class SettingError(ValueError):
    """A setting that cannot work; its text is one sentence that says what is wrong and what to do."""


@dataclass(frozen=True)
class Paths:
    """The folders of one installation. `SPARK_SERVE_HOME` puts them all under one roof (tests, several stacks)."""

    data: Path
    """Engine environments and prepared models: large, survives."""
    state: Path
    """Logs, recordings, start timings."""
    runtime: Path
    """Socket and pid file, mode 0700."""

    @property
    def engines(self) -> Path:
        return self.data / "engines"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def recordings(self) -> Path:
        return self.state / "recordings"

    @property
    def capacities(self) -> Path:
        """Capacity searches, one JSON file each."""
        return self.state / "capacities"

    @property
    def comparisons(self) -> Path:
        """Comparisons of policies, one JSON file each."""
        return self.state / "comparisons"

    @property
    def reports(self) -> Path:
        return self.state / "reports"

    @property
    def starts(self) -> Path:
        """Stage times of earlier engine starts, one JSON file a configuration."""
        return self.state / "starts"

    @property
    def socket(self) -> Path:
        return self.runtime / "stack.sock"

    @property
    def pidfile(self) -> Path:
        """JSON: pids and start times of the stack and its children, to find leftovers by."""
        return self.runtime / "stack.json"

    def make(self) -> None:
        """Create the folders, for this user alone (0700, whatever the umask).

        Raises SettingError when one cannot be made, the socket's path would be too long for the kernel, or the runtime
        folder is one in which somebody else could put things.
        """
        self.check_socket()
        for folder in (self.data, self.state, self.logs, self.recordings, self.starts, self.capacities, self.reports):
            _make(folder)
        _make(self.runtime)
        seen = self.runtime.lstat()
        if stat.S_ISLNK(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o022:
            why = (
                "is a symbolic link"
                if stat.S_ISLNK(seen.st_mode)
                else "belongs to another user"
                if seen.st_uid != os.getuid()
                else "can be written by others"
            )
            raise SettingError(f"{self.runtime} {why}; remove it, or set SPARK_SERVE_HOME to a folder of yours.")
        self.runtime.chmod(0o700)
        for folder in (self.data, self.state):  # what lies there is run, and written to
            seen = folder.stat()
            if seen.st_uid not in {os.getuid(), 0} or seen.st_mode & 0o002:
                raise SettingError(
                    f"{folder} belongs to another user or can be written by anybody; "
                    "set SPARK_SERVE_HOME to a folder of yours."
                )

    def check_socket(self) -> None:
        """Raises SettingError when the kernel does not take a socket's path of this length."""
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            raise SettingError(
                f"The socket path {self.socket} is longer than {SOCKET_PATH_LIMIT} bytes; "
                "set SPARK_SERVE_HOME to a shorter folder."
            )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingError(
            f"{folder} cannot be made ({error.strerror}); set SPARK_SERVE_HOME to a folder that can be written."
        ) from None


_given_umask: int | None = None


def be_private() -> None:
    """From now on files of this process are for this user alone. Whoever serves others' files asks `given_umask`."""
    global _given_umask  # noqa: PLW0603 - the umask belongs to the process, and so does what it was before
    before = os.umask(0o077)
    if _given_umask is None:
        _given_umask = before


def given_umask() -> int:
    """What the umask was when this process began; -1 (as subprocess has it) where nothing changed it."""
    return -1 if _given_umask is None else _given_umask


def default_paths() -> Paths:
    """The platform's folders, or those under `SPARK_SERVE_HOME`. Raises SettingError where there is no home."""
    home = os.environ.get("SPARK_SERVE_HOME")
    if home:
        root = Path(home).expanduser().resolve()
        return Paths(data=root / "data", state=root / "state", runtime=root / "run")
    dirs = platformdirs.PlatformDirs("spark-serve", appauthor=False)
    state = Path(dirs.user_state_dir)
    if not state.is_absolute():  # no HOME, and nobody knows this user
        raise SettingError("This user has no home folder; set SPARK_SERVE_HOME to a folder that can be written.")
    # Not the runtime folder of the session: it goes with the last logout, and the stack must be found again after one.
    return Paths(data=Path(dirs.user_data_dir), state=state, runtime=state / "run")


def config_folder() -> Path:
    """Where what a person likes is kept. Raises SettingError where there is no home."""
    home = os.environ.get("SPARK_SERVE_HOME")
    if home:
        return Path(home).expanduser().resolve() / "config"
    folder = Path(platformdirs.user_config_dir("spark-serve", appauthor=False))
    if not folder.is_absolute():
        raise SettingError("This user has no home folder; set SPARK_SERVE_HOME to a folder that can be written.")
    return folder


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The people a stack starts with."""

    preset: str | None = None
    """One of `loadgen.presets`, picked once the engine is ready; the rest holds until then."""
    trace: str | None = None
    """A trace file, which makes a preset of its own: `replay`."""
    weights: dict[Behaviour, float] = {}
    """How the people are split by behaviour; empty: all patient."""
    turns: float = 3.0
    """Mean turns of a conversation."""

    people: int = 10
    """Enough for a verdict: at 8 s of thinking, 4 people make a dozen requests in its 30 s, and it needs 20."""
    slow: int = 0
    rate: float | None = None
    think_s: float = 8.0
    """Mean of the exponential think time between two requests of a person, seconds."""
    workers: int = 1
    seed: int = 1
    prompt_tokens: int | None = None
    """Median prompt length; None picks one that suits the device."""
    output_tokens: int | None = None
    """Median reply length; None picks one that suits the device."""


class EngineKnobs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """vLLM's own scheduling, which only a restart changes. None leaves vLLM's default (or an --engine-arg) alone."""

    scheduling_policy: Literal["fcfs", "priority"] | None = None
    max_num_batched_tokens: int | None = None
    """Tokens a step at most."""
    chunked_prefill: bool | None = None
    max_num_queued_reqs: int | None = None
    """vLLM's own bound of its queue (0.32 and newer): 503 beyond it."""

    def changed(self, change: EngineKnobs) -> EngineKnobs:
        """With what the change says. Raises ValueError whose text says what is wrong."""
        said = {name: value for name in EngineKnobs.__struct_fields__ if (value := getattr(change, name)) is not None}
        knobs = {name: getattr(self, name) for name in EngineKnobs.__struct_fields__}
        for name in ("max_num_batched_tokens", "max_num_queued_reqs"):
            if (value := said.get(name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        return EngineKnobs(**{**knobs, **said})

    def in_words(self) -> str:
        """As vLLM's command line has them; empty when all are vLLM's defaults."""
        return " ".join(self.arguments)

    @property
    def arguments(self) -> list[str]:
        arguments: list[str] = []
        for name in ("scheduling_policy", "max_num_batched_tokens", "max_num_queued_reqs"):
            if (value := getattr(self, name)) is not None:
                arguments += [f"--{name.replace('_', '-')}", str(value)]
        if self.chunked_prefill is not None:
            arguments.append(f"--{'' if self.chunked_prefill else 'no-'}enable-chunked-prefill")
        return arguments


class StackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a stack is started with. Written to the daemon as JSON."""

    model: str = "auto"
    """Hub name, folder, `shape:NAME`, `smollm2`, or `auto`."""
    attach: str | None = None
    """URL of an engine that somebody else started."""
    revision: str | None = None
    """Of a hub model: a branch, tag or commit. None: the cached one, else the newest."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    drive: bool = False
    """Allow load on an attached engine."""
    engine_python: str | None = None
    engine_args: list[str] = []
    engine_host: str = "127.0.0.1"
    engine_port: int = 8100
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8101
    device: Literal["auto", "cuda", "cpu"] = "auto"
    max_num_seqs: int | None = None
    """None: 64 on a GPU, 8 on a CPU."""
    max_model_len: int | None = None
    max_in_flight: int | None = None
    """None: the engine's max-num-seqs, so that the waiting happens where the policy is."""
    max_queue: int | None = None
    """None: 256, and never under 4 x max_in_flight."""
    load: LoadSettings = LoadSettings()
    interval_s: float = 0.5
    """Seconds between two snapshots."""
    record: str | None = None
    slo: str = "chat"
    """What good means: one of `loadgen.slo.PRESETS`."""
    policy: PolicyChange = PolicyChange()
    """What the gateway's admission does differently from its defaults."""
    knobs: EngineKnobs = EngineKnobs()
    watchers: str = ""
    """A group whose members may watch; empty: nobody but the operator."""
    replicas: list[str] = []
    """Further endpoints beside `attach`, of the same model: they serve as one."""
    balance: Balance = "least"
    """How the gateway chooses among endpoints: the one with the fewest requests of ours, or in turn."""
    restart: bool = True
    """Start an engine of ours again when it ends by itself; False leaves it, and what it left, as it is."""
