"""Requests that two servers could read differently, or that never end: refused in a sentence, and the engine hears nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from server.gateway import listener
from server.gateway.access import Access
from tests.faults.ledger import Row, Tally, enter
from tests.gateway.gateway_fakes import Asked, FakeEngine, ask, chat, running

BODY = ask(stream=False)
SIZE = len(BODY)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % SIZE
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PARTS = b"%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n"

SMUGGLED = {
    "length and chunked": HEAD + b"Content-Length: 4\r\n" + CHUNKED + PARTS,
    "chunked and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + PARTS,
    "two lengths": HEAD + b"Content-Length: 4\r\n" + LENGTH + BODY,
    "one length twice": HEAD + b"Content-Length: %d\r\n" % SIZE + LENGTH + BODY,
    "a list of lengths": HEAD + b"Content-Length: %d, %d\r\n\r\n" % (SIZE, SIZE) + BODY,
    "length with a plus": HEAD + b"Content-Length: +%d\r\n\r\n" % SIZE + BODY,
    "length below nothing": HEAD + b"Content-Length: -%d\r\n\r\n" % SIZE + BODY,
    "length in hex": HEAD + b"Content-Length: 0x%x\r\n\r\n" % SIZE + BODY,
    "length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "no length in it": HEAD + b"Content-Length: \r\n\r\n" + BODY,
    "two hosts": HEAD + b"Host: evil.example\r\n" + LENGTH + BODY,
    "one host twice": HEAD + b"Host: localhost\r\n" + LENGTH + BODY,
    "a host in the target": HEAD.replace(b" /", b" http://evil.example/") + LENGTH + BODY,
    "bare line feeds": (HEAD + LENGTH).replace(b"\r\n", b"\n") + BODY,
    "one bare line feed": HEAD + b"X: a\n" + LENGTH + BODY,
    "a bare carriage return": HEAD + b"X: a\r" + LENGTH + BODY,
    "a folded line": HEAD + b"X: a\r\n b\r\n" + LENGTH + BODY,
    "a folded first line": HEAD.replace(b"Host", b" X: y\r\nHost") + LENGTH + BODY,
    "blank before the colon": HEAD + b"Content-Length : %d\r\n\r\n" % SIZE + BODY,
    "NUL in a header": HEAD + b"X: a\x00b\r\n" + LENGTH + BODY,
    "ESC in a header": HEAD + b"X: a\x1b]52;c;aGk=\x07\r\n" + LENGTH + BODY,
    "chunk beyond 64 bits": HEAD + CHUNKED + b"f" * 17 + b"\r\n" + PARTS,
    "chunk in 0x": HEAD + CHUNKED + b"0x" + PARTS,
    "chunk below nothing": HEAD + CHUNKED + b"-1\r\n" + PARTS,
    "chunk that ends elsewhere": HEAD + CHUNKED + b"%x\r\n" % SIZE + BODY + b"XX0\r\n\r\n",
    "line feed in a chunk extension": HEAD + CHUNKED + b"%x;a\nb\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n",
    "length in a trailer": HEAD + CHUNKED + PARTS[:-2] + b"Content-Length: 5\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + PARTS,
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + PARTS,
    "chunked, identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + PARTS,
    "identity and chunked": HEAD + b"Transfer-Encoding: identity\r\n" + CHUNKED + PARTS,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\n" + CHUNKED + PARTS,
    "chunked in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CHUNKED + PARTS,
    "HTTP/2.0": HEAD.replace(b"1.1", b"2.0") + LENGTH + BODY,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + BODY,
}
OUTSIDE = {
    "a name that is not ours": HEAD.replace(b"localhost", b"evil.example"),
    "a name behind a user": HEAD.replace(b"localhost", b"localhost@evil.example"),
    "no name": HEAD.replace(b"Host: localhost\r\n", b""),
    "a page of another origin": HEAD + b"Origin: https://evil.example\r\n",
    "a page with localhost in its name": HEAD + b"Origin: http://localhost.evil.example\r\n",
    "a page of no origin": HEAD + b"Origin: null\r\n",
}


async def answers(asked: Asked) -> None:
    await asked.json(b'{"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}')


async def told(port: int, *parts: bytes, closes: bool = True) -> tuple[int, str]:
    """Status and sentence of the one answer to this, read until the gateway closes, or only until it is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(int(line[16:]) for line in head.split("\r\n") if line.lower().startswith("content-length: "))
            body = await reader.readexactly(length)
            if closes:
                assert await reader.read() == b"", "more than one answer"
    finally:
        writer.close()
    return int(head.split()[1]), json.loads(body)["error"]["message"]


