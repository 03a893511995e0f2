"""A source that is told its snapshots one by one, and scenes of a lesson on an H100 and on a machine without a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import samples

from console.sources.scripted import ScriptedSource
from server.commands import Answer, Command
from server.telemetry.snapshot import People, Quantiles, Snapshot, Value


class PushedSource(ScriptedSource):
    """Yields its script, then what `push` gives it. `refuse` names commands that are not carried out."""

    def __init__(self, script: Sequence[Snapshot], *, refuse: Sequence[type] = (), **more: Any) -> None:
        super().__init__(script, **{"kind": "live", **more})
        self._pushed: asyncio.Queue[Snapshot] = asyncio.Queue()
        self._refuse = tuple(refuse)

    def push(self, snapshot: Snapshot) -> None:
        self._pushed.put_nowait(snapshot)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        for snapshot in self._script:
            yield snapshot
        while True:
            yield await self._pushed.get()

    async def send(self, command: Command) -> Answer:
        await super().send(command)
        if isinstance(command, self._refuse):
            return Answer(False, "The engine is starting; wait for it.")
        return Answer(True, f"{type(command).__name__}.")


def later(snapshot: Snapshot, seconds: float, **more: Any) -> Snapshot:
    """So many seconds after the sample, with other parts."""
    ticks = round(seconds * 2)
    return samples.change(snapshot, seq=snapshot.seq + ticks, at=snapshot.at + seconds, **more)


def with_(part: Any, **more: Any) -> Any:
    """A part of a snapshot with other fields."""
    return msgspec.structs.replace(part, **more)


def served(people: People, ok: int, in_flight: float) -> People:
    """So many replies have come, and so many people are inside."""
    return with_(people, outcomes={**people.outcomes, "ok": ok}, in_flight=Value(in_flight, src="load"))


def alone(base: Snapshot, seconds: float, ok: int, tokens_per_s: float) -> Snapshot:
    """One person chats."""
    return later(
        base,
        seconds,
        people=served(base.people, ok, 1.0),
        queue=with_(base.queue, depth=Value(0.0, src="gateway"), in_flight=Value(1.0, src="gateway")),
        engine=with_(
            base.engine,
            running=Value(1.0, src="engine"),
            generation_tokens_per_s=Value(tokens_per_s, src="engine"),
        ),
        feel=with_(
            base.feel,
            ttft_s=Quantiles(n=ok, mean=0.28, p50=0.28, max=0.3),
            tpot_s=Quantiles(n=ok, mean=0.045, p50=0.045, max=0.05),
        ),
    )


def together(base: Snapshot, seconds: float, ok: int, tokens_per_s: float, running: float = 8.0) -> Snapshot:
    """Ten friends."""
    one = alone(base, seconds, ok, tokens_per_s)
    return samples.change(
        one,
        people=served(base.people, ok, 10.0),
        queue=with_(base.queue, depth=Value(10.0 - running, src="gateway"), in_flight=Value(running, src="gateway")),
        engine=with_(one.engine, running=Value(running, src="engine")),
        feel=with_(
            one.feel,
            ttft_s=Quantiles(n=ok, mean=0.8, p50=0.8, max=1.7),
            tpot_s=Quantiles(n=ok, mean=0.057, p50=0.057, max=0.06),
        ),
    )


CPU = samples.change(samples.CPU, people={"profile": samples.PROFILE, "outcomes": {"ok": 58}})
H100 = samples.change(samples.LOADED, people={"profile": samples.PROFILE, "outcomes": {"ok": 58}})
