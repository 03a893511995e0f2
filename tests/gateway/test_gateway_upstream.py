"""What the connection to the engine makes of a response, however it is chunked and cut, parsed or passed on as it is."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from gateway_fakes import DONE, ROLE, USAGE, event, token
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.exchange import BUFFER_LIMIT_BYTES, READ_BYTES, EngineConnection, Exchange

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [
    token("a"),
    token("1f\r\n"),
    token("b" * 300),
    event({"choices": [{"delta": {"reasoning": "x"}}]}),
    b": ping\n\n",
]


class Wire:
    """A transport and a client in one: reads in, what the client gets out."""

    def __init__(self) -> None:
        self.raw = b""
        self.framed = 0
        self.takes: bool | None = True
        self.paused = False

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write_framed(self, chunk: bytes) -> bool | None:
        if self.takes is not None:
            self.raw += chunk
            self.framed += 1
        return self.takes

    def write_now(self, data: bytes) -> bool | None:
        self.framed -= 1
        return self.write_framed(b"%x\r\n%b\r\n" % (len(data), data))


async def under_way(wire: Wire) -> tuple[EngineConnection, Exchange]:
    connection = EngineConnection()
    connection.connection_made(wire)  # type: ignore[arg-type]
    exchange = Exchange(strip_usage=True, give_back=lambda _: None)
    exchange.begin(connection, False, "POST", "/", [], b"")
    connection.data_received(HEAD + chunk(ROLE + token("first")))
    await exchange.head()
    data, size = exchange.ready()
    wire.raw = b"%x\r\n%b\r\n" % (len(data), data)
    exchange.taken(size)
    exchange.write_now, exchange.write_framed = wire.write_now, wire.write_framed
    return connection, exchange


def chunk(data: bytes, form: bytes = b"%x") -> bytes:
    return form % len(data) + b"\r\n" + data + b"\r\n"


def cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    """Into pieces that may begin and end anywhere."""
    edges = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole)), max_size=20), label="cuts")})
    return [whole[begin:end] for begin, end in itertools.pairwise(edges)]


def dechunk(raw: bytes) -> bytes:
    """Raises ValueError when the framing is broken."""
    parts: list[bytes] = []
    while raw:
        size, found, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        if not found or raw[length : length + 2] != b"\r\n":
            raise ValueError(raw[:40])
        parts.append(raw[:length])
        raw = raw[length + 2 :]
    return b"".join(parts)


@given(
    events=st.lists(st.sampled_from(EVENTS), max_size=20),
    form=st.sampled_from([b"%x", b"%X", b"0%x", b"%x;ext=1"]),
    data=st.data(),
)
def test_a_client_gets_every_event_however_chunks_and_reads_fall(
    events: list[bytes], form: bytes, data: st.DataObject
) -> None:
    body = [*events, token("", "stop"), USAGE, DONE]
    whole = data.draw(st.booleans(), label="an event a chunk")
    chunks = [chunk(part, form) for part in (body if whole else cut(b"".join(body), data))]
    raw = [*chunks, b"0\r\n\r\n"]
    reads = raw if data.draw(st.booleans(), label="a chunk a read") else cut(b"".join(raw), data)

    async def run() -> tuple[bytes, Exchange]:
        wire = Wire()
        connection, exchange = await under_way(wire)
        for read in reads:
            connection.data_received(read)
        last = exchange.ready()[0]
        assert exchange.exhausted
        return dechunk(wire.raw) + last, exchange

    got, exchange = asyncio.run(run())
    assert got == ROLE + token("first") + b"".join(events) + token("", "stop") + DONE
    assert exchange.scanner is not None
    told = exchange.scanner.told
    assert (told.finish_reason, told.completion_tokens, exchange.cut) == ("stop", 3, None)


async def test_a_read_that_is_one_chunk_of_tokens_is_not_even_parsed() -> None:
    wire = Wire()
    connection, exchange = await under_way(wire)
    for _ in range(5):
        connection.data_received(chunk(token("a")))
    assert wire.framed == 5
    connection.data_received(chunk(token("b"))[:20])
    connection.data_received(chunk(token("b"))[20:])
    assert wire.framed == 5
    assert dechunk(wire.raw).count(b"data:") == 2 + 6
    assert exchange.buffered == 0


async def test_a_text_that_looks_like_a_chunk_is_none() -> None:
    """In the middle of a chunk a read may be anything."""
    wire = Wire()
    connection, _ = await under_way(wire)
    inner = chunk(b"data: {}\n\n")
    whole = chunk(b"data: {}\n\n" + inner + b"\n\n")
    at = whole.index(inner)
    for read in (whole[:at], inner, whole[at + len(inner) :]):
        connection.data_received(read)
    assert wire.framed == 0
    assert inner in dechunk(wire.raw)


async def test_nothing_overtakes_what_waits() -> None:
    wire = Wire()
    connection, exchange = await under_way(wire)
    wire.takes = None
    connection.data_received(chunk(token("a")))
    wire.takes = True
    connection.data_received(chunk(token("b")))
    assert token("b") not in wire.raw
    assert exchange.ready()[0] == token("a") + token("b")


async def test_a_finish_reason_is_heard_though_it_comes_in_two_chunks() -> None:
    wire = Wire()
    connection, exchange = await under_way(wire)
    last = token("", "stop")
    middle = last.index(b"_reason")
    connection.data_received(chunk(last[:middle]))
    connection.data_received(chunk(last[middle:]))
    assert exchange.scanner is not None
    assert exchange.scanner.told.finish_reason == "stop"
    assert dechunk(wire.raw).endswith(last)


@pytest.mark.parametrize("takes", [False, None])
async def test_what_a_client_does_not_take_is_counted_and_pauses_the_reading(takes: bool | None) -> None:
    wire = Wire()
    connection, exchange = await under_way(wire)
    wire.takes = takes
    big = chunk(token("x" * 60_000))
    connection.data_received(big)
    assert 60_000 < exchange.buffered < 60_300
    assert not wire.paused
    for _ in range(5):
        connection.data_received(big)
    assert exchange.buffered > BUFFER_LIMIT_BYTES - READ_BYTES
    assert wire.paused
    wire.takes = True
    got = b""
    while exchange.buffered:
        data, size = exchange.ready()
        got += data
        exchange.taken(size)
    assert not wire.paused
    assert (dechunk(wire.raw) + got).count(b"data:") == 2 + 6
    connection.data_received(chunk(token("y")))
    assert dechunk(wire.raw).endswith(token("y"))
