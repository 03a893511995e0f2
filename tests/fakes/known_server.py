"""An OpenAI-compatible server on a raw socket whose timings, faults and counts are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

Fault = Literal["", "status", "html", "error_event", "cut", "bare_fin", "no_finish", "hang", "stall", "garbage"]
"""What goes wrong:

- `status`: answers `status` with an OpenAI-shaped error and, if set, Retry-After
- `html`: 200 with a page
- `error_event`: after `fault_after` tokens an error event inside the 200, then `[DONE]` and a proper end
- `cut`: after `fault_after` tokens the connection is reset; `bare_fin`: closed without the last chunk
- `no_finish`: all tokens and `[DONE]`, but no finish_reason
- `hang`: takes the request and never answers; `stall`: answers, and stops for ever after `fault_after` tokens
- `garbage`: bytes that are not HTTP
"""


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered. A request overrides fields with a JSON object under `known` in its body."""

    ttft_s: float = 0.0
    """From the request read to the first token's write."""
    gap_s: float = 0.0
    """Between the starts of two chunks' writes, kept as a schedule so that it does not drift."""
    tokens: int | None = None
    """None: the request's max_tokens."""
    tokens_per_chunk: int = 1
    role_first: bool = True
    """The chat role comes in a chunk of its own, at once, as vLLM sends it."""
    usage: bool = True
    """Send usage if the request asked for it."""
    finish_reason: str = "length"
    finish_apart: bool = False
    """The finish_reason comes in a last chunk without content."""
    chunk_bytes: int = 0
    """Pad each token's event to about this many bytes."""
    newline: str = "\n"
    fault: Fault = ""
    fault_after: int = 0
    status: int = 429
    retry_after: int | str | None = None


