"""The daemon: brings engine, gateway, load and telemetry up, watches them, carries out commands, takes all of it down.

It owns every process it starts and no other. A console is a guest: losing one changes nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import psutil
from starlette.applications import Starlette

from loadgen import records as load
from loadgen.capacity import Progress
from loadgen.slo import PRESETS
from server import commands, leftovers, report, reporting, results
from server.audience import Gallery, actor
from server.child import KeptChild
from server.commands import Answer, Command
from server.compare.runner import Comparer
from server.config import Paths, SettingError, StackSettings
from server.control import Feed, application, bind, serve
from server.engine.cold import KINDS
from server.engine.errors import EngineError
from server.engine.launch import reachable
from server.engine.lifecycle import AttachedEngine, Lifecycle, OwnEngine
from server.engine.logfile import tail
from server.engine.processes import roles
from server.engine.replicas import AttachedReplicas
from server.faults.catalogue import MARK, FaultError
from server.faults.client import ClientEdge
from server.faults.host import HostEdge
from server.faults.kit import FaultKit
from server.faults.network import NetworkEdge
from server.faults.process import ProcessEdge
from server.gateway import records as gateway
from server.gateway.policy import Policy, PolicyChange
from server.holding import Before, Holding
from server.population import Change, Population
from server.search import CapacitySearch
from server.supervisor import become_subreaper
from server.telemetry.collector import Collector, Facts
from server.telemetry.host import Pids
from server.telemetry.interruption import Interruption
from server.telemetry.join import EngineTimes
from server.telemetry.otlp import OtlpReceiver
from server.telemetry.recording import Recorder, RecordingError
from server.telemetry.snapshot import Event, Snapshot
from server.watching import Watching

READ_ONLY = "Somebody else started this engine: it is only watched. --drive allows load."
NOT_OURS = "Somebody else started this engine; it cannot be restarted from here."
LOGS = ("engine", "gateway", "load", "stack", "console")
MARKS = {
    "burst": "b",
    "slow": "s",
    "abandoner": "a",
    "retrier": "t",
    "long": "l",
    "patient": "+",
    "flash": "f",
    "leaver": "a",
    "staller": "s",
    "people": "+",
    "load": "+",
    "restart": "c",
    "limits": "p",
    "policy": "p",
    "marker": "m",
    "capacity": "k",
    "compare": "v",
    "fault": MARK,
    "watchers": "w",
}
CHILD_STOP_S = 5.0
GATEWAY_START_S = 30.0
HOLD_MOST_S = 3600.0
GUESSED_SEQUENCES = 64
COMPARING = "A comparison runs and needs the stack as it is; stop it first (`spark-serve compare --stop`)."
SEARCHING = "A capacity search runs and needs the people as they are; stop it first."
GUESSED = "a guess: the engine's --max-num-seqs is not known"


class _Listening(msgspec.Struct, frozen=True, tag_field="type", tag="listening"):
    """The gateway's first line."""

    port: int


_gateway_lines = msgspec.json.Decoder(gateway.GatewayRecord | gateway.QueueRecord | gateway.GapRecord | _Listening)
_load_lines = msgspec.json.Decoder(load.LoadRecord)


