"""One random schedule of real clients, a faulty engine and a policy that changes under them, from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import httpx
from gateway_fakes import ROLE, Asked, FakeEngine, Running, ask, chat, chunk, open_raw, running, streams, token, until

from server.gateway.records import SetEngine, SetPolicy

CAP = 4


class Faulty:
    """An engine that streams, stalls, breaks off or refuses, as its seed has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.at_once = 0
        self.most = 0

    async def __call__(self, asked: Asked) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.chance.uniform(0, 0.01))
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


class Schedule:
    """Its clients: some wait for their answer, some leave at any moment, some bring a deadline that may be too short."""

    def __init__(self, seed: int, clients: int) -> None:
        self.chance = random.Random(seed)
        self.clients = clients
        self.statuses: dict[str, int] = {}
        """What each patient client got; 0: its connection broke."""

    async def run(self) -> None:
        """Raises AssertionError when a request was lost, doubled or left something behind."""
        script = Faulty(self.chance)
        async with FakeEngine(script) as engine, running(engine.url, max_in_flight=CAP, max_queue=6) as run:
            names = [f"r{number}" for number in range(self.clients)]
            await asyncio.gather(self.disturb(run), *(self.one(run, name) for name in names))
            # A leaver may be gone before its request was read; then there is nothing to record.
            requests = int(run.sample("requests_total"))
            await until(lambda: len(run.records) == requests)
            self.check(run, engine, names)
            assert script.most <= CAP
            await until(lambda: script.at_once == 0)

    async def one(self, run: Running, name: str) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.05))
        await (self.leaver if self.chance.random() < 0.3 else self.patient)(run, name)

    async def patient(self, run: Running, name: str) -> None:
        headers = {"x-request-timeout": "0.02"} if self.chance.random() < 0.15 else {}
        body = ask(
            stream=self.chance.random() < 0.8,
            user=self.chance.choice(["ann", "ben"]),
            priority=self.chance.randint(0, 2),
            max_tokens=self.chance.randint(1, 60),
        )
        self.statuses[name] = 0
        with contextlib.suppress(httpx.HTTPError):
            self.statuses[name] = (await chat(run, name, body, **headers)).status_code

    async def leaver(self, run: Running, name: str) -> None:
        _, writer = await open_raw(run.port, name)
        await asyncio.sleep(self.chance.uniform(0, 0.02))
        writer.close() if self.chance.random() < 0.5 else writer.transport.abort()

    async def disturb(self, run: Running) -> None:
        """Restarts and policies; the last one lets everybody through."""
        chance = self.chance
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0, 0.01))
            run.gateway.command(SetEngine(state="starting", hold=chance.random() < 0.7))
            run.gateway.command(
                SetPolicy(
                    order=chance.choice(["fifo", "shortest", "priority", "fair"]),
                    ageing_s=chance.choice([0, 0.01]),
                    limit=chance.choice(["in-flight", "tokens", "adaptive"]),
                    token_budget=chance.randint(20, 200),
                    overload=chance.choice(["wait", "queue", "estimate", "shed"]),
                    max_in_flight=chance.randint(1, CAP),
                    max_queue=chance.randint(0, 10),
                    queue_timeout_s=chance.choice([0, 0.02]),
                    keep_alive_s=chance.choice([0, 0.001]),
                )
            )
            await asyncio.sleep(chance.uniform(0, 0.01))
            run.gateway.command(SetEngine(state="ready"))

    def check(self, run: Running, engine: FakeEngine, names: list[str]) -> None:
        counts = run.gateway.admission.counts()
        ended = (counts.completed, counts.failed, counts.cancelled, counts.expired)
        assert counts.arrived == counts.rejected + sum(ended)
        assert (counts.queued, counts.in_flight, run.gateway.admission.tokens_in_flight) == (0, 0, 0)
        assert (run.sample("held"), run.sample("buffered_bytes"), run.sample("queue_depth")) == (0, 0, 0)
        recorded = [record.request_id for record in run.records]
        assert len(recorded) == len(set(recorded)), "recorded twice"
        assert set(self.statuses) <= set(recorded) <= set(names), "lost"
        for record in run.records:
            status = self.statuses.get(record.request_id)
            if status and record.status is not None:
                assert record.status == status
            assert (record.outcome == "completed") == (record.reason == "")
            assert record.outcome != "rejected" or record.admitted is None
        # Only a kept-alive connection that broke before any byte may have asked twice.
        asked = Counter(each.headers["x-request-id"] for each in engine.asked)
        assert max(asked.values(), default=0) <= 2
        completed = {record.request_id for record in run.records if record.outcome == "completed"}
        assert completed <= set(asked), "answered without having been asked"
