"""One pass over a run: snapshots in, the figures of the whole run out. What it keeps does not grow with their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from loadgen.capacity import Progress
from server.compare.progress import CompareProgress
from server.report.columns import engine_gpus, power_w
from server.report.series import Gauge, Growth, Tiles, Windowed
from server.report.stretches import Stretch, Stretches
from server.report.sums import MOST_KEYS, WINDOW_S, Judged, LastSeen, LittleCheck, Outage, Stages, Times
from server.report.text import count
from server.telemetry.aging import STALE_S
from server.telemetry.snapshot import ColdStart, Event, Quantiles, Snapshot, Value

HOLE_S = 5.0
"""Two snapshots further apart than this: nothing was written down in between."""
MOST_EVENTS = 100
"""So many of the first and of the last are kept."""
FIRST_LOOK_S = 5.0
"""A stack that is younger than this at the first snapshot has counted nothing before."""

READINGS: dict[str, Callable[[Snapshot], Value]] = {
    "people": lambda s: s.people.people,
    "slow": lambda s: s.people.slow,
    "flash": lambda s: s.people.flash,
    "in flight": lambda s: s.people.in_flight,
    "sent": lambda s: s.people.sent_per_s,
    "asked": lambda s: s.people.rate_asked_per_s,
    "send lag": lambda s: s.people.send_lag_ms,
    "start lag": lambda s: s.people.start_lag_ms,
    "load cpu": lambda s: s.people.cpu_share,
    "amplification": lambda s: s.people.amplification,
    "wasted": lambda s: s.people.wasted_share,
    "arrivals": lambda s: s.queue.arrivals_per_s,
    "gateway in flight": lambda s: s.queue.in_flight,
    "connections": lambda s: s.queue.connections,
    "buffered": lambda s: s.queue.buffered_bytes,
    "gateway cpu": lambda s: s.host.gateway_cpu_cores,
    "depth": lambda s: s.queue.depth,
    "oldest": lambda s: s.queue.oldest_s,
    "held": lambda s: s.queue.held,
    "fluidity": lambda s: s.feel.fluidity,
}
"""Taken from every snapshot that has them."""

AT_WORK: dict[str, Callable[[Snapshot], Value]] = {
    "running": lambda s: s.engine.running,
    "waiting": lambda s: s.engine.waiting,
    "kv": lambda s: s.engine.kv_usage,
    "tokens": lambda s: s.engine.generation_tokens_per_s,
    "prompt tokens": lambda s: s.engine.prompt_tokens_per_s,
    "tokens per step": lambda s: s.engine.tokens_per_step,
    "steps": lambda s: s.engine.steps_per_s,
    "prefix hits": lambda s: s.engine.prefix_hit_share,
    "front end": lambda s: s.engine.front_end_s,
    "engine cpu": lambda s: s.host.engine_cpu_cores,
}
"""Taken only while the engine had requests in its batch, so that idle time does not water them down."""

GPU = ("sm_active", "sm_occupancy", "tensor", "dram", "busy", "mfu", "mbu", "power_w", "temp_c", "sm_clock_mhz")

WINDOWS: dict[str, Callable[[Snapshot], Quantiles]] = {
    "ttft": lambda s: s.feel.ttft_s,
    "tpot": lambda s: s.feel.tpot_s,
    "gap": lambda s: s.feel.gap_s,
    "e2e": lambda s: s.feel.e2e_s,
    "wait": lambda s: s.queue.wait_s,
    "server ttft": lambda s: s.engine.ttft_s,
    "engine queue": lambda s: s.engine.queue_s,
    "prefill": lambda s: s.engine.prefill_s,
    "decode": lambda s: s.engine.decode_s,
}


class Tally:
    """Everything that a report says of a run, but for single requests."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Snapshot | None = None
        self.last: Snapshot | None = None
        self.ready: Snapshot | None = None
        """The latest one whose engine was ready."""
        self.gauges: dict[str, Gauge] = {}
        self.windows: dict[str, Windowed] = {name: Windowed() for name in WINDOWS}
        self.judged = Judged()
        self.stages = Stages()
        self.sent = Growth()
        self.outcomes = Growth()
        self.arrived = Growth()
        self.gateway = Growth()
        self.stretches = Stretches()
        self.words = Times()
        """Seconds for which each word stood."""
        self.limits = Times()
        self.tokens = 0.0
        """Generated, by the engine's rate over time: about right."""
        self.prompt_tokens = 0.0
        self.preemptions = 0.0
        self.work_s = 0.0
        """Seconds in which the engine had requests in its batch."""
        self.energy_j = 0.0
        """That the engine's GPUs took in those seconds, as far as they told."""
        self.energy_s = 0.0
        """For so many of those seconds they told."""
        self.devices = 0
        """GPUs that the engine used, at most."""
        self.settings: dict[str, list[str]] = {}
        """Values that a setting had, in order."""
        self.starts: dict[str, tuple[float, ColdStart]] = {}
        self.searches: list[LastSeen[Progress]] = []
        self.comparisons: list[LastSeen[CompareProgress]] = []
        self.events_first: list[Event] = []
        self.events_last: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.events = 0
        self.little: LittleCheck | None = None
        self.voids = Times()
        self.sources: dict[str, Outage] = {}
        self.holes: list[tuple[float, float]] = []
        """When, and how many seconds."""
        self.hole_s = 0.0
        self._tiles = Tiles(WINDOW_S, 0.0)
        self._event_at = float("-inf")
        self._disturbed_at = 0.0

    @property
    def begin(self) -> float:
        """Monotonic seconds."""
        return 0.0 if self.first is None else self.first.at

    @property
    def end(self) -> float:
        return 0.0 if self.last is None else self.last.at

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def add(self, snapshot: Snapshot) -> None:
        """Take the next snapshot."""
        if self.first is None:
            self._begin(snapshot)
        dt = 0.0 if self.last is None else max(0.0, snapshot.at - self.last.at)
        if dt > HOLE_S:
            self.hole_s += dt
            if len(self.holes) < MOST_KEYS:
                self.holes.append((snapshot.at - dt, dt))
            self._tiles.again(snapshot.at)
            self._disturbed_at = snapshot.at
            dt = 0.0
        self.count += 1
        self.last = snapshot
        if snapshot.engine.phase == "ready":
            self.ready = snapshot
        fresh = self._new_events(snapshot)
        self._count(snapshot)
        self._gauge(snapshot, dt)
        self._window(snapshot)
        self.stretches.add(snapshot, fresh, self.outcomes.grown or self.gateway.grown)
        self._doubt(snapshot, dt)
        self._setting(snapshot)
        self._search(snapshot)
        self._compared(snapshot)

    def _begin(self, snapshot: Snapshot) -> None:
        self.first = snapshot
        young = snapshot.uptime_s < FIRST_LOOK_S
        self.sent, self.outcomes = Growth(from_zero=young), Growth(from_zero=young)
        self.arrived, self.gateway = Growth(from_zero=young), Growth(from_zero=young)
        self._tiles.again(snapshot.at)
        self._disturbed_at = snapshot.at
        self.little = LittleCheck(snapshot.at)

    def _new_events(self, snapshot: Snapshot) -> list[Event]:
        floor = max(self._event_at, self.begin)
        fresh = [event for event in snapshot.events if event.at > floor]
        for event in fresh:
            self.events += 1
            if len(self.events_first) < MOST_EVENTS:
                self.events_first.append(event)
            else:
                self.events_last.append(event)
            self._event_at = event.at
            self._disturbed_at = event.at
        return fresh

    def _count(self, snapshot: Snapshot) -> None:
        people, queue = snapshot.people, snapshot.queue
        self.outcomes.look(people.outcomes)
        if people.outcomes:
            self.sent.look({"sent": people.sent_total})
        self.gateway.look(queue.outcomes)
        if queue.outcomes:
            self.arrived.look({"arrived": queue.arrived_total})

    def _gauge(self, snapshot: Snapshot, dt: float) -> None:
        engine = snapshot.engine
        for name, of in READINGS.items():
            self._read(name, of(snapshot), snapshot)
        running = engine.running
        if self._usable(running, snapshot) and running.v:
            self.work_s += dt
            self.devices = max(self.devices, len(engine_gpus(snapshot)))
            watts, age_s = power_w(snapshot)
            if watts is not None and age_s <= STALE_S:
                self.energy_j += watts * dt
                self.energy_s += dt
            for name, of in AT_WORK.items():
                self._read(name, of(snapshot), snapshot)
            for gpu in snapshot.gpus:
                for name in GPU:
                    self._read(f"gpu{gpu.index} {name}", getattr(gpu, name), snapshot)
        for gpu in snapshot.gpus:
            self._read(f"gpu{gpu.index} memory", gpu.mem_used_bytes, snapshot)
        self.tokens += _amount(engine.generation_tokens_per_s, dt)
        self.prompt_tokens += _amount(engine.prompt_tokens_per_s, dt)
        self.preemptions += _amount(engine.preemptions_per_min, dt / 60)

    def _read(self, name: str, value: Value, snapshot: Snapshot) -> None:
        if value.v is not None and self._usable(value, snapshot):
            gauge = self.gauges.get(name)
            if gauge is None:
                gauge = self.gauges[name] = Gauge()
            gauge.add(value.v, snapshot.at - value.age_s, value.window_s)

    def _usable(self, value: Value, snapshot: Snapshot) -> bool:
        """Fresh, and of this run alone."""
        return value.age_s <= STALE_S and (value.window_s or 0.0) <= snapshot.at - self.begin + 1.0

    def _window(self, snapshot: Snapshot) -> None:
        if not self._tiles.take(snapshot.at):
            return
        for name, of in WINDOWS.items():
            found = of(snapshot)
            if found.age_s <= STALE_S:
                self.windows[name].add(found, snapshot.at)
        self.judged.add(snapshot)
        self.stages.add(snapshot.breakdown)

    def _doubt(self, snapshot: Snapshot, dt: float) -> None:
        self.words.add(snapshot.verdict.word, dt)
        self.limits.add(snapshot.limit.split(":")[0].split("  ")[0].strip(), dt)
        if self.little is not None:
            self.little.add(snapshot, snapshot.at - self._disturbed_at)
        if snapshot.people.void:
            self.voids.add(snapshot.people.void, dt)
        ready = snapshot.engine.phase == "ready"
        for name, state in snapshot.sources.items():
            if name in {"engine", "health", "gateway", "trace"} and not ready:
                continue
            if name == "load" and snapshot.people.mode == "none":
                continue
            self.sources.setdefault(name, Outage()).add(state.ok, state.detail, dt)

    def _setting(self, snapshot: Snapshot) -> None:
        engine, queue = snapshot.engine, snapshot.queue
        for name, v in (
            ("policy", queue.policy if queue.max_in_flight.v is not None else ""),
            ("max in-flight", _plain(queue.max_in_flight)),
            ("max queue", _plain(queue.max_queue)),
            ("model", engine.model if engine.phase == "ready" else ""),
            ("version", engine.version if engine.phase == "ready" else ""),
            ("device", engine.device if engine.phase == "ready" else ""),
            ("max-num-seqs", _plain(engine.max_num_seqs)),
            ("max-num-batched-tokens", _plain(engine.max_num_batched_tokens)),
            ("max-model-len", _plain(engine.max_model_len)),
            ("KV cache tokens", _plain(engine.kv_tokens)),
            ("preset", snapshot.people.preset),
            ("arrivals", snapshot.people.arrivals),
            ("asks", "" if snapshot.people.profile is None else snapshot.people.profile.label),
        ):
            known = self.settings.setdefault(name, [])
            if v and (not known or known[-1] != v) and len(known) < MOST_KEYS:
                known.append(v)
        start = engine.start
        if start.finished and engine.phase == "ready":
            key = f"{start.kind} {start.elapsed_s:.3f}"
            if key in self.starts or len(self.starts) < MOST_KEYS:
                self.starts[key] = (self.starts.get(key, (snapshot.at, start))[0], start)

    def _search(self, snapshot: Snapshot) -> None:
        progress = snapshot.capacity
        if progress is None:
            return
        known = self.searches[-1] if self.searches else None
        if (
            known is None
            or progress.question != known.progress.question
            or progress.elapsed_s < known.progress.elapsed_s
        ):
            before = self.count == 1 and progress.answer is not None
            self.searches.append(LastSeen(progress, snapshot.at, before=before))
        elif known.progress.answer is None:
            known.progress, known.at = progress, snapshot.at

    def _compared(self, snapshot: Snapshot) -> None:
        progress = snapshot.comparison
        if progress is None:
            return
        known = self.comparisons[-1] if self.comparisons else None
        if known is None or progress.elapsed_s < known.progress.elapsed_s:
            before = self.count == 1 and progress.phase != "running"
            self.comparisons.append(LastSeen(progress, snapshot.at, before=before))
        elif known.progress.phase == "running":
            known.progress, known.at = progress, snapshot.at

    def closed_stretches(self) -> list[Stretch]:
        """From event to event, the last one up to the end of the run."""
        return self.stretches.close(self.end)


def _amount(rate: Value, dt: float) -> float:
    return 0.0 if rate.v is None or rate.age_s > STALE_S else rate.v * dt


def _plain(value: Value) -> str:
    return "" if value.v is None else count(value.v)