class Stack:
    """One running stack."""

    def __init__(self, settings: StackSettings, paths: Paths) -> None:
        self.settings = settings
        self.paths = paths
        self._began = time.monotonic()
        self._feed = Feed(settings.interval_s)
        self._gallery = Gallery()
        self._watching = Watching(paths, self._gallery, self._app)
        if settings.slo not in PRESETS:
            raise SettingError(f"There is no SLO {settings.slo!r}; there are {', '.join(PRESETS)}.")
        self._collector = Collector(slo=PRESETS[settings.slo], patience_s=settings.interval_s / 2)
        self._events: deque[Event] = deque(maxlen=20)
        self._stopping = asyncio.Event()
        self._driving = settings.drive or settings.attach is None
        self._gateway = KeptChild(
            "gateway",
            self._gateway_argv,
            log=paths.logs / "gateway.log",
            on_line=self._gateway_line,
            on_ended=self._gateway_ended,
        )
        self._gateway_port = settings.gateway_port
        self._gateway_up = asyncio.Event()
        self._population: Population
        self._search: CapacitySearch
        self._comparer: Comparer
        self._imposed: Policy | None = None
        """A comparison's policy, which goes before whatever was told."""
        self._load_task: asyncio.Task[None] | None = None
        self._told = PolicyChange()
        """What a person has set on the running stack."""
        self._holding = Holding()
        self._budget_told: tuple[int | None, int | None] = (None, None)
        """The KV cache's size and the slots that the gateway knows of."""
        self._recorder: Recorder | None = None
        self._homework: str | None = None
        """What a report without a path also fills in."""
        self._seq = 0
        self._engine: Lifecycle
        self._restarting: asyncio.Task[None] | None = None
        self._interruption = Interruption(PRESETS[self.settings.slo], self._began)
        self._noted: dict[str, int] = {}
        self._detour: str | None = None
        """Where the gateway is to look for the engine, while the way there has a fault."""
        self._wire = NetworkEdge(
            paths.logs / "faults.log",
            targets={"engine": lambda: self._engine.url, "people": lambda: self._gateway_url},
            route={"engine": self._lead_to_engine, "people": self._lead_people},
        )
        self._host = HostEdge(lambda: self._gateway.pid, lambda: self._recorder)
        self._faults = FaultKit(
            {
                "client": ClientEdge(lambda: self._population),
                "network": self._wire,
                "process": ProcessEdge(self._pids_of),
                "host": self._host,
            },
            lambda kind, text: self._event(kind, text, MARKS[kind]),
        )

    # life

    async def run(self) -> int:
        """Live until told to go (a Down command, SIGTERM, SIGINT). Returns the exit code."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listener = bind(self.paths.socket)
        code = 0
        async with contextlib.AsyncExitStack() as cleanup:
            spans = await cleanup.enter_async_context(OtlpReceiver(self._engine_times))
            self._engine = self._make_engine(spans.endpoint)
            self._population = Population(
                self.settings,
                self.paths,
                self._engine,
                url=lambda: self._gateway_url,
                on_line=self._load_line,
                on_ended=self._worker_ended,
            )
            self._search = CapacitySearch(
                self._population, self._engine, seen=lambda: self._feed.latest, ended=self._search_ended
            )
            self._comparer = Comparer(self._population, self._engine, self, self.paths, seen=lambda: self._feed.latest)
            cleanup.push_async_callback(self._collector.aclose)
            self._note_pids()
            await cleanup.enter_async_context(serve(self._app(), listener))
            cleanup.push_async_callback(self._watching.close)
            if self.settings.watchers:
                await self._watchers(commands.Watchers(self.settings.watchers))
            ticker = asyncio.create_task(self._tick(), name="tick")
            engine = asyncio.create_task(self._bring_up(), name="engine")
            stopped = asyncio.create_task(self._stopping.wait(), name="stopping")
            try:
                await asyncio.wait({ticker, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if ticker.done():
                    code = 1
                    _say(f"the measuring loop ended: {ticker.exception()!r}")
            finally:
                for task in (engine, self._restarting, self._load_task, self._search.task, self._comparer.task):
                    if task is not None:
                        task.cancel()
                        with contextlib.suppress(asyncio.CancelledError, Exception):
                            await task
                await self._try(self._faults.close())
                await self._take_down()
                ticker.cancel()
                stopped.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await ticker
                await self._feed.close()
        self.paths.pidfile.unlink(missing_ok=True)
        return code

    def _make_engine(self, otlp_endpoint: str) -> Lifecycle:
        changed = self._engine_changed
        if self.settings.attach is not None and self.settings.replicas:
            return AttachedReplicas([self.settings.attach, *self.settings.replicas], changed)
        if self.settings.attach is not None:
            return AttachedEngine(self.settings.attach, changed)
        return OwnEngine(self.settings, self.paths, otlp_endpoint, changed)

    def _app(self, cleared: Callable[[bytes], bytes] | None = None) -> Starlette:
        return application(
            self._feed,
            self.execute,
            self._collector.requests,
            self._log_tail,
            gallery=self._gallery,
            cleared=cleared,
        )

    async def _bring_up(self) -> None:
        try:
            if self.settings.record is not None:
                answer = self._record(commands.Record(path=self.settings.record))
                if not answer.ok:
                    self._event("record", answer.message, "x")
            await self._gateway.start()
            async with asyncio.timeout(GATEWAY_START_S):
                await self._gateway_up.wait()
            await self._engine.start()
        except TimeoutError:
            self._engine.fail("The gateway does not come up; see `spark-serve logs gateway`.")
        except Exception as error:  # a failure here must reach the screen, not end the daemon
            _say(f"bring-up failed: {error!r}")
            self._event("died", f"bring-up failed: {error}", "x")
            self._engine.fail(str(error))

    async def _take_down(self) -> None:
        """Load first, then the engine, then the gateway that tells how its requests ended. A step that fails stops no other."""
        await self._try(self._population.stop(CHILD_STOP_S))
        await self._try(self._engine.stop())
        await self._try(self._gateway.stop(CHILD_STOP_S))
        await self._try(self._wire.close())
        if self._recorder is not None:
            self._recorder.close()
        for process in psutil.Process().children(recursive=True):  # a conversion that was under way
            with contextlib.suppress(psutil.Error):
                process.kill()

    async def _try(self, step: Awaitable[object]) -> None:
        try:
            await step
        except Exception as error:
            _say(f"while taking down: {error!r}")

    # children

    def _gateway_argv(self) -> list[str]:
        state = "ready" if self._engine.phase == "ready" else "starting"
        return [
            *(sys.executable, "-m", "server.gateway", "--host", self.settings.gateway_host),
            *("--port", str(self._gateway_port), "--engine-state", state),
            *("--policy", msgspec.json.encode(self._whole_policy()).decode()),
            *(part for url in (self._way_to_engine, *self._others) for part in ("--engine-url", url)),
            *("--balance", self.settings.balance),
        ]

    def _gateway_ended(self, what: str) -> None:
        self._gateway_up.clear()
        self._child_ended(what, "gateway")

    @property
    def _max_in_flight(self) -> int:
        """The engine's slots unless told otherwise: then the waiting happens where the policy is."""
        return self._told.max_in_flight or self.settings.max_in_flight or self._slots or GUESSED_SEQUENCES

    @property
    def _slots(self) -> int | None:
        """The engine's; of replicas, which ranks there are is seen in their figures alone."""
        latest = self._feed.latest
        if latest is not None and latest.replicas is not None and latest.engine.max_num_seqs.v:
            return round(latest.engine.max_num_seqs.v)
        return self._engine.max_num_seqs

    @property
    def _max_queue(self) -> int:
        for told in (self._told.max_queue, self.settings.max_queue):
            if told is not None:
                return told
        return max(256, 4 * self._max_in_flight)

    def _gateway_line(self, line: bytes) -> None:
        try:
            record = _gateway_lines.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _say(f"gateway wrote a line that is no record: {error}")
            return
        if isinstance(record, _Listening):
            self._gateway_port = record.port
            self._gateway_up.set()
            self._wire.moved()
            self._tell_gateway()
            self._note_pids()
            return
        if isinstance(record, gateway.QueueRecord):
            self._collector.on_line(record)
            return
        if isinstance(record, gateway.GapRecord):
            self._collector.on_gaps(record)
            return
        if record.first_token is not None:
            self._engine.first_token(record.first_token)
        self._collector.on_gateway(record)
        self._interruption.on_gateway(record)
        self._comparer.on_gateway(record)
        self._keep_part(line)

    def _engine_times(self, times: EngineTimes) -> None:
        self._collector.on_engine_times(times)
        if self._recorder is not None:
            self._keep_part(msgspec.json.encode(times))

    def _load_line(self, line: bytes) -> None:
        try:
            record = _load_lines.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _say(f"load wrote a line that is no record: {error}")
            return
        self._collector.on_load(record)
        self._interruption.on_load(record)
        self._search.on_record(record)
        self._comparer.on_load(record)
        if isinstance(record, load.RequestRecord):
            self._keep_part(line)

    def _worker_ended(self, index: int, what: str) -> None:
        self._collector.on_load_ended(index)
        self._child_ended(what, "load")

    def _child_ended(self, what: str, log: str) -> None:
        _say(what)
        self._event("died", f"{what}; see `spark-serve logs {log}`", "x")

    @property
    def _gateway_url(self) -> str:
        return f"http://{reachable(self.settings.gateway_host)}:{self._gateway_port}"

    def _engine_changed(self, what: str) -> None:
        """The engine moved to another phase: tell the gateway, and the charts."""
        self._tell_gateway()
        if self._engine.phase == "stopping" or (self._engine.phase == "down" and self._interruption.over):
            self._interruption = Interruption(PRESETS[self.settings.slo], time.monotonic())
        if self._engine.phase == "ready":
            self._interruption.end(time.monotonic())
            self._collector.reset_engine()
            self._want_load()
        if what:
            self._event("engine", what, "e")
        self._note_pids()

    def _tell_gateway(self) -> None:
        """While the engine comes back people wait in the queue; when nobody knows of a way back they are refused."""
        phase = self._engine.phase
        ready, starting = phase == "ready", phase in {"preparing", "starting", "stopping"}
        state: gateway.EngineState = "ready" if ready else "starting" if starting else "down"
        self._send_policy()
        hold = starting or self._engine.comes_back
        way = self._way_to_engine if ready else None
        urls = [way, *self._others] if way is not None and self._others else []
        self._gateway.send(gateway.SetEngine(state, way, hold, urls))

    @property
    def _others(self) -> list[str]:
        """Further endpoints, beside the engine's first."""
        return self._engine.urls[1:] if isinstance(self._engine, AttachedReplicas) else []

    @property
    def _way_to_engine(self) -> str:
        return self._detour or self._engine.url

    def _lead_to_engine(self, detour: str | None) -> None:
        self._detour = detour
        self._tell_gateway()

    def _lead_people(self, detour: str | None) -> None:
        self._population.retarget(detour)

    def _pids_of(self, role: str) -> list[int]:
        """Our processes that have this role, for a fault. Raises FaultError."""
        if role == "gateway":
            return [self._gateway.pid] if self._gateway.pid else []
        if role == "load":
            return self._population.pids
        if self._engine.attached:
            raise FaultError("Somebody else started this engine; its processes are left alone.")
        root = self._engine.measured_pid
        return roles(root).get(role, []) if root else []

    def _want_load(self) -> None:
        if self._driving and self._load_task is None:
            self._load_task = asyncio.create_task(self._start_load(), name="load")

    async def _start_load(self) -> None:
        """Once the model's name is known; the workers outlive engine restarts."""
        await self._gateway_up.wait()
        await self._population.start()
        self._note_pids()

    def _note_pids(self) -> None:
        """What a crash of ours must not leave behind unknown; written when it changes."""
        processes = {"stack": os.getpid(), **self._engine.pids}
        processes.update({child.name: child.pid for child in (self._gateway, *self._population.workers) if child.pid})
        if processes == self._noted:
            return
        self._noted = processes
        try:
            leftovers.note(self.paths.pidfile, processes)
        except OSError as error:
            _say(f"the pid file cannot be written: {error}")

    # telemetry

    async def _tick(self) -> None:
        """One snapshot an interval; a slow scrape skips ticks rather than piling them up."""
        due = time.monotonic()
        while True:
            try:
                await self._measure()
            except Exception as error:
                _say(f"a tick failed: {error!r}")
            due = max(due + self.settings.interval_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _measure(self) -> None:
        engine_url = self._engine.url if self._engine.scrapes else None
        gateway_url = self._gateway_url if self._gateway_up.is_set() else None
        await self._collector.scrape(engine_url, gateway_url, self._pids(), others=self._others)
        self._seq += 1
        snapshot = self._collector.snapshot(self._facts(), time.monotonic(), time.time())
        felt = msgspec.structs.replace(snapshot.engine.start, meanwhile=self._interruption.read(snapshot.queue))
        snapshot = msgspec.structs.replace(snapshot, engine=msgspec.structs.replace(snapshot.engine, start=felt))
        await self._feed.publish(snapshot)
        self._write(snapshot)
        self._note_pids()
        if (self._kv_tokens(), self._slots) != self._budget_told:
            self._send_policy()
        await self._put_back_what_lapsed()

    def _write(self, snapshot: Snapshot) -> None:
        if self._recorder is not None:
            self._keep(partial(self._recorder.write, snapshot))

    def _keep_part(self, line: bytes) -> None:
        """What somebody saw of one request goes beside the recording."""
        if self._recorder is not None:
            self._keep(partial(self._recorder.write_request, line))

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            assert self._recorder is not None
            self._event("record", f"recording ended: {error.strerror}", "x")
            self._recorder.close()
            self._recorder = None

    def _pids(self) -> Pids:
        engine, gateway_pid = self._engine.measured_pid, self._gateway.pid
        engines = (
            self._engine.measured_pids if isinstance(self._engine, AttachedReplicas) else [engine] if engine else []
        )
        return {
            "engine": engines,
            "gateway": [gateway_pid] if gateway_pid else [],
            "load": self._population.pids,
            "stack": [os.getpid()],
        }

    def _facts(self) -> Facts:
        return Facts(
            seq=self._seq,
            uptime_s=time.monotonic() - self._began,
            read_only="" if self._driving else READ_ONLY,
            recording_s=self._recorder.recorded_s if self._recorder is not None else None,
            engine=self._engine.facts(time.monotonic()),
            gateway_fault=self._gateway.fault,
            gateway_url=self._gateway_url if self._gateway_up.is_set() else "",
            no_gpu=self._engine.no_gpu,
            in_flight_note="" if self._told_in_flight else GUESSED,
            events=list(self._events),
            people=self._population.wanted,
            capacity=self._search.progress,
            comparison=self._comparer.progress,
            faults=self._faults.active(time.monotonic()),
            audience=self._gallery.seen(),
            balance=self.settings.balance if self._others else "",
            slots=self._engine.slots if isinstance(self._engine, AttachedReplicas) else [],
        )

    @property
    def _told_in_flight(self) -> bool:
        return bool(self._told.max_in_flight or self.settings.max_in_flight or self._slots)

    def _event(self, kind: str, text: str, mark: str) -> None:
        who = actor() if kind in MARKS else ""
        self._events.append(Event(at=time.monotonic(), wall=time.time(), kind=kind, text=text, mark=mark, who=who))

    def _log_tail(self, child: str, lines: int) -> list[str] | None:
        path = self.paths.logs / f"{child}.log"
        if child not in LOGS or not path.exists():
            return None
        return tail(path, lines)

    # commands

    async def execute(self, command: Command) -> Answer:
        """Carry out one command. Refusals say why in a sentence."""
        if self._stopping.is_set() and not isinstance(command, commands.Down):
            return Answer(ok=False, message="The stack is going down.")
        if isinstance(command, commands.Down):
            self._stopping.set()
            return Answer(ok=True, message="Going down.")
        if isinstance(command, commands.Marker):
            return self._done("marker", command.note or "marker")
        if isinstance(command, commands.Record):
            return self._record(command)
        if isinstance(command, commands.Watchers):
            return await self._watchers(command)
        if isinstance(command, commands.Limits | commands.Policy) and self._imposed is not None:
            return Answer(ok=False, message=COMPARING)
        if isinstance(command, commands.Limits | commands.Policy) and not self._driving:
            return Answer(ok=False, message=READ_ONLY)
        if isinstance(command, commands.Limits):
            return self._limits(command)
        if isinstance(command, commands.Policy):
            return self._change_policy("policy", command)
        if isinstance(command, commands.Knobs):
            return self._turn_knobs(command)
        if isinstance(command, commands.Drive):
            return self._drive(command)
        if isinstance(command, commands.Restart):
            return self._restart(command)
        if isinstance(command, commands.Report):
            return await self._report(command)
        if isinstance(command, commands.Homework):
            self._homework = command.path
            return Answer(ok=True, message=f"A report fills in {command.path}." if command.path else "No homework.")
        if isinstance(command, commands.Unfault):
            return self._marked(await self._faults.stop(command.name))
        if not self._driving:
            return Answer(ok=False, message=READ_ONLY)
        if isinstance(command, commands.Fault):
            return await self._provoke(command)
        if why := self._population.why_not:
            return Answer(ok=False, message=why)
        if isinstance(command, commands.Capacity):
            if self._comparer.running:
                return Answer(ok=False, message=COMPARING)
            return self._marked(self._search.change(command, PRESETS[self.settings.slo]))
        if isinstance(command, commands.Hold):
            return await self._hold(command)
        if self._search.running:
            return Answer(ok=False, message=SEARCHING)
        if isinstance(command, commands.Compare):
            return self._marked(self._comparer.change(command))
        if self._comparer.running:
            return Answer(ok=False, message=COMPARING)
        return self._marked(self._population.change(command))

    async def _provoke(self, command: commands.Fault) -> Answer:
        if self._search.running or self._comparer.running:
            return Answer(ok=False, message=SEARCHING if self._search.running else COMPARING)
        return self._marked(await self._faults.begin(command.name, command.settings, command.seconds))

    async def _hold(self, command: commands.Hold) -> Answer:
        """Keep people and policy, or put them back; a capacity search that still runs is stopped before."""
        if self._comparer.running:
            return Answer(ok=False, message=COMPARING)
        if not command.on:
            return await self._put_back()
        if not 5 <= command.for_s <= HOLD_MOST_S:
            return Answer(ok=False, message=f"People and policy are kept for 5 to {HOLD_MOST_S:g} s.")
        before = Before(self._population.hold(), self._told)
        kept = self._holding.hold(before, time.monotonic() + command.for_s)
        return Answer(ok=True, message="People and policy are kept to come back to." if kept else "Kept for longer.")

    async def _put_back_what_lapsed(self) -> None:
        """Whoever held it has gone without a word. What measures is not disturbed."""
        if self._holding.lapsed(time.monotonic()) and not (self._search.running or self._comparer.running):
            await self._put_back()

    async def _put_back(self) -> Answer:
        before = self._holding.release()
        if before is None:
            return Answer(ok=True, message="People and policy are as they were.")
        if self._search.running and self._search.task is not None:
            self._search.change(commands.Capacity(on=False), PRESETS[self.settings.slo])
            await asyncio.wait({self._search.task}, timeout=CHILD_STOP_S)
        self._told = before.told
        self._send_policy()
        self._population.release(before.people)
        return self._done("load", "people and policy as they were before")

    def _marked(self, outcome: Change) -> Answer:
        """What became of a change of the load, on the charts if it was one."""
        if outcome.kind:
            return self._done(outcome.kind, outcome.text)
        return Answer(ok=outcome.ok, message=f"{outcome.text[:1].upper()}{outcome.text[1:]}")

    def _search_ended(self, progress: Progress) -> None:
        answer = progress.answer
        text = progress.message if answer is None else answer.sentence
        self._event("capacity", text or "the capacity search ended", MARKS["capacity"])
        if answer is None or self._feed.latest is None:
            return
        try:
            results.save(self.paths.capacities, progress, results.About.of(self._feed.latest))
        except (OSError, results.ResultError) as error:
            self._event("capacity", f"the search was not saved: {error}", "x")

    async def _report(self, command: commands.Report) -> Answer:
        """Of the recording that runs, else of the last minutes."""
        recorded, lines = None, b""
        if self._recorder is not None:
            self._recorder.flush()
            recorded = self._recorder.path
        else:
            lines = b"".join(self._feed.history(10_000))
        try:
            order = reporting.order_of(
                command, folder=self.paths.reports, wall=time.time(), recording=recorded, homework=self._homework
            )
            return Answer(ok=True, message=await reporting.write(order, lines))
        except (OSError, report.ReportError) as failure:
            return Answer(ok=False, message=f"There is no report: {failure}")

    def _limits(self, command: commands.Limits) -> Answer:
        if command.max_in_flight is not None and command.max_in_flight < 1:
            return Answer(ok=False, message="max-in-flight must be at least 1.")
        change = PolicyChange(max_in_flight=command.max_in_flight, max_queue=command.max_queue)
        return self._change_policy("limits", change)

    def _change_policy(self, kind: str, change: PolicyChange) -> Answer:
        if self._gateway.pid is None:
            return Answer(ok=False, message="The gateway does not run.")
        if not change.said():
            return Answer(ok=False, message="Nothing of the policy was named.")
        told = change.over(self._told)
        try:
            if told.limit == "tokens" and self._policy(told).limit != "tokens":
                raise ValueError("the KV cache's size is not known yet: give a token budget")
            Policy().changed(self._policy(told))
        except ValueError as error:
            return Answer(ok=False, message=f"{str(error)[:1].upper()}{str(error)[1:]}.")
        self._told = told
        self._send_policy()
        return self._done(kind, f"policy {change.in_words()}" if kind == "policy" else change.in_words())

    def _policy(self, told: PolicyChange) -> PolicyChange:
        """What the gateway's policy has to be, as a change of its defaults. A budget that nobody gave is the KV cache's size;
        until that is known, places are all there is to go by."""
        bounds = PolicyChange(max_in_flight=self._max_in_flight, max_queue=self._max_queue)
        policy = told.over(self.settings.policy.over(bounds))
        if policy.limit != "tokens" or policy.token_budget:
            return policy
        budget = self._kv_tokens()
        if budget is None:
            return msgspec.structs.replace(policy, limit="in-flight", token_budget=None)
        return msgspec.structs.replace(policy, token_budget=budget)

    def _send_policy(self) -> None:
        self._budget_told = (self._kv_tokens(), self._slots)
        self._gateway.send(msgspec.convert(self._whole_policy().said(), gateway.SetPolicy))

    def _whole_policy(self) -> PolicyChange:
        """Every setting the gateway should have, so that one that nobody names any more comes back too."""
        return (self._imposed or Policy().drafted(self._policy(self._told))).whole()

    # what a comparison does to this stack

    def policy_in_force(self) -> Policy:
        """What was told, whatever is imposed."""
        return Policy().changed(self._policy(self._told))

    def impose(self, policy: Policy | None, why: str) -> None:
        self._imposed = policy
        self._send_policy()
        self._event("policy", why, MARKS["policy"])

    def note(self, text: str) -> None:
        self._event("compare", text, MARKS["compare"])

    def gateway_gone(self) -> bool:
        return self._gateway.pid is None

    def _kv_tokens(self) -> int | None:
        latest = self._feed.latest
        size = None if latest is None else latest.engine.kv_tokens.v
        return None if size is None or size < 1 else round(size)

    def _turn_knobs(self, command: commands.Knobs) -> Answer:
        """Restart the engine with other arguments, and say which."""
        if self._engine.attached:
            return Answer(ok=False, message=NOT_OURS)
        if self._engine.phase in {"preparing", "starting", "stopping"}:
            return Answer(ok=False, message=f"The engine is {self._engine.phase}; wait for it.")
        try:
            knobs = self.settings.knobs.changed(command)
            if knobs == self.settings.knobs:
                return Answer(ok=False, message="That changes nothing of the engine's scheduling.")
            self._engine.tune(knobs)
        except (ValueError, EngineError) as error:
            return Answer(ok=False, message=f"{str(error).rstrip('.')}.")
        self.settings = msgspec.structs.replace(self.settings, knobs=knobs)
        self._done("policy", f"engine {knobs.in_words()}")
        answer = self._restart(commands.Restart())
        if not answer.ok:
            return answer
        return Answer(ok=True, message=f"Cold restart ({KINDS['process'].label}) with {knobs.in_words()}.")

    def _restart(self, command: commands.Restart) -> Answer:
        if self._engine.attached:
            return Answer(ok=False, message=NOT_OURS)
        kind = next((kind for kind in KINDS.values() if kind.name == command.kind), None)
        if kind is None:
            return Answer(ok=False, message=f"There is no {command.kind!r} restart; the kinds are {', '.join(KINDS)}.")
        if self._engine.phase in {"preparing", "starting", "stopping"}:
            return Answer(ok=False, message=f"The engine is {self._engine.phase}; wait for it.")
        if self._restarting is not None and not self._restarting.done():
            return Answer(ok=False, message="A restart is being prepared; wait for it.")
        self._restarting = asyncio.create_task(self._engine.restart(kind.name), name="restart")
        done = self._done("restart", f"cold restart ({kind.label})")
        return Answer(ok=True, message=f"{done.message} Cold: {kind.clears}. Warm still: {kind.keeps}.")

    async def _watchers(self, command: commands.Watchers) -> Answer:
        """Let a group watch, or nobody any more."""
        if command.group is None:
            if not await self._watching.close():
                return Answer(ok=False, message="Nobody may watch as it is.")
            return self._done("watchers", "nobody may watch any more")
        try:
            path = await self._watching.let_in(command.group)
        except SettingError as error:
            self._event("watchers", str(error), "x")
            return Answer(ok=False, message=str(error))
        done = self._done("watchers", f"the group {command.group} may watch")
        return Answer(ok=True, message=f"{done.message} They open it with `spark-serve console --watch {path}`.")

    def _drive(self, command: commands.Drive) -> Answer:
        if not self._engine.attached:
            return Answer(ok=False, message="This engine is ours already.")
        if not command.confirmed:
            return Answer(ok=False, message=f"Confirm that load may be sent to {self._engine.url}.")
        self._driving = True
        if self._engine.phase == "ready":
            self._want_load()
        return self._done("marker", f"driving {self._engine.url}")

    def _record(self, command: commands.Record) -> Answer:
        if not command.on:
            if self._recorder is None:
                return Answer(ok=False, message="Nothing is being recorded.")
            path = self._recorder.path
            self._recorder.close()
            self._recorder = None
            return Answer(ok=True, message=f"Recorded into {path}.")
        if self._recorder is not None:
            return Answer(ok=False, message=f"Already recording into {self._recorder.path}.")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = Path(command.path) if command.path else self.paths.recordings / f"{stamp}.sparkrec"
        try:
            self._start_recording(path)
        except (OSError, RecordingError) as error:
            return Answer(ok=False, message=f"Cannot record into {path}: {error}.")
        return Answer(ok=True, message=f"Recording into {path}.")

    def _start_recording(self, path: Path) -> None:
        self._recorder = Recorder(path)
        self._host.fill(self._recorder)

    def _done(self, kind: str, text: str) -> Answer:
        self._event(kind, text, MARKS[kind])
        return Answer(ok=True, message=f"{text[:1].upper()}{text[1:]}.")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the daemon's log; a full disk must not stop the daemon
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)  # noqa: T201
