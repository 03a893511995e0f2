from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import requests_samples
import samples

from console.sources.base import SourceGoneError
from console.sources.live import LiveSource, decode
from console.sources.replay import ReplaySource
from loadgen.records import RequestRecord
from server import commands
from server.telemetry.recording import Recorder
from server.telemetry.snapshot import SCHEMA_VERSION, Snapshot, snapshot_encoder


class FakeStack:
    """A Unix socket that answers every request with one canned HTTP response and keeps what was asked."""

    def __init__(self, path: Path, parts: list[bytes]) -> None:
        self.path = path
        self.parts = parts
        self.asked: list[bytes] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeStack:
        self._server = await asyncio.start_unix_server(self._answer, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(one.split(b":")[1]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length")), 0
        )
        self.asked.append(head + await reader.readexactly(length))
        for part in self.parts:
            writer.write(part)
            await writer.drain()
        writer.close()


def answer(body: bytes, status: str = "200 OK") -> list[bytes]:
    return [f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n".encode(), body]


async def collect(source: LiveSource) -> tuple[list[Snapshot], str]:
    got: list[Snapshot] = []
    try:
        async for snapshot in source.snapshots():
            got.append(snapshot)
    except SourceGoneError as gone:
        return got, str(gone)
    finally:
        await source.close()
    return got, ""


async def test_lines_become_snapshots_however_they_are_cut(tmp_path: Path) -> None:
    body = b"".join(snapshot_encoder.encode(one) + b"\n" for one in (samples.IDLE, samples.LOADED))
    head, _ = answer(b"")
    async with FakeStack(tmp_path / "s", [head, body[:100], body[100:7000], body[7000:]]) as stack:
        got, why = await collect(LiveSource(stack.path, history=33))
        assert [one.verdict.word for one in got] == ["IDLE", "GOOD"]
        assert why == "the stack closed the connection"
        assert stack.asked[0].startswith(b"GET /v1/snapshots?history=33 ")


async def test_how_much_of_the_past_still_comes_is_known(tmp_path: Path) -> None:
    body = b"".join(snapshot_encoder.encode(one) + b"\n" for one in [samples.IDLE] * 4)
    head = b"HTTP/1.1 200 OK\r\nx-past-snapshots: 3\r\nconnection: close\r\n\r\n"
    async with FakeStack(tmp_path / "s", [head, body]) as stack:
        source = LiveSource(stack.path)
        behind = []
        with contextlib.suppress(SourceGoneError):
            async for _ in source.snapshots():
                behind.append(source.behind)
        await source.close()
    assert behind == [2, 1, 0, 0]


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (answer(b"{}", "503 Service Unavailable"), "the stack answered 503"),
        (answer(b"<html>\n"), "no snapshot"),
        (answer(b'{"schema_version":99,"seq":"x"}\n'), "snapshot version 99"),
        (answer(b'{"schema_version":99,"seq":1,"at":1,"wall":1}\n'), "snapshot version 99"),
        ([b"SSH-2.0-OpenSSH\r\n"], "broke off"),
    ],
    ids=["status", "html", "version", "version-that-decodes", "not-http"],
)
async def test_what_is_no_stack_is_said_in_a_clause(tmp_path: Path, parts: list[bytes], why: str) -> None:
    async with FakeStack(tmp_path / "s", parts) as stack:
        got, said = await collect(LiveSource(stack.path))
    assert got == []
    assert why in said


async def test_nobody_there(tmp_path: Path) -> None:
    assert await collect(LiveSource(tmp_path / "none")) == ([], "no stack answers on the socket")


async def test_commands_are_posted_and_answered(tmp_path: Path) -> None:
    async with FakeStack(tmp_path / "s", answer(b'{"ok":true,"message":"192 requests at once."}')) as stack:
        source = LiveSource(stack.path)
        said = await source.send(commands.Burst())
        await source.close()
    assert (said.ok, said.message) == (True, "192 requests at once.")
    assert stack.asked[0].startswith(b"POST /v1/commands ")
    assert msgspec.json.decode(stack.asked[0].split(b"\r\n\r\n")[1]) == {"command": "burst", "count": None}


