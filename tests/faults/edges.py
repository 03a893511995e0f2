"""People, gateway and a scripted engine as they stand in a stack, each a process of its own but the engine, with a fault
proxy on one of the two edges between them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec
import psutil

from console.endings import REASONS
from loadgen.commands import LoadCommand, SetTarget, Stop
from loadgen.profile import Profile
from loadgen.prompts import Lengths, Mix
from loadgen.records import IntervalRecord, RequestRecord
from loadgen.request import Limits
from loadgen.runner import WorkerSettings
from server.child import JsonChild
from server.faults.records import Listening, ProxyRecord, SetToxics
from server.faults.toxics import Toxic
from server.gateway.records import GatewayRecord, QueueRecord, SetEngine
from tests.fakes.known_server import KnownServer
from tests.fakes.waiting import until
from tests.faults.ledger import Row, Tally, enter

_lines = msgspec.json.Decoder(GatewayRecord | QueueRecord | ProxyRecord | Listening | RequestRecord | IntervalRecord)

SILENCE_S = 3.0
"""Longer than a busy machine stops a process for."""
STOP_S = 5.0


class Child:
    """One process and what it wrote."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        self.lines: list[object] = []
        self.code: int | None = None
        self.pid: int | None = None
        self.log = folder / f"{name}.log"
        self._child = JsonChild(
            name,
            [sys.executable, "-m", *arguments],
            log=self.log,
            on_line=lambda line: self.lines.append(_lines.decode(line)),
            on_exit=self._ended,
        )

    def _ended(self, code: int) -> None:
        self.code = code

    async def start(self) -> Self:
        await self._child.start()
        self.pid = self._child.pid
        return self

    def tell(self, command: msgspec.Struct) -> None:
        self._child.send(command)

    async def stop(self) -> None:
        await self._child.stop(STOP_S)

    async def port(self) -> int:
        await until(lambda: any(isinstance(line, Listening) for line in self.lines))
        return next(line.port for line in self.lines if isinstance(line, Listening))


