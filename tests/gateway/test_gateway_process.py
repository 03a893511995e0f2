"""`python -m server.gateway` as the stack runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import httpx
from gateway_fakes import FakeEngine, ask, until

from server.gateway.stdio import LineWriter


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server.gateway", *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def line(child: Process) -> dict[str, object]:
    assert child.stdout is not None
    while True:
        document: dict[str, object] = json.loads(await asyncio.wait_for(child.stdout.readline(), 20))
        if document["type"] != "queue":
            return document


async def test_it_listens_obeys_records_and_ends_with_its_stdin() -> None:
    async with (
        FakeEngine() as engine,
        process("--port", "0", "--engine-url", engine.url, "--engine-state", "starting") as child,
    ):
        assert child.stdin is not None
        assert child.stderr is not None
        ready = await line(child)
        assert ready["type"] == "listening"
        url = f"http://127.0.0.1:{ready['port']}"
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
            asking = asyncio.create_task(http.post("/v1/completions", content=ask(), headers={"x-request-id": "r1"}))
            child.stdin.write(b'nonsense\n{"op":"policy","max_in_flight":0}\n')
            child.stdin.write(b'{"op":"policy","max_in_flight":3,"max_queue":9}\n{"op":"engine","state":"ready"}\n')
            assert (await asking).status_code == 200
            record = await line(child)
            assert (record["type"], record["request_id"], record["outcome"]) == ("gateway", "r1", "completed")
            text = (await http.get("/metrics")).text
            assert "spark_gateway_max_in_flight 3.0" in text
            assert "spark_gateway_max_queue 9.0" in text
        child.stdin.close()
        log = (await asyncio.wait_for(child.stderr.read(), 20)).decode()
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert log.count("not carried out") == 2
        assert "at least 1" in log
        assert "Traceback" not in log


async def test_sigterm_ends_it_and_what_waits_is_told_and_recorded() -> None:
    async with process("--port", "0", "--engine-url", "http://127.0.0.1:9", "--engine-state", "down") as child:
        port = (await line(child))["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:
            asking = asyncio.create_task(http.post("/v1/completions", content=ask()))

            async def depth() -> bool:
                return "spark_gateway_queue_depth 1.0" in (await http.get("/metrics")).text

            async with asyncio.timeout(10):
                while not await depth():
                    pass
            child.send_signal(signal.SIGTERM)
            assert (await asking).headers["x-spark-reason"] == "gateway_stopping"
        assert (await line(child))["outcome"] == "rejected"
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_a_busy_port_is_one_sentence_and_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process("--port", str(port), "--engine-url", "http://127.0.0.1:9") as child:
            out, err = await asyncio.wait_for(child.communicate(), 20)
            assert (child.returncode, out) == (1, b"")
            assert err.decode() == f"The gateway cannot listen on 127.0.0.1 port {port}: Address already in use.\n"


async def test_a_bad_setting_is_code_2() -> None:
    for arguments in (["--engine-url", "ftp://x"], ["--engine-url", "http://x:1", "--max-in-flight", "0"]):
        async with process(*arguments) as child:
            _, err = await asyncio.wait_for(child.communicate(), 20)
            assert child.returncode == 2
            assert err.decode().splitlines()[-1].startswith("python -m server.gateway: error: ")


async def test_records_that_nobody_reads_are_dropped_and_counted_and_block_nothing() -> None:
    reading, writing = os.pipe()
    dropped = 0

    def count() -> None:
        nonlocal dropped
        dropped += 1

    writer = LineWriter(writing, count, backlog=10)
    big = b"x" * 100_000  # more than a pipe takes
    for _ in range(50):
        writer.write(big)
    assert 50 - 22 <= dropped < 50  # those in hand and those in the backlog
    kept = 50 - dropped
    got = 0
    os.set_blocking(reading, False)

    def read() -> bool:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += len(os.read(reading, 1 << 20))
        return got == kept * (len(big) + 1)

    await until(read)
    writer.close(timeout_s=5.0)
    os.close(reading)
    os.close(writing)