@dataclass
class Served:
    """What was sent for one request, stamps in monotonic seconds."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    request_id: str
    accepted: float
    first_token: float | None = None
    last_token: float | None = None
    done: float | None = None
    tokens: int = 0
    bytes: int = 0
    ending: Literal["", "complete", "fault", "client_left"] = ""
    """Empty while it is being answered."""


@dataclass
class KnownServer:
    """`async with KnownServer(Behaviour(ttft_s=0.1)) as server: ... server.url`; `behaviour` may change at any time."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    model: str = "known-model"
    healthy: bool = True
    sndbuf: int | None = None
    """SO_SNDBUF of accepted connections, to feel a slow reader soon."""
    pace: Callable[[], Awaitable[None]] | None = None
    """What each token waits for besides its time."""
    metrics: Callable[[], str] | None = None
    """What /metrics says; None: there is no such page."""
    served: list[Served] = field(default_factory=list)
    open_connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def in_flight(self) -> int:
        return sum(not served.ending for served in self.served)

    @property
    def tokens_sent(self) -> int:
        return sum(served.tokens for served in self.served)

    async def __aenter__(self) -> Self:
        self._connections: set[asyncio.Task[None]] = set()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.sndbuf is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.sndbuf)
        sock.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._accept, sock=sock, backlog=1024)
        self.port = sock.getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.open_connections += 1
        writer.transport.set_write_buffer_limits(high=0)  # drain waits until the kernel has taken everything
        try:
            while await self._one_request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # the server is being closed; asyncio's own callback would report a cancelled connection
        finally:
            self.open_connections -= 1
            self._connections.discard(task)
            writer.transport.abort()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        accepted = time.monotonic()
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        keep = headers.get("connection", "").lower() != "close"
        if method == "GET":
            await self._get(path, writer)
            return await _leave(writer, keep)
        try:
            body = json.loads(raw)
        except ValueError:
            await _answer(writer, 400, _error("the body is not JSON", 400))
            return await _leave(writer, keep)
        behaviour = Behaviour(**{**vars(self.behaviour), **body.get("known", {})})
        served = Served(path, headers, body, headers.get("x-request-id", ""), accepted)
        self.served.append(served)
        replying = asyncio.create_task(self._reply(behaviour, served, writer))
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({replying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not replying.done():
                served.ending = "client_left"  # EOF, or bytes that a well-behaved client would not send yet
                return False
            await replying
        except OSError:
            served.ending = "client_left"
            return False
        finally:
            served.done = time.monotonic()
            for task in (replying, leaving):
                task.cancel()
            await asyncio.gather(replying, leaving, return_exceptions=True)
        return served.ending == "complete" and await _leave(writer, keep)

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if self.behaviour.fault == "html":
            await _answer(writer, 200, "<html><body>It works!</body></html>", "text/html; charset=utf-8")
        elif path == "/v1/models":
            models = {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "tests"}]}
            await _answer(writer, 200, json.dumps(models))
        elif path == "/metrics" and self.metrics is not None:
            await _answer(writer, 200, self.metrics(), "text/plain; version=0.0.4")
        elif path == "/health":
            await _answer(writer, 200 if self.healthy else 503, "")
        else:
            await _answer(writer, 404, _error("no such page", 404))

    async def _reply(self, how: Behaviour, served: Served, writer: asyncio.StreamWriter) -> None:
        if how.fault == "hang":
            await asyncio.Event().wait()
        elif how.fault == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif how.fault == "status":
            extra = "" if how.retry_after is None else f"retry-after: {how.retry_after}\r\n"
            await _answer(writer, how.status, _error("the queue is full", how.status), extra=extra)
        elif how.fault == "html":
            await _answer(writer, 200, "<html></html>", "text/html")
        elif served.body.get("stream"):
            await self._stream(how, served, writer)
            return
        else:
            await self._whole(how, served, writer)
            return
        with contextlib.suppress(OSError):
            await writer.drain()
        served.ending = "complete" if how.fault == "status" else "fault"

    def _usage(self, served: Served) -> dict[str, int]:
        prompt = sum(len(str(message.get("content", "")).split()) for message in served.body.get("messages", []))
        prompt += len(str(served.body.get("prompt", "")).split())
        return {"prompt_tokens": prompt, "completion_tokens": served.tokens, "total_tokens": prompt + served.tokens}

    def _envelope(self, served: Served, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chat = served.path.endswith("chat/completions")
        kind = "chat.completion" + (".chunk" if served.body.get("stream") else "") if chat else "text_completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{served.request_id or 'none'}"
        return {"id": name, "object": kind, "created": 1700000000, "model": self.model, "choices": choices}

    async def _whole(self, how: Behaviour, served: Served, writer: asyncio.StreamWriter) -> None:
        count = how.tokens if how.tokens is not None else int(served.body.get("max_tokens", 16))
        await asyncio.sleep(how.ttft_s + how.gap_s * max(0, count - 1))
        served.tokens = count
        text = " word" * count
        choice: dict[str, Any] = {"index": 0, "finish_reason": how.finish_reason}
        if served.path.endswith("chat/completions"):
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        await _answer(writer, 200, json.dumps({**self._envelope(served, [choice]), "usage": self._usage(served)}))
        served.ending = "complete"

    async def _stream(self, how: Behaviour, served: Served, writer: asyncio.StreamWriter) -> None:
        chat = served.path.endswith("chat/completions")

        async def send(data: str) -> None:
            event = f"data: {data}{how.newline * 2}".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            served.bytes += len(event)
            await writer.drain()

        async def chunk(delta: dict[str, Any] | None, text: str, finish: str | None) -> None:
            choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
            choice.update({"delta": delta} if chat else {"text": text})
            event = self._envelope(served, [choice])
            bare = len(json.dumps(event))
            if how.chunk_bytes > bare:
                event["pad"] = "." * (how.chunk_bytes - bare)
            await send(json.dumps(event))

        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if chat and how.role_first:
            await chunk({"role": "assistant", "content": ""}, "", None)
        else:
            await writer.drain()
        count = how.tokens if how.tokens is not None else int(served.body.get("max_tokens", 16))
        due = served.accepted + how.ttft_s
        while served.tokens < count:
            if how.fault == "stall" and served.tokens >= how.fault_after:
                await asyncio.Event().wait()
            if how.fault in {"error_event", "cut", "bare_fin"} and served.tokens >= how.fault_after:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.pace is not None:
                await self.pace()
            due += how.gap_s
            now = time.monotonic()
            step = min(how.tokens_per_chunk, count - served.tokens)
            last = served.tokens + step == count and not how.finish_apart and how.fault != "no_finish"
            served.first_token = served.first_token or now
            served.last_token = now
            served.tokens += step
            await chunk({"content": " word" * step}, " word" * step, how.finish_reason if last else None)
        if how.fault in {"cut", "bare_fin"}:
            served.ending = "fault"
            if how.fault == "cut":
                _reset(writer)
            return
        if how.fault == "error_event":
            await send(_error("EngineCore encountered an issue.", 500))
        elif how.fault != "no_finish" and (how.finish_apart or not count):
            await chunk({}, "", how.finish_reason)
        options = served.body.get("stream_options") or {}
        if not how.fault and how.usage and options.get("include_usage"):
            await send(json.dumps({**self._envelope(served, []), "usage": self._usage(served)}))
        await send("[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        served.ending = "fault" if how.fault else "complete"


def _error(message: str, code: int) -> str:
    return json.dumps({"error": {"message": message, "type": "TestError", "param": None, "code": code}})


async def _answer(
    writer: asyncio.StreamWriter, status: int, text: str, content_type: str = "application/json", extra: str = ""
) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\n{extra}content-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _leave(writer: asyncio.StreamWriter, keep: bool) -> bool:
    if not keep:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return keep


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN (SO_LINGER 0)."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
