"""Everything that is measured, brought together: scrapes and records in, one Snapshot a tick out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

import httpx
import msgspec

from loadgen.capacity import Progress
from loadgen.records import IntervalRecord, LoadRecord
from loadgen.slo import CHAT, Slo
from server.compare.progress import CompareProgress
from server.gateway.records import GapRecord, GatewayRecord, QueueRecord
from server.telemetry import gateway_series, limit_seen
from server.telemetry.aging import aged_readings, rounded, rounded_quantiles
from server.telemetry.dialects import Dialect
from server.telemetry.dialects.vllm import VllmDialect
from server.telemetry.experience import Experience
from server.telemetry.exposition import Scan, scan
from server.telemetry.gateway_series import GatewaySeries
from server.telemetry.gpu import GpuReader
from server.telemetry.gpu_series import GpuSeries
from server.telemetry.host import HostReader, Pids
from server.telemetry.join import EngineTimes, Join, breakdown
from server.telemetry.judged import judge_by
from server.telemetry.limit import HeldLimit, limit_of, settle
from server.telemetry.little import LittleWindow
from server.telemetry.load_series import GAP_S, NO_LOAD, LoadSeries
from server.telemetry.replicas import Engines, summed
from server.telemetry.scraper import TIMEOUT_S, ScrapeError, SourceLog, fetch, fetch_metrics
from server.telemetry.snapshot import (
    ActiveFault,
    Audience,
    Engine,
    Event,
    Feel,
    Host,
    JoinedRequest,
    People,
    Quantiles,
    Queue,
    Snapshot,
    SourceState,
    Value,
)
from server.telemetry.verdict import WINDOW_S, Evidence, Held, verdict
from server.telemetry.windows import HistogramWindow

EVENTS = 20


class Facts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the stack knows without measuring, at the moment of a snapshot."""

    engine: Engine
    """Phase, error, model, version, device, url, pid, argv, limits, start; its readings are left to the collector.
    `stage_times` is what the launch asked for and stands until requests show what is really had."""
    gateway_fault: str = ""
    """Why its process does not run; empty while it does."""
    gateway_url: str = ""
    policy: str = "fifo"
    in_flight_note: str = ""
    """What the gateway's max in-flight is worth, where it is a guess."""
    no_gpu: str = ""
    """Why this machine's GPUs are not the engine's; they are left out then."""
    events: list[Event] = []
    """Oldest first; the last 20 are kept."""
    read_only: str = ""
    recording_s: float | None = None
    seq: int = 0
    uptime_s: float = 0.0
    people: People = People()
    """What the people were asked to be: wanted, weights, extras, preset, arrivals, profile."""
    capacity: Progress | None = None
    comparison: CompareProgress | None = None
    faults: list[ActiveFault] = []
    audience: Audience = Audience()
    balance: str = ""
    """How the gateway chooses among endpoints; empty: there is one."""
    slots: list[int | None] = []
    """Of one rank at each endpoint, in their order; empty: `engine.max_num_seqs` at the only one."""