async def test_commands_never_raise(tmp_path: Path) -> None:
    source = LiveSource(tmp_path / "none")
    assert not (await source.send(commands.Down())).ok
    await source.close()
    async with FakeStack(tmp_path / "s", answer(b"<html>", "500 Oh")) as stack:
        source = LiveSource(stack.path)
        said = await source.send(commands.Down())
        await source.close()
    assert not said.ok
    assert "500" in said.message


def test_decode_refuses_another_version() -> None:
    line = snapshot_encoder.encode(msgspec.structs.replace(samples.LOADED, schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(SourceGoneError, match="update the console"):
        decode(line)


async def test_a_replay_is_read_only_in_order_and_ends() -> None:
    script = [msgspec.structs.replace(samples.LOADED, seq=n, at=100.0 + n) for n in range(4)]
    source = ReplaySource(script, speed=1000.0)
    got = [snapshot async for snapshot in source.snapshots()]
    assert [one.seq for one in got] == [0, 1, 2, 3]
    assert all(one.read_only and one.recording_s is None for one in got)
    assert not (await source.send(commands.Burst())).ok


async def test_a_held_replay_stands_still_and_goes_on_where_it_was() -> None:
    script = [msgspec.structs.replace(samples.LOADED, seq=n, at=100.0 + n) for n in range(4)]
    source = ReplaySource(script, speed=1000.0)
    playing: AsyncIterator[Snapshot] = source.snapshots()
    await anext(playing)
    source.hold(True)
    waiting = asyncio.ensure_future(anext(playing))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    source.hold(False)
    assert (await asyncio.wait_for(waiting, 5)).seq == 1


async def test_a_file_that_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("hello")
    with pytest.raises(SourceGoneError, match="notes"):
        _ = [snapshot async for snapshot in ReplaySource(path).snapshots()]


async def test_requests_are_asked_for_by_what_is_new(tmp_path: Path) -> None:
    body = msgspec.json.encode(requests_samples.FINISHED[:2])
    async with FakeStack(tmp_path / "s", answer(body)) as stack:
        source = LiveSource(stack.path)
        found = await source.requests(12.5, 99.0, 300)
        await source.close()
    assert msgspec.json.encode(found) == body
    assert stack.asked[0].startswith(b"GET /v1/requests?limit=300&since=12.5 ")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (answer(b"{}", "503 Service Unavailable"), "the stack answered 503"),
        (answer(b"<html>"), "no list of requests"),
        (answer(b'[{"request_id":7}]'), "no list of requests"),
    ],
    ids=["status", "html", "odd"],
)
async def test_why_there_are_no_requests_is_a_clause(tmp_path: Path, parts: list[bytes], why: str) -> None:
    async with FakeStack(tmp_path / "s", parts) as stack:
        source = LiveSource(stack.path)
        with pytest.raises(SourceGoneError, match=why):
            await source.requests(-math.inf, 0.0, 10)
        await source.close()
    gone = LiveSource(tmp_path / "none")
    with pytest.raises(SourceGoneError, match="no stack answers"):
        await gone.requests(0.0, 0.0, 10)
    await gone.close()


async def test_a_replay_has_the_requests_of_its_recording_up_to_the_moment(tmp_path: Path) -> None:
    path = tmp_path / "run.sparkrec"
    recorder = Recorder(path)
    recorder.write(samples.LOADED)
    for n in range(3):
        at = samples.AT + n
        record = RequestRecord(
            request_id=f"r{n}", person="p", behaviour="patient", scheduled=at, done=at + 0.5, outcome="ok"
        )
        recorder.write_request(msgspec.json.encode(record))
    recorder.close()
    source = ReplaySource(path)
    found = await source.requests(-math.inf, samples.AT + 2, 10)
    assert [request.request_id for request in found] == ["r0", "r1"]
    later = await source.requests(samples.AT + 2, samples.AT + 9, 10)
    assert [request.request_id for request in later] == ["r2"]
    await source.close()


async def test_a_replay_without_requests_says_why(tmp_path: Path) -> None:
    path = tmp_path / "run.sparkrec"
    Recorder(path).close()
    with pytest.raises(SourceGoneError, match="no requests beside it"):
        await ReplaySource(path).requests(0.0, 1.0, 10)
    with pytest.raises(SourceGoneError, match="only snapshots"):
        await ReplaySource([samples.LOADED]).requests(0.0, 1.0, 10)
