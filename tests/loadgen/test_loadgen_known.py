"""The server of known timing: what it sends, when it means to, and that its stamps are of what it did."""

import asyncio
import json
import signal
import socket
import sys
import time

import httpx
import pytest

from loadgen.known import Server, listen
from loadgen.known_client import fetch_stamps, known_server
from loadgen.known_replies import MODEL, TICK_S, Plan, StreamStamps, Wheel, ask_decoder
from loadgen.target import Target, ask_models
from tests.fakes.waiting import until


class Running:
    """A server on this test's loop."""

    def __init__(self, usual=None):
        sock = listen()
        self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = Server(sock, usual or Plan(ttft_s=0.01, gap_s=0.002, tokens=3))

    async def __aenter__(self):
        self.client = httpx.AsyncClient(base_url=self.url)
        return self

    async def __aexit__(self, *how):
        await self.client.aclose()
        self.server.close()

    async def events(self, path="/v1/chat/completions", headers=None, **fields):
        """The data of the events of one stream."""
        body = {"model": "m", "messages": [], "stream": True, **fields}
        answer = await self.client.post(path, json=body, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.text.split("\n\n")
        assert events.pop() == ""
        return [event.removeprefix("data: ") for event in events]

    async def stamps(self):
        return (await fetch_stamps(Target.parse(self.url))).streams


async def test_a_chat_comes_in_vllms_shape():
    async with Running() as running:
        *events, done = await running.events(stream_options={"include_usage": True})
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"m"}
    *tokens, usage = chunks
    said = [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in tokens]
    word = {"content": " word"}
    assert said == [({"role": "assistant", "content": ""}, None), (word, None), (word, None), (word, "length")]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3


async def test_a_completion_has_text_and_no_role_and_usage_comes_only_if_asked_for():
    async with Running() as running:
        *events, done = await running.events("/v1/completions", prompt="a")
    choices = [json.loads(event)["choices"][0] for event in events]
    assert done == "[DONE]"
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        (" word", None),
        (" word", None),
        (" word", "length"),
    ]


