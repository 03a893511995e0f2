"""The last seconds of snapshots as the means that the rules of the limit stand on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from server.telemetry.snapshot import Engine, Gpu, Phase, Queue, Snapshot, Value

WINDOW_S = 5.0
"""Gauges jump from tick to tick and GPM's figures are of half a second, so a rule looks at this many seconds."""
FULL = 0.9
"""Share of slots (or places) from which on they count as full: between two requests a slot is free for an instant."""
BUDGET_FLAG = "--max-num-batched-tokens"


@dataclass(frozen=True, slots=True)
class SeenReplica:
    """One of several engines that answers. Means over the window."""

    name: str
    running: float
    waiting: float
    slots: float | None
    kv_peak: float | None
    preemptions_per_min: float | None
    heartbeat_age_s: float | None

    @property
    def load(self) -> float:
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Seen:
    """Means over the window, but where it says otherwise. None: not known at all."""

    window_s: float
    phase: Phase
    error: str
    mode: str
    """The load's: closed, open, none."""
    people: float | None
    slow: float | None
    thinking: float | None
    asked: float | None
    """Requests that our people have under way."""
    unread: float | None
    """Requests under way that the engine is done with: their clients have yet to read them."""
    arrivals_per_s: float | None
    depth: float | None
    admitted: float | None
    """The gateway's in flight."""
    max_in_flight: float | None
    held_back: float
    """Share of the window in which somebody waited at the gateway though it had places free."""
    capped: float
    """Share of the window in which every slot was taken and somebody waited, at the gateway or in the engine."""
    running: float | None
    waiting: float | None
    slots: float | None
    """--max-num-seqs."""
    kv: float | None
    kv_peak: float | None
    """The maximum over the window."""
    preemptions_per_min: float | None
    step_tokens: float | None
    budget: float | None
    """--max-num-batched-tokens."""
    heartbeat_age_s: float | None
    front_end_s: float | None
    upstream_s: float | None
    """Front end, engine queue, prefill and decode of a mean request together."""
    on_gpu: bool
    """A GPU is read, and it is the engine's."""
    no_gpu: str
    """Why there is none."""
    tensor: float | None
    """While requests ran, as `dram`: what binds the work is the question, not how much of it there is."""
    dram: float | None
    mfu: float | None
    mbu: float | None
    busy: float | None
    power_w: float | None
    power_limit_w: float | None
    slowed_by: tuple[str, ...]
    replicas: tuple[SeenReplica, ...] = ()
    """Where there are several; the figures above are their sum."""

    @property
    def compute(self) -> tuple[str, float] | None:
        """How much of its arithmetic the device did, and by what account: GPM's, else the engine's estimate."""
        return _first(("tensor", self.tensor), ("MFU", self.mfu))

    @property
    def memory(self) -> tuple[str, float] | None:
        """The same of its memory bandwidth."""
        return _first(("HBM", self.dram), ("MBU", self.mbu))


def see(snapshots: Sequence[Snapshot]) -> Seen:
    """The window that ends with the last of `snapshots` (at least one); older ones are left out.

    Snapshots of another phase than the last one's do not count: a start is no load. The engine's own rates and means
    (preemptions, tokens a step, stages, MFU, MBU) have windows of their own and are the last one's.
    """
    last = snapshots[-1]
    begin = last.at - WINDOW_S
    window = [s for s in snapshots if begin <= s.at <= last.at and s.engine.phase == last.engine.phase]

    def mean(of: Callable[[Snapshot], Value]) -> float | None:
        return _mean(of(s).v for s in window)

    def of_gpu(of: Callable[[Gpu], Value], *, at_work: bool = False) -> float | None:
        """Over the devices that the engine uses and the window, or that part of it in which requests ran."""
        return _mean(of(gpu).v for s in window if s.engine.running.v or not at_work for gpu in _engines(s.gpus))

    stages = {stage.name: stage.mean_s for stage in last.breakdown.stages}
    parts = [stages.get(name) for name in ("front end", "engine queue", "prefill", "decode")]
    known = [part for part in parts if part is not None]
    engine, queue, people = last.engine, last.queue, last.people
    gpus = _engines(last.gpus)
    kv = [s.engine.kv_usage.v for s in window if s.engine.kv_usage.v is not None]
    return Seen(
        window_s=round(last.at - window[0].at, 3),
        phase=engine.phase,
        error=engine.error,
        mode=people.mode,
        people=people.people.v,
        slow=people.slow.v,
        thinking=mean(lambda s: s.people.thinking),
        asked=mean(lambda s: s.people.in_flight),
        unread=_mean(_unread(s) for s in window),
        arrivals_per_s=queue.arrivals_per_s.v,
        depth=mean(lambda s: s.queue.depth),
        admitted=mean(lambda s: s.queue.in_flight),
        max_in_flight=queue.max_in_flight.v,
        held_back=sum(_holds_back(s.queue) for s in window) / len(window),
        capped=sum(_capped(s) for s in window) / len(window),
        running=mean(lambda s: s.engine.running),
        waiting=mean(lambda s: s.engine.waiting),
        slots=engine.max_num_seqs.v,
        kv=_mean(kv),
        kv_peak=max(kv, default=None),
        preemptions_per_min=engine.preemptions_per_min.v,
        step_tokens=engine.tokens_per_step.v,
        budget=_budget(engine),
        heartbeat_age_s=engine.heartbeat_age_s,
        front_end_s=stages.get("front end"),
        upstream_s=math.fsum(known) if len(known) == len(parts) else None,
        on_gpu=bool(gpus),
        no_gpu=last.gpu_note or ("several GPUs: which of them the engine uses is not known" if last.gpus else ""),
        tensor=of_gpu(lambda gpu: gpu.tensor, at_work=True),
        dram=of_gpu(lambda gpu: gpu.dram, at_work=True),
        mfu=_mean(gpu.mfu.v for gpu in gpus),
        mbu=_mean(gpu.mbu.v for gpu in gpus),
        busy=of_gpu(lambda gpu: gpu.busy),
        power_w=of_gpu(lambda gpu: gpu.power_w),
        power_limit_w=of_gpu(lambda gpu: gpu.power_limit_w),
        slowed_by=tuple(dict.fromkeys(reason for gpu in gpus for reason in gpu.slowed_by or ())),
        replicas=_replicas(window),
    )


