"""The client's side of one request: its body in, the response out, and whether it is still there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from starlette.types import Receive, Scope, Send

from server.gateway.inbound import Headers
from server.gateway.listener import EXTENSION, ClientProtocol
from server.gateway.refusal import (
    BODY_LATE,
    MAX_BODY_BYTES,
    REASON_HEADER,
    TOO_LARGE,
    Refusal,
    RefusedError,
    error_document,
)

BODY_TIMEOUT_S = 30.0
"""Between two parts of a body."""
WHOLE_BODY_TIMEOUT_S = 120.0
"""For all of it."""
STALL_S = 30.0
"""A client whose kernel takes nothing of what waits for it for so long is cut off."""
STALL_LOOKS = 10
"""How often within that it is looked at, so that it is cut off at most a tenth late."""


class ClientLeftError(Exception):
    """The client closed its connection before the response was handed over."""


class ClientStalledError(Exception):
    """The client has stopped reading."""


class Client:
    """One request and its response, over ASGI.

    As a context manager, once the body is read, it watches the connection: a client that leaves interrupts whatever the
    body of the `with` waits for, which then ends with ClientLeftError.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        held: Callable[[int], None] = lambda _: None,
        stall_s: float = STALL_S,
    ) -> None:
        self._receive = receive
        self._send = send
        self._held = held
        self._stall_s = stall_s
        self._protocol: ClientProtocol = scope["extensions"][EXTENSION]
        self._left = False
        self._complete = False
        self._task: asyncio.Task[object] | None = None
        self.address: str = (scope.get("client") or ("",))[0]
        self.status: int | None = None
        """What was sent; None before."""

    async def body(self) -> bytes:
        """The whole request body. Raises RefusedError or ClientLeftError."""
        whole = bytearray()
        end = time.monotonic() + WHOLE_BODY_TIMEOUT_S
        while True:
            try:
                async with asyncio.timeout(min(BODY_TIMEOUT_S, end - time.monotonic())):
                    message = await self._receive()
            except TimeoutError:
                raise RefusedError(BODY_LATE) from None
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            if len(whole) + len(part) > MAX_BODY_BYTES:
                raise RefusedError(TOO_LARGE)
            if not message.get("more_body", False):
                return bytes(whole) + part if whole else part
            whole += part

    def __enter__(self) -> Client:
        task = self._task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._protocol.watch(self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._protocol.unwatch(self._leave)
        assert self._task is not None
        if self._left and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientLeftError from error

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def start_stream(self, status: int, headers: Headers, data: bytes) -> None:
        """The same for a response of unknown length, with what there is of it already."""
        self.status = status
        if not self._protocol.gone.is_set():
            self._protocol.begin_chunked(status, headers, data)
        await self.write(b"")

    async def write(self, data: bytes) -> None:
        """Returns once the client's kernel has all of it, and of what `write_now` wrote. Raises ClientStalledError."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if self._protocol.write_blocked:
            await self._drain()

    @property
    def write_now(self) -> Callable[[bytes], bool | None]:
        """As `write`, from a callback: False, the kernel has not all of it yet; None, it could not be written now."""
        return self._protocol.write_chunk

    @property
    def write_framed(self) -> Callable[[bytes], bool | None]:
        """As `write_now`, of a chunk with its framing."""
        return self._protocol.write_framed

    async def finish(self, data: bytes = b"") -> None:
        """End the response and wait until the kernel has all of it. Raises ClientLeftError when it never will, or
        ClientStalledError."""
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

    async def refuse(self, refused: Refusal, headers: Headers) -> None:
        """An error in OpenAI's shape, with its machine-readable reason."""
        fields = [(b"content-type", b"application/json"), (REASON_HEADER, refused.reason.encode("ascii")), *headers]
        if refused.retry_after_s is not None:
            fields.append((b"retry-after", b"%d" % refused.retry_after_s))
        await self.answer(refused.status, error_document(refused.status, refused.reason, refused.message), fields)

    async def reset(self) -> None:
        """Break the connection off, so that a cut response can't be taken for a whole one."""
        self._complete = True
        self._protocol.abort()
        await self._protocol.gone.wait()

    async def _drain(self) -> None:
        self._held(1)
        try:
            unsent, moved = self._protocol.unsent_bytes, time.monotonic()
            while True:
                try:
                    async with asyncio.timeout(self._stall_s / STALL_LOOKS):
                        await self._protocol.drained()
                    return
                except TimeoutError:
                    before, unsent, now = unsent, self._protocol.unsent_bytes, time.monotonic()
                    if unsent < before:
                        moved = now
                    elif now - moved >= self._stall_s:
                        raise ClientStalledError from None
        finally:
            self._held(-1)

    def _leave(self) -> None:
        if not self._complete:
            self._left = True
            assert self._task is not None
            self._task.cancel()
