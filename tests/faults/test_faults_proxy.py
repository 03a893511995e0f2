"""The fault proxy: what goes through it as it came, what does not, and that it keeps next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import msgspec
import pytest

from server.faults import proxy as module
from server.faults.proxy import BUFFER_BYTES, Connection, Proxy, bind, close
from server.faults.records import ProxyLine, ProxyRecord, SetTarget, SetToxics
from server.faults.toxics import Bandwidth, Latency, LimitData, ResetPeer, SlowClose, Timeout, Toxic
from tests.fakes.waiting import until


class Bench:
    """A proxy in this process, before a bare listening socket."""

    def __init__(self, *toxics: Toxic) -> None:
        self._listening = bind("127.0.0.1", 0)
        self._target = bind("127.0.0.1", 0)
        self.proxy = Proxy("127.0.0.1", self._target.getsockname()[1], toxics, seed=1)
        self._open: list[socket.socket] = []

    async def __aenter__(self) -> Bench:
        self._serving = asyncio.create_task(self.proxy.serve(self._listening))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._serving.cancel()
        await asyncio.wait({self._serving})
        for sock in (self._listening, self._target, *self._open):
            sock.close()
        assert self.proxy.record().open == 0

    async def client(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        self._open.append(client)
        await asyncio.get_running_loop().sock_connect(client, self._listening.getsockname())
        return client

    async def connected(self) -> tuple[socket.socket, socket.socket]:
        """A client, and the other end of it at the target."""
        client = await self.client()
        server, _ = await asyncio.get_running_loop().sock_accept(self._target)
        self._open.append(server)
        await until(lambda: self.proxy.record().open or self.proxy.record().ended)
        return client, server

    @property
    def connection(self) -> Connection:
        """The only one."""
        (connection,) = self.proxy._connections
        return connection

    def nobody_listens(self) -> None:
        self._target.close()


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer before the end of the stream."""
    loop, got = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(20):
        while len(got) < count and (data := await loop.sock_recv(sock, min(65536, count - len(got)))):
            got += data
    return bytes(got)


async def test_both_directions_pass_and_a_half_close_too() -> None:
    async with Bench() as bench:
        client, server = await bench.connected()
        question, answer = bytes(range(256)) * 2000, b"answer" * 50_000
        asking = asyncio.create_task(send(client, question))
        assert await receive(server, len(question)) == question
        await asking
        client.shutdown(socket.SHUT_WR)
        assert await receive(server, 1) == b""
        answering = asyncio.create_task(send(server, answer))
        assert await receive(client, len(answer)) == answer
        await answering
        server.shutdown(socket.SHUT_WR)
        assert await receive(client, 1) == b""
        await until(lambda: bench.proxy.record().open == 0)
        record = bench.proxy.record()
        assert (record.total, record.ended, record.refused, record.swallowed) == (1, 0, 0, 0)
        assert (record.bytes_up, record.bytes_down) == (len(question), len(answer))


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_of_one_side_is_a_reset_for_the_other(who: str) -> None:
    async with Bench() as bench:
        client, server = await bench.connected()
        one, other = (client, server) if who == "client" else (server, client)
        close(one, reset=True)
        with pytest.raises(ConnectionResetError):
            await receive(other, 1)
        await until(lambda: bench.proxy.record().open == 0)
        assert bench.proxy.record().ended == 0, "no toxic has ended it"


async def test_a_side_that_stops_reading_is_felt_on_the_other_one() -> None:
    async with Bench() as bench:
        client, server = await bench.connected()
        pouring = asyncio.create_task(send(server, bytes(8 << 20)))
        taken = -1
        while (passed := bench.proxy.record().bytes_down) != taken:  # until nothing moves any more
            taken = passed
            await asyncio.sleep(0.1)
        assert not pouring.done()
        assert bench.connection.down._pending_bytes <= BUFFER_BYTES + module.READ_BYTES
        assert taken < 1 << 20, "what its kernel and ours have taken"
        assert len(await receive(client, 8 << 20)) == 8 << 20
        await pouring


async def test_a_reset_is_noticed_though_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    async with Bench() as bench:
        _, server = await bench.connected()
        pouring = asyncio.create_task(send(server, bytes(8 << 20)))
        taken = -1
        while (passed := bench.proxy.record().bytes_down) != taken:
            taken = passed
            await asyncio.sleep(0.1)
        pouring.cancel()
        await asyncio.wait({pouring})
        close(server, reset=True)
        await until(lambda: bench.proxy.record().open == 0)


async def test_whose_target_is_not_there_is_reset() -> None:
    async with Bench() as bench:
        bench.nobody_listens()
        client = await bench.client()
        with pytest.raises(ConnectionResetError):
            await receive(client, 1)
        assert (bench.proxy.record().refused, bench.proxy.record().open) == (1, 0)


