"""The engine's life as the stack sees it: one of our own that we start, restart and end, or one that we only watch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil

from server.config import EngineKnobs, Paths, StackSettings
from server.engine import cold, gpu_memory
from server.engine.cold import AGAIN, FIRST, KINDS, KindName
from server.engine.coldstart import CLEAR, PAUSE, PREPARATION, STOP, ColdStartLog
from server.engine.device import Machine, find_machine
from server.engine.discover import Found, base_url, probe
from server.engine.environment import EngineEnvironment, find_environment
from server.engine.errors import EngineError, EngineMissingError
from server.engine.launch import LaunchPlan, plan
from server.engine.logfile import LogFollower, rotate
from server.engine.models import Model, prepare, save_shape, weights_folder
from server.engine.processes import API_SERVER, ENGINE_CORE, OTHER, WORKER, role_of, roles
from server.engine.recovery import TRIES, Death, Next, Row, after
from server.engine.start import Start
from server.engine.starts import Starts
from server.keys import engine_key
from server.supervisor import GRACE_S, Supervisor, port_in_use
from server.telemetry.snapshot import Engine, Phase, Value

Changed = Callable[[str], None]
"""Called after every change of phase, with one clause for the event list (empty: nothing to note)."""

UNKNOWN_SEQUENCES = "vLLM does not tell it, and its command line does not or cannot be seen"
READY_TIMEOUT_S = 1800.0
"""A large model from a slow disk takes its time; a person can always stop it."""
POLL_S = 0.2
LOG_POLL_S = 0.1
"""How late a stage's end can be stamped; reading the log waits for nothing else."""
STARTING_GRACE_S = 5.0
CRASH_GRACE_S = 1.0
"""For what a crash left: nobody waits for a reply of it any more."""
PORT_FREE_S = 5.0
MEMORY_BACK_S = 10.0
CPU_NICE = 5
LOG_IDLE_S = 1.0
HEAR_OUT_S = 3.0
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
    def comes_back(self) -> bool:
        """It is down and will be started again without anybody asking, or would be if it died now."""
        ...

    @property
    def pids(self) -> dict[str, int]:
        """Living processes of ours, by what they are; the first is the root of the others."""
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

    async def restart(self, kind: KindName) -> None: ...

    async def stop(self) -> None: ...


class SomebodyElses:
    """What is so of every engine that is not ours."""

    attached = True

    def __init__(self, changed: Changed) -> None:
        self.phase: Phase = "starting"
        self._changed = changed
        self._error = ""

    @property
    def scrapes(self) -> bool:
        return True

    @property
    def default_lengths(self) -> tuple[int, int]:
        return GPU_LENGTHS

    @property
    def ignores_eos(self) -> bool:
        return False

    @property
    def comes_back(self) -> bool:
        return False

    @property
    def pids(self) -> dict[str, int]:
        return {}

    def first_token(self, at: float) -> None:
        """Its start is not ours to time."""

    def fail(self, why: str) -> None:
        self.phase, self._error = "failed", why
        self._changed(why)


