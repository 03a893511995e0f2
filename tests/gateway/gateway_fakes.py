"""A scripted engine on a real socket, a gateway on another, and waiting for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.gateway.access import Access
from server.gateway.client import STALL_S
from server.gateway.listener import Listener, bind
from server.gateway.policy import Balance, Policy
from server.gateway.records import EngineState, GatewayRecord
from server.gateway.relay import Gateway

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Plain HTTP only: setting TLS up takes httpx longer than a whole test."""


async def until(condition: Callable[[], Any], bound_s: float = 10.0) -> None:
    """Wait until the condition holds; AssertionError at the bound."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come about"
        await asyncio.sleep(0.002)


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


ROLE = event(
    {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
)
USAGE = event(
    {
        "id": "c",
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        "metrics": {"queue_time_ms": 12.5, "time_to_first_token_ms": 40.0, "generation_time_ms": 250.0},
    }
)
DONE = b"data: [DONE]\n\n"
STREAM = [ROLE, token("Par"), token("is"), token("", "stop"), USAGE, DONE]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


@dataclass
class Asked:
    """One request as the engine got it, and the connection to answer on."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    writer: asyncio.StreamWriter
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The gateway closed the connection while this request was under way."""

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def stream(self, events: list[bytes]) -> None:
        await self.begin_stream()
        for each in events:
            await self.send(chunk(each))
        await self.send(b"0\r\n\r\n")

    async def json(self, body: bytes, status: int = 200) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)


Script = Callable[[Asked], Awaitable[None]]


async def streams(asked: Asked) -> None:
    await asked.stream(STREAM)


class Gate:
    """A script whose requests all wait, in the order in which they came, until they are let through."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Event] = {}
        self.came: list[str] = []
        self.all_open = False

    async def __call__(self, asked: Asked) -> None:
        name = asked.headers["x-request-id"]
        self.came.append(name)
        self.waiting[name] = asyncio.Event()
        if not self.all_open:
            await self.waiting[name].wait()
        await streams(asked)

    def open(self, name: str) -> None:
        self.waiting[name].set()

    def open_all(self) -> None:
        """Those who wait and those who come."""
        self.all_open = True
        for event in self.waiting.values():
            event.set()


class FakeEngine:
    """Answers every request by `script`; a script that returns without a whole response closes the connection itself."""

    def __init__(self, script: Script = streams) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.connections = 0
        self.open = 0

    async def __aenter__(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not number:  # one that was only opened ahead is none yet
                    self.connections += 1
                    self.open += 1
                    number = self.connections
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(method, target, headers, body, number, writer)
                self.asked.append(asked)
                answering = asyncio.create_task(_quietly(self.script(asked)))
                watching = asyncio.create_task(reader.read(1))
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    asked.left.set()
                    answering.cancel()
                    await asyncio.wait({answering})
                    return
                watching.cancel()
                await asyncio.wait({watching})
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= number > 0
            writer.transport.abort()
            self._tasks.discard(task)


async def _quietly(answer: Awaitable[None]) -> None:
    with contextlib.suppress(ConnectionError):
        await answer


@dataclass
class Running:
    gateway: Gateway
    records: list[GatewayRecord]
    port: int
    http: httpx.AsyncClient

    async def record(self, request_id: str) -> GatewayRecord:
        """The one record of this request, once it is there."""
        await until(lambda: any(record.request_id == request_id for record in self.records))
        (found,) = [record for record in self.records if record.request_id == request_id]
        return found

    def sample(self, name: str) -> float:
        """A metric without labels, read past HTTP."""
        value = self.gateway.metrics.registry.get_sample_value("spark_gateway_" + name)
        assert value is not None
        return value

    async def metric(self, sample: str) -> float:
        text = (await self.http.get("/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith(sample + " ")]
        return float(line.rsplit(" ", 1)[1])


@contextlib.asynccontextmanager
async def running(
    engine_url: str | list[str],
    *,
    balance: Balance = "least",
    engine_state: EngineState = "ready",
    access: Access | None = None,
    stall_s: float = STALL_S,
    **policy: Any,
) -> AsyncIterator[Running]:
    records: list[GatewayRecord] = []
    gateway = Gateway(
        engine_url=engine_url,
        balance=balance,
        policy=Policy(**{"max_in_flight": 8, "max_queue": 16, **policy}),
        engine_state=engine_state,
        sink=records.append,
        connections=lambda: listener.connections,
        access=access,
        stall_s=stall_s,
    )
    sock = bind("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    listener = Listener(gateway, sock)
    serving = asyncio.create_task(listener.run_until_stopped())
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=20.0, limits=limits, trust_env=False, verify=_NO_TLS
    ) as http:
        try:
            yield Running(gateway, records, port, http)
        finally:
            gateway.stop()
            listener.should_exit = True
            await serving


def ask(*, stream: bool = True, **fields: Any) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **fields}
    ).encode()


async def chat(run: Running, request_id: str, body: bytes | None = None, **headers: str) -> httpx.Response:
    return await run.http.post(
        "/v1/chat/completions",
        content=ask() if body is None else body,
        headers={"x-request-id": request_id, "content-type": "application/json", **headers},
    )


async def open_raw(
    port: int, request_id: str, body: bytes | None = None, *, sock: socket.socket | None = None, limit: int = 65536
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent a chat request and reads, or not, as the test has it."""
    body = ask() if body is None else body
    if sock is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    else:
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def slow_reader(port: int, request_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client with next to no buffers, which therefore takes next to nothing until the test reads."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return await open_raw(port, request_id, sock=sock, limit=1024)
