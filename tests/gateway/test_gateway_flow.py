"""Who waits, who is turned away, who leaves, and who reads slowly: with real clients."""

from __future__ import annotations

import asyncio
import contextlib

from gateway_fakes import (
    ROLE,
    STREAM,
    USAGE,
    Asked,
    FakeEngine,
    Gate,
    Running,
    ask,
    chat,
    chunk,
    open_raw,
    running,
    slow_reader,
    streams,
    token,
    until,
)

from server.gateway.exchange import BUFFER_LIMIT_BYTES, READ_BYTES
from server.gateway.records import SetEngine, SetPolicy


def queued(run: Running) -> int:
    return run.gateway.admission.counts().queued


def in_flight(run: Running) -> int:
    return run.gateway.admission.counts().in_flight


async def waiting_in_order(run: Running, names: list[str]) -> list[asyncio.Task[object]]:
    """Send these one after the other, each once the one before is known to the admission."""
    tasks: list[asyncio.Task[object]] = []
    for name in names:
        before = run.gateway.admission.counts().arrived
        tasks.append(asyncio.create_task(chat(run, name)))
        await until(lambda before=before: run.gateway.admission.counts().arrived == before + 1)  # type: ignore[misc]
    return tasks


async def test_first_come_first_served_under_the_cap_and_429_beyond_the_queue() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=2, max_queue=3) as run:
        tasks = await waiting_in_order(run, ["r0", "r1", "r2", "r3", "r4"])
        await until(lambda: len(gate.came) == 2)
        assert (in_flight(run), queued(run)) == (2, 3)
        assert await run.metric("spark_gateway_queue_depth") == 3
        assert await run.metric("spark_gateway_oldest_wait_seconds") > 0
        refused = await chat(run, "r5")
        assert (refused.status_code, refused.headers["x-spark-reason"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "5"  # nothing has finished yet
        assert refused.json()["error"]["code"] == "queue_full"
        for name in ["r0", "r1", "r2", "r3", "r4"]:
            await until(lambda name=name: name in gate.waiting)  # type: ignore[misc]
            gate.open(name)
            await run.record(name)
        await asyncio.gather(*tasks)
        # Two that are admitted at once travel on connections of their own, which may be opened in either order.
        assert [*sorted(gate.came[:2]), *gate.came[2:]] == ["r0", "r1", "r2", "r3", "r4"]
        record = await run.record("r4")
        assert record.queued is not None
        assert record.admitted is not None
        assert record.admitted > record.queued
        assert (await run.record("r5")).outcome == "rejected"


async def test_retry_after_comes_from_the_drain_rate() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, max_queue=1) as run:
        tasks = await waiting_in_order(run, ["r0", "r1"])
        await until(lambda: gate.came == ["r0"])
        gate.open("r0")
        await until(lambda: gate.came == ["r0", "r1"])
        tasks += await waiting_in_order(run, ["r2"])
        refused = await chat(run, "r3")
        # The one that finished did so within a second, so the one that waits will be gone in one.
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        gate.open("r1")
        await until(lambda: "r2" in gate.waiting)
        gate.open("r2")
        await asyncio.gather(*tasks)


async def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, max_queue=1) as run:
        (first,) = await waiting_in_order(run, ["r0"])
        _, writer = await open_raw(run.port, "r1")
        await until(lambda: queued(run) == 1)
        writer.close()
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.status, record.admitted) == (
            "cancelled",
            "client_left",
            None,
            None,
        )
        assert queued(run) == 0
        assert run.gateway.admission.counts().cancelled == 1
        (third,) = await waiting_in_order(run, ["r2"])
        gate.open("r0")
        await until(lambda: "r2" in gate.waiting)
        gate.open("r2")
        await asyncio.gather(first, third)
        assert gate.came == ["r0", "r2"]


