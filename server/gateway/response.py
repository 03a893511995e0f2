"""A response on its way to the client: the engine's as it comes, or an error of ours, at whatever point it is."""

from __future__ import annotations

from server.gateway.client import Client
from server.gateway.clock import judge
from server.gateway.exchange import Exchange
from server.gateway.inbound import response_headers
from server.gateway.passage import Passage
from server.gateway.refusal import MAX_BODY_BYTES, REASON_HEADER, Refusal, error_event
from server.gateway.sse import read_body


async def relay(client: Client, passage: Passage, exchange: Exchange) -> None:
    """The response, from its headers to its last byte in the client's kernel."""
    clock, status = passage.clock, exchange.status
    assert status is not None
    events = exchange.scanner is not None
    begun = client.status is not None
    if begun and not events:
        await _relay_late(client, passage, exchange)
        return
    if not begun:
        headers = response_headers(exchange.headers_in, clock.ids.request_id, keep_length=not events)
        if status >= 400:
            headers.append((REASON_HEADER, judge(status, passage.told, cut=False)[1].encode("ascii")))
        if events:
            chunk, size = exchange.ready()
            await client.start_stream(status, headers, chunk)
            exchange.taken(size)
        else:
            await client.start(status, headers)
    last = await _relay_events(client, exchange) if events else await _relay_body(client, passage, exchange)
    clock.end(*judge(status, passage.told, cut=exchange.cut is not None))
    passage.over = True
    if exchange.cut is not None and not events:
        await client.reset()
        return
    if clock.reason == "stream_cut":
        last += error_event(502, "stream_cut", f"The engine broke off: {exchange.cut}.")
    await client.finish(last)
    exchange.taken(exchange.buffered)


async def _relay_events(client: Client, exchange: Exchange) -> bytes:
    """All but the last part, which is returned."""
    exchange.write_now, exchange.write_framed = client.write_now, client.write_framed
    while piece := await exchange.next():
        chunk, size = piece
        if exchange.exhausted:
            return chunk
        await client.write(chunk)
        exchange.taken(size)
    return b""


async def _relay_body(client: Client, passage: Passage, exchange: Exchange) -> bytes:
    """All of it; nothing is left. It is kept to be read, too, unless it is too large for that."""
    kept: list[bytes] = []
    kept_bytes = 0
    while piece := await exchange.next():
        chunk, size = piece
        await client.write(chunk)
        exchange.taken(size)
        if kept_bytes <= MAX_BODY_BYTES:
            kept.append(chunk)
            kept_bytes += len(chunk)
    passage.body_told = read_body(b"".join(kept))
    return b""


async def _relay_late(client: Client, passage: Passage, exchange: Exchange) -> None:
    """An answer that is no stream, to a client that was promised one while it waited: as one event."""
    assert exchange.status is not None
    body = await whole(exchange)
    passage.body_told = read_body(body)
    passage.clock.end(*judge(exchange.status, passage.told, cut=exchange.cut is not None))
    passage.over = True
    if exchange.cut is not None:
        await client.finish(error_event(502, "stream_cut", f"The engine broke off: {exchange.cut}."))
    elif exchange.status >= 400 and not passage.told.error:
        await client.finish(error_event(exchange.status, passage.clock.reason, "The engine refused the request."))
    else:
        await client.finish(b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n")


async def break_off(client: Client, passage: Passage, why: Refusal) -> None:
    """End a response that cannot go on, however far it came."""
    exchange = passage.exchange
    streams = exchange is not None and exchange.scanner is not None and not exchange.buffered
    if exchange is not None:
        exchange.abort()
    if client.status is None or exchange is None:
        await refuse(client, passage, why)
    elif streams:
        await client.finish(error_event(why.status, why.reason, why.message))
    else:
        await client.reset()


async def refuse(client: Client, passage: Passage, refused: Refusal) -> None:
    if passage.exchange is not None:
        passage.exchange.abort()
    if client.status is not None:  # a stream that was kept alive while it waited
        await client.finish(error_event(refused.status, refused.reason, refused.message))
        return
    await client.refuse(refused, [(b"x-request-id", passage.clock.ids.request_id.encode("ascii"))])


async def whole(exchange: Exchange) -> bytes:
    """The rest of a response's body."""
    chunks = []
    while piece := await exchange.next():
        exchange.taken(piece[1])
        chunks.append(piece[0])
    return b"".join(chunks)
