"""Clients who leave at a given moment in a given way, who stop reading, and who are sent elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from loadgen import request as module
from loadgen.behaviours import MOMENTS, STUCK, WAYS, Leaving, Moment, Way
from loadgen.commands import Burst, Leave, LoadCommand, SetTarget, Stall, Stop
from loadgen.profile import Profile
from loadgen.prompts import Message, Prompt, Sampling, chat_body
from loadgen.records import LoadRecord, RequestRecord
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import LoadError, Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until

MAX_TOKENS = 8
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Seen = Literal["", "eof", "reset"]


def chunk(text: str) -> bytes:
    event = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def token(finish: str = "null") -> bytes:
    return chunk(f'{{"choices":[{{"index":0,"delta":{{"content":" w"}},"finish_reason":{finish}}}]}}')


LAST = token('"length"') + chunk("[DONE]") + b"0\r\n\r\n"


class Server:
    """Sends `tokens` of a reply as slowly as they are read, and notes how its client closes its direction. `answers`: it
    goes on to the end then, instead of leaving."""

    def __init__(self, tokens: int = 1000, *, answers: bool = False) -> None:
        self.tokens = tokens
        self.answers = answers
        self.seen: Seen = ""
        self.sent = 0

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.target = Target("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        try:
            await reader.readuntil(b"\r\n\r\n{")
            while not (await reader.read(65536)).endswith(b"}"):
                pass
            watching = asyncio.create_task(self._watch(reader))
            await asyncio.sleep(0.15)  # so long nothing has come
            writer.write(HEAD)
            while self.sent < self.tokens and not (self.seen and not self.answers):
                writer.write(token())
                await writer.drain()
                self.sent += 1
                await asyncio.sleep(0.01)
            await watching
            if self.answers:
                writer.write(LAST)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        try:
            self.seen = "eof" if not await reader.read(1) else ""
        except ConnectionResetError:
            self.seen = "reset"


def asked(target: Target, departure: Leaving | None = None, stall_s: float | None = None) -> StreamedRequest:
    body = chat_body(Prompt((Message("user", "one"),), max_tokens=MAX_TOKENS, words=1), "m", Sampling())
    call = Call(
        request_id="r1",
        person="leaver-1",
        behaviour="leaver",
        scheduled=time.monotonic(),
        body=body,
        max_tokens=MAX_TOKENS,
        departure=departure,
        stall_s=stall_s,
        reading=STUCK if stall_s is not None else module.AT_ONCE,
    )
    return StreamedRequest(target, call, Limits(), Meter())


@pytest.mark.parametrize(("at", "how"), itertools.product(MOMENTS, WAYS))
async def test_each_moment_and_way(at: Moment, how: Way) -> None:
    async with Server() as server:
        record = await asked(server.target, Leaving(at, how)).run()
        await until(lambda: server.seen)
        assert server.seen == ("reset" if how == "rst" else "eof")
    assert record.outcome == "abandoned"
    gone = f"half-closed {MOMENTS[at]}, and was taken for gone"
    assert record.reason == (gone if how == "half-close" else f"left {MOMENTS[at]} {WAYS[how]}")
    least = {"0": 0, "1": 1, "50%": MAX_TOKENS // 2}[at]
    assert record.chunks >= least if how == "half-close" else record.chunks == least
    assert (record.first_token is None) == (record.chunks == 0)


@pytest.mark.parametrize("at", MOMENTS)
async def test_who_half_closes_takes_the_answer_of_a_server_that_gives_it(at: Moment) -> None:
    async with Server(tokens=6, answers=True) as server:
        record = await asked(server.target, Leaving(at, "half-close")).run()
    assert (record.outcome, record.reason, record.finish_reason) == ("ok", "", "length")
    assert server.seen == "eof"


async def test_a_reply_that_is_over_sooner_is_read_to_its_end() -> None:
    async with KnownServer(Behaviour(tokens=3)) as server:
        record = await asked(Target.parse(server.url), Leaving("50%", "rst")).run()
    assert (record.outcome, record.chunks) == ("ok", 3)


async def test_a_refusal_comes_before_any_moment() -> None:
    async with KnownServer(Behaviour(fault="status", status=429)) as server:
        for at, how in itertools.product(MOMENTS, WAYS):
            record = await asked(Target.parse(server.url), Leaving(at, how)).run()
            assert record.outcome == "rejected"


async def test_who_stops_reading_leaves_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    async with KnownServer(Behaviour(tokens=4000, chunk_bytes=1000), sndbuf=8192) as server:
        record = await asked(Target.parse(server.url), stall_s=0.3).run()
        await until(lambda: not server.in_flight)
        assert server.served[0].tokens < 4000, "the rest waited at the server"
    assert (record.outcome, record.reason) == ("abandoned", "stopped reading, and left at last")
    assert record.done - (record.first_token or 0.0) >= 0.3


async def test_who_stops_reading_notices_that_he_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + token())
        await writer.drain()
        await until(lambda: request.first_token is not None)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    request = asked(Target("127.0.0.1", server.sockets[0].getsockname()[1]), stall_s=30.0)
    async with asyncio.timeout(10):
        record = await request.run()
    server.close()
    assert (record.outcome, record.reason) == ("abandoned", "stopped reading, and was cut off")


@contextlib.asynccontextmanager
async def running(
    url: str, *commands: LoadCommand, worker: int = 0, workers: int = 1
) -> AsyncIterator[tuple[Runner, list[LoadRecord]]]:
    records: list[LoadRecord] = []
    settings = WorkerSettings(model="m", worker=worker, workers=workers, profile=Profile(think_s=0.0))
    runner = Runner(Target.parse(url), settings, records.append)
    for command in commands:
        runner.apply(command)
    task = asyncio.create_task(runner.run())
    yield runner, records
    runner.apply(Stop(grace_s=10.0))
    await task


def requests(records: list[LoadRecord]) -> list[RequestRecord]:
    return [record for record in records if isinstance(record, RequestRecord)]


async def test_each_worker_takes_its_part_and_nobody_comes_twice() -> None:
    people = []
    async with KnownServer(Behaviour(gap_s=0.05)) as server:
        for worker in range(3):
            commands = (Leave(4, "0", "rst"), Leave(3, "1", "fin"), Stall(2, 0.1), Burst(2))
            async with running(server.url, *commands, worker=worker, workers=3) as (_, records):
                await until(lambda: requests(records))
            people += [record.person for record in requests(records)]
    names = {"leaver": 7, "staller": 2, "burst": 2}
    assert sorted(people) == sorted(f"{name}-{n + 1}" for name, count in names.items() for n in range(count))


async def test_what_leaves_is_counted_with_those_who_left() -> None:
    async with (
        KnownServer(Behaviour(gap_s=0.02)) as server,
        running(server.url, Leave(3, "1", "rst"), Stall(1, 0.1)) as (runner, records),
    ):
        await until(lambda: len(requests(records)) == 4)
        seen = runner.interval()
    assert (seen.left_total, seen.outcomes["abandoned"]) == (4, 4)
    assert seen.wasted_tokens_total >= 4


async def test_new_requests_go_to_the_new_target_and_the_others_end_where_they_began() -> None:
    async with KnownServer(Behaviour(gap_s=0.05, tokens=10)) as old, KnownServer() as new:
        async with running(old.url, Burst(4)) as (runner, records):
            await until(lambda: old.in_flight == 4)
            runner.apply(SetTarget(new.url))
            runner.apply(Burst(5))
            await until(lambda: len(requests(records)) == 9)
            assert (len(old.served), len(new.served)) == (4, 5)
            runner.apply(SetTarget(old.url))
            runner.apply(Burst(1))
            with pytest.raises(LoadError):
                runner.apply(SetTarget("https://127.0.0.1:1"))
            await until(lambda: len(requests(records)) == 10)
        assert len(old.served) == 5
    assert {record.outcome for record in requests(records)} == {"ok"}
