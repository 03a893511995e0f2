from __future__ import annotations

import json
import re

import httpx
import pytest
from gateway_fakes import (
    DONE,
    ROLE,
    STREAM,
    USAGE,
    Asked,
    FakeEngine,
    ask,
    chat,
    chunk,
    event,
    open_raw,
    running,
    streams,
    token,
    until,
)

ASK_USAGE = {"include_usage": True}
BODY = b"""{"id": "x" , "choices":[{"message":{"content":"Paris"},"finish_reason":"stop"}],
  "usage":{"prompt_tokens":7,"completion_tokens":3}, "metrics":{"queue_time_ms":1.5,"generation_time_ms":20}}"""


async def answers(asked: Asked) -> None:
    await asked.json(BODY)


async def test_a_stream_passes_byte_for_byte_but_for_the_usage_nobody_asked_for() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        reply = await chat(run, "r1")
        assert reply.status_code == 200
        assert reply.content == b"".join(each for each in STREAM if each is not USAGE)
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["x-request-id"] == "r1"
        (asked,) = engine.asked
        assert asked.document == {**json.loads(ask()), "stream_options": ASK_USAGE}
        assert asked.headers["x-request-id"] == "r1"
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.status, record.stream) == ("completed", "", 200, True)
        assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (7, 3, "stop")
        assert (record.engine_queue_s, record.prefill_s, record.decode_s) == (0.0125, 0.04, 0.25)
        stamps = [
            record.accepted,
            record.queued,
            record.admitted,
            record.upstream_sent,
            record.first_token,
            record.last_token,
            record.upstream_done,
            record.done,
        ]
        assert None not in stamps
        assert stamps == sorted(stamps)  # type: ignore[type-var]


async def test_a_client_that_asked_for_usage_gets_every_byte() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        body = ask(stream_options=ASK_USAGE)
        reply = await chat(run, "r1", body)
        assert reply.content == b"".join(STREAM)
        assert engine.asked[0].body == body
        assert (await run.record("r1")).completion_tokens == 3


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
async def test_a_whole_answer_passes_byte_for_byte(route: str) -> None:
    async with FakeEngine(answers) as engine, running(engine.url) as run:
        body = b'{"model": "m",  "prompt": "hi"}'
        reply = await run.http.post(route + "?a=b", content=body, headers={"x-request-id": "r1"})
        assert reply.content == BODY
        assert reply.headers["content-length"] == str(len(BODY))
        assert (engine.asked[0].target, engine.asked[0].body) == (route + "?a=b", body)
        record = await run.record("r1")
        assert (record.outcome, record.stream, record.route) == ("completed", False, route)
        assert (record.finish_reason, record.prompt_tokens, record.completion_tokens) == ("stop", 7, 3)
        assert (record.engine_queue_s, record.prefill_s, record.decode_s) == (0.0015, None, 0.02)
        assert record.first_token is None


async def test_models_pass_through_beside_the_queue() -> None:
    async with FakeEngine(answers) as engine, running(engine.url, max_in_flight=1, engine_state="starting") as run:
        reply = await run.http.get("/v1/models")
        assert (reply.status_code, reply.content) == (200, BODY)
        assert engine.asked[0].method == "GET"
        assert run.records == []


async def test_health_says_how_the_engine_is() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        assert (await run.http.get("/health")).status_code == 200
        run.gateway.admission.set_engine("down", 0.0)
        reply = await run.http.get("/health")
        assert (reply.status_code, reply.json()["engine"]) == (503, "down")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_other_paths_get_an_error_in_openai_shape(method: str, path: str, status: int, code: str) -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        reply = await run.http.request(method, path)
        check_error(reply, status, code)
        assert engine.asked == []


