"""Random schedules of real clients and injected faults: nothing lost, nothing twice, nothing left over."""

from __future__ import annotations

import asyncio
import logging
import random

import httpx
import pytest
from gateway_fakes import ROLE, Asked, FakeEngine, Running, ask, chat, chunk, open_raw, running, streams, token, until

from server.gateway.records import SetEngine, SetPolicy

CLIENTS = 40
CAP = 4


class Faulty:
    """An engine that streams, stalls, breaks off or refuses, as its seed has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.at_once = 0

    async def __call__(self, asked: Asked) -> None:
        self.at_once += 1
        try:
            await asyncio.sleep(self.chance.uniform(0, 0.02))
            await self.chance.choice([streams, streams, streams, self.long, self.breaks, self.cuts, self.refuses])(
                asked
            )
        finally:
            self.at_once -= 1

    async def long(self, asked: Asked) -> None:
        await asked.stream([ROLE, *[token("x" * 4000)] * 40, token("", "length")])

    async def breaks(self, asked: Asked) -> None:
        asked.writer.close()

    async def cuts(self, asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a")))
        asked.writer.close()

    async def refuses(self, asked: Asked) -> None:
        await asked.json(b'{"error": {"message": "no"}}', 503)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_request_ends_once_and_every_place_is_free_again(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    engine_script = Faulty(chance)
    statuses: dict[str, int] = {}

    async def patient(run: Running, name: str) -> None:
        try:
            statuses[name] = (await chat(run, name, ask(stream=chance.random() < 0.8))).status_code
        except httpx.HTTPError:
            statuses[name] = 0

    async def leaver(run: Running, name: str) -> None:
        _, writer = await open_raw(run.port, name)
        await asyncio.sleep(chance.uniform(0, 0.05))
        writer.close() if chance.random() < 0.5 else writer.transport.abort()

    async def disturb(run: Running) -> None:
        for _ in range(6):
            await asyncio.sleep(chance.uniform(0, 0.04))
            run.gateway.command(SetEngine(state="starting", hold=chance.random() < 0.7))
            run.gateway.command(SetPolicy(max_in_flight=chance.randint(1, CAP), max_queue=chance.randint(0, 30)))
            await asyncio.sleep(chance.uniform(0, 0.02))
            run.gateway.command(SetEngine(state="ready"))

    async def one(run: Running, name: str) -> None:
        await asyncio.sleep(chance.uniform(0, 0.2))
        await (leaver if chance.random() < 0.3 else patient)(run, name)

    async with FakeEngine(engine_script) as engine, running(engine.url, max_in_flight=CAP, max_queue=10) as run:
        names = [f"r{number}" for number in range(CLIENTS)]
        await asyncio.gather(disturb(run), *(one(run, name) for name in names))
        admission = run.gateway.admission
        # A leaver may be gone before its request was read; then there is nothing to record.
        requests = int(run.sample("requests_total"))
        await until(lambda: len(run.records) == requests)
        counts = admission.counts()
        ended = (counts.completed, counts.failed, counts.cancelled, counts.expired)
        assert counts.arrived == counts.rejected + sum(ended)
        assert (counts.queued, counts.in_flight) == (0, 0)
        assert (run.sample("held"), run.sample("buffered_bytes")) == (0, 0)
        recorded = [record.request_id for record in run.records]
        assert len(recorded) == len(set(recorded))
        assert set(statuses) <= set(recorded) <= set(names)
        for record in run.records:
            if record.request_id in statuses and record.status is not None and statuses[record.request_id]:
                assert record.status == statuses[record.request_id]
            assert (record.outcome == "completed") == (record.reason == "")
        asked = [each.headers["x-request-id"] for each in engine.asked]
        # Only a kept-alive connection that broke before any byte may have asked twice.
        assert all(asked.count(name) <= 2 for name in set(asked))
        await until(lambda: engine_script.at_once == 0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