class AttachedEngine(SomebodyElses):
    """An engine that somebody else started: asked, never touched."""

    def __init__(self, url: str, changed: Changed) -> None:
        self.url = base_url(url)
        super().__init__(changed)
        self._found: Found | None = None

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
    def no_gpu(self) -> str:
        return "" if urlsplit(self.url).hostname in LOOPBACK else "the engine may be on another machine"

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

    def tune(self, knobs: EngineKnobs) -> None:
        raise EngineError("Somebody else started this engine.")

    async def start(self) -> None:
        try:
            self._found = await asyncio.to_thread(probe, self.url, key=engine_key())
        except EngineError as error:
            self.fail(str(error))
            return
        self.url = self._found.url
        self.phase = "ready"
        self._changed(f"attached to {self.url}")

    async def restart(self, kind: KindName) -> None:
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
        self._child = Supervisor("engine", self._log, self._died, self._lost, mark=str(paths.pidfile))
        self._start = Start(FIRST, time.monotonic())
        self._follower = LogFollower(self._log, from_end=True)
        self._following: asyncio.Task[None] | None = None
        self._variables: Mapping[str, str] = {}
        """Of the latest start."""
        self._roles: dict[int, str] = {}
        self._memory: list[gpu_memory.DeviceMemory] = []
        """Before the latest start."""
        self._ready_at: float | None = None
        self._deaths = Row()
        self._again_at: float | None = None
        self._recovery: asyncio.Task[None] | None = None

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
    def comes_back(self) -> bool:
        return self._again_at is not None or (self.phase == "ready" and self._settings.restart)

    @property
    def pids(self) -> dict[str, int]:
        """`engine`, and what it begot: `engine core`, `engine worker`, .. numbered where there are several."""
        found = {"engine": self._child.pid} if self._child.pid is not None else {}
        for process in self._child.descendants:
            name = f"engine {self._role(process)}"
            number = sum(one == name or one.startswith(f"{name} ") for one in found)
            found[f"{name} {number + 1}" if number else name] = process.pid
        return found

    def _role(self, process: psutil.Process) -> str:
        role = self._roles.get(process.pid, OTHER)
        if role == OTHER:  # or not told yet: a child has its parent's command line at first
            with contextlib.suppress(psutil.Error):
                role = self._roles[process.pid] = role_of(process.cmdline(), process.ppid() == self._child.pid)
        return _NAMES[role]

    @property
    def measured_pid(self) -> int | None:
        return self._child.pid

    def facts(self, now: float) -> Engine:
        plan, model, machine = self._plan, self._model, self._machine
        figures = self._start.figures
        return Engine(
            phase=self.phase,
            error=self._error,
            again_in_s=None if self._again_at is None else max(0.0, self._again_at - now),
            model=model.display if model is not None else self._settings.model,
            model_kind=model.kind if model is not None else "",
            revision=model.revision if model is not None else "",
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
            start=self._start.seen(now, ready=self.phase == "ready"),
            log_tail=list(self._start.tail),
            knobs=self._settings.knobs,
        )

    def first_token(self, at: float) -> None:
        if self.phase == "ready":
            self._start.first_token(at)

    def fail(self, why: str) -> None:
        self._start.ended = time.monotonic()
        self._again_at = None
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
        await self._let_be()
        self._start = Start(FIRST, time.monotonic())
        self._start.lead(PREPARATION, self._start.began)
        self._to("preparing")
        try:
            await asyncio.to_thread(cold.drop_caches, self._paths.state)
            self._machine = await asyncio.to_thread(find_machine)
            self._environment = await asyncio.to_thread(find_environment, self._settings, self._paths)
            self._model = await asyncio.to_thread(
                prepare, self._settings, self._environment, self._paths, self._note_preparation
            )
            self._plan = self._planned(self._machine, self._environment, self._model)
            self.url = self._plan.url
            await self._launch(self._plan, {})
        except EngineMissingError as error:
            self._to("no_engine", str(error))
        except (EngineError, OSError) as error:
            self.fail(str(error))

    async def restart(self, kind: KindName) -> None:
        """New processes, and what else this kind makes cold. What cannot be made cold is said, and nothing is stopped."""
        if self._plan is None or self._model is None or self._environment is None or self._machine is None:
            await self.start()
            return
        weights: list[Path] = []
        try:
            if kind == "disk":
                if self._model.made_up:
                    self._model = await asyncio.to_thread(
                        save_shape, self._model.display, self._paths, self._note_saving
                    )
                    self._plan = self._planned(self._machine, self._environment, self._model)
                folder = await asyncio.to_thread(weights_folder, self._model, self._environment)
                weights = cold.weight_files(folder)
                if not weights:
                    raise EngineError(f"there are no files of weights in {folder}.")
        except (EngineError, OSError) as error:
            self._start.note = ""
            self._changed(f"no disk-cold restart: {error}")
            return
        await self._let_be()
        self._unfollow()
        self._start = Start(KINDS[kind], time.monotonic())
        self._start.lead(STOP, self._start.began)
        self._start.compare(self._earlier(self._plan))
        self._to("stopping")
        try:
            await self._child.stop()
            if kind != "process":
                self._start.lead(CLEAR, time.monotonic())
            variables = await asyncio.to_thread(self._clear, kind, weights)
            await self._launch(self._plan, variables)
        except (EngineError, OSError) as error:
            self.fail(str(error))

    async def stop(self) -> None:
        """End the whole tree; returns when it is verified gone. One that still starts can lose SIGTERM: it gets less time."""
        grace_s = GRACE_S if self.phase == "ready" else STARTING_GRACE_S
        await self._let_be()
        self._to("stopping")
        await self._child.stop(grace_s)
        self._unfollow()
        await asyncio.to_thread(cold.drop_caches, self._paths.state)
        self._to("down", "The engine was stopped.")

    def _planned(self, machine: Machine, environment: EngineEnvironment, model: Model) -> LaunchPlan:
        return plan(environment, model, self._settings, machine, self._otlp_endpoint, os.environ)

    def _earlier(self, plan: LaunchPlan) -> Starts:
        """Starts with these arguments; our own span receiver has another port each time."""
        return Starts(self._paths.starts, [argument for argument in plan.argv if argument != self._otlp_endpoint])

    def _clear(self, kind: KindName, weights: list[Path]) -> dict[str, str]:
        """Make cold what this kind makes cold, the engine being gone; returns variables for the new one."""
        cold.drop_caches(self._paths.state)  # of a compile-cold start before this one
        if kind == "compile":
            return cold.fresh_caches(self._paths.state)
        if kind == "disk":
            self._start.note = cold.evict(weights).text
        return {}

    async def _launch(self, plan: LaunchPlan, variables: Mapping[str, str], port_within_s: float = 0.0) -> None:
        await self._free_port(port_within_s)
        self._unfollow()
        self._start.compare(self._earlier(plan))
        self._follower = LogFollower(self._log, from_end=True)
        self._roles, self._ready_at, self._variables = {}, None, variables
        if plan.device == "cuda":
            self._memory = await asyncio.to_thread(gpu_memory.read)
        log = self._start.spawned(time.monotonic())
        await self._child.start(plan.argv, {**plan.env, **variables})
        if plan.device == "cpu" and self._child.pid is not None:
            # Its engine core spins on a core of its own: the instruments must not wait for it. Its children inherit this.
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._child.pid).nice(CPU_NICE)
        self._again_at = None
        self._to("starting")
        self._following = asyncio.create_task(self._follow(self._start, log), name="engine log")
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
            ready = await self._child.wait_ready(lambda: self._answers(http), READY_TIMEOUT_S, POLL_S)
        for _ in range(round(HEAR_OUT_S / LOG_POLL_S)):  # /health can be quicker than the log's last line
            if not ready or log.finished or self._child.pid is None:
                break
            await asyncio.sleep(LOG_POLL_S)
        if self._child.pid is None:
            self._crashed(Death(self._child.returncode))
        elif ready:
            self._child.vital = self._indispensable(self._child.pid)
            now = self._ready_at = self._start.ended = time.monotonic()
            self._start.keep(now)
            self._to("ready", f"engine ready after {now - self._start.began:.0f} s ({self._start.kind.label})")
        else:
            self._unfollow()
            await self._child.stop()
            self.fail(f"The engine was not ready after {READY_TIMEOUT_S / 60:.0f} minutes.")

    async def _free_port(self, within_s: float) -> None:
        """Return once the engine's port is free. Raises EngineError, with who holds it, if it is not within so long."""
        deadline = time.monotonic() + within_s
        while (holder := port_in_use(self._settings.engine_host, self._settings.engine_port)) is not None:
            if time.monotonic() >= deadline:
                by = f" by {holder}" if holder else ""
                raise EngineError(f"Port {self._settings.engine_port} is in use{by}; free it or choose --engine-port.")
            await asyncio.sleep(POLL_S)

    @staticmethod
    def _indispensable(pid: int) -> list[psutil.Process]:
        found = roles(pid)
        vital = []
        for one in (*found.get(ENGINE_CORE, ()), *found.get(WORKER, ())):
            with contextlib.suppress(psutil.NoSuchProcess):
                vital.append(psutil.Process(one))
        return vital

    async def _follow(self, start: Start, log: ColdStartLog) -> None:
        """Take the log's lines as they come, for as long as the process lives."""
        while True:
            self._hear(start)
            await asyncio.to_thread(rotate, self._log)
            await asyncio.sleep(LOG_IDLE_S if log.finished else LOG_POLL_S)

    def _hear(self, start: Start) -> None:
        for line in self._follower.read():
            start.feed(line, time.monotonic())

    def _unfollow(self) -> None:
        """Read what is left, and no more."""
        if self._following is not None:
            self._following.cancel()
            self._following = None
            for line in self._follower.finish():
                self._start.feed(line, time.monotonic())

    async def _answers(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"{self.url}/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    # its end

    def _died(self, code: int) -> None:
        """Nobody asked for it: a crash, whatever the code. While it starts, `_launch` sees it."""
        if self.phase == "ready":
            self._crashed(Death(code, self._served_s))

    def _lost(self, process: psutil.Process) -> None:
        """Its server answers still, perhaps for long, and nothing will come of it."""
        if self.phase == "ready":
            self._crashed(Death(None, self._served_s), f"its {self._role(process)} ({process.pid}) is gone")

    @property
    def _served_s(self) -> float | None:
        return None if self._ready_at is None else time.monotonic() - self._ready_at

    def _crashed(self, death: Death, what: str = "") -> None:
        """Say so at once; the rest takes its time."""
        now = time.monotonic()
        decided = after(self._deaths, death)
        if not self._settings.restart:
            decided = Next(None, Row())
        self._deaths = Row() if decided.after_s is None else decided.row
        self._again_at = None if decided.after_s is None else now + decided.after_s
        self._start.ended = now
        self._hear(self._start)
        fatal = decided.after_s is None and death.served_s is None
        told = what or death.in_words
        self._to("failed" if fatal else "down", self._epitaph(death, told, decided))
        self._recovery = asyncio.create_task(self._come_back(death, told, decided, now), name="engine recovery")

    def _epitaph(self, death: Death, told: str, decided: Next) -> str:
        """The real error first where that is all there is; else what becomes of it."""
        failure = self._start.log.failure() if self._start.log is not None else None
        said = failure.text if failure is not None and (failure.said or death.served_s is None) else ""
        if death.served_s is None and decided.after_s is None:
            tries = f" It ended so {TRIES} times." if decided.row.unready >= TRIES else ""
            return f"{said or f'The engine ended before it was ready ({told}).'}{tries}"
        when = "by itself" if death.served_s is not None else "before it was ready"
        then = decided.in_words or "it is left as it is (--no-restart)"
        return f"The engine ended {when} ({told}); {then}. {said or '`spark-serve logs` tells more.'}"

    async def _come_back(self, death: Death, told: str, decided: Next, died: float) -> None:
        """Clear away what is left of it, then start it again if that was decided."""
        try:
            if self._settings.restart or death.served_s is None:
                await self._clear_away()
            self._unfollow()
            self._error = self._epitaph(death, told, decided)
            if decided.after_s is None or self._plan is None:
                return
            cleared = time.monotonic()
            await asyncio.sleep(died + decided.after_s - cleared)
            self._start = Start(AGAIN, died)
            self._start.lead(STOP, died)
            self._start.lead(PAUSE, cleared)
            await self._launch(self._plan, self._variables, PORT_FREE_S)
        except (EngineError, OSError) as error:
            self.fail(str(error))

    async def _clear_away(self) -> None:
        """Its tree verified gone and its GPU memory returned, or said who holds it. Raises SupervisorError."""
        dead = self._child.seen
        await self._child.stop(CRASH_GRACE_S)
        if self._plan is None or self._plan.device != "cuda":
            return
        began = time.monotonic()
        while True:
            now = await asyncio.to_thread(gpu_memory.read)
            still, took_s = gpu_memory.unreturned(now, self._memory, dead), time.monotonic() - began
            if not still or took_s >= MEMORY_BACK_S:
                break
            await asyncio.sleep(POLL_S)
        if still:
            self._changed(f"GPU memory is not returned after {took_s:.0f} s: {still}")
        elif used := gpu_memory.in_words(now):
            self._changed(f"GPU memory is returned after {took_s:.1f} s: {used}")

    async def _let_be(self) -> None:
        """No start of its own accord from here on, and a person's begins a new row of deaths."""
        self._deaths, self._again_at = Row(), None
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})

    def _to(self, phase: Phase, error: str = "") -> None:
        event = error
        if phase == "ready":
            error = ""
        self.phase, self._error = phase, error if phase in {"failed", "no_engine", "down"} else ""
        self._changed(event)

    # called from a thread that prepares

    def _note_preparation(self, text: str) -> None:
        self._start.lead(PREPARATION, time.monotonic(), text)

    def _note_saving(self, text: str) -> None:
        """The engine serves on meanwhile."""
        self._start.note = text


_NAMES = {API_SERVER: "API server", ENGINE_CORE: "core", WORKER: "worker", OTHER: "helper"}


def _configured(value: int | None) -> Value:
    return Value(v=value, src="config") if value is not None else Value(src="config", why="not known before the start")