async def test_a_bad_body_is_refused_before_the_queue() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        check_error(await chat(run, "r1", b"[1]"), 400, "bad_request")
        assert ((await run.record("r1")).outcome, run.records[0].reason) == ("rejected", "bad_request")
        assert engine.asked == []


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_16_mib_is_refused(declared: bool) -> None:
    async def parts():  # type: ignore[no-untyped-def]
        for _ in range(17):
            yield b" " * (1 << 20)

    async with FakeEngine() as engine, running(engine.url) as run:
        content = b" " * (17 << 20) if declared else parts()
        reply = await run.http.post("/v1/chat/completions", content=content, headers={"x-request-id": "r1"})
        check_error(reply, 413, "body_too_large")
        assert (await run.record("r1")).outcome == "rejected"
        assert engine.asked == []


async def test_an_error_event_is_relayed_and_counts_as_failure() -> None:
    events = [ROLE, token("a"), event({"error": {"message": "died", "code": 500}}), DONE]

    async def script(asked: Asked) -> None:
        await asked.stream(events)

    async with FakeEngine(script) as engine, running(engine.url) as run:
        assert (await chat(run, "r1")).content == b"".join(events)
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.status) == ("failed", "error_event", 200)


async def test_done_alone_is_not_success() -> None:
    async def script(asked: Asked) -> None:
        await asked.stream([ROLE, token("a"), DONE])

    async with FakeEngine(script) as engine, running(engine.url) as run:
        assert (await chat(run, "r1")).content == ROLE + token("a") + DONE
        assert (await run.record("r1")).reason == "no_finish_reason"


async def test_a_cut_stream_ends_in_an_error_event_without_the_broken_half() -> None:
    async def script(asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a") + token("lost")[:20]))
        asked.writer.close()

    async with FakeEngine(script) as engine, running(engine.url) as run:
        reply = await chat(run, "r1")
        assert reply.content.startswith(ROLE + token("a"))
        told = json.loads(reply.content.removeprefix(ROLE + token("a")).removeprefix(b"data: "))
        assert told["error"]["code"] == "stream_cut"
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.upstream_done) == ("failed", "stream_cut", None)
        assert record.first_token is not None


async def test_a_cut_answer_cannot_be_taken_for_a_whole_one() -> None:
    async def script(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + BODY[:50])
        asked.writer.close()

    async with FakeEngine(script) as engine, running(engine.url) as run:
        with pytest.raises(httpx.HTTPError):
            await chat(run, "r1", ask(stream=False))
        assert (await run.record("r1")).reason == "stream_cut"


async def test_an_engine_that_breaks_off_before_answering_is_a_502_and_not_asked_again() -> None:
    async def script(asked: Asked) -> None:
        asked.writer.close()

    async with FakeEngine(script) as engine, running(engine.url) as run:
        check_error(await chat(run, "r1"), 502, "upstream_error")
        assert (await run.record("r1")).outcome == "failed"
        assert len(engine.asked) == 1


async def test_nobody_at_the_engines_address_is_a_503() -> None:
    async with FakeEngine() as engine:
        url = engine.url
    async with running(url) as run:
        reply = await chat(run, "r1")
        check_error(reply, 503, "engine_down")
        assert int(reply.headers["retry-after"]) >= 1
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.status, record.upstream_sent) == (
            "failed",
            "engine_down",
            503,
            None,
        )
        assert run.gateway.admission.counts().in_flight == 0
        check_error(await run.http.get("/v1/models"), 503, "engine_down")


@pytest.mark.parametrize(("status", "reason"), [(400, "upstream_refused"), (503, "upstream_error")])
async def test_the_engines_own_errors_pass_with_a_reason(status: int, reason: str) -> None:
    body = b'{"error": {"message": "no", "type": "t", "code": 1}}'

    async def script(asked: Asked) -> None:
        await asked.json(body, status)

    async with FakeEngine(script) as engine, running(engine.url) as run:
        reply = await chat(run, "r1")
        assert (reply.status_code, reply.content) == (status, body)
        assert reply.headers["x-spark-reason"] == reason
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.status) == ("failed", reason, status)


