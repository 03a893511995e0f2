"""The engine's life as the stack sees it: one of our own that we start, restart and end, or one that we only watch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil

from server.config import EngineKnobs, Paths, StackSettings
from server.engine.coldstart import ColdStartLog, Figures
from server.engine.device import Machine, find_machine
from server.engine.discover import Found, base_url, probe
from server.engine.environment import EngineEnvironment, find_environment
from server.engine.errors import EngineError, EngineMissingError
from server.engine.launch import LaunchPlan, plan
from server.engine.logfile import LogFollower
from server.engine.models import Model, prepare
from server.supervisor import GRACE_S, Supervisor, port_in_use
from server.telemetry.snapshot import ColdStart, Engine, Phase, StartStage, Value

Changed = Callable[[str], None]
"""Called after every change of phase, with one clause for the event list (empty: nothing to note)."""

UNKNOWN_SEQUENCES = "vLLM does not tell it, and its command line does not or cannot be seen"
READY_TIMEOUT_S = 1800.0
"""A large model from a slow disk takes its time; a person can always stop it."""
POLL_S = 0.2
STARTING_GRACE_S = 5.0
CPU_NICE = 5
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
GPU_LENGTHS = (400, 150)
CPU_LENGTHS = (40, 32)
"""Median prompt and reply, tokens. Chat traces have 760 and 151; a CPU gets what lets several people chat."""


class Lifecycle(Protocol):
    """What the stack needs of an engine."""

    attached: bool
    url: str
    phase: Phase

    @property
    def scrapes(self) -> bool:
        """Is there something to scrape?"""
        ...

    @property
    def served_name(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def max_num_seqs(self) -> int | None:
        """Slots of the batch; None while or where it is not known."""
        ...

    @property
    def default_lengths(self) -> tuple[int, int]:
        """Median prompt and reply, tokens, that suit this engine."""
        ...

    @property
    def ignores_eos(self) -> bool:
        """Should the load ask for replies of full length?"""
        ...

    @property
    def no_gpu(self) -> str:
        """Why this machine's GPUs, if it has any, are not this engine's; empty when they may be."""
        ...

    @property
    def pids(self) -> dict[str, int]:
        """Processes of ours."""
        ...

    @property
    def measured_pid(self) -> int | None:
        """The root of the engine's process tree, ours or not, if it can be seen."""
        ...

    def facts(self, now: float) -> Engine: ...

    def first_token(self, at: float) -> None:
        """The gateway saw a first token at this monotonic second."""
        ...

    def fail(self, why: str) -> None: ...

    def tune(self, knobs: EngineKnobs) -> None:
        """From the next start on. Raises EngineError when this engine cannot have them."""
        ...

    async def start(self) -> None: ...

    async def restart(self) -> None: ...

    async def stop(self) -> None: ...


class AttachedEngine:
    """An engine that somebody else started: asked, never touched."""

    attached = True

    def __init__(self, url: str, changed: Changed) -> None:
        self.url = base_url(url)
        self.phase: Phase = "starting"
        self._changed = changed
        self._found: Found | None = None
        self._error = ""
        self._began = time.monotonic()

    @property
    def scrapes(self) -> bool:
        return True

    @property
    def served_name(self) -> str:
        return self._found.model if self._found is not None else ""

    @property
    def context_tokens(self) -> int:
        return (self._found.max_model_len if self._found is not None else None) or 2048

    @property
    def max_num_seqs(self) -> int | None:
        return self._found.max_num_seqs if self._found is not None else None

    @property
    def default_lengths(self) -> tuple[int, int]:
        return GPU_LENGTHS

    @property
    def ignores_eos(self) -> bool:
        return False

    @property
    def no_gpu(self) -> str:
        return "" if urlsplit(self.url).hostname in LOOPBACK else "the engine may be on another machine"

    @property
    def pids(self) -> dict[str, int]:
        return {}

    @property
    def measured_pid(self) -> int | None:
        return self._found.pid if self._found is not None else None

    def facts(self, now: float) -> Engine:
        found = self._found
        length = found.max_model_len if found is not None else None
        return Engine(
            phase=self.phase,
            error=self._error,
            model=self.served_name,
            model_kind="attached",
            version=found.version if found is not None else "",
            url=self.url,
            pid=self.measured_pid,
            attached=True,
            max_num_seqs=Value(v=self.max_num_seqs, src="config", why="" if self.max_num_seqs else UNKNOWN_SEQUENCES),
            max_model_len=Value(v=length, src="engine") if length else Value(src="engine", why="not listed"),
            stage_times="windowed",
        )

    def first_token(self, at: float) -> None:
        """Its start is not ours to time."""

    def fail(self, why: str) -> None:
        self.phase, self._error = "failed", why
        self._changed(why)

    def tune(self, knobs: EngineKnobs) -> None:
        raise EngineError("Somebody else started this engine.")

    async def start(self) -> None:
        try:
            self._found = await asyncio.to_thread(probe, self.url)
        except EngineError as error:
            self.fail(str(error))
            return
        self.url = self._found.url
        self.phase = "ready"
        self._changed(f"attached to {self.url}")

    async def restart(self) -> None:
        raise EngineError("Somebody else started this engine; it cannot be restarted from here.")

    async def stop(self) -> None:
        """It is not ours to stop."""


