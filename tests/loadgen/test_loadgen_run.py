"""A whole run, and one sentence for each way it cannot begin."""

import asyncio
import contextlib
import socket

import msgspec
import pytest

from loadgen.arrivals import Constant, Gamma, OnOff, Ramp, Replay
from loadgen.behaviours import Manners, Reading
from loadgen.commands import Flash
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import IntervalRecord, LoadRecord
from loadgen.run import LoadOptions, run_load
from loadgen.target import LoadError, Target, ask_models
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until

HASTY = Profile(think_s=0.02, turns=1.0, mix=Mix.of(20, 8, 512))


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
            url=server.url, crowds={"patient": 3}, profile=HASTY, duration_s=1.2, burst=4, flash=Flash(2), out=str(out)
        )
        summary = await run_load(options, intervals.append)
        behaviours = {served.request_id for served in server.served}
    assert (summary.url, summary.model) == (server.url, server.model)
    assert summary.requests == len(server.served) == summary.outcomes["ok"] > 8
    assert summary.attainment.due == summary.requests
    assert summary.completion_tokens == server.tokens_sent
    assert summary.ttft_s.n == summary.requests
    assert summary.ttft_s.p50 >= 0.02
    assert summary.duration_s >= 1.2
    assert summary.tokens_per_s == pytest.approx(server.tokens_sent / summary.duration_s)
    assert len(behaviours) == summary.requests
    assert (summary.workers, summary.amplification, summary.clipped_share) == (1, 1.0, 0.0)
    assert (summary.rate_asked_per_s, summary.rate_begun_per_s, summary.server) == (None, None, None)
    assert intervals
    lines = [msgspec.json.decode(line, type=LoadRecord) for line in out.read_bytes().splitlines()]
    assert len(lines) == summary.requests + len(intervals)
    assert [line for line in lines if isinstance(line, IntervalRecord)] == intervals
    assert msgspec.json.decode(msgspec.json.encode(summary))["attainment"]["due"] == summary.attainment.due


async def test_a_run_can_be_stopped_early():
    stop = asyncio.Event()
    async with KnownServer(Behaviour(fault="hang")) as server:
        options = LoadOptions(url=server.url, burst=3, duration_s=3600.0)
        run = asyncio.create_task(run_load(options, stop=stop))
        await until(lambda: server.in_flight == 3)
        stop.set()
        summary = await run
    assert summary.outcomes["abandoned"] == 3


async def test_a_slow_reader_does_not_prolong_the_run_he_is_counted_in():
    server = KnownServer(Behaviour(tokens=60, chunk_bytes=230), sndbuf=16384)
    async with server:
        profile = Profile(think_s=0.0, manners=Manners(slow=Reading(rcvbuf_bytes=4096, bytes_per_s=1024.0)))
        options = LoadOptions(url=server.url, crowds={"slow": 1}, profile=profile, duration_s=0.2, grace_s=1.0)
        summary = await run_load(options)
    assert summary.outcomes["abandoned"] == summary.requests == 1
    assert summary.duration_s == 0.2


async def test_a_key_is_sent():
    async with KnownServer() as server:
        await run_load(LoadOptions(url=server.url, burst=1, duration_s=0.1, api_key="sk-1"))
    assert server.served[0].headers["authorization"] == "Bearer sk-1"
    with pytest.raises(LoadError, match="API key has characters"):
        Target.parse(server.url, "a\r\nb")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"crowds": {"patient": -1}}, "fewer than 0"),
        ({"burst": -1}, "fewer than 0"),
        ({"arrivals": Gamma(0.0)}, "give one above 0"),
        ({"arrivals": Gamma(float("nan"))}, "give one above 0"),
        ({"arrivals": Constant(0.0)}, "give one above 0"),
        ({"arrivals": OnOff(2.0, share=2.0)}, "Heavy clients"),
        ({"duration_s": 0.0}, "give a duration above 0"),
        ({"grace_s": -1.0}, "not negative"),
        ({"workers": 0}, "1 to 64 workers"),
        ({"profile": Profile(think_s=-1.0)}, "not negative"),
        ({"profile": Profile(mix=Mix.of(0, 1, 100))}, "at least one token"),
        ({"crowds": {}}, "nobody to send anything"),
        ({"model": "other"}, "does not serve other; it serves known-model"),
        ({"out": "/nowhere/at/all"}, "Cannot write /nowhere/at/all: No such file"),
    ],
)
async def test_options_that_cannot_work(changes, part):
    async with KnownServer() as server:
        with pytest.raises(LoadError, match=part):
            await run_load(LoadOptions(**{"url": server.url, "crowds": {"patient": 1}, "duration_s": 0.1, **changes}))
        assert server.served == []


