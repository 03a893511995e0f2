"""The listening socket and uvicorn on it, made to tell what the kernel has really taken for a client."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.gateway.inbound import Headers
from server.gateway.refusal import REASON_HEADER, Refusal, error_document

SEND_BUFFER_BYTES = 16 * 1024
"""SO_SNDBUF of every client's socket (the kernel doubles it): a slow reader shows early, not after megabytes."""

EXTENSION = "spark_serve.client"
"""Key in the ASGI scope's `extensions` under which the request's ClientProtocol is."""

STOP_GRACE_S = 2

MAX_HEAD_BYTES = 32 * 1024
"""Of a request line and its headers."""
HEAD_TIMEOUT_S = 10.0
"""From a request's first byte to the end of its headers."""
IDLE_TIMEOUT_S = 75.0
"""Of a connection on which nothing was asked yet, or nothing more; well over what clients keep theirs for, so that it is
they who close."""

MAX_ASKED_AHEAD = 8
"""Requests on one connection that wait for the answer of the one before them."""
LINGER_S = 10.0
"""For the rest of a body whose request is refused already."""

_NO_LINGER = struct.pack("ii", 1, 0)
_HEAD_TOO_LARGE = Refusal(431, "headers_too_large", f"The headers are larger than {MAX_HEAD_BYTES >> 10} KiB.")
_HEAD_LATE = Refusal(408, "headers_timeout", "The request's headers did not come.")
_NOT_HTTP = Refusal(400, "bad_request", "This is not a valid HTTP request.")
_NO_VERSION = Refusal(505, "http_version", "This gateway speaks HTTP/1.1 and 1.0.")
_NO_CODING = Refusal(400, "bad_request", "The only transfer coding taken here is `chunked`, once, in HTTP/1.1.")
_TWO_HOSTS = Refusal(400, "bad_request", "A request names one host, once.")
_NO_UPGRADE = Refusal(400, "no_upgrade", "This gateway does not switch protocols; ask with HTTP/1.1 and no Upgrade.")


class ClientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with no user-space write buffer to hide in: writing is blocked while the kernel hasn't everything."""

    gone: asyncio.Event
    """The connection is lost."""
    cut_off = False
    """It went with bytes that the kernel had not taken."""

    def watch(self, left: Callable[[], None]) -> None:
        """Call `left` when the connection is lost."""
        if self.gone.is_set():
            left()
            return
        self._watching.append(left)
        self.flow.resume_reading()  # uvicorn stops it after a long body, and the loss would not be seen

    def unwatch(self, left: Callable[[], None]) -> None:
        if left in self._watching:
            self._watching.remove(left)

    @property
    def write_blocked(self) -> bool:
        return self.flow.write_paused

    @property
    def unsent_bytes(self) -> int:
        """What was written and the client has not acknowledged, in the transport and in the kernel."""
        if self.gone.is_set():
            return 0
        waiting = bytes(struct.pack("i", 0))
        with contextlib.suppress(OSError, ValueError):
            waiting = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return int(struct.unpack("i", waiting)[0]) + self.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the kernel has taken all that was written, or the connection is lost."""
        await self.flow.drain()

    def begin_chunked(self, status: int, headers: Headers, data: bytes) -> None:
        """The head of a chunked response and its first part in one write, past uvicorn's `send`, which makes two of them."""
        cycle = self._turn
        assert cycle is not None
        cycle.response_started = cycle.chunked_encoding = True
        cycle.waiting_for_100_continue = False
        head = [b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status))]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"transfer-encoding: chunked\r\n\r\n")
        if data:
            head.append(b"%x\r\n%b\r\n" % (len(data), data))
        self.transport.write(b"".join(head))

    def write_chunk(self, data: bytes) -> bool | None:
        """Write a part of a chunked response that has begun, past uvicorn's `send`. True, the kernel has all of it; False, it
        has not; None, it cannot be written now."""
        return self.write_framed(b"%x\r\n%b\r\n" % (len(data), data))

    def write_framed(self, chunk: bytes) -> bool | None:
        """The same for a part with its framing."""
        if (
            self.flow.write_paused
            or self.gone.is_set()
            or self._turn is None
            or not self._turn.chunked_encoding
            or self._turn.response_complete
        ):
            return None
        self.transport.write(chunk)
        return not self.flow.write_paused

    def abort(self) -> None:
        """Reset the connection, so that the client can't take a cut response for a whole one, even before it has read all
        that is on its way, and the kernel keeps none of it."""
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    # asyncio.Protocol, and what the parser calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watching: list[Callable[[], None]] = []
        self.gone = asyncio.Event()
        self._reading_head = False
        self._head_bytes = 0
        self._refused: Refusal | None = None
        self._deaf = False
        """Nothing that comes is listened to any more."""
        self._turn: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the one that came last."""
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(IDLE_TIMEOUT_S, self._give_up, None)
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        went_on = self._reading_head
        super().data_received(data)
        if went_on and self._reading_head:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > MAX_HEAD_BYTES:  # one endless header, which the parser has not given out yet
                self._give_up(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_ASKED_AHEAD:
            self._hear_no_more()
            raise ValueError("asked too far ahead")  # the parser stops there
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]
        self._reading_head = True
        self._head_bytes = self._unparsed_bytes = 0
        self._count_down(HEAD_TIMEOUT_S)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if self._reading_head:  # behind the body they are trailers, which nobody has checked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if (refused := self._ambiguity()) is not None:
            self._refuse(refused)
        self._reading_head = False
        self._count_down(None)
        super().on_headers_complete()
        if not self.pipeline:
            self._turn = self.cycle

    def on_message_complete(self) -> None:
        self._count_down(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        unfinished = self._turn is self.cycle and self.cycle.more_body
        if self.pipeline:
            self._turn = self.pipeline[-1][0]
        super().on_response_complete()
        if unfinished:
            # Refused before all of it came. Closed at once, the answer would be lost to a client that is still sending.
            self._count_down(LINGER_S, None)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what the parser or one of the above refused."""
        if not self._deaf:
            self._give_up(self._refused or _NOT_HTTP)

    def eof_received(self) -> None:
        # A client that closes its own direction is taken for gone, as vLLM and nginx take it: from here one that still reads
        # looks like one that died. Left to itself the transport would first wait for it to take what is buffered.
        if self._answering:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._count_down(None)
        self.cut_off = self.flow is not None and self.flow.write_paused
        watching, self._watching = self._watching, []
        for left in watching:
            left()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)

    def _refuse(self, why: Refusal) -> NoReturn:
        """From within the parser, which stops there."""
        self._refused = why
        raise ValueError(why.reason)

    def _ambiguity(self) -> Refusal | None:
        """What the parser takes and another server would read in another way: a proxy's word and ours must not differ."""
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            return _NO_VERSION
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            return _NO_CODING
        hosts = [value for name, value in self.headers if name == b"host"]
        named = httptools.parse_url(self.url).host if self.url[:1] not in {b"/", b"*"} else None
        if len(hosts) > 1 or (named is not None and hosts and _host(hosts[0]) != named.lower()):
            return _TWO_HOSTS
        return _NO_UPGRADE if self.parser.should_upgrade() else None

    @property
    def _answering(self) -> bool:
        """A request was asked whose answer is not complete."""
        return self._turn is not None and not self._turn.response_complete

    def _hear_no_more(self) -> None:
        """What was asked is answered, then the connection is closed."""
        self._deaf = True
        self.cycle.keep_alive = False

    def _count_down(self, seconds: float | None, why: Refusal | None = _HEAD_LATE) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._give_up, why)

    def _give_up(self, why: Refusal | None) -> None:
        """Close the connection, once what was asked before is answered, and say why where that breaks into no response."""
        self._count_down(None)
        self._reading_head = False
        if self.transport.is_closing():
            return
        if self._answering and not self.cycle.more_body:
            self._hear_no_more()  # the next request is ill, this one is not
            return
        if why is not None and not (self._answering and (self._turn is not self.cycle or self.cycle.response_started)):
            body = error_document(why.status, why.reason, why.message)
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(body)
            status = b"HTTP/1.1 %d %b" % (why.status, _phrase(why.status))
            reason = b"%b: %b" % (REASON_HEADER, why.reason.encode("ascii"))
            self.transport.write(b"\r\n".join((status, fields, reason, b"", body)))
            if self._answering:  # its body is not what it seemed
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()


def _host(value: bytes) -> bytes:
    """A Host header's value without its port."""
    return (value.partition(b"]")[0][1:] if value.startswith(b"[") else value.partition(b":")[0]).lower()


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


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
            log_level="error",  # nobody shall fill the log with requests that are none
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(IDLE_TIMEOUT_S),
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
