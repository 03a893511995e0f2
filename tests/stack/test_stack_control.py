"""The control socket: real uvicorn on a real Unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec
import pytest

from server import commands
from server.commands import Answer, Command
from server.control import PIECE, Feed, application, bind, in_pieces, serve
from server.telemetry.snapshot import JoinedRequest, Snapshot, snapshot_decoder


def frame(seq: int) -> Snapshot:
    return Snapshot(seq=seq, at=float(seq), wall=0.0)


class Served:
    """A control socket with a scripted stack behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.feed = Feed(0.5)
        self.executed: list[Command] = []

    async def execute(self, command: Command) -> Answer:
        self.executed.append(command)
        if isinstance(command, commands.Restart):
            return Answer(ok=False, message="Not now.")
        return Answer(ok=True, message="Done.")

    def requests(self, limit: int, since: float) -> list[JoinedRequest]:
        found = [JoinedRequest(request_id=f"r{n}", at=0.0, sealed_at=float(n)) for n in range(10)]
        return [request for request in found if request.sealed_at > since][-limit:]

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=os.fspath(self.path))
        return httpx.AsyncClient(transport=transport, base_url="http://stack", timeout=5)


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    stack = Served(tmp_path / "s.sock")
    logs = {"engine": ["one", "two"]}
    app = application(
        stack.feed,
        stack.execute,
        stack.requests,
        lambda child, lines: logs[child][-lines:] if child in logs else None,
    )
    async with serve(app, bind(stack.path)):
        yield stack
        await stack.feed.close()


async def test_socket_is_private_and_removed(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        assert stat.S_IMODE(stack.path.stat().st_mode) == 0o600
    assert not stack.path.exists()


async def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.fspath(path))
    stale.close()
    listener = bind(path)
    with pytest.raises(OSError, match="already listens"):
        bind(path)
    listener.close()


async def test_no_snapshot_yet_is_said(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        answer = await http.get("/v1/snapshot")
        assert answer.status_code == 503
        assert "No snapshot yet" in answer.json()["message"]


async def test_stream_begins_with_history_and_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        for seq in range(5):
            await stack.feed.publish(frame(seq))
        seen = []
        async with http.stream("GET", "/v1/snapshots?history=10") as answer:
            assert answer.headers["x-past-snapshots"] == "5"
            lines = answer.aiter_lines()
            seen += [snapshot_decoder.decode(await anext(lines)).seq for _ in range(5)]
            await stack.feed.publish(frame(5))
            seen.append(snapshot_decoder.decode(await anext(lines)).seq)
        assert seen == [0, 1, 2, 3, 4, 5]


async def test_slow_stream_reader_gets_the_newest(tmp_path: Path) -> None:
    feed = Feed(0.5)
    await feed.publish(frame(0))
    past, lines = feed.stream(history=1)
    assert past == 1
    assert snapshot_decoder.decode(await anext(lines)).seq == 0
    for seq in range(1, 8):
        await feed.publish(frame(seq))
    assert snapshot_decoder.decode(await anext(lines)).seq == 7
    await feed.close()
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


async def test_what_is_announced_is_what_comes_when_a_line_more_would_halve_the_past() -> None:
    """Else a console waits for past lines that never come, and shows nothing meanwhile."""
    feed = Feed(0.5)
    for seq in range(300):
        await feed.publish(frame(seq))
    past, lines = feed.stream(history=300)
    await feed.publish(frame(300))
    assert past == 300
    assert [snapshot_decoder.decode(await anext(lines)).seq for _ in range(past + 1)] == list(range(301))


def test_history_is_spread_and_keeps_the_newest() -> None:
    async def build() -> list[int]:
        feed = Feed(0.5)
        for seq in range(700):
            await feed.publish(frame(seq))
        return [snapshot_decoder.decode(line).seq for line in feed.history(150)]

    seqs = asyncio.run(build())
    assert seqs[-1] == 699
    assert seqs[0] >= 100  # 300 s at 2 Hz are kept
    assert len(seqs) == 150
    assert len({b - a for a, b in pairwise(seqs)}) == 1


async def test_commands_are_typed(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        assert (await http.post("/v1/commands", content=b'{"command":"burst","count":7}')).json()["ok"]
        assert stack.executed == [commands.Burst(7)]
        refused = await http.post("/v1/commands", content=b'{"command":"restart"}')
        assert refused.status_code == 409
        assert refused.json() == {"ok": False, "message": "Not now."}
        for body in (b"", b"[]", b'{"command":"explode"}', b'{"command":"burst","count":"many"}', b"\xff"):
            bad = await http.post("/v1/commands", content=body)
            assert bad.status_code == 400
            assert "not a command" in json.loads(bad.content)["message"]
        assert len(stack.executed) == 2


async def test_logs_of_unknown_children_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        assert (await http.get("/v1/logs?child=engine&lines=1")).json() == ["two"]
        assert (await http.get("/v1/logs?child=../../etc/passwd")).status_code == 404


async def test_tasks_are_counted_by_name(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        tasks = (await http.get("/v1/tasks")).json()
        assert tasks["control"] == 1


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 2 * PIECE + 50])
async def test_a_list_in_pieces_is_one_list(count: int) -> None:
    items = [JoinedRequest(request_id=f"r{n}", at=0.0) for n in range(count)]
    pieces = [piece async for piece in in_pieces(items)]
    found = msgspec.json.decode(b"".join(pieces), type=list[JoinedRequest])
    assert [one.request_id for one in found] == [one.request_id for one in items]
    assert len(pieces) == -(-count // PIECE) + 1


async def test_requests_are_asked_for_by_what_is_new(tmp_path: Path) -> None:
    async with served(tmp_path) as stack, stack.client() as http:
        latest = [one["request_id"] for one in (await http.get("/v1/requests?limit=3")).json()]
        assert latest == ["r7", "r8", "r9"]
        assert len((await http.get("/v1/requests")).json()) == 10
        new = (await http.get("/v1/requests?limit=100&since=7.0")).json()
        assert [one["request_id"] for one in new] == ["r8", "r9"]
        assert (await http.get("/v1/requests?since=9.0")).json() == []
        odd = await http.get("/v1/requests?since=yesterday")
        assert odd.status_code == 400
        assert "seconds" in odd.json()["message"]