async def test_one_token_is_first_and_last():
    async with Running() as running:
        role, only, done = await running.events(known={"tokens": 1})
        assert json.loads(role)["choices"][0]["delta"]["role"] == "assistant"
        assert json.loads(only)["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"
        (stream,) = await running.stamps()
    assert len(stream.written) == stream.tokens == 1


async def test_stamps_are_of_what_was_done_never_early_and_given_once():
    async with Running() as running:
        before = time.monotonic()
        await running.events(headers={"X-Request-Id": "mine"}, known={"ttft_s": 0.03, "gap_s": 0.005, "tokens": 4})
        await running.events()
        after = time.monotonic()
        mine, other = await running.stamps()
        assert await running.stamps() == []
    assert (mine.request_id, mine.ttft_s, mine.gap_s, mine.tokens) == ("mine", 0.03, 0.005, 4)
    assert (other.request_id, other.tokens) == ("2", 3)  # the running number, and the usual plan
    stamps = [before, mine.read, *mine.written, other.read, *other.written, after]
    assert stamps == sorted(stamps)
    assert min(mine.lateness_s) >= 0
    assert mine.held_back == 0


async def test_a_stream_under_way_is_not_told_and_one_that_was_left_is():
    async with Running() as running:
        async with running.client.stream(
            "POST", "/v1/chat/completions", json={"stream": True, "known": {"tokens": 10**6}}
        ) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            assert await running.stamps() == []
        found = []

        async def left():
            found.extend(await running.stamps())
            return found

        async with asyncio.timeout(20):
            while not await left():
                pass
    assert 0 < len(found[0].written) < found[0].tokens == 10**6


async def test_a_connection_serves_many_requests_or_one():
    async with Running() as running:
        await running.events()
        await running.events()
        assert len(running.server._connections) == 1
        await running.events(headers={"connection": "close"})
        await until(lambda: not running.server._connections)


async def test_other_pages_and_bad_requests():
    async with Running() as running:
        get, post = running.client.get, running.client.post
        assert await ask_models(Target.parse(running.url)) == [MODEL]
        assert (await get("/health")).status_code == 200
        assert (await get("/nothing")).status_code == 404
        assert (await post("/v1/completions", content=b"{")).status_code == 400
        assert (await post("/v1/completions", json={"stream": False})).status_code == 400
        assert (await post("/v1/completions", json={"stream": "yes"})).status_code == 400
        assert await running.stamps() == []


async def test_bytes_that_are_not_http_end_the_connection():
    async with Running() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_does_not_read_is_said_to_hold_writes_back():
    async with Running() as running:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", running.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        body = json.dumps({"stream": True, "known": {"ttft_s": 0.0, "gap_s": 0.0, "tokens": 30_000}}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        (connection,) = await wait_for(lambda: running.server._connections)
        await until(lambda: connection.pending and connection.reply is None)
        size, text = 0, b""
        while data := await reader.read(1 << 20):
            size += len(data)
            text = (text + data)[-100:]
        assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert size > 30_000 * 100  # nothing is lost
        (stream,) = await running.stamps()
        writer.close()
    assert len(stream.written) == 30_000
    assert 0 < stream.held_back < 30_000


async def wait_for(find):
    await until(find)
    return find()


def test_lateness_is_against_the_plan():
    stream = StreamStamps("a", read=10.0, ttft_s=0.1, gap_s=0.02, tokens=3, written=[10.1, 10.125, 10.14])
    assert stream.lateness_s == pytest.approx([0.0, 0.005, 0.0])


def test_the_wheel_gives_each_slot_once_all_in_it_are_due():
    wheel = Wheel()
    assert wheel.next_due() is None
    assert wheel.take(1e9) == []
    wheel.put(5.0004, "a")
    wheel.put(4.0, "b")
    wheel.put(5.0001, "c")
    wheel.put(7.0, "d")
    assert wheel.next_due() == pytest.approx(4.0)
    assert wheel.take(3.9999) == []
    assert wheel.take(4.0) == ["b"]
    assert wheel.next_due() == pytest.approx(5.001)
    assert wheel.take(5.0005) == []
    assert wheel.take(5.001 + TICK_S / 100) == ["a", "c"]
    wheel.put(6.0, "e")
    assert wheel.take(1e9) == ["e", "d"]
    assert wheel.take(1e9) == []


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, 16),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 7, "known": {"tokens": 9}}, 9),
        ({"max_tokens": 0}, 1),
    ],
    ids=str,
)
def test_who_says_how_many_tokens(asked, tokens):
    decoded = ask_decoder.decode(json.dumps(asked))
    assert decoded.plan(Plan(), 1).tokens == tokens
    if "known" not in asked:
        assert decoded.plan(Plan(tokens=20), 1).tokens == 20


def test_spread_lengths_are_even_about_the_usual_and_repeat():
    asked = ask_decoder.decode(b"{}")
    usual = Plan(tokens=100, spread=0.5)
    lengths = [asked.plan(usual, number).tokens for number in range(1, 501)]
    assert lengths == [asked.plan(usual, number).tokens for number in range(1, 501)]
    assert sum(lengths) / 500 == pytest.approx(100, abs=1)
    for low in range(50, 150, 20):
        assert sum(low <= length < low + 20 for length in lengths) == pytest.approx(100, abs=10)


async def test_the_process_says_its_port_and_ends_with_its_stdin():
    async with known_server() as target:
        assert await ask_models(target) == [MODEL]
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(target.host, target.port)


async def test_the_process_ends_on_sigterm_and_names_a_port_that_is_taken():
    command = (sys.executable, "-m", "loadgen.known")
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, **pipes)
    port = json.loads(await process.stdout.readline())["port"]
    other = await asyncio.create_subprocess_exec(*command, "--port", str(port), **pipes)
    _, said = await other.communicate()
    assert other.returncode == 2
    assert b"cannot be had" in said
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
