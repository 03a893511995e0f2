"""A whole run, and one sentence for each way it cannot begin."""

import asyncio
import contextlib
import socket

import msgspec
import pytest

from loadgen.records import IntervalRecord, LoadRecord
from loadgen.run import LoadOptions, run_load
from loadgen.target import LoadError, Target, ask_models
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8101", "http://127.0.0.1:8101"),
        ("http://127.0.0.1:8101/", "http://127.0.0.1:8101"),
        ("http://127.0.0.1:8101/v1/", "http://127.0.0.1:8101"),
        ("http://example/llm/v1", "http://example:80/llm"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_urls(url, shown):
    assert Target.parse(url).url == shown


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://api.example", "https is not supported yet"),
        ("127.0.0.1:8101", "is not a URL"),
        ("ftp://x", "is not a URL"),
        ("http://", "is not a URL"),
        ("http://x:99999", "is not a URL"),
        ("http://x y", "characters"),
        ("http://x/\r\nevil", "characters"),
        (f"http://{'x' * 70}.example", "is not a URL"),
    ],
)
def test_urls_that_cannot_work(url, part):
    with pytest.raises(LoadError, match=part):
        Target.parse(url)


async def test_a_run_is_summed_up(tmp_path):
    out = tmp_path / "records.jsonl"
    intervals = []
    async with KnownServer(Behaviour(ttft_s=0.02, gap_s=0.005)) as server:
        options = LoadOptions(
            url=server.url, people=3, think_s=0.02, duration_s=1.2, output_tokens=8, burst=4, out=str(out)
        )
        summary = await run_load(options, intervals.append)
    assert (summary.url, summary.model) == (server.url, server.model)
    assert summary.requests == len(server.served) == summary.outcomes["ok"] > 8
    assert summary.attainment.due == summary.requests
    assert summary.completion_tokens == server.tokens_sent
    assert summary.ttft_s.n == summary.requests
    assert summary.ttft_s.p50 >= 0.02
    assert summary.duration_s >= 1.2
    assert summary.tokens_per_s == pytest.approx(server.tokens_sent / summary.duration_s)
    assert intervals
    lines = [msgspec.json.decode(line, type=LoadRecord) for line in out.read_bytes().splitlines()]
    assert len(lines) == summary.requests + len(intervals)
    assert [line for line in lines if isinstance(line, IntervalRecord)] == intervals
    assert msgspec.json.decode(msgspec.json.encode(summary))["attainment"]["due"] == summary.attainment.due


async def test_a_run_can_be_stopped_early():
    stop = asyncio.Event()
    async with KnownServer(Behaviour(fault="hang")) as server:
        options = LoadOptions(url=server.url, people=0, burst=3, duration_s=3600.0)
        run = asyncio.create_task(run_load(options, stop=stop))
        await until(lambda: server.in_flight == 3)
        stop.set()
        summary = await run
    assert summary.outcomes["abandoned"] == 3


async def test_a_slow_reader_does_not_prolong_the_run_he_is_counted_in():
    server = KnownServer(Behaviour(tokens=60, chunk_bytes=230), sndbuf=16384)
    async with server:
        options = LoadOptions(url=server.url, people=0, slow=1, think_s=0.0, duration_s=0.2, grace_s=2.0)
        summary = await run_load(options)
    assert summary.outcomes["abandoned"] == summary.requests == 1
    assert summary.duration_s == 0.2


async def test_a_key_is_sent():
    async with KnownServer() as server:
        await run_load(LoadOptions(url=server.url, people=0, burst=1, duration_s=0.1, api_key="sk-1"))
    assert server.served[0].headers["authorization"] == "Bearer sk-1"
    with pytest.raises(LoadError, match="API key has characters"):
        Target.parse(server.url, "a\r\nb")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"people": -1}, "fewer than 0"),
        ({"rate": 0.0}, "give one above 0"),
        ({"rate": float("nan")}, "give one above 0"),
        ({"duration_s": 0.0}, "give a duration above 0"),
        ({"think_s": -1.0}, "not negative"),
        ({"prompt_tokens": 0}, "at least one token"),
        ({"people": 0}, "nobody to send anything"),
        ({"model": "other"}, "does not serve other; it serves known-model"),
        ({"out": "/nowhere/at/all"}, "Cannot write /nowhere/at/all: No such file"),
    ],
)
async def test_options_that_cannot_work(changes, part):
    async with KnownServer() as server:
        with pytest.raises(LoadError, match=part):
            await run_load(LoadOptions(**{"url": server.url, "duration_s": 0.1, **changes}))
        assert server.served == []


async def ask(port):
    return await ask_models(Target.parse(f"http://127.0.0.1:{port}"), timeout_s=2.0)


async def test_servers_that_are_not_what_they_should_be():
    async with KnownServer(Behaviour(fault="html")) as server:
        with pytest.raises(LoadError, match="a page of HTML"):
            await ask(server.port)
    with pytest.raises(LoadError, match="connection refused"):
        await ask(server.port)
    with pytest.raises(LoadError, match="no such host"):
        await ask_models(Target.parse("http://no-such-host.invalid"))


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer as a web server"),
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "wants an API key"),
        (b'HTTP/1.1 503 No\r\ncontent-length: 28\r\n\r\n{"error":{"message":"soon"}}', r"HTTP 503 \(soon\)"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xfe[]", "not an OpenAI-compatible list"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"data":[]}', "serves no model"),
        (b"", "within 2 s"),
    ],
)
async def test_answers_that_are_no_list_of_models(answer, part):
    over = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()
        over.set()

    sock = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(serve, sock=sock):
        with pytest.raises(LoadError, match=part):
            await ask(sock.getsockname()[1])
        await over.wait()
