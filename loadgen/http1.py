"""A streaming HTTP/1.1 client connection: asyncio Protocol + httptools, so that every read carries its own stamp.

httpx needs about 130 ms of CPU per 1,000 streamed events and then reports its own delay as the server's; this needs a
fifth of it. It serves the load generator (one connection a request) and the gateway's upstream side (kept alive).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any, Protocol, cast

import httptools

Headers = list[tuple[bytes, bytes]]
_NO_LINGER = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7
"""Linux's state of a connection that is over."""
_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def allow_many_sockets() -> None:
    """A burst needs a descriptor a request; take as many as the system lets this user have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class ResponseHandler(Protocol):
    """Gets one response. `at` is the monotonic stamp of the read that carried it. Exactly one of `end`, `failed` is last."""

    def headers(self, status: int, headers: Headers, at: float) -> None: ...

    def body(self, data: bytes, at: float) -> None: ...

    def end(self, at: float) -> None: ...

    def failed(self, reason: str, at: float) -> None:
        """The response was cut or was not HTTP; `reason` is one short clause."""


class Http1Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._sock: socket.socket | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._handler: ResponseHandler | None = None
        self._headers: Headers = []
        self._at = 0.0
        self._until_close = False
        self._keep_alive = False
        self.closed = False
        self.answered = False
        """A byte has come back since the last `request`. Where none has, a kept-alive connection may just have been stale."""

    @classmethod
    async def open(cls, host: str, port: int, *, rcvbuf: int | None = None, timeout: float = 10.0) -> Http1Connection:
        """Connect. `rcvbuf` (bytes) is set before the connect so that the window is small from the start.

        Raises OSError (refused, unreachable, unresolvable) or TimeoutError.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for info in infos[:-1]:
                with contextlib.suppress(OSError):  # `localhost` may be ::1 first, where nothing listens
                    return await cls._open_at(info, rcvbuf)
            return await cls._open_at(infos[-1], rcvbuf)

    @classmethod
    async def _open_at(cls, info: _AddressInfo, rcvbuf: int | None) -> Http1Connection:
        loop = asyncio.get_running_loop()
        family, kind, proto, _, address = info
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rcvbuf is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            await loop.sock_connect(sock, address)
            _, connection = await loop.create_connection(cls, sock=sock)
        except BaseException:
            sock.close()
            raise
        connection._sock = sock
        return connection

    @property
    def reusable(self) -> bool:
        """True when it is idle and the server keeps it alive."""
        return not self.closed and self._handler is None and self._keep_alive

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        handler: ResponseHandler,
    ) -> float:
        """Send one request (Content-Length is added) and return the stamp at which the kernel had it all (or all it would
        take, and a buffer the rest).

        Raises ConnectionError when the connection is closed or busy.
        """
        if self.closed or self._transport is None:
            raise ConnectionError("the connection is closed")
        if self._handler is not None:
            raise ConnectionError("an exchange is under way")
        self._handler = handler
        self._headers = []
        self._until_close = False
        self._keep_alive = False
        self.answered = False
        self._parser = httptools.HttpResponseParser(self)
        head = [f"{method} {target} HTTP/1.1\r\n".encode("ascii")]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        head.append(body)
        self._send(self._transport, b"".join(head))
        return time.monotonic()

    def _send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Give it to the kernel now: uvloop's transport would hold it to the end of the loop's turn, after our stamp."""
        taken = 0
        if self._sock is not None and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # the transport meets it again and ends the exchange
                taken = self._sock.send(data)
        if taken < len(data):
            transport.write(data[taken:])

    def pause_reading(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Leave at once. A response under way gets neither `end` nor `failed`: whoever aborts knows why."""
        self._handler = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """As abort, with an RST whatever is unread or unsent."""
        if self._sock is not None and not self.closed:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and read on."""
        if self._transport is not None and not self.closed:
            self._transport.write_eof()

    @property
    def cut_off(self) -> bool:
        """The other side has reset it, told even while reading is paused."""
        if self.closed or self._sock is None:
            return self.closed
        return self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    def close(self) -> None:
        """As abort, but with an orderly FIN."""
        self._handler = None
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._at = time.monotonic()
        self.answered = True
        if self._parser is None or self._handler is None:
            self.abort()  # bytes nobody asked for: not a connection to use again
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not a valid HTTP response ({type(error).__name__})")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        handler, self._handler = self._handler, None
        if handler is None:
            return
        at = time.monotonic()
        if self._until_close and exc is None:
            handler.end(at)
        elif exc is None:
            handler.failed("the connection was closed before the response ended", at)
        else:
            handler.failed(f"the connection was lost ({exc})", at)

    def _fail(self, reason: str) -> None:
        handler, self._handler = self._handler, None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        if handler is not None:
            handler.failed(reason, self._at)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = []
            return
        names = {name for name, _ in self._headers}
        self._until_close = b"content-length" not in names and b"transfer-encoding" not in names
        if self._handler is not None:
            self._handler.headers(status, self._headers, self._at)

    def on_body(self, body: bytes) -> None:
        if self._handler is not None:
            self._handler.body(body, self._at)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if 100 <= self._parser.get_status_code() < 200:
            return
        self._keep_alive = self._parser.should_keep_alive()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.end(self._at)
        if not self._keep_alive:
            self.close()