async def test_an_open_loop_says_what_it_was_asked_and_what_it_began():
    async with KnownServer() as server:
        summary = await run_load(LoadOptions(url=server.url, arrivals=Constant(2.0), profile=HASTY, duration_s=1.4))
    assert summary.requests == len(server.served) == 2  # the third would come at 1.5 s
    assert (summary.rate_asked_per_s, summary.rate_begun_per_s) == (2.0, pytest.approx(2 / 1.4))
    assert "asked for" not in summary.void


async def test_a_ramp_is_asked_its_mean_and_a_trace_has_no_rate(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:00:00,10,5\n" * 3)
    async with KnownServer() as server:
        ramp = await run_load(LoadOptions(url=server.url, arrivals=Ramp(0.0, 80.0, 1.0), profile=HASTY, duration_s=1.0))
        trace = await run_load(LoadOptions(url=server.url, arrivals=Replay(str(path)), profile=HASTY, duration_s=0.3))
    assert ramp.rate_asked_per_s == pytest.approx(40.0)
    assert (trace.rate_asked_per_s, trace.requests) == (None, 3)


async def test_an_open_loop_that_is_stopped_early_is_held_to_what_was_due_by_then():
    stop = asyncio.Event()
    async with KnownServer() as server:
        options = LoadOptions(url=server.url, arrivals=Gamma(100.0, 0.25), profile=HASTY, duration_s=3600.0)
        run = asyncio.create_task(run_load(options, stop=stop))
        await until(lambda: len(server.served) >= 50)
        stop.set()
        summary = await run
    assert summary.rate_begun_per_s > 50 / 3600 * 10
    assert "asked for" not in summary.void


async def test_a_trace_that_cannot_be_read_makes_the_run_void(tmp_path):
    async with KnownServer() as server:
        options = LoadOptions(url=server.url, arrivals=Replay(str(tmp_path / "none")), duration_s=0.2)
        summary = await run_load(options)
    assert summary.requests == 0
    assert "cannot be read (No such file" in summary.void


PAGE = """\
vllm:num_requests_running{{engine="0"}} {running}
vllm:generation_tokens_total{{engine="0"}} {tokens}
vllm:prompt_tokens_total{{engine="0"}} 7
vllm:request_success_total{{finished_reason="length"}} {finished}
vllm:request_success_total{{finished_reason="stop"}} 5
"""


@contextlib.asynccontextmanager
async def counting(server, *, running=0, extra=0):
    """An engine's page of metrics that counts what the server sent; yields its URL."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        finished = sum(served.ending == "complete" for served in server.served)
        page = PAGE.format(
            tokens=1_000 + server.tokens_sent + extra * bool(server.served), finished=finished, running=running
        )
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(page) + page.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as metrics:
        yield f"http://127.0.0.1:{metrics.sockets[0].getsockname()[1]}"


async def test_the_servers_counters_agree_with_ours():
    async with KnownServer() as server, counting(server) as url:
        options = LoadOptions(url=server.url, burst=6, profile=HASTY, duration_s=0.2, metrics_url=url)
        found = (await run_load(options)).server
    assert (found.finished, found.generation_tokens, found.wasted_tokens) == (6, server.tokens_sent, 0)
    assert found.agrees


@pytest.mark.parametrize(
    ("changes", "agrees"), [({"extra": 1}, False), ({"running": 1}, None)], ids=["one token more", "others still run"]
)
async def test_somebody_elses_tokens_are_seen(changes, agrees):
    async with KnownServer() as server, counting(server, **changes) as url:
        options = LoadOptions(url=server.url, burst=2, profile=HASTY, duration_s=0.2, metrics_url=url)
        found = (await run_load(options)).server
    assert found is None if agrees is None else found.agrees is agrees


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