async def test_toxics_come_over_connections_there_are_and_leave_them_again() -> None:
    async with Bench() as bench:
        client, server = await bench.connected()
        await send(server, b"a")
        assert await receive(client, 1) == b"a"
        bench.proxy.set_toxics([Bandwidth(rate=0.01)])
        await send(server, bytes(50_000))
        assert await receive(client, 1) == b"\0"
        bench.proxy.set_toxics([])
        assert len(await receive(client, 49_999)) == 49_999  # an hour, at 10 bytes a second
        bench.proxy.set_toxics([Latency(latency=3_600_000)])
        await send(server, b"b")
        await until(lambda: bench.connection.down.link._last_due > time.monotonic() + 1000)
        bench.proxy.set_toxics([])
        assert await receive(client, 1) == b"b"
        assert bench.proxy.record().ended == 0


async def test_what_is_on_its_way_is_swallowed_too() -> None:
    async with Bench(Latency(latency=3_600_000)) as bench:
        client, server = await bench.connected()
        await send(server, b"lost")
        await until(lambda: bench.connection.down.link._last_due > time.monotonic() + 1000)
        bench.proxy.set_toxics([Timeout()])
        await until(lambda: bench.proxy.record().swallowed == 4)
        bench.proxy.set_toxics([])
        assert await receive(client, 1) == b""
        assert await receive(server, 1) == b""
        assert bench.proxy.record().ended == 1


@pytest.mark.parametrize(
    ("toxic", "got", "reset"),
    [
        (LimitData(bytes=10), 10, False),
        (Timeout(timeout=50), 0, False),
        (ResetPeer(timeout=50), 0, True),
        (ResetPeer(), 0, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Toxic) else "",
)
async def test_what_ends_a_connection_ends_it_for_both_sides(toxic: Toxic, got: int, reset: bool) -> None:
    async with Bench(toxic) as bench:
        client, server = await bench.connected()
        if not reset:
            await send(server, bytes(100))
        for side, count in ((client, got), (server, 0)):
            if reset:
                with pytest.raises(ConnectionResetError):
                    await receive(side, 100)
            else:
                assert len(await receive(side, 100)) == count
        await until(lambda: bench.proxy.record().ended == 1)


async def test_an_end_of_stream_goes_through_a_silence_and_comes_late_through_a_slow_close() -> None:
    async with Bench(Timeout(), SlowClose(delay=200, stream="up")) as bench:
        client, server = await bench.connected()
        began = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)
        assert await receive(client, 1) == b""
        assert await receive(server, 1) == b""
        assert time.monotonic() - began >= 0.2


async def test_who_is_there_stays_at_the_old_target() -> None:
    async with Bench() as bench, Bench() as other:
        client, server = await bench.connected()
        bench.proxy.set_target("127.0.0.1", other._target.getsockname()[1])
        elsewhere = await bench.client()
        accepted, _ = await asyncio.get_running_loop().sock_accept(other._target)
        await send(elsewhere, b"new")
        await send(client, b"old")
        assert await receive(accepted, 3) == b"new"
        assert await receive(server, 3) == b"old"
        accepted.close()


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.faults", *arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM"])
async def test_as_a_process_it_listens_obeys_tells_and_ends(how: str) -> None:
    target = bind("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    late = msgspec.json.encode([Latency(latency=1)]).decode()
    async with process("--target", "127.0.0.1:1", "--toxics", late) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        port = json.loads(await child.stdout.readline())["port"]
        wrong = SetToxics([Latency(latency=-1)])
        for line in (b"nonsense", msgspec.json.encode(wrong), msgspec.json.encode(SetTarget(*target.getsockname()))):
            child.stdin.write(line + b"\n")
        await child.stdin.drain()
        for _ in range(2):
            assert b"not carried out" in await asyncio.wait_for(child.stderr.readline(), 20)
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        server, _ = await loop.sock_accept(target)
        await send(client, b"hello")
        assert await receive(server, 5) == b"hello"
        decoder: msgspec.json.Decoder[ProxyLine] = msgspec.json.Decoder(ProxyLine)
        record = decoder.decode(await asyncio.wait_for(child.stdout.readline(), 20))
        assert isinstance(record, ProxyRecord)
        assert (record.open, record.total, record.bytes_up) == (1, 1, 5)
        if how == "SIGTERM":
            child.send_signal(signal.SIGTERM)
        else:
            child.stdin.close()
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert await receive(server, 1) == await receive(client, 1) == b""
        assert b"Traceback" not in await child.stderr.read()
    for sock in (client, server, target):
        sock.close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--target", "127.0.0.1"], 2, "error:"),
        (["--target", "127.0.0.1:1", "--toxics", '[{"type":"fog"}]'], 2, "Invalid value 'fog'"),
        (["--target", "127.0.0.1:1", "--toxics", '[{"type":"bandwidth","rate":0}]'], 2, "over 0 KB/s"),
        (["--target", "127.0.0.1:1", "--port", "taken"], 1, "cannot listen on 127.0.0.1 port"),
    ],
)
async def test_what_it_cannot_do_is_one_sentence(arguments: list[str], code: int, said: str) -> None:
    with bind("127.0.0.1", 0) as taken:
        ports = [str(taken.getsockname()[1]) if word == "taken" else word for word in arguments]
        async with process(*ports) as child:
            _, err = await asyncio.wait_for(child.communicate(), 20)
    assert child.returncode == code
    assert said in err.decode().splitlines()[-1]