async def test_a_request_that_can_be_read_in_two_ways_is_refused_and_never_forwarded() -> None:
    heard: dict[str, tuple[int, str]] = {}
    async with FakeEngine(answers) as engine, running(engine.url, access=Access(hosts=[])) as run:
        for name, data in SMUGGLED.items():
            heard[name] = await told(run.port, data)
        assert engine.asked == []
        assert (await chat(run, "r0", BODY)).status_code == 200
    assert {status for status, _ in heard.values()} == {400, 505}
    kinds = f"{len(SMUGGLED)} smuggled or malformed requests: {', '.join(SMUGGLED)}"
    said = "; ".join(sorted({f"{status} {sentence}" for status, sentence in heard.values()}))
    enter(Row(fault=kinds, said=said, requests=Tally(len(heard) + 1, 1, len(heard), 0), left=0))


async def test_who_asks_by_another_name_or_from_another_page_is_not_let_in() -> None:
    heard = []
    async with FakeEngine(answers) as engine, running(engine.url, access=Access(hosts=[])) as run:
        for data in OUTSIDE.values():
            heard.append(await told(run.port, data + LENGTH + BODY, closes=False))
        assert engine.asked == []
        for origin in ("http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"):
            assert (await chat(run, f"from {origin}", BODY, origin=origin)).status_code == 200
    assert [status for status, _ in heard] == [421, 421, 421, 403, 403, 403]
    said = "; ".join(sorted({f"{status} {sentence}" for status, sentence in heard}))
    fault = f"Host and Origin that are not ours: {', '.join(OUTSIDE)}"
    enter(Row(fault=fault, said=said, requests=Tally(len(heard) + 3, 3, len(heard), 0), left=0))


async def test_a_key_is_what_lets_a_page_of_elsewhere_in() -> None:
    async with FakeEngine(answers) as engine, running(engine.url, access=Access(hosts=[], api_key="k")) as run:
        foreign = {"origin": "https://ui.example"}
        assert (await chat(run, "r0", BODY, **foreign)).status_code == 401
        assert (await chat(run, "r1", BODY, authorization="Bearer k", **foreign)).status_code == 200


async def test_what_comes_a_byte_at_a_time_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr("server.gateway.client.WHOLE_BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(listener, "LINGER_S", 0.1)
    async with FakeEngine(answers) as engine, running(engine.url) as run:

        async def drip(before: bytes) -> tuple[int, str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            writer.write(before)

            async def bytes_without_end() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(bytes_without_end())
            async with asyncio.timeout(20):
                answer = await reader.read()
            dripping.cancel()
            await asyncio.wait({dripping})
            writer.close()
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split()[1]), json.loads(body)["error"]["message"]

        heads = await drip(b"GET /health HTTP/1.1\r\nx: ")
        bodies = await drip(HEAD + b"Content-Length: 900000\r\n\r\n{")
        assert engine.asked == []
        assert (heads[0], bodies[0]) == (408, 408)
        await asyncio.sleep(0)
    for fault, (status, sentence) in (("headers a byte at a time", heads), ("a body a byte at a time", bodies)):
        enter(Row(fault=fault, said=f"{status} {sentence}", requests=Tally(1, 0, 1, 0), left=0))


async def test_too_much_is_said_to_be_too_much() -> None:
    async with FakeEngine(answers) as engine, running(engine.url) as run:
        many = await told(
            run.port, b"GET /health HTTP/1.1\r\n", *[b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(40)]
        )
        long = await told(run.port, HEAD + b"Content-Length: 999999999\r\n\r\n{", closes=False)
        trailers = await told(run.port, HEAD + CHUNKED + PARTS[:-2], b"x: yyyyyyyyyyyy\r\n" * 4000, closes=False)
        assert engine.asked == []
    assert [status for status, _ in (many, long, trailers)] == [431, 413, 431]
    said = "; ".join(f"{status} {sentence}" for status, sentence in (many, long, trailers))
    fault = "40 KB of headers, a body of 1 GB, 64 KB of trailers"
    enter(Row(fault=fault, said=said, requests=Tally(3, 0, 3, 0), left=0))


async def test_trailers_are_no_headers() -> None:
    """They come when everything is checked already."""
    async with FakeEngine(answers) as engine, running(engine.url, access=Access(hosts=[])) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.write(HEAD + CHUNKED + PARTS[:-2] + b"Host: evil.example\r\nX-Vllm-Priority: -9\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert "x-vllm-priority" not in engine.asked[0].headers


async def test_streams_asked_for_ahead_come_one_after_another_and_not_without_end() -> None:
    one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: r%d\r\nContent-Length: %d\r\n\r\n"
    body = ask()
    async with FakeEngine() as engine, running(engine.url) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.write(b"".join(one % (number, len(body)) + body for number in range(30)))
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        served = listener.MAX_ASKED_AHEAD + 1
        assert answer.count(b"HTTP/1.1 200") == answer.count(b"data: [DONE]") == served
        assert [asked.headers["x-request-id"] for asked in engine.asked] == [f"r{number}" for number in range(served)]
        assert {record.outcome for record in run.records} == {"completed"}
