"""One request: every way it can go, and that the stamps are true."""

import asyncio
import itertools
import json
import socket
import time

import pytest
import uvloop

from loadgen.behaviours import Patience, Reading
from loadgen.prompts import Message, Prompt, Sampling, chat_body
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.target import Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until

numbers = itertools.count()


def call(server, behaviour="patient", path="/v1/chat/completions", reading=None, more=None, **known):
    body = chat_body(Prompt((Message("user", "one two three"),), max_tokens=8, words=3), server.model, Sampling())
    if path == "/v1/completions":
        body = json.dumps({"prompt": "a b", "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}})
        body = body.encode()
    if known:
        body = json.dumps(json.loads(body) | {"known": known}).encode()
    number = next(numbers)
    fields = {"scheduled": time.monotonic(), "reading": reading or Reading(), "path": path, **(more or {})}
    return Call(request_id=f"id-{number}", person=f"p{number}", behaviour=behaviour, body=body, **fields)


def streamed(server, meter=None, limits=None, **changes):
    return StreamedRequest(Target.parse(server.url), call(server, **changes), limits or Limits(), meter or Meter())


async def test_a_good_request_is_measured_as_it_was_sent():
    meter = Meter()
    async with KnownServer(Behaviour(ttft_s=0.15, gap_s=0.03)) as server:
        record = await streamed(server, meter).run()
        served = server.served[0]
    assert (record.outcome, record.reason, record.status, record.finish_reason) == ("ok", "", 200, "length")
    assert (record.prompt_tokens, record.completion_tokens) == (3, 8)
    assert record.chunks == 8  # token events: neither the role nor the usage
    assert served.request_id == record.request_id
    assert served.headers["content-type"] == "application/json"
    stamps = [record.scheduled, record.sent, record.first_byte, record.first_token, record.last_token, record.done]
    assert stamps == sorted(stamps)
    assert record.first_byte < served.first_token  # the role chunk came before, and was not taken for a token
    assert served.first_token <= record.first_token <= record.last_token
    assert record.last_token >= served.last_token
    assert record.ttft_s >= 0.15
    assert record.tpot_s == pytest.approx((record.last_token - record.first_token) / 7)
    assert meter.gaps.n == 7
    assert meter.gaps.total == pytest.approx(record.last_token - record.first_token, abs=1e-6)
    assert record.longest_gap_s == meter.gaps.largest >= (record.last_token - record.first_token) / 7
    assert record.fluidity == 1.0
    assert meter.send_lag_ms >= meter.start_lag_ms >= 0


@pytest.mark.parametrize(
    "known",
    [
        {"role_first": False},
        {"finish_apart": True},
        {"newline": "\r\n"},
        {"tokens_per_chunk": 3},
        {"chunk_bytes": 400},
        {"tokens": 1},
    ],
    ids=str,
)
async def test_dialects_that_are_fine(known):
    async with KnownServer() as server:
        record = await streamed(server, **known).run()
    assert (record.outcome, record.reason) == ("ok", "")
    assert record.completion_tokens == known.get("tokens", 8)  # from usage, never from chunks
    assert record.first_token is not None


async def test_completions_and_a_server_without_usage():
    async with KnownServer() as server:
        text = await streamed(server, path="/v1/completions").run()
        silent = await streamed(server, usage=False).run()
    assert (text.outcome, text.completion_tokens, text.prompt_tokens) == ("ok", 8, 2)
    assert (silent.outcome, silent.completion_tokens, silent.tpot_s) == ("ok", None, None)


@pytest.mark.parametrize(
    ("known", "outcome", "status", "reason"),
    [
        ({"fault": "status", "status": 429}, "rejected", 429, "HTTP 429: the queue is full"),
        ({"fault": "status", "status": 503, "retry_after": 3}, "rejected", 503, "HTTP 503: the queue is full"),
        ({"fault": "status", "status": 500}, "error", 500, "HTTP 500: the queue is full"),
        ({"fault": "status", "status": 404}, "error", 404, "HTTP 404: the queue is full"),
        ({"fault": "html"}, "error", 200, "the answer is not an event stream (text/html)"),
        ({"fault": "garbage"}, "error", None, "not a valid HTTP response"),
        ({"fault": "error_event"}, "error", 200, "error event: EngineCore encountered an issue."),
        ({"fault": "error_event", "fault_after": 3}, "error", 200, "error event: EngineCore encountered an issue."),
        ({"fault": "no_finish"}, "error", 200, "the stream ended without a finish_reason"),
        ({"fault": "bare_fin", "fault_after": 3}, "error", 200, "the connection was closed before the response ended"),
        ({"fault": "cut", "fault_after": 3, "gap_s": 0.02}, "error", 200, "the connection was lost"),
        ({"finish_reason": "abort"}, "error", 200, "the server finished it with abort"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
async def test_outcomes(known, outcome, status, reason):
    async with KnownServer() as server:
        record = await streamed(server, **known).run()
        assert (record.outcome, record.status) == (outcome, status)
        assert record.reason.startswith(reason)
        assert record.done >= record.sent
        await until(lambda: server.open_connections == 0)


async def test_a_refused_connection():
    async with KnownServer() as server:
        pass
    refused = await streamed(server).run()
    assert (refused.outcome, refused.reason, refused.sent) == ("error", "connection refused", None)


async def test_a_name_with_a_dead_address_before_the_live_one(monkeypatch):
    async with KnownServer() as dead:
        pass
    async with KnownServer() as server:

        async def getaddrinfo(host, port, **kwargs):
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.1", dead.port)), (*kind, ("127.0.0.1", server.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        record = await streamed(server).run()
    assert record.outcome == "ok"


async def test_time_limits():
    async with KnownServer() as server:
        unanswered = await streamed(server, limits=Limits(first_byte_s=0.1), fault="hang").run()
        endless = await streamed(server, limits=Limits(first_byte_s=1.0, total_s=1.3), tokens=10**6, gap_s=0.02).run()
        await until(lambda: server.open_connections == 0)
    assert (unanswered.outcome, unanswered.reason) == ("error", "no first byte within 0.1 s")
    assert (endless.outcome, endless.reason) == ("error", "not finished within 1.3 s")
    assert endless.first_token is not None


async def test_leaving_frees_the_server_at_once_and_keeps_what_was_seen():
    async with KnownServer(Behaviour(tokens=10**6, gap_s=0.01)) as server:
        request = streamed(server)
        running = asyncio.create_task(request.run())
        await until(lambda: request.first_token is not None)
        request.abandon("tired of waiting")
        record = await running
        request.abandon("again")
        await until(lambda: server.served[0].ending == "client_left")
    assert (record.outcome, record.reason, record.status) == ("abandoned", "tired of waiting", 200)
    assert record.first_token == request.first_token


async def test_leaving_before_it_began_and_while_it_connects():
    async with KnownServer() as server:
        early = streamed(server)
        early.abandon("stopped")
        connecting = streamed(server)
        running = asyncio.create_task(connecting.run())
        await asyncio.sleep(0)  # one step: it is connecting now
        connecting.abandon("stopped")
        records = [await early.run(), await running]
        await until(lambda: server.open_connections == 0)
        assert server.served == []
    assert [(record.outcome, record.sent) for record in records] == [("abandoned", None)] * 2


async def test_a_cancelled_task_leaves_no_connection():
    async with KnownServer(Behaviour(fault="hang")) as server:
        running = asyncio.create_task(streamed(server).run())
        await until(lambda: server.served)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: server.open_connections == 0)


async def test_what_a_call_says_of_itself_is_in_its_record():
    async with KnownServer() as server:
        now = time.monotonic()
        more = {"intended": now - 0.5, "attempt": 3, "turn": 2, "max_tokens": 8, "clipped": True, "keeps_text": True}
        request = streamed(server, more=more)
        record = await request.run()
    assert (record.attempt, record.turn, record.max_tokens, record.clipped) == (3, 2, 8, True)
    assert record.waited_since == record.intended == now - 0.5
    assert request.reply == " word" * 8


async def test_a_reply_that_nobody_needs_is_not_kept():
    async with KnownServer() as server:
        request = streamed(server)
        await request.run()
    assert request.reply == ""


async def test_the_text_is_what_was_received_however_it_was_cut():
    async with KnownServer() as server:
        for known in ({"tokens_per_chunk": 3}, {"newline": "\r\n"}, {"chunk_bytes": 400}, {"finish_apart": True}):
            request = streamed(server, more={"keeps_text": True}, **known)
            assert (await request.run()).outcome == "ok"
            assert request.reply == " word" * 8


async def test_somebody_leaves_when_the_first_token_takes_too_long():
    async with KnownServer(Behaviour(ttft_s=3600.0)) as server:
        record = await streamed(server, behaviour="abandoner", more={"patience": Patience(ttft_s=0.2)}).run()
        await until(lambda: server.served[0].ending == "client_left")
    assert (record.outcome, record.reason) == ("abandoned", "out of patience: no token in under 1 s")
    assert record.done - record.scheduled >= 0.2
    assert (record.chunks, record.wasted_tokens, record.fluidity) == (0, 0, None)


async def test_somebody_leaves_when_the_next_token_takes_too_long():
    async with KnownServer(Behaviour(fault="stall", fault_after=3)) as server:
        patience = Patience(ttft_s=60.0, stall_s=0.3)
        record = await streamed(server, behaviour="abandoner", more={"patience": patience}).run()
        await until(lambda: server.served[0].ending == "client_left")
    assert (record.outcome, record.reason) == ("abandoned", "out of patience: no further token in under 1 s")
    assert record.done - record.last_token >= 0.3
    assert record.wasted_tokens == record.chunks == 3


async def test_a_stream_that_keeps_coming_exhausts_nobodys_patience():
    """It lasts longer than any one token may take."""
    async with KnownServer(Behaviour(gap_s=0.25, tokens=10)) as server:
        record = await streamed(server, more={"patience": Patience(ttft_s=60.0, stall_s=2.0)}).run()
    assert record.outcome == "ok"
    assert record.last_token - record.first_token > 2.0


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
async def test_what_a_refusal_asks_for(value, seconds):
    async with KnownServer(Behaviour(fault="status", status=429, retry_after=value)) as server:
        record = await streamed(server).run()
    assert (record.outcome, record.retry_after_s) == ("rejected", seconds)


async def paused_reader():
    """He reads 20 events, pauses, and reads on: the pause is in the record, not in the gaps of the others."""
    reading = Reading(bytes_per_s=1e9, pause_s=0.4, pause_every_s=1e-6)
    async with KnownServer(Behaviour(tokens=20, gap_s=0.005, chunk_bytes=230)) as server:
        meter = Meter()
        record = await streamed(server, meter, behaviour="slow", reading=reading).run()
    assert (record.outcome, record.completion_tokens, meter.gaps.n) == ("ok", 20, 0)
    assert record.longest_gap_s >= 0.399  # a timer of uvloop may be half a millisecond early


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_slow_reader_pauses(run):
    run(paused_reader())


async def slow_reader_holds_its_connection():
    reading = Reading(rcvbuf_bytes=4096, bytes_per_s=40_000)
    async with KnownServer(Behaviour(tokens=300, chunk_bytes=230), sndbuf=16384) as server:
        meter = Meter()
        slow = streamed(server, meter, behaviour="slow", reading=reading)
        reading_slowly = asyncio.create_task(slow.run())
        await until(lambda: slow.first_token is not None)
        patient = await streamed(server).run()
        assert patient.outcome == "ok"
        assert not reading_slowly.done()
        assert server.served[0].tokens < 300  # the buffers are full: the backlog waits at the server
        record = await reading_slowly
        sent_bytes = server.served[0].bytes
    assert (record.outcome, record.completion_tokens) == ("ok", 300)
    assert sent_bytes > 60_000
    buffered = 16_384
    assert record.done - record.first_token >= (sent_bytes - buffered) / reading.bytes_per_s
    assert meter.gaps.n == 0  # his gaps are his own


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_slow_reader_holds_its_connection(run):
    run(slow_reader_holds_its_connection())