def _replicas(window: Sequence[Snapshot]) -> tuple[SeenReplica, ...]:
    """Those that answer now."""
    last = window[-1].replicas
    if last is None:
        return ()
    seen = []
    for member in last.members:
        if not member.answers or member.running.v is None:
            continue
        past = [one for s in window if s.replicas for one in s.replicas.members if one.name == member.name]
        kv = [one.kv_usage.v for one in past if one.kv_usage.v is not None]
        seen.append(
            SeenReplica(
                name=member.name,
                running=_mean(one.running.v for one in past) or 0.0,
                waiting=_mean(one.waiting.v for one in past) or 0.0,
                slots=member.max_num_seqs.v,
                kv_peak=max(kv, default=None),
                preemptions_per_min=member.preemptions_per_min.v,
                heartbeat_age_s=member.heartbeat_age_s,
            )
        )
    return tuple(seen)


def _holds_back(queue: Queue) -> bool:
    depth, admitted, places = queue.depth.v, queue.in_flight.v, queue.max_in_flight.v
    return bool(depth and admitted is not None and places is not None and admitted < FULL * places)


def _capped(snapshot: Snapshot) -> bool:
    engine, queue = snapshot.engine, snapshot.queue
    if engine.running.v is None or engine.max_num_seqs.v is None:
        return False
    inside = engine.waiting.v or 0.0
    # A slot is taken, too, while its request is on its way into the batch: tokenised, or admitted since the last step.
    taken = max(engine.running.v, (queue.in_flight.v or 0.0) - inside)
    return (queue.depth.v or 0.0) + inside >= 1 and taken >= FULL * engine.max_num_seqs.v


def _budget(engine: Engine) -> float | None:
    """As the engine's log has it, else as it was told on its command line."""
    if engine.max_num_batched_tokens.v is not None:
        return engine.max_num_batched_tokens.v
    for flag, value in itertools.pairwise(itertools.chain(*(part.split("=", 1) for part in engine.argv), [""])):
        if flag == BUDGET_FLAG and value.isdecimal():
            return float(value)
    return None


def _unread(snapshot: Snapshot) -> float | None:
    """By our own clients' account: what they have under way and the gateway neither queues nor has at the engine.

    At most what slow readers hold, because the counts are not of one instant. For clients that are not ours the gateway's
    count stands, which misses what their kernel has swallowed.
    """
    people, queue = snapshot.people, snapshot.queue
    if people.in_flight.v is None:
        return queue.held.v
    if people.held.v is None or queue.depth.v is None or queue.in_flight.v is None:
        return None
    return min(people.held.v, max(0.0, people.in_flight.v - queue.depth.v - queue.in_flight.v))


def _engines(gpus: Sequence[Gpu]) -> list[Gpu]:
    """The devices that the engine is known to use; a single one is taken to be it."""
    found = [gpu for gpu in gpus if gpu.engines]
    return found or (list(gpus) if len(gpus) == 1 else [])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None


def _first(*accounts: tuple[str, float | None]) -> tuple[str, float] | None:
    return next(((name, v) for name, v in accounts if v is not None), None)
