"""The client's side of one request: its body in, the response out, and whether it is still there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import TracebackType

from starlette.types import Message, Receive, Scope, Send

from server.gateway.inbound import Headers
from server.gateway.listener import EXTENSION, ClientProtocol

ERROR_TYPES = {
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
"""OpenAI's `error.type` by status; any other is an invalid_request_error."""


class ClientLeftError(Exception):
    """The client closed its connection before the response was handed over."""


class BodyTooLargeError(Exception):
    """The request's body is larger than is taken."""


class Client:
    """One request and its response, over ASGI.

    As an async context manager, once the body is read, it watches the connection: a client that leaves interrupts
    whatever the body of the `async with` waits for, which then ends with ClientLeftError.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, held: Callable[[int], None] = lambda _: None
    ) -> None:
        self._receive = receive
        self._send = send
        self._held = held
        self._protocol: ClientProtocol = scope["extensions"][EXTENSION]
        self._left = False
        self._complete = False
        self._watcher: asyncio.Task[None] | None = None
        self.status: int | None = None
        """What was sent; None before."""

    async def body(self, limit_bytes: int) -> bytes:
        """The whole request body. Raises BodyTooLargeError or ClientLeftError."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > limit_bytes:
                raise BodyTooLargeError
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def __aenter__(self) -> Client:
        task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch(task))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        task = asyncio.current_task()
        assert task is not None
        if self._left and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientLeftError from error

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Returns once the client's kernel has all of it, and of what `write_now` wrote."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if self._protocol.write_blocked:
            await self._drain()

    def write_now(self, data: bytes) -> bool | None:
        """As `write`, from a callback: False, the kernel has not all of it yet; None, it could not be written now."""
        if not self._protocol.write_chunk(data):
            return None
        return not self._protocol.write_blocked

    async def finish(self, data: bytes = b"") -> None:
        """End the response and wait until the kernel has all of it. Raises ClientLeftError when it never will."""
        if self._protocol.gone.is_set():
            raise ClientLeftError
        self._complete = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        if self._protocol.write_blocked:
            await self._drain()
        if self._protocol.cut_off:
            raise ClientLeftError

    async def answer(self, status: int, body: bytes, headers: Headers) -> None:
        """A whole response at once."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.finish(body)

    async def refuse(self, status: int, reason: str, message: str, headers: Headers) -> None:
        """An error in OpenAI's shape, with its machine-readable reason."""
        fields = [(b"content-type", b"application/json"), (b"x-spark-reason", reason.encode("ascii")), *headers]
        await self.answer(status, error_document(status, reason, message), fields)

    async def reset(self) -> None:
        """Break the connection off, so that a cut response can't be taken for a whole one."""
        self._complete = True
        self._protocol.abort()
        await self._protocol.gone.wait()

    async def _drain(self) -> None:
        self._held(1)
        try:
            await self._protocol.drained()
        finally:
            self._held(-1)

    async def _watch(self, task: asyncio.Task[object]) -> None:
        message: Message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        if not self._complete:
            self._left = True
            task.cancel()


def error_document(status: int, reason: str, message: str) -> bytes:
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    return json.dumps({"error": {"message": message, "type": kind, "code": reason}}).encode("utf-8")