class OwnEngine:
    """A vLLM of ours: prepared, started, watched, restarted, and ended with its whole tree."""

    attached = False

    def __init__(self, settings: StackSettings, paths: Paths, otlp_endpoint: str, changed: Changed) -> None:
        self.phase: Phase = "preparing"
        self.url = f"http://127.0.0.1:{settings.engine_port}"
        self._settings = settings
        self._paths = paths
        self._otlp_endpoint = otlp_endpoint
        self._changed = changed
        self._error = ""
        self._machine: Machine | None = None
        self._environment: EngineEnvironment | None = None
        self._model: Model | None = None
        self._plan: LaunchPlan | None = None
        self._log = paths.logs / "engine.log"
        self._child = Supervisor("engine", self._log, self._died)
        self._kind = "process-cold"
        self._start_log: ColdStartLog | None = None
        self._began = time.monotonic()
        self._ended: float | None = None
        self._previous: list[StartStage] = []
        self._preparing: list[StartStage] = []

    # what the stack asks

    @property
    def scrapes(self) -> bool:
        return self.phase == "ready"

    @property
    def served_name(self) -> str:
        return self._plan.served_name if self._plan is not None else ""

    @property
    def context_tokens(self) -> int:
        return self._plan.max_model_len if self._plan is not None else 2048

    @property
    def max_num_seqs(self) -> int | None:
        return self._plan.max_num_seqs if self._plan is not None else self._settings.max_num_seqs

    @property
    def default_lengths(self) -> tuple[int, int]:
        return CPU_LENGTHS if self._plan is None or self._plan.device == "cpu" else GPU_LENGTHS

    @property
    def ignores_eos(self) -> bool:
        """Random weights end a reply at random: ask for the full length."""
        return self._model is not None and self._model.kind == "shape"

    @property
    def no_gpu(self) -> str:
        on_cpu = self._plan is not None and self._plan.device == "cpu"
        has_gpu = self._machine is not None and bool(self._machine.gpus)
        return "the engine runs on the CPU" if on_cpu and has_gpu else ""

    @property
    def pids(self) -> dict[str, int]:
        return {"engine": self._child.pid} if self._child.pid is not None else {}

    @property
    def measured_pid(self) -> int | None:
        return self._child.pid

    def facts(self, now: float) -> Engine:
        plan, model, machine = self._plan, self._model, self._machine
        figures = self._start_log.figures if self._start_log is not None else Figures()
        return Engine(
            phase=self.phase,
            error=self._error,
            model=model.display if model is not None else self._settings.model,
            model_kind=model.kind if model is not None else "",
            version=self._environment.vllm_version if self._environment is not None else "",
            device=machine.name if plan is not None and plan.device == "cuda" and machine is not None else "CPU",
            url=self.url,
            pid=self._child.pid,
            argv=list(plan.argv) if plan is not None else [],
            max_num_seqs=_configured(plan.max_num_seqs if plan is not None else None),
            max_model_len=_configured(plan.max_model_len if plan is not None else None),
            max_num_batched_tokens=_configured(figures.batched_tokens),
            kv_tokens=_configured(figures.kv_tokens),
            stage_times=plan.features.stage_times if plan is not None else "",
            start=self._cold_start(now),
            knobs=self._settings.knobs,
        )

    def first_token(self, at: float) -> None:
        if self._start_log is not None and self.phase == "ready" and self._start_log.first_token(at):
            self._remember()

    def fail(self, why: str) -> None:
        self._ended = time.monotonic()
        self._to("failed", why)

    def tune(self, knobs: EngineKnobs) -> None:
        settings = msgspec.structs.replace(self._settings, knobs=knobs)
        if self._plan is not None:
            assert self._environment is not None
            assert self._model is not None
            assert self._machine is not None
            self._plan = plan(self._environment, self._model, settings, self._machine, self._otlp_endpoint, os.environ)
        self._settings = settings

    # life

    async def start(self) -> None:
        """Make what is needed and start. Failures end in the phase `failed` or `no_engine`, not in an exception."""
        self._began = time.monotonic()
        self._to("preparing")
        try:
            self._machine = await asyncio.to_thread(find_machine)
            self._environment = await asyncio.to_thread(find_environment, self._settings, self._paths)
            self._model = await asyncio.to_thread(
                prepare, self._settings, self._environment, self._paths, self._note_preparation
            )
            self._plan = plan(
                self._environment, self._model, self._settings, self._machine, self._otlp_endpoint, os.environ
            )
            self.url = self._plan.url
            self._previous = self._remembered()
            await self._launch("process-cold")
        except EngineMissingError as error:
            self._to("no_engine", str(error))
        except (EngineError, OSError) as error:
            self.fail(str(error))

    async def restart(self) -> None:
        """New processes, caches warm."""
        if self._plan is None:
            await self.start()
            return
        self._previous = self._stages(time.monotonic()) or self._previous
        self._began = time.monotonic()
        self._start_log = None
        self._to("stopping")
        try:
            await self._child.stop()
            await self._launch("process-cold")
        except (EngineError, OSError) as error:
            self.fail(str(error))

    async def stop(self) -> None:
        """End the whole tree; returns when it is verified gone. One that still starts can lose SIGTERM: it gets less time."""
        grace_s = GRACE_S if self.phase == "ready" else STARTING_GRACE_S
        self._to("stopping")
        await self._child.stop(grace_s)
        self._to("down", "The engine was stopped.")

    async def _launch(self, kind: str) -> None:
        assert self._plan is not None
        holder = port_in_use(self._settings.engine_host, self._settings.engine_port)
        if holder is not None:
            by = f" by {holder}" if holder else ""
            raise EngineError(f"Port {self._settings.engine_port} is in use{by}; free it or choose --engine-port.")
        self._kind = kind
        self._preparing = []
        follower = LogFollower(self._log, from_end=True)
        self._began = time.monotonic()
        self._ended = None
        log = self._start_log = ColdStartLog(self._began)
        await self._child.start(self._plan.argv, self._plan.env)
        if self._plan.device == "cpu" and self._child.pid is not None:
            # Its engine core spins on a core of its own: the instruments must not wait for it. Its children inherit this.
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._child.pid).nice(CPU_NICE)
        self._to("starting")
        ready = False
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:

            async def answers() -> bool:
                for line in follower.read():
                    log.feed(line, time.monotonic())
                return await self._answers(http)

            ready = await self._child.wait_ready(answers, READY_TIMEOUT_S, POLL_S)
        if ready:
            await self._hear_out(follower, log)
        if ready and self._child.pid is not None:
            self._ended = time.monotonic()
            self._remember()
            self._to("ready", f"engine ready after {self._ended - self._began:.0f} s ({kind})")
            return
        gone = self._child.pid is None
        for line in follower.finish():
            log.feed(line, time.monotonic())
        await self._child.stop()
        self.fail(log.failure().text if gone else f"The engine was not ready after {READY_TIMEOUT_S / 60:.0f} minutes.")

    async def _hear_out(self, follower: LogFollower, log: ColdStartLog) -> None:
        """/health can be quicker than the last log line: wait for it, three seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                while not log.finished:
                    for line in follower.read():
                        log.feed(line, time.monotonic())
                    await asyncio.sleep(0.05)

    async def _answers(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"{self.url}/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _died(self, code: int) -> None:
        """Nobody asked for it: a crash, whatever the code. While it starts, `_launch` tells the reason."""
        if self.phase == "ready":
            self._to(
                "down", f"The engine ended by itself (exit code {code}); c restarts it, `spark-serve logs` tells more."
            )

    def _to(self, phase: Phase, error: str = "") -> None:
        event = error
        if phase == "ready":
            error = ""
        self.phase, self._error = phase, error if phase in {"failed", "no_engine", "down"} else ""
        self._changed(event)

    # the start, for the screen

    def _note_preparation(self, text: str) -> None:
        """Called from the preparing thread."""
        now = time.monotonic() - self._began
        done = [msgspec.structs.replace(stage, end_s=stage.end_s or now) for stage in self._preparing]
        self._preparing = [*done, StartStage(name="model files", begin_s=now, detail=text)]

    def _stages(self, now: float) -> list[StartStage]:
        return self._start_log.stages(now) if self._start_log is not None else self._preparing

    def _cold_start(self, now: float) -> ColdStart:
        return ColdStart(
            kind=self._kind,
            elapsed_s=(self._ended or now) - self._began,
            finished=self.phase == "ready",
            stages=self._stages(now),
            previous=self._previous,
        )

    def _remember_path(self) -> Path:
        assert self._plan is not None
        lasting = [argument for argument in self._plan.argv if argument != self._otlp_endpoint]
        name = hashlib.sha256("\0".join(lasting).encode()).hexdigest()[:16]
        return self._paths.starts / f"{name}.json"

    def _remember(self) -> None:
        """Keep this start's stages for the next one with the same arguments to be compared with."""
        path = self._remember_path()
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(self._stages(time.monotonic())))
            temporary.replace(path)

    def _remembered(self) -> list[StartStage]:
        try:
            return msgspec.json.decode(self._remember_path().read_bytes(), type=list[StartStage])
        except (OSError, msgspec.DecodeError):
            return []


def _configured(value: int | None) -> Value:
    return Value(v=value, src="config") if value is not None else Value(src="config", why="not known before the start")
