"""The listening socket and uvicorn on it, made to tell what the kernel has really taken for a client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

SEND_BUFFER_BYTES = 16 * 1024
"""SO_SNDBUF of every client's socket (the kernel doubles it): a slow reader shows early, not after megabytes."""

EXTENSION = "spark_serve.client"
"""Key in the ASGI scope's `extensions` under which the request's ClientProtocol is."""

STOP_GRACE_S = 2


class ClientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with no user-space write buffer to hide in: writing is blocked while the kernel hasn't everything."""

    gone: asyncio.Event
    """The connection is lost."""
    cut_off = False
    """It went with bytes that the kernel had not taken."""

    @property
    def write_blocked(self) -> bool:
        return self.flow.write_paused

    async def drained(self) -> None:
        """Wait until the kernel has taken all that was written, or the connection is lost."""
        await self.flow.drain()

    def write_chunk(self, data: bytes) -> bool:
        """Write a part of a chunked response that has begun, past uvicorn's `send`; False when it cannot be done now."""
        if (
            self.flow.write_paused
            or self.gone.is_set()
            or not self.cycle.chunked_encoding
            or self.cycle.response_complete
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def abort(self) -> None:
        """Reset the connection, so that the client can't take a cut response for a whole one."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._overtaken: list[RequestResponseCycle] = []  # uvicorn tells only the last pipelined request of a loss
        self.gone = asyncio.Event()
        transport.set_write_buffer_limits(high=0)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        running = self.cycle
        super().on_headers_complete()
        if running is not None and not running.response_complete and self.cycle is not running:
            self._overtaken = [cycle for cycle in self._overtaken if not cycle.response_complete] + [running]

    def eof_received(self) -> None:
        # Left to itself the transport would first wait for a reader that is gone to take what is buffered.
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self.cut_off = self.flow is not None and self.flow.write_paused
        for cycle in self._overtaken:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)


class Listener(uvicorn.Server):
    """Serves on a socket bound before; leaves signals to its owner."""

    def __init__(self, app: ASGIApp, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app,
            http=ClientProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
        super().__init__(config)
        self._socket = sock
        self._ready = ready

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self.server_state.connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def run_until_stopped(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self._socket])


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket (port 0: the kernel chooses). Raises OSError whose text is one sentence for a person."""
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"The gateway cannot listen on {host}: {error.strerror}.") from error
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise OSError(f"The gateway cannot listen on {host} port {port}: {error.strerror}.") from error
    sock.setblocking(False)
    return sock
