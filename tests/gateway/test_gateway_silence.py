"""An engine that says nothing for too long, and one that is somewhere else from now on."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_fakes import (
    DONE,
    ROLE,
    Asked,
    FakeEngine,
    Gate,
    ask,
    chat,
    chunk,
    event,
    running,
    slow_reader,
    streams,
    token,
    until,
)

from server.gateway.exchange import BUFFER_LIMIT_BYTES, READ_BYTES
from server.gateway.records import SetEngine, SetPolicy

SILENCE_S = 0.1


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_never_answers_is_given_up(stream: bool) -> None:
    async with FakeEngine(lambda asked: asked.left.wait()) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        reply = await chat(run, "r1", ask(stream=stream))
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (504, "upstream_silent")
        assert reply.json()["error"]["message"] == "The engine sent nothing for 0.1 s."
        record = await run.record("r1")
        assert (record.outcome, record.reason) == ("failed", "upstream_silent")
        await until(lambda: engine.open == 0)
        counts = run.gateway.admission.counts()
        assert (counts.failed, counts.in_flight) == (1, 0)


async def test_one_that_stops_in_the_middle_is_given_up_and_the_stream_says_so() -> None:
    async def stops(asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a")))
        await asked.left.wait()

    async with FakeEngine(stops) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        reply = await chat(run, "r1")
        assert reply.status_code == 200
        last = [line for line in reply.text.splitlines() if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_silent"
        assert (await run.record("r1")).reason == "upstream_silent"
        await until(lambda: engine.open == 0)


async def test_an_answer_that_is_no_stream_and_stops_cannot_be_taken_for_a_whole_one() -> None:
    async def stops(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await asked.left.wait()

    async with FakeEngine(stops) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        with pytest.raises(Exception, match=r"(?i)disconnect|reset|peer|^$"):
            await chat(run, "r1", ask(stream=False))
        assert (await run.record("r1")).reason == "upstream_silent"


async def test_whoever_says_a_little_now_and_then_is_not_silent() -> None:
    async def slowly(asked: Asked) -> None:
        await asked.begin_stream()
        for number in range(30):
            await asyncio.sleep(SILENCE_S / 5)
            await asked.send(chunk(b": ping\n\n" if number % 2 else token("a")))
        await asked.send(chunk(token("", "stop") + DONE) + b"0\r\n\r\n")

    async with FakeEngine(slowly) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        await chat(run, "r1")
        assert (await run.record("r1")).outcome == "completed"


async def test_not_to_be_listened_to_is_not_to_be_silent() -> None:
    """A client that takes nothing keeps the gateway from reading."""
    flood = [event({"pad": "x" * 4000, "choices": []})] * 200 + [token("", "stop")]

    async def pours(asked: Asked) -> None:
        await asked.stream(flood)

    async with FakeEngine(pours) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        reader, writer = await slow_reader(run.port, "slow")
        await until(lambda: run.sample("buffered_bytes") > BUFFER_LIMIT_BYTES - READ_BYTES)
        await asyncio.sleep(SILENCE_S * 3)
        assert run.records == []
        engine.script = streams
        while not (await reader.read(65536)).endswith(b"0\r\n\r\n"):
            pass
        writer.close()
        assert (await run.record("slow")).outcome == "completed"


async def test_the_bound_can_be_changed_and_switched_off() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, silence_s=SILENCE_S) as run:
        run.gateway.command(SetPolicy(silence_s=0))
        assert run.gateway.admission.policy.silence_s is None
        patient = asyncio.create_task(chat(run, "patient"))
        await until(lambda: gate.came)
        run.gateway.command(SetPolicy(silence_s=SILENCE_S))
        assert (await chat(run, "hasty")).status_code == 504
        gate.open("patient")
        assert (await patient).status_code == 200


async def test_an_engine_that_moved_gets_the_next_request_and_the_old_one_ends_what_it_began() -> None:
    gate = Gate()
    async with FakeEngine() as old, FakeEngine() as new, running(old.url) as run:
        await asyncio.gather(*(chat(run, f"kept{number}") for number in range(3)))
        old.script = gate
        began = asyncio.create_task(chat(run, "began"))
        await until(lambda: gate.came)
        run.gateway.command(SetEngine("ready", new.url))
        for number in range(3):
            assert (await chat(run, f"next{number}")).status_code == 200
        assert (len(old.asked), len(new.asked)) == (4, 3)
        assert old.open == 1, "those that were kept are closed"
        gate.open("began")
        assert (await began).status_code == 200
        await until(lambda: old.open == 0)
        run.gateway.command(SetEngine("ready", old.url))
        old.script = streams
        assert (await chat(run, "back")).status_code == 200
        assert (len(old.asked), len(new.asked)) == (5, 3)
    assert [record.outcome for record in run.records] == ["completed"] * 8