class Edges:
    """`async with Edges(engine, tmp_path, proxied="engine") as edges:`"""

    def __init__(
        self,
        engine: KnownServer,
        folder: Path,
        *,
        proxied: Literal["", "people", "engine"] = "",
        in_flight: int = 64,
        max_queue: int = 64,
        tokens: int = 12,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        profile: Profile | None = None,
    ) -> None:
        self.engine = engine
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._proxied = proxied
        self._bounds = ("--max-in-flight", str(in_flight), "--max-queue", str(max_queue))
        lengths = Lengths(median=tokens, sigma=0.0, low=tokens, high=tokens)
        profile = profile or Profile()
        mix = Mix(profile.mix.prompt, lengths, 8192)
        self._settings = WorkerSettings(
            model="m", profile=msgspec.structs.replace(profile, mix=mix), limits=limits, interval_s=0.1
        )
        self._children: list[Child] = []
        self.faulted: float | None = None
        """When the fault was provoked, monotonic seconds."""

    async def __aenter__(self) -> Self:
        engine = f"127.0.0.1:{self.engine.port}"
        if self._proxied == "engine":
            self.proxy = await self._start("proxy", "server.faults", "--target", engine)
            engine = f"127.0.0.1:{await self.proxy.port()}"
        policy = ("--policy", msgspec.json.encode({"silence_s": SILENCE_S}).decode())
        url = ("--engine-url", f"http://{engine}")
        self.gateway = await self._start("gateway", "server.gateway", "--port", "0", *url, *self._bounds, *policy)
        address = f"127.0.0.1:{await self.gateway.port()}"
        self.gateway_url = f"http://{address}"
        if self._proxied == "people":
            self.proxy = await self._start("proxy", "server.faults", "--target", address)
            address = f"127.0.0.1:{await self.proxy.port()}"
        settings = msgspec.json.encode(self._settings).decode()
        self.load = await self._start("load", "loadgen.worker", "--url", f"http://{address}", "--settings", settings)
        return self

    async def _start(self, name: str, *arguments: str) -> Child:
        child = await Child(name, self._folder, *arguments).start()
        self._children.append(child)
        return child

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """People first, who have their records written; then the rest."""
        for child in reversed(self._children):
            await child.stop()
        self.left = sum(child.pid is not None and psutil.pid_exists(child.pid) for child in self._children)

    def ask(self, command: LoadCommand) -> None:
        self.load.tell(command)

    def send_elsewhere(self, url: str) -> None:
        self.load.tell(SetTarget(url))

    def engine_at(self, url: str) -> None:
        self.gateway.tell(SetEngine("ready", url))

    def poison(self, *toxics: Toxic) -> None:
        self.faulted = time.monotonic()
        self.proxy.tell(SetToxics(list(toxics)))

    @property
    def requests(self) -> list[RequestRecord]:
        return [line for line in self.load.lines if isinstance(line, RequestRecord)]

    @property
    def relayed(self) -> list[GatewayRecord]:
        return [line for line in self.gateway.lines if isinstance(line, GatewayRecord)]

    @property
    def now(self) -> IntervalRecord | None:
        """The latest word on the people."""
        return next((line for line in reversed(self.load.lines) if isinstance(line, IntervalRecord)), None)

    @property
    def streaming(self) -> int:
        """How many requests have had a token and go on."""
        return 0 if self.now is None else sum(first is not None for _, first in self.now.waiting)

    async def ended(self, count: int, within_s: float = 60.0) -> None:
        """So many requests have ended, and the engine is at none any more."""
        await until(lambda: len(self.requests) >= count, f"{count} requests ending", within_s)
        await until(lambda: self.engine.in_flight == 0, "the engine being free", within_s)

    async def finish(self, fault: str, *, unseen: int = 0) -> list[RequestRecord]:
        """Take all of it down and enter the row. Each request has one record here and one at the gateway, but for so many
        that the gateway may never have seen."""
        self.ask(Stop())
        await until(lambda: self.load.code is not None, "the people leaving")
        await until(lambda: self.engine.in_flight == 0, "the engine being free")
        await self.stop()
        ours, theirs = self.requests, self.relayed
        ids = [record.request_id for record in ours]
        assert len(set(ids)) == len(ids)
        assert len({record.request_id for record in theirs}) == len(theirs)
        assert {record.request_id for record in theirs} <= set(ids)
        assert len(theirs) >= len(ids) - unseen
        assert [child.code for child in self._children] == [0] * len(self._children)
        assert all(b"Traceback" not in child.log.read_bytes() for child in self._children)
        last = self.now
        assert last is not None
        assert (last.in_flight, sum(last.outcomes.values())) == (0, last.scheduled_total)
        ends = last.outcomes
        told = [record.done for record in ours if record.reason]
        row = Row(
            fault=fault,
            said=said_to(ours, theirs),
            after_s=None if self.faulted is None or not told else min(told) - self.faulted,
            requests=Tally(
                sent=last.scheduled_total,
                completed=ends["ok"],
                failed=ends["rejected"] + ends["error"],
                cancelled=ends["abandoned"],
            ),
            left=self.left,
        )
        assert last.scheduled_total == len(ours)
        enter(row)
        return ours


def said_to(ours: Sequence[RequestRecord], theirs: Sequence[GatewayRecord]) -> str:
    """What the clients were told, the most frequent first; of those who left themselves, what the screen says of them by
    the gateway's records."""
    left = {record.request_id for record in ours if record.outcome == "abandoned"}
    words = Counter(record.reason or record.outcome for record in ours if record.request_id not in left)
    words.update(
        f"{record.outcome}: {REASONS.get(record.reason, record.reason)}" if record.reason else record.outcome
        for record in theirs
        if record.request_id in left
    )
    return "; ".join(f"{count}x {word}" for word, count in words.most_common(3))


def outcomes(records: Sequence[GatewayRecord]) -> Counter[tuple[str, str]]:
    """How the gateway saw them end."""
    return Counter((record.outcome, record.reason) for record in records)