async def test_connections_are_kept_and_a_stale_one_is_replaced_once() -> None:
    async def closes_after(asked: Asked) -> None:
        if len(engine.asked) == 3:  # the kept connection breaks as it is used again
            asked.writer.close()
        else:
            await streams(asked)

    async with FakeEngine(closes_after) as engine, running(engine.url) as run:
        for number in range(3):
            assert (await chat(run, f"r{number}")).status_code == 200
        assert [asked.connection for asked in engine.asked] == [1, 1, 1, 2]
        assert engine.asked[3].headers["x-request-id"] == "r2"
        assert [record.outcome for record in run.records] == ["completed"] * 3
        assert run.gateway.admission.counts().completed == 3


async def test_a_kept_connection_that_had_begun_to_answer_is_not_asked_again() -> None:
    async def breaks(asked: Asked) -> None:
        if len(engine.asked) == 2:
            await asked.send(b"HTTP/1.1 2")
            asked.writer.close()
        else:
            await streams(asked)

    async with FakeEngine(breaks) as engine, running(engine.url) as run:
        assert (await chat(run, "r0")).status_code == 200
        check_error(await chat(run, "r1"), 502, "upstream_error")
        assert len(engine.asked) == 2


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async def closes(asked: Asked) -> None:
        await streams(asked)
        asked.writer.close()

    async with FakeEngine(closes) as engine, running(engine.url) as run:
        for number in range(2):
            assert (await chat(run, f"r{number}")).status_code == 200
            await until(lambda: engine.open == 0)
        assert len(engine.asked) == 2


async def test_ids_and_trace_go_up_and_come_back() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with FakeEngine() as engine, running(engine.url) as run:
        await chat(run, "mine", traceparent=f"00-{trace}-00f067aa0ba902b7-01", authorization="Bearer k")
        assert re.fullmatch(f"00-{trace}-[0-9a-f]{{16}}-01", engine.asked[0].headers["traceparent"])
        assert engine.asked[0].headers["authorization"] == "Bearer k"
        assert (await run.record("mine")).trace_id == trace
        reply = await run.http.post("/v1/completions", content=ask())
        made = reply.headers["x-request-id"]
        assert engine.asked[1].headers["x-request-id"] == made
        assert (await run.record(made)).trace_id == engine.asked[1].headers["traceparent"].split("-")[1]


async def test_metrics_count_what_happened() -> None:
    async with FakeEngine() as engine, running(engine.url, max_in_flight=5, max_queue=7) as run:
        await chat(run, "r1")
        await chat(run, "r2", b"bad")
        await run.record("r2")
        assert await run.metric("spark_gateway_requests_total") == 2
        assert await run.metric('spark_gateway_requests_finished_total{outcome="completed",reason=""}') == 1
        assert await run.metric('spark_gateway_rejected_total{reason="bad_request"}') == 1
        assert await run.metric('spark_gateway_rejected_total{reason="queue_full"}') == 0
        for name in ("queue_wait", "time_to_first_token", "duration"):
            assert await run.metric(f"spark_gateway_{name}_seconds_count") == 1
        assert await run.metric('spark_gateway_queue_wait_seconds_bucket{le="0.0001"}') <= 1
        for name, value in (
            ("queue_depth", 0),
            ("in_flight", 0),
            ("held", 0),
            ("buffered_bytes", 0),
            ("connections", 1),  # the scrape's own
            ("oldest_wait_seconds", 0),
            ("max_in_flight", 5),
            ("max_queue", 7),
            ("records_dropped_total", 0),
            ('engine_state{state="ready"}', 1),
            ('engine_state{state="down"}', 0),
        ):
            assert await run.metric(f"spark_gateway_{name}") == value


async def test_one_connection_carries_requests_in_turn_even_when_pipelined() -> None:
    async with FakeEngine(answers) as engine, running(engine.url) as run:
        body = ask(stream=False)
        reader, writer = await open_raw(run.port, "r0", body)
        again = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-id: r1\r\ncontent-length: %d\r\n\r\n" % len(
            body
        )
        writer.write(again + body)
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(BODY)) == BODY
        assert {(await run.record(name)).outcome for name in ("r0", "r1")} == {"completed"}
        writer.close()


def check_error(reply: httpx.Response, status: int, code: str) -> None:
    assert reply.status_code == status
    assert reply.headers["x-spark-reason"] == code
    assert reply.headers["x-request-id"]
    error = reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]