async def test_a_client_that_leaves_its_stream_frees_the_slot_and_closes_upstream() -> None:
    async def endless(asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a")))
        await asyncio.Event().wait()

    async with FakeEngine(endless) as engine, running(engine.url, max_in_flight=1) as run:
        reader, writer = await open_raw(run.port, "r0")
        await reader.readuntil(token("a"))
        writer.close()
        record = await run.record("r0")
        assert (record.outcome, record.reason, record.status) == ("cancelled", "client_left", 200)
        assert record.first_token is not None
        assert in_flight(run) == 0
        await asyncio.wait_for(engine.asked[0].left.wait(), 5)


async def test_a_client_that_leaves_before_the_first_byte_closes_upstream() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        _, writer = await open_raw(run.port, "r0", ask(stream=False))
        await until(lambda: gate.came)
        writer.close()
        assert (await run.record("r0")).outcome == "cancelled"
        await asyncio.wait_for(engine.asked[0].left.wait(), 5)
        assert in_flight(run) == 0


async def test_requests_wait_while_the_engine_starts_and_then_go_in_order() -> None:
    gate = Gate()
    async with (
        FakeEngine(gate) as engine,
        running("http://127.0.0.1:9", max_in_flight=1, engine_state="starting") as run,
    ):
        tasks = await waiting_in_order(run, ["r0", "r1", "r2"])
        assert (queued(run), in_flight(run)) == (3, 0)
        run.gateway.command(SetEngine(state="ready", url=engine.url))
        for name in ["r0", "r1", "r2"]:
            await until(lambda name=name: name in gate.waiting)  # type: ignore[misc]
            gate.open(name)
        await asyncio.gather(*tasks)
        assert gate.came == ["r0", "r1", "r2"]
        assert [record.outcome for record in run.records] == ["completed"] * 3


async def test_who_was_admitted_to_an_engine_that_is_just_dead_waits_for_it_and_the_line_stays() -> None:
    """Nobody has told the gateway yet: it must not empty its line into an address where nobody listens."""
    gate = Gate()
    async with FakeEngine() as gone:
        dead = gone.url
    async with FakeEngine(gate) as engine, running(dead, max_in_flight=2) as run:
        tasks = await waiting_in_order(run, ["r0", "r1", "r2", "r3"])
        run.gateway.command(SetEngine(state="down"))
        run.gateway.command(SetEngine(state="starting"))
        assert await chat_ends_in(run, 0.1) == []
        assert (in_flight(run), queued(run)) == (2, 2)
        run.gateway.command(SetEngine(state="ready", url=engine.url))
        gate.open_all()
        await asyncio.gather(*tasks)
        assert [record.outcome for record in run.records] == ["completed"] * 4
        first = await run.record("r0")
        assert first.admitted is not None
        assert first.queued is not None
        assert first.admitted - first.queued >= 0.1, "it waited as those in the line did"


async def test_who_waits_for_a_dead_engine_in_a_slot_is_told_when_it_is_given_up() -> None:
    async with FakeEngine() as gone:
        dead = gone.url
    async with running(dead, max_in_flight=1) as run:
        tasks = await waiting_in_order(run, ["r0", "r1"])
        run.gateway.command(SetEngine(state="starting"))
        run.gateway.command(SetEngine(state="down", hold=False))
        replies = await asyncio.gather(*tasks)
        assert [reply.headers["x-spark-reason"] for reply in replies] == ["engine_down"] * 2  # type: ignore[attr-defined]
        assert (await run.record("r0")).outcome == "failed"
        assert (await run.record("r1")).outcome == "rejected"
        assert in_flight(run) == 0


async def chat_ends_in(run: Running, seconds: float) -> list[str]:
    """Who is through within so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until(lambda: run.records)
    return [record.request_id for record in run.records]


async def test_without_hold_who_waits_and_who_comes_is_told() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        first, second = await waiting_in_order(run, ["r0", "r1"])
        await until(lambda: gate.came)
        run.gateway.command(SetEngine(state="down", hold=False))
        await second
        reply = await chat(run, "r2")
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (503, "engine_down")
        assert int(reply.headers["retry-after"]) >= 1
        for name in ("r1", "r2"):
            record = await run.record(name)
            assert (record.outcome, record.reason, record.status) == ("rejected", "engine_down", 503)
        run.gateway.command(SetEngine(state="starting", hold=False))
        assert (await chat(run, "r3")).headers["x-spark-reason"] == "engine_starting"
        gate.open("r0")  # what streams is not disturbed
        await first
        assert (await run.record("r0")).outcome == "completed"


async def test_limits_change_under_those_who_wait() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, max_queue=2) as run:
        tasks = await waiting_in_order(run, ["r0", "r1", "r2"])
        await until(lambda: gate.came == ["r0"])
        run.gateway.command(SetPolicy(max_in_flight=2))
        await until(lambda: gate.came == ["r0", "r1"])
        run.gateway.command(SetPolicy(max_in_flight=1, max_queue=0))
        assert queued(run) == 1
        assert (await chat(run, "r3")).status_code == 429
        gate.open("r0")
        await run.record("r0")
        assert (in_flight(run), queued(run)) == (1, 1)
        gate.open("r1")
        await until(lambda: gate.came == ["r0", "r1", "r2"])
        gate.open("r2")
        await asyncio.gather(*tasks)


def flood(count: int) -> list[bytes]:
    return [ROLE, *[token("x" * 8000)] * count, token("", "stop")]


async def test_a_slow_reader_is_held_in_a_bounded_buffer() -> None:
    events = flood(2000)
    sent = 0

    async def pours(asked: Asked) -> None:
        nonlocal sent
        await asked.begin_stream()
        for each in events:
            await asked.send(chunk(each))
            sent += 1
        await asked.send(b"0\r\n\r\n")

    async with FakeEngine(pours) as engine, running(engine.url, max_in_flight=2) as run:
        reader, writer = await slow_reader(run.port, "slow")
        await until(lambda: run.sample("buffered_bytes") > BUFFER_LIMIT_BYTES - READ_BYTES)
        engine.script = streams
        for _ in range(5):  # others pass meanwhile, and the buffer does not grow
            assert (await chat(run, "quick")).content == b"".join(each for each in STREAM if each is not USAGE)
            assert BUFFER_LIMIT_BYTES - READ_BYTES < run.sample("buffered_bytes") <= BUFFER_LIMIT_BYTES
        assert (run.sample("held"), in_flight(run)) == (1, 1)
        assert sent < len(events)
        assert dechunk(await read_all(reader)) == b"".join(events)
        writer.close()
        record = await run.record("slow")
        assert (record.outcome, record.finish_reason) == ("completed", "stop")
        assert record.paused_s > 0
        assert (run.sample("held"), run.sample("buffered_bytes"), in_flight(run)) == (0, 0, 0)


async def test_the_slot_is_free_once_upstream_is_done_though_the_reader_is_held() -> None:
    # More than the kernel takes for this reader, less than would hide in a transport's usual buffer.
    events = flood(11)

    async def pours(asked: Asked) -> None:
        await asked.stream(events)

    async with FakeEngine(pours) as engine, running(engine.url, max_in_flight=1) as run:
        reader, writer = await slow_reader(run.port, "slow")
        await until(lambda: run.gateway.admission.counts().completed == 1)
        assert in_flight(run) == 0
        assert run.sample("held") == 1
        assert 0 < run.sample("buffered_bytes") <= BUFFER_LIMIT_BYTES
        assert run.records == []
        engine.script = streams
        assert (await chat(run, "next")).status_code == 200
        assert dechunk(await read_all(reader)) == b"".join(events)
        writer.close()
        record = await run.record("slow")
        assert record.outcome == "completed"
        assert record.upstream_done is not None
        assert record.done > record.upstream_done
        assert run.sample("held") == 0


async def test_a_held_reader_that_leaves_is_a_client_that_left() -> None:
    async def pours(asked: Asked) -> None:
        await asked.stream(flood(24))

    async with FakeEngine(pours) as engine, running(engine.url) as run:
        _, writer = await slow_reader(run.port, "slow")
        await until(lambda: run.gateway.admission.counts().completed == 1)
        writer.transport.abort()
        record = await run.record("slow")
        assert (record.outcome, record.reason) == ("cancelled", "client_left")
        assert record.upstream_done is not None
        assert run.sample("held") == 0


async def test_a_held_reader_that_half_closes_has_left_too() -> None:
    async def pours(asked: Asked) -> None:
        await asked.stream(flood(2000))

    async with FakeEngine(pours) as engine, running(engine.url) as run:
        _, writer = await slow_reader(run.port, "slow")
        await until(lambda: run.sample("buffered_bytes") > BUFFER_LIMIT_BYTES - READ_BYTES)
        writer.write_eof()
        record = await run.record("slow")
        assert (record.outcome, record.upstream_done) == ("cancelled", None)
        await until(lambda: engine.open == 0)
        assert (in_flight(run), run.sample("held")) == (0, 0)
        writer.transport.abort()


async def test_stopping_tells_everybody() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        _, second = await waiting_in_order(run, ["r0", "r1"])
        await until(lambda: gate.came)
        run.gateway.stop()
        reply = await second
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (503, "gateway_stopping")  # type: ignore[attr-defined]
        assert (await run.record("r0")).outcome == "failed"
        assert (await run.record("r1")).outcome == "rejected"
        assert (await chat(run, "r2")).status_code == 503


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """A chunked response to its end."""
    got = bytearray()
    async with asyncio.timeout(30):
        while not got.endswith(b"\r\n0\r\n\r\n"):
            got += await reader.read(65536)
            assert not reader.at_eof()
    return bytes(got)


def dechunk(response: bytes) -> bytes:
    rest = response.partition(b"\r\n\r\n")[2]
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(parts)
