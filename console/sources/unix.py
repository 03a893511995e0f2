"""HTTP over a Unix socket, one connection a request. An HTTP client for everything takes as long to import as the rest of
the console's own code, and a console is to show its first figures within a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from loadgen.http1 import Headers, Http1Connection

CONNECT_S = 2.0


class BrokenError(Exception):
    """The other side is not there, fell silent or broke off; its text is one clause."""


class Response:
    """One answer, read as it comes. `silence_s`: after so many seconds without a byte the other side is given up."""

    def __init__(self, silence_s: float) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        """Header fields, their names in small letters."""
        self._silence_s = silence_s
        self._came: asyncio.Queue[bytes | BrokenError | None] = asyncio.Queue()

    async def head(self) -> None:
        """Wait for the status. Raises BrokenError."""
        if (first := await self._next()) != b"":
            raise first if isinstance(first, BrokenError) else BrokenError("the connection broke off")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body. Raises BrokenError when it does not end well."""
        while (part := await self._next()) is not None:
            if isinstance(part, BrokenError):
                raise part
            yield part

    async def read(self) -> bytes:
        """All of it. Raises BrokenError."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def _next(self) -> bytes | BrokenError | None:
        try:
            return await asyncio.wait_for(self._came.get(), self._silence_s)
        except TimeoutError:
            raise BrokenError("the stack fell silent") from None

    # loadgen.http1.ResponseHandler

    def headers(self, status: int, headers: Headers, at: float) -> None:
        del at
        self.status = status
        self.fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        self._came.put_nowait(b"")

    def body(self, data: bytes, at: float) -> None:
        del at
        self._came.put_nowait(data)

    def end(self, at: float) -> None:
        del at
        self._came.put_nowait(None)

    def failed(self, reason: str, at: float) -> None:
        del reason, at
        self._came.put_nowait(BrokenError("the connection broke off"))


@asynccontextmanager
async def asked(
    socket: Path,
    method: str,
    target: str,
    *,
    silence_s: float,
    fields: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> AsyncIterator[Response]:
    """The response to one request; whatever of it is not read is dropped at the end. Raises BrokenError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, connection = await loop.create_unix_connection(Http1Connection, str(socket))
    except OSError:  # TimeoutError is one
        raise BrokenError("no stack answers on the socket") from None
    response = Response(silence_s)
    headers = [(b"host", b"stack"), *((name.encode(), value.encode("latin-1", "replace")) for name, value in fields)]
    try:
        connection.request(method, target, headers, body, response)
        await response.head()
        yield response
    finally:
        connection.close()
