"""A whole stack before two scripted engines, one of two ranks: sums, records, one that dies and comes back, a watcher."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server import commands
from server.client import StackClient
from server.config import Paths
from server.telemetry.snapshot import Snapshot
from server.watch_place import find
from tests.e2e.conftest import free_port
from tests.fakes.known_server import KnownServer
from tests.fakes.scripted_replica import scripted_replica
from tests.stack.test_stack_watching import GROUP

ME = pwd.getpwuid(os.getuid()).pw_name


class Running:
    def __init__(self, client: StackClient) -> None:
        self.client = client

    async def until(self, reached: Callable[[Snapshot], object]) -> Snapshot:
        end = time.monotonic() + 60
        while not reached(snapshot := await asyncio.to_thread(self.client.snapshot)):
            assert time.monotonic() < end, snapshot
            await asyncio.sleep(0.05)
        return snapshot

    async def send(self, command: commands.Command) -> None:
        answer = await asyncio.to_thread(self.client.send, command)
        assert answer.ok, answer.message


@asynccontextmanager
async def stack_before(
    home: Path, monkeypatch: pytest.MonkeyPatch, engines: list[KnownServer]
) -> AsyncIterator[Running]:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    client = StackClient(Paths(data=home / "data", state=home / "state", runtime=home / "run"))
    attached = [part for engine in engines for part in ("--attach", engine.url)]
    load = ("--people", "8", "--think", "0.2", "--prompt-tokens", "20", "--output-tokens", "20")
    argv = ["up", "--wait", *attached, "--drive", "--port", str(free_port()), "--max-in-flight", "12", *load]
    up = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "console.cli", *argv, "--watchers", GROUP],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert up.returncode == 0, up.stdout + up.stderr
    daemon = client.daemon()
    try:
        yield Running(client)
    finally:
        await asyncio.to_thread(client.send, commands.Down())
        assert await asyncio.to_thread(client.stopped, daemon, 60.0)


async def test_two_engines_serve_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [scripted_replica(), scripted_replica(ranks=2)]
    async with engines[0] as one, engines[1] as two, stack_before(tmp_path, monkeypatch, engines) as stack:
        busy = await stack.until(
            lambda s: s.replicas and len(s.replicas.members) == 3 and s.people.outcomes.get("ok", 0) >= 20
        )
        assert busy.replicas is not None
        names = [f":{one.port}", f":{two.port}/0", f":{two.port}/1"]
        assert [member.name for member in busy.replicas.members] == names
        assert (busy.replicas.answering, busy.replicas.balance) == (3, "least")
        assert busy.engine.running.v == sum(member.running.v or 0 for member in busy.replicas.members)
        rates = [member.generation_tokens_per_s.v or 0 for member in busy.replicas.members]
        assert busy.engine.generation_tokens_per_s.v == pytest.approx(sum(rates), rel=1e-4)
        assert busy.engine.prefix_hit_share.v == pytest.approx(0.4)

        await stack.send(commands.People(count=0))
        still = await stack.until(lambda s: s.people.in_flight.v == 0 and s.queue.in_flight.v == 0)
        records = await asyncio.to_thread(stack.client.requests, 4000)
        for engine in (one, two):
            mine = [record for record in records if record.replica == f"127.0.0.1:{engine.port}"]
            assert len(mine) == len(engine.served) > 5
        assert still.read_only == ""

        watched = find(still.audience.socket)
        assert (watched.owner, still.audience.group) == (ME, GROUP)
        guest = StackClient(stack.client.paths, socket=watched.socket)
        seen = await asyncio.to_thread(guest.snapshot)
        assert seen.read_only == f"you watch {ME}'s stack: only {ME} acts here"
        assert not (await asyncio.to_thread(guest.send, commands.Down())).ok

        await stack.send(commands.People(count=8))
        await two.__aexit__(None, None, None)
        dead = await stack.until(lambda s: s.replicas and s.replicas.answering == 1 and s.replicas.members[-1].out)
        assert dead.engine.running.why == "1 of 3 replicas"
        assert dead.sources["engine"].detail == f"1 of 2 replicas: :{two.port} nothing listens there"
        done = len(one.served)
        await stack.until(lambda _: len(one.served) > done + 10)

        async with scripted_replica(port=two.port) as again:
            back = await stack.until(lambda s: s.replicas and s.replicas.answering >= 2 and again.served)
            assert back.verdict.word != "DOWN"
            people = [event for event in back.events if event.kind == "people"]
            assert {event.who for event in people} == {f"{ME} (verb)"}
            await stack.send(commands.People(count=0))
            await stack.until(lambda s: s.people.in_flight.v == 0)
