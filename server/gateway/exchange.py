"""One exchange with the engine: a connection, and a response read into a bounded buffer from which the client is written."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from loadgen.histogram import Histogram
from loadgen.http1 import Headers, Http1Connection
from server.gateway.inbound import is_event_stream
from server.gateway.sse import EventScanner

BUFFER_LIMIT_BYTES = 256 * 1024
"""No more than this waits for a slow client."""
READ_BYTES = 64 * 1024
"""The kernel's buffer for what the engine sends, and so the largest read; where no more than one would fit any more,
reading pauses, until half of the limit is free."""

_WRITE_BYTES = 64 * 1024


class EngineConnection(Http1Connection):
    """Shows each read to its exchange first: one that is a whole chunk of nothing but tokens need not be parsed, as the
    parser is between two chunks before it and after it. Of any other the exchange is told when it is over: what it brought
    in many chunks is written as one."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange: Exchange | None = None
        self.address = ("", 0)
        self._between_chunks = False

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            super().data_received(data)
        elif not (self._between_chunks and exchange.pass_on(data)):
            super().data_received(data)
            exchange.read_over()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._between_chunks = False

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True


class Exchange:
    """One response: what the connection reads goes through the scanner into a buffer, from which the client is written.

    `done` is called once, at the moment upstream is through (not when the client is). A ResponseHandler of http1.
    """

    def __init__(
        self,
        *,
        strip_usage: bool = False,
        gaps: Histogram | None = None,
        give_back: Callable[[EngineConnection], None],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.status: int | None = None
        self.headers_in: Headers = []
        self.scanner: EventScanner | None = None
        """There once the headers said that it is an event stream."""
        self.cut: str | None = None
        """Why the response broke off."""
        self.stale = False
        """A connection that was kept broke before any byte of the response: nothing was lost by asking again."""
        self.ended: float | None = None
        """Monotonic seconds of the last byte; None when it broke off or goes on."""
        self.heard: float | None = None
        """Monotonic seconds at which the request was sent, the latest bytes came, or reading went on after a pause."""
        self.buffered = 0
        """Bytes that the client's kernel has not taken."""
        self.paused_s = 0.0
        self.write_now: Callable[[bytes], bool | None] | None = None
        """Writes to the client without a task's turn: True, its kernel has it; False, it is written but not all taken;
        None, it could not be written. Spares about a sixth of the CPU time of an event."""
        self.write_framed: Callable[[bytes], bool | None] | None = None
        """The same for a chunk with its framing."""
        self._strip_usage = strip_usage
        self._gaps = Histogram() if gaps is None else gaps
        self._give_back = give_back
        self._done = done
        self._connection: EngineConnection | None = None
        self._reused = False
        self._read: list[bytes] = []
        """Of the read that is going on."""
        self._read_at = 0.0
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._paused_at: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._over = False

    def begin(
        self, connection: EngineConnection, reused: bool, method: str, target: str, sent: Headers, body: bytes
    ) -> float:
        """Send the request and return the stamp of its last byte. Raises ConnectionError."""
        self._connection, self._reused, self.stale = connection, reused, False
        connection.exchange = self
        self.heard = connection.request(method, target, sent, body, self)
        return self.heard

    async def head(self) -> None:
        """Wait for the status and headers, or for the failure to get them."""
        while self.status is None and not self.stale and not self._over:
            await self._wait()

    def silent_since(self) -> float | None:
        """Since when the engine has owed something; None when it owes nothing: not asked yet, through, or not listened to."""
        return None if self._over or self._paused_at is not None else self.heard

    @property
    def exhausted(self) -> bool:
        """Nothing is left to be taken, and no more will come."""
        return self._over and not self._chunks

    def ready(self) -> tuple[bytes, int]:
        """As `next`, of what is there by now, which may be nothing."""
        joined: list[bytes] = []
        size = 0
        while self._chunks and size < _WRITE_BYTES:
            data, length = self._chunks.popleft()
            joined.append(data)
            size += length
        return (joined[0] if len(joined) == 1 else b"".join(joined)), size

    async def next(self) -> tuple[bytes, int] | None:
        """Bytes to write to the client, about 64 KiB at most, and for how many `taken` is to be said once its kernel has them.

        No bytes but a size: `write_now` has written them already. None: no more will come.
        """
        while not self._chunks:
            if self._over:
                return None
            await self._wait()
        return self.ready()

    def taken(self, size: int) -> None:
        """The client's kernel has these bytes."""
        self.buffered -= size
        if self._paused_at is not None and self.buffered <= BUFFER_LIMIT_BYTES // 2:
            self._unpause()
            if self._connection is not None:
                self._connection.resume_reading()

    def abort(self) -> None:
        """Leave upstream at once; no more bytes come."""
        if self._over:
            return
        if self._connection is not None:
            self._connection.abort()
        self._finish()

    # loadgen.http1.ResponseHandler

    def headers(self, status: int, headers: Headers, at: float) -> None:
        self.headers_in = headers
        self.status = status
        self.heard = at
        if status == 200 and is_event_stream(headers):
            self.scanner = EventScanner(strip_usage=self._strip_usage, gaps=self._gaps)
        self._wake()

    def body(self, data: bytes, at: float) -> None:
        self._read.append(data)
        self._read_at = self.heard = at

    def pass_on(self, data: bytes) -> bool:
        """Write a read to the client as it is, if it is one whole chunk that says nothing but tokens; False: it has to be
        parsed."""
        scanner, write = self.scanner, self.write_framed
        if write is None or scanner is None or self.buffered or not scanner.only_tokens(data):
            return False
        size = data.find(b"\r\n")
        if data[:size] != b"%x" % (len(data) - size - 4) or not data.endswith(b"\n\n\r\n"):
            return False
        self.heard = time.monotonic()
        scanner.token(self.heard)
        written = write(data)
        if written is None:
            return False
        if not written:
            self._chunks.append((b"", len(data)))
            self._waits(len(data))
        return True

    def read_over(self) -> None:
        """The read that brought these chunks is through."""
        read = self._read
        if not read:
            return
        data = read[0] if len(read) == 1 else b"".join(read)
        read.clear()
        if self.scanner is not None:
            data = self.scanner.feed(data, self._read_at)
        self._buffer(data)

    def end(self, at: float) -> None:
        self.ended = at
        self.write_now = self.write_framed = None  # the last bytes go together with the response's end
        self.read_over()
        if self.scanner is not None:
            self._buffer(self.scanner.flush(at))
        connection = self._connection
        self._finish()
        if connection is not None:
            self._give_back(connection)

    def failed(self, reason: str, at: float) -> None:
        if self._reused and self._connection is not None and not self._connection.answered:
            self.stale = True
            self._wake()
            return
        self.read_over()
        self.cut = reason
        self._finish()

    def _buffer(self, data: bytes) -> None:
        if not data:
            return
        if self.write_now is not None and not self.buffered:
            written = self.write_now(data)
            if written:
                return
            self._chunks.append((data if written is None else b"", len(data)))
        else:
            self._chunks.append((data, len(data)))
        self._waits(len(data))

    def _waits(self, size: int) -> None:
        """So many bytes more than the client's kernel has taken."""
        self.buffered += size
        if self.buffered > BUFFER_LIMIT_BYTES - READ_BYTES and self._paused_at is None and self._connection is not None:
            self._paused_at = time.monotonic()
            self._connection.pause_reading()
        self._wake()

    def _unpause(self) -> None:
        if self._paused_at is not None:
            self.heard = time.monotonic()
            if self.scanner is not None:
                self.scanner.paused = True
            self.paused_s += self.heard - self._paused_at
            self._paused_at = None

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        if self._paused_at is not None and self._connection is not None:
            self._connection.resume_reading()  # it may be given back
        self._unpause()
        if self._connection is not None:
            self._connection.exchange = None
        self._connection = None
        self._done()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
