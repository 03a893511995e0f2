"""A streaming server of known timing, to measure a load generator by: `python -m loadgen.known --port 0`.

It speaks the OpenAI protocol in vLLM's shape, one event a token, and keeps the monotonic stamp of every write: where it
was late itself, the truth is what it did, not what it meant to do. It prints one JSON line (`Ready`) when it listens on
loopback, and ends with its stdin and on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import signal
import socket
import sys
import time
from collections.abc import Callable

import httptools
import msgspec
import uvloop

from loadgen.http1 import allow_many_sockets
from loadgen.known_replies import MODEL, Plan, Reply, Stamps, Wheel, ask_decoder, compose
from loadgen.lines import follow_lines

STAMPS_PATH = "/known/stamps"
RECEIVE_BYTES = 65536
BACKLOG = 4096
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Ready(msgspec.Struct, frozen=True):
    """The line printed once connections are accepted."""

    port: int


class Connection:
    """One client's socket: requests in, bytes out, one request at a time.

    It writes to the socket itself; a transport would hold the bytes to the end of the loop's turn, after the stamp.
    """

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.reply: Reply | None = None
        self.pending = bytearray()
        """What the kernel would not take yet."""
        self._server = server
        self._sock = sock
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._request_id = ""
        self._at = 0.0
        self._keep_alive = True
        server.loop.add_reader(sock, self._readable)

    def write(self, data: bytes) -> None:
        """Give it to the kernel now, or as soon as it takes it."""
        if self.pending:
            self.pending += data
            return
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.close()
            return
        if taken < len(data):
            self.pending += data[taken:]
            self._server.loop.add_writer(self._sock, self._writable)

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.write(head.encode("ascii") + body)
        self.finish()

    def finish(self) -> None:
        """The reply is written."""
        self.reply = None
        if not self._keep_alive and not self.pending:
            self.close()

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._server.loop.remove_reader(self._sock)
        self._server.loop.remove_writer(self._sock)
        self._sock.close()
        self._server.gone(self)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._at = time.monotonic()
        try:
            if not data or self.reply is not None:  # it left, or asks for two things at once
                self.close()
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def _writable(self) -> None:
        try:
            del self.pending[: self._sock.send(self.pending)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self.pending:
            self._server.loop.remove_writer(self._sock)
            if self.reply is None:
                self.finish()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._request_id = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        self._server.asked(self, self._url.decode("latin-1"), self._request_id, self._body, self._at)


class Server:
    """Answers on one listening socket of the running loop until it is closed."""

    def __init__(self, sock: socket.socket, usual: Plan) -> None:
        self.loop = asyncio.get_running_loop()
        self._sock = sock
        self._usual = usual
        self._wheel: Wheel[Connection] = Wheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._connections: set[Connection] = set()
        self._ended: list[Reply] = []
        self._number = 0
        sock.setblocking(False)
        self.loop.add_reader(sock, self._accept)

    def close(self) -> None:
        self.loop.remove_reader(self._sock)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.close()

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection.reply is not None:
            self._ended.append(connection.reply)
            connection.reply = None

    def asked(self, connection: Connection, path: str, request_id: str, body: bytes, at: float) -> None:
        """One whole request was read at `at`."""
        path = path.partition("?")[0]
        if path in {"/v1/chat/completions", "/v1/completions"}:
            self._begin(connection, path == "/v1/chat/completions", request_id, body, at)
        elif path == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "loadgen", "max_model_len": 32768}
            connection.answer(200, msgspec.json.encode({"object": "list", "data": [model]}))
        elif path == "/health":
            connection.answer(200, b"")
        elif path == STAMPS_PATH:
            connection.answer(200, msgspec.json.encode(self._stamps()))
        else:
            connection.answer(404, _error("no such page", 404))

    def _begin(self, connection: Connection, chat: bool, request_id: str, body: bytes, at: float) -> None:
        try:
            asked = ask_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            connection.answer(400, _error(f"the body is not a request ({error})", 400))
            return
        if not asked.stream:
            connection.answer(400, _error("only streams are answered here", 400))
            return
        self._number += 1
        request_id = request_id or str(self._number)
        plan = asked.plan(self._usual, self._number)
        reply = compose(asked, chat=chat, request_id=request_id, read=at, plan=plan)
        connection.reply = reply
        connection.write(STREAM_HEAD)
        self._wheel.put(reply.due(), connection)
        self._arm()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._sock.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.add(Connection(self, sock))

    def _arm(self) -> None:
        due = self._wheel.next_due()
        if due is None or due >= self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        wait_ms = math.ceil(max(0.0, due - time.monotonic()) * 1e3)  # uvloop rounds; up, or it would spin
        self._timer = self.loop.call_later(wait_ms / 1e3, self._tick)

    def _tick(self) -> None:
        for connection in self._wheel.take(time.monotonic()):
            if connection.reply is not None:
                self._write(connection, connection.reply)
        self._timer = None
        self._timer_due = math.inf
        self._arm()

    def _write(self, connection: Connection, reply: Reply) -> None:
        data = reply.next()
        reply.written.append(time.monotonic())
        connection.write(data)
        if connection.pending:
            reply.held_back += 1
        if connection.reply is None:
            return
        if len(reply.written) < reply.count:
            self._wheel.put(reply.due(), connection)
        else:
            self._ended.append(reply)
            connection.finish()

    def _stamps(self) -> Stamps:
        ended, self._ended = self._ended, []
        return Stamps([reply.stamps() for reply in ended], time.monotonic(), time.process_time())


def _error(message: str, code: int) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "BadRequest", "param": None, "code": code}})


def listen(port: int = 0) -> socket.socket:
    """A listening socket on loopback. Raises OSError where the port is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def serve(sock: socket.socket, usual: Plan, ready: Callable[[int], None]) -> None:
    """Until SIGTERM, SIGINT or the end of stdin."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)

    def ended() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving already
            loop.call_soon_threadsafe(over.set)

    server = Server(sock, usual)
    ready(sock.getsockname()[1])
    follow_lines(sys.stdin.fileno(), lambda line: None, ended)
    try:
        await over.wait()
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="loadgen.known", description="A streaming server of known timing, on loopback."
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft", type=float, default=0.1, help="seconds from the request read to its first token")
    parser.add_argument("--gap", type=float, default=0.02, help="seconds from token to token")
    parser.add_argument("--tokens", type=int, default=None, help="a reply (default: as the request says)")
    parser.add_argument(
        "--spread", type=float, default=0.0, help="share by which replies are shorter or longer, below 1"
    )
    options = parser.parse_args()
    if not (0 <= options.ttft < 1e6 and 0 <= options.gap < 1e6 and 0 <= options.spread < 1):
        parser.error("--ttft and --gap are seconds, --spread is a share, and none is negative.")
    try:
        sock = listen(options.port)
    except OSError as error:
        parser.error(f"port {options.port} cannot be had ({error.strerror}).")
    allow_many_sockets()
    gc.freeze()

    def ready(port: int) -> None:
        sys.stdout.write(msgspec.json.encode(Ready(port)).decode() + "\n")
        sys.stdout.flush()

    uvloop.run(serve(sock, Plan(options.ttft, options.gap, options.tokens, options.spread), ready))


if __name__ == "__main__":
    main()
