"""The capacity search of a stack: its own people stepped up and down, its engine watched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from loadgen.capacity import Progress, Question
from loadgen.explorer import Explorer
from loadgen.records import LoadRecord
from loadgen.slo import PRESETS, Slo
from server import commands
from server.engine.lifecycle import Lifecycle
from server.population import Change, Held, Population, refused
from server.telemetry.snapshot import Snapshot


class CapacitySearch:
    """At most one search at a time; `progress` is the running one's, or the latest one's."""

    def __init__(
        self,
        population: Population,
        engine: Lifecycle,
        *,
        seen: Callable[[], Snapshot | None],
        ended: Callable[[Progress], None],
    ) -> None:
        self._population = population
        self._engine = engine
        self._seen = seen
        self._ended = ended
        self._explorer: Explorer | None = None
        self._latest: Progress | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._explorer is not None

    @property
    def progress(self) -> Progress | None:
        return self._explorer.progress if self._explorer is not None else self._latest

    def on_record(self, record: LoadRecord) -> None:
        if self._explorer is not None:
            self._explorer.on_record(record)

    def change(self, command: commands.Capacity, slo: Slo) -> Change:
        """Start a search or stop it; `slo` is the stack's."""
        if not command.on:
            if self._explorer is None:
                return refused("No capacity search runs.")
            self._explorer.stop("stopped by hand")
            return Change("The capacity search ends.")
        if self._explorer is not None:
            return refused("A capacity search runs already.")
        if self._population.is_open:
            return refused("An open loop has no people to count; go back to people first.")
        if self._engine.phase != "ready":
            return refused(f"The engine is {self._engine.phase}; there is nothing to measure.")
        if command.slo is not None and command.slo not in PRESETS:
            return refused(f"There is no SLO {command.slo!r}; there are {', '.join(PRESETS)}.")
        if not 30 <= command.cap_s <= 86_400:
            return refused("A search takes at least 30 s and at most a day.")
        profile = self._population.profile
        sampling = msgspec.structs.replace(profile.sampling, cache_salt=f"capacity-{time.time_ns():x}")
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self._population.weights.items())
        question = Question(
            slo=slo if command.slo is None else PRESETS[command.slo],
            think_s=profile.think_s,
            mix=f"{profile.label}{f'; {weights}' if weights else ''}",
            cache="fresh salt: nothing of earlier runs is cached",
            seed=profile.seed,
            careful=command.careful,
            cap_s=command.cap_s,
        )
        held = self._population.hold()
        self._population.freeze(msgspec.structs.replace(profile, sampling=sampling))
        self._explorer = Explorer(question, self)
        self.task = asyncio.create_task(self._run(self._explorer, held), name="capacity")
        return Change(f"capacity search: {question.slo.name}, {question.mix}", "capacity")

    async def _run(self, explorer: Explorer, held: Held) -> None:
        try:
            self._latest = await explorer.run()
        finally:
            self._explorer = None
            self._population.release(held)
        self._ended(self._latest)

    # what the explorer does to this stack

    def set_people(self, count: int) -> None:
        self._population.set_people(count)

    def renew(self, seed: int) -> None:
        self._population.renew(seed)

    def evidence(self) -> str:
        snapshot = self._seen()
        return "" if snapshot is None else in_evidence(snapshot)

    def blocked(self) -> str:
        if self._engine.phase != "ready":
            return f"The engine is {self._engine.phase}: the search cannot go on."
        return self._population.why_not


def in_evidence(snapshot: Snapshot) -> str:
    """What is seen of queue, batch, memory and GPU at one moment, in words; what is not known is left out."""
    engine, queue = snapshot.engine, snapshot.queue
    parts: list[str] = [snapshot.limit_detail.name] if snapshot.limit_detail.name else []
    if engine.running.v is not None and engine.max_num_seqs.v:
        parts.append(f"{engine.running.v:.0f} of {engine.max_num_seqs.v:.0f} slots")
    if engine.kv_usage.v is not None:
        parts.append(f"KV {engine.kv_usage.v:.0%}")
    if queue.depth.v is not None and queue.wait_s.mean is not None:
        parts.append(f"{queue.depth.v:.0f} in the queue, waiting {queue.wait_s.mean:.2g} s")
    if engine.preemptions_per_min.v:
        parts.append(f"{engine.preemptions_per_min.v:.0f} preemptions/min")
    if gpu := snapshot.device:
        work = (("tensor", gpu.tensor), ("memory bandwidth", gpu.dram), ("MFU", gpu.mfu), ("MBU", gpu.mbu))
        counted = [(name, value.v) for name, value in work if value.v is not None][:2]
        parts += [f"{name} {share:.0%}" for name, share in counted]
    elif snapshot.host.cpu_share.v is not None:
        parts.append(f"CPU {snapshot.host.cpu_share.v:.0%}")
    return ", ".join(parts)