class Collector:
    """Owns every window. One event loop uses it; only the GPU's and the host's readings happen in a thread."""

    def __init__(
        self,
        *,
        slo: Slo = CHAT,
        dialect: Dialect | None = None,
        gpu: GpuReader | None = None,
        host: HostReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = 2 * TIMEOUT_S,
    ) -> None:
        self._slo = slo
        self._patience_s = patience_s
        self._readings: dict[str, asyncio.Task[None]] = {}
        self._dialect = dialect or VllmDialect()
        self._clock = clock
        self._client = httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S)
        self._gpu_reader = gpu or GpuReader()
        self._host_reader = host or HostReader()
        self._machine: asyncio.Task[None] | None = None
        self._gpus = GpuSeries()
        self._host: tuple[float, Host] | None = None
        self._engines = Engines()
        self._gateway = GatewaySeries()
        self._load = LoadSeries(slo)
        self._join = Join(judge=judge_by(slo))
        self._exact: str = ""
        self._by_client = Experience("load", slo)
        self._by_gateway = Experience("gateway", slo)
        self._gaps = HistogramWindow(GAP_S)
        """Between the tokens of others' requests, as the gateway sees them."""
        self._clients_inside = LittleWindow()
        self._gateway_inside = LittleWindow()
        self._held = Held(since=clock())
        self._sources = {name: SourceLog() for name in ("gateway", "nvml", "host")}
        self._times_at: float | None = None
        self._recent: deque[Snapshot] = deque()
        self._limit = HeldLimit()

    async def aclose(self) -> None:
        """Let go of connections and the GPU."""
        for reading in self._readings.values():
            reading.cancel()
        await asyncio.gather(*self._readings.values(), return_exceptions=True)
        if self._machine is not None:
            await asyncio.wait({self._machine}, timeout=TIMEOUT_S)
            if not self._machine.done():
                self._machine.cancel()  # the thread is stuck in the driver, which nobody can help
                with contextlib.suppress(asyncio.CancelledError):
                    await self._machine
            else:
                self._gpu_reader.close()
        await self._client.aclose()

    async def scrape(
        self, engine_url: str | None, gateway_url: str | None, pids: Pids | None = None, *, others: Sequence[str] = ()
    ) -> None:
        """Read every instrument once. What fails becomes a source's state, never an exception. One that takes longer than
        `patience_s` is waited for no longer: its reading counts when it comes, within a second, and it is not asked again
        before.

        None for a URL: there is nothing to ask (the engine is down or starting). `others`: further endpoints that serve as one
        with the first.
        """
        self._engines.name([engine_url or self._engines.endpoints[0].url, *others])
        readings: dict[str, Callable[[], Coroutine[None, None, None]]] = {
            "engine": partial(self._scrape_engine, 0, engine_url),
            "health": partial(self._scrape_health, 0, engine_url),
            "gateway": partial(self._scrape_gateway, gateway_url),
            "host": partial(self._read_machine, pids or {}),
        }
        for place, url in enumerate(others, 1):
            readings[f"engine {place}"] = partial(self._scrape_engine, place, url)
            readings[f"health {place}"] = partial(self._scrape_health, place, url)
        for name, read in readings.items():
            if name not in self._readings or self._readings[name].done():
                self._readings[name] = asyncio.create_task(self._guarded(name, read), name=f"reading {name}")
        await asyncio.wait(self._readings.values(), timeout=self._patience_s)

    async def _guarded(self, name: str, read: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await read()
        except Exception as error:
            self._log_of(name).bad(f"cannot be read ({type(error).__name__}: {error})"[:200])

    def _log_of(self, reading: str) -> SourceLog:
        name, _, place = reading.partition(" ")
        if name not in {"engine", "health"}:
            return self._sources[name]
        endpoint = self._engines.endpoints[int(place or 0)]
        return endpoint.metrics if name == "engine" else endpoint.health

    def on_gateway(self, record: GatewayRecord) -> None:
        now = self._clock()
        self._join.on_gateway(record, now)
        self._gateway.on_record(record)
        self._gateway_inside.on_finished(record.done, record.done - record.accepted)
        if record.engine_queue_s is not None:
            self._exact = "in-band"

    def on_line(self, record: QueueRecord) -> None:
        self._gateway.on_line(record)

    def on_gaps(self, record: GapRecord) -> None:
        if not self._load.busy(record.at):  # what our own people feel, they tell themselves
            self._gaps.add(record.at, record.gaps)

    def on_load(self, record: LoadRecord) -> None:
        now = self._clock()
        if isinstance(record, IntervalRecord):
            self._load.on_interval(record)
            self._by_client.watch(record.at)
            self._clients_inside.on_count(record.at, self._load.in_flight(now))
            return
        self._join.on_load(record, now)
        self._by_client.on_load(record)
        self._load.on_tokens(record.done, record.completion_tokens or record.chunks)
        self._clients_inside.on_finished(record.done, record.e2e_s)

    def on_load_ended(self, worker: int) -> None:
        """A load worker's process ended, and not because it was told to."""
        self._load.on_ended(worker)

    def on_engine_times(self, times: EngineTimes) -> None:
        self._times_at = self._clock()
        self._join.on_times(times, self._times_at)
        if self._exact != "in-band":
            self._exact = "otlp"

    def reset_engine(self) -> None:
        """Another engine process answers from here on: its windows begin anew."""
        for name in [name for name in self._readings if name.startswith(("engine", "health"))]:
            self._readings.pop(name).cancel()  # it asks the old one
        self._engines.reset()
        self._exact = ""

    def _gateway_gaps(self, now: float) -> Quantiles:
        seen_at = self._sources["gateway"].last_good
        return rounded_quantiles(
            self._gaps.quantiles(now, "gateway"), None if seen_at is None else max(0.0, now - seen_at)
        )

    def requests(self, limit: int = 2_000, since: float = -math.inf) -> list[JoinedRequest]:
        """The latest finished requests, oldest first; only those of which something became known after `since`."""
        return self._join.requests(limit, since)

    def snapshot(self, facts: Facts, now: float, wall: float) -> Snapshot:
        """Everything at this moment. `now` is the collector's clock."""
        load_runs = self._load.busy(now) or bool(self._by_client.judged(now)[2])
        self._join.expects_load = load_runs
        self._join.expects_times = self._exact == "otlp"
        if (gateway_at := self._sources["gateway"].last_good) is not None:
            self._by_gateway.watch(gateway_at)
        for parts in self._join.seal(now):
            if parts.load is None and parts.gateway is not None:
                self._by_gateway.on_gateway(parts.gateway, now)
        joined = self._join.within(WINDOW_S, now)
        series = self._engines.series(now)
        broken_down = breakdown(joined, WINDOW_S, series.stage_means(now))
        seen = self._exact or ("windowed" if broken_down.n else facts.engine.stage_times)
        healthy = self._engines.healthy
        engine = series.fill(msgspec.structs.replace(facts.engine, healthy=healthy, stage_times=seen), now)
        slots = facts.slots or [None if (own := engine.max_num_seqs.v) is None else round(own)]
        replicas = self._engines.replicas(now, slots, self._gateway.replicas, facts.balance)
        if replicas is not None:
            engine = summed(engine, replicas)
        experience = self._by_client if load_runs else self._by_gateway
        good, missed, _ = experience.judged(now)
        inside = self._gateway.inside(now) or 0.0
        gaps = self._load.gaps(now) if load_runs else self._gateway_gaps(now)
        bypassed = not load_runs and not inside and not broken_down.n and bool(engine.running.v or engine.ttft_s.n)
        if bypassed:
            broken_down = series.own_breakdown(now) or broken_down
        word, self._held = verdict(
            Evidence(
                now=now,
                phase=engine.phase,
                error=engine.error,
                good=good,
                due=good + missed + self._load.overdue(self._slo, now),
                inside=max(inside, self._load.in_flight(now)),
                running=engine.running.v or 0.0,
                heartbeat_age_s=engine.heartbeat_age_s,
                attached=engine.attached,
                silent_s=min(self._silent_s("engine", now), self._silent_s("health", now)),
                gateway_silent_s=self._silent_s("gateway", now),
                gateway_fault=facts.gateway_fault,
                bypassed=bypassed,
                src="load" if load_runs else "gateway",
            ),
            self._held,
        )
        feel = experience.feel(word.attainment, gaps, now)
        if load_runs:
            feel = _beside_server(feel, engine.ttft_s)
        if bypassed:
            feel = msgspec.structs.replace(
                feel, ttft_s=engine.ttft_s, gap_s=engine.itl_s, tokens_per_s=engine.generation_tokens_per_s
            )
        snapshot = Snapshot(
            seq=facts.seq,
            at=now,
            wall=wall,
            uptime_s=round(facts.uptime_s, 3),
            read_only=facts.read_only,
            recording_s=facts.recording_s,
            verdict=word,
            people=self._people(facts, now),
            queue=self._queue(facts, now),
            engine=engine,
            feel=feel,
            breakdown=broken_down,
            little=(self._clients_inside if load_runs else self._gateway_inside).read(now),
            gpus=[] if facts.no_gpu else self._gpus.gpus(engine, now),
            gpu_note=facts.no_gpu or self._gpus.note,
            host=Host() if self._host is None else aged_readings(self._host[1], at=self._host[0], now=now),
            capacity=facts.capacity,
            comparison=facts.comparison,
            faults=facts.faults,
            audience=facts.audience,
            replicas=replicas,
            events=facts.events[-EVENTS:],
            sources=self._states(now),
        )
        return self._with_limit(snapshot)

    def _with_limit(self, snapshot: Snapshot) -> Snapshot:
        """What holds the setup back, from this snapshot and those of the last seconds."""
        self._recent.append(snapshot)
        while self._recent[0].at < snapshot.at - limit_seen.WINDOW_S:
            self._recent.popleft()
        self._limit = settle(limit_of(self._recent), self._limit, snapshot.at)
        detail = self._limit.limit
        return msgspec.structs.replace(snapshot, limit=detail.phrase, limit_detail=detail)

    def _people(self, facts: Facts, now: float) -> People:
        """What is measured of the people, and what they were asked to be."""
        people = self._load.people(now)
        if people.mode == "none":
            return people
        wanted = facts.people
        return msgspec.structs.replace(
            people,
            wanted=wanted.wanted,
            weights=wanted.weights,
            extras=wanted.extras,
            preset=wanted.preset,
            arrivals=wanted.arrivals,
            profile=wanted.profile,
        )

    def _silent_s(self, source: str, now: float) -> float:
        """Seconds since it last answered; 0 before it ever did: then the phase has the word."""
        log = self._sources.get(source) or self._engines.log(source)
        return 0.0 if log.last_good is None or log.ok else now - log.last_good

    def _queue(self, facts: Facts, now: float) -> Queue:
        queue = self._gateway.queue(facts.gateway_url, facts.policy, now)
        if not facts.in_flight_note or queue.max_in_flight.v is None:
            return queue
        guess = msgspec.structs.replace(queue.max_in_flight, why=facts.in_flight_note)
        return msgspec.structs.replace(queue, max_in_flight=guess)

    def _states(self, now: float) -> dict[str, SourceState]:
        logs = {name: self._engines.log(name) for name in ("engine", "health")} | self._sources
        states = {name: log.state(now) for name, log in logs.items()}
        load = SourceLog(self._load.last_at(), self._load.active(now), "" if self._load.active(now) else NO_LOAD)
        states["load"] = load.state(now)
        if self._times_at is not None:
            states["trace"] = SourceLog(self._times_at, True, "").state(now)
        return states

    async def _scrape_engine(self, place: int, url: str | None) -> None:
        log = self._engines.endpoints[place].metrics
        if url is None:
            log.bad("no engine to ask")
            return
        try:
            text = await fetch_metrics(self._client, url)
        except ScrapeError as error:
            log.bad(str(error))
            return
        at = self._clock()
        page = scan(text, self._dialect.wanted)
        if not self._engines.add(place, at, page.trusted, self._dialect):
            log.bad(f"/metrics answers, but not with {self._dialect.name}'s metrics: another service?")
            return
        log.good(at, _left_out(page))

    async def _scrape_health(self, place: int, url: str | None) -> None:
        endpoint = self._engines.endpoints[place]
        log = endpoint.health
        if url is None:
            endpoint.healthy = None
            log.bad("no engine to ask")
            return
        try:
            status, _ = await fetch(self._client, url.rstrip("/") + "/health")
        except ScrapeError as error:
            endpoint.healthy = False
            log.bad(str(error))
            return
        endpoint.healthy = status == httpx.codes.OK
        if endpoint.healthy:
            log.good(self._clock())
        else:
            log.bad(f"/health answers HTTP {status}")

    async def _scrape_gateway(self, url: str | None) -> None:
        log = self._sources["gateway"]
        if url is None:
            log.bad("no gateway to ask")
            return
        try:
            page = scan(await fetch_metrics(self._client, url), gateway_series.WANTED)
        except ScrapeError as error:
            log.bad(str(error))
            return
        at = self._clock()
        if not page.trusted:
            log.bad("/metrics answers, but not with the gateway's metrics: another service?")
            return
        self._gateway.add(at, page.trusted)
        inside = self._gateway.inside(at)
        if inside is not None:
            self._gateway_inside.on_count(at, inside)
        log.good(at)

    async def _read_machine(self, pids: Pids) -> None:
        """GPU and host, in a thread. A call that hangs in a driver is left there and not joined by another."""
        if self._machine is None or self._machine.done():
            self._machine = asyncio.create_task(self._machine_reading(pids))
        await asyncio.wait({self._machine}, timeout=TIMEOUT_S)
        if not self._machine.done():
            self._sources["nvml"].bad(f"no answer in {TIMEOUT_S:.0f} s")
        elif (error := self._machine.exception()) is not None:
            self._sources["host"].bad(f"{type(error).__name__}: {error}")

    async def _machine_reading(self, pids: Pids) -> None:
        at = self._clock()
        self._host = (at, await asyncio.to_thread(self._host_reader.read, pids, at))
        self._sources["host"].good(at)
        at = self._clock()
        ours = self._host_reader.members("engine")
        reading = await asyncio.to_thread(self._gpu_reader.read, at, ours)
        self._gpus.add(reading)
        if reading.gpus:
            self._sources["nvml"].good(at)
        else:
            self._sources["nvml"].bad(reading.note)


def _left_out(page: Scan) -> str:
    """What of a page was not believed, in words; empty when all was."""
    if not page.spoiled:
        return ""
    lines, (first, *more) = sum(page.spoiled.values()), page.spoiled
    names = f"{first} and {len(more)} more" if more else first
    return (
        f"{lines} {'line is' if lines == 1 else 'lines are'} NaN, infinite, below zero or no sample: {names} left out"
    )


def _beside_server(feel: Feel, server: Quantiles) -> Feel:
    """The engine's mean TTFT beside the client's, and the gap. Both are means of about the same half minute; the engine
    counts a request at its first token, the client at its end."""
    if server.mean is None or feel.ttft_s.mean is None:
        why = server.why or feel.ttft_s.why or "not known"
        return msgspec.structs.replace(feel, server_ttft_s=Value(src="engine", why=why), ttft_gap_s=Value(why=why))
    gap_s = feel.ttft_s.mean - server.mean
    note = "client's mean less the engine's: connecting, our queue, the front end"
    return msgspec.structs.replace(
        feel,
        server_ttft_s=Value(
            v=rounded(server.mean), src="engine", age_s=server.age_s, n=server.n, window_s=server.window_s
        ),
        ttft_gap_s=Value(v=rounded(gap_s), src="load", n=feel.ttft_s.n, window_s=feel.ttft_s.window_s, why=note),
    )
