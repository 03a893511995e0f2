"""Who is let in at all, and how much of a request is listened to."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_fakes import Asked, FakeEngine, ask, chat, running, streams

from server.gateway import listener
from server.gateway.access import Access, exposed, is_loopback


@pytest.mark.parametrize(
    ("host", "known"),
    [
        (b"localhost:8101", True),
        (b"127.0.0.1", True),
        (b"[::1]:8101", True),
        (b"192.168.0.9:80", True),
        (b"Box:8101", True),
        (b"evil.example", False),
        (b"localhost.evil.example", False),
        (b"", False),
    ],
)
def test_only_names_of_this_gateway_are_answered(host: bytes, known: bool) -> None:
    refused = Access(hosts=["box"]).check("GET", "/health", [(b"host", host)])
    assert (refused is None) == known
    assert refused is None or (refused.status, refused.reason) == (421, "unknown_host")


def test_any_name_is_answered_where_nobody_knows_them_all() -> None:
    assert Access().check("GET", "/health", [(b"host", b"anything.example")]) is None


@pytest.mark.parametrize("hosts", [[], [(b"host", b"localhost"), (b"host", b"localhost")]])
def test_a_request_has_one_host(hosts: list[tuple[bytes, bytes]]) -> None:
    assert Access(hosts=[]).check("GET", "/health", hosts) is not None


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


async def test_a_key_is_asked_of_all_that_reaches_the_engine_and_stays_here() -> None:
    async with FakeEngine() as engine, running(engine.url, access=Access(api_key="k1")) as run:
        for headers in ({}, {"authorization": "Bearer k2"}, {"authorization": "k1"}):
            reply = await chat(run, "r0", **headers)
            assert (reply.status_code, reply.headers["x-spark-reason"]) == (401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["type"] == "authentication_error"
        assert (await run.http.get("/v1/models")).status_code == 401
        assert (await run.http.get("/health")).status_code == 200
        assert engine.asked == []
        assert (await chat(run, "r1", authorization="Bearer k1")).status_code == 200
        assert "authorization" not in engine.asked[0].headers


async def test_the_engines_key_is_brought_by_the_gateway_and_never_without_one_of_its_own() -> None:
    async with FakeEngine() as engine, running(engine.url, access=Access(api_key="k1", engine_key="e1")) as run:
        assert (await chat(run, "r0", authorization="Bearer e1")).status_code == 401
        assert (await chat(run, "r1", authorization="Bearer k1")).status_code == 200
        assert engine.asked[0].headers["authorization"] == "Bearer e1"
    with pytest.raises(ValueError, match="needs one of its own"):
        Access(engine_key="e1")


@pytest.mark.parametrize(
    ("host", "key", "refused"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),
        ("::", "", True),
        ("0.0.0.0", "k", False),
    ],
)
def test_who_listens_for_other_machines_asks_for_a_key(host: str, key: str | None, refused: bool) -> None:
    assert ("SPARK_SERVE_API_KEY" in exposed(host, key)) == refused


CONTROLS = (
    *("/sleep", "/wake_up", "/reset_prefix_cache", "/pause", "/resume", "/collective_rpc", "/server_info", "/version"),
    *(
        "/v1/load_lora_adapter",
        "/tokenize",
        "/invocations",
        "/docs",
        "/openapi.json",
        "/start_profile",
        "/scale_elastic_ep",
    ),
    *("//sleep", "/v1/../sleep", "/v1/chat/completions/../../../sleep", "/health/", "/v1/%2e%2e/sleep"),
)


@pytest.mark.parametrize("path", CONTROLS)
async def test_what_controls_an_engine_does_not_pass(path: str) -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        for method in ("GET", "POST"):
            line = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            status, _, _ = await ended(run.port, line.encode())
            assert status in {404, 405}, (method, path)
        assert engine.asked == []


async def test_a_host_that_is_none_of_ours_never_reaches_the_engine() -> None:
    async with FakeEngine() as engine, running(engine.url, access=Access(hosts=[])) as run:
        reply = await chat(run, "r0", host="evil.example")
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (421, "unknown_host")
        assert engine.asked == []
        assert run.records == []


async def ended(port: int, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these; the status, headers and body of what comes until the gateway closes. Status 0: nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET /health HTTP/1.1\r\n", *[b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(40)]),
        (b"GET /health HTTP/1.1\r\nx: ", *[b"y" * 20_000] * 8),
        (b"GET /", b"x" * 40_000, b" HTTP/1.1\r\n\r\n"),
    ],
    ids=["many", "endless", "path"],
)
async def test_headers_have_a_limit(parts: tuple[bytes, ...]) -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        status, headers, body = await ended(run.port, *parts)
        assert status == 431
        assert headers["x-spark-reason"] == "headers_too_large"
        assert json.loads(body)["error"]["code"] == "headers_too_large"
        assert (await chat(run, "r0")).status_code == 200


async def test_what_is_not_http_is_told_so() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        status, headers, _ = await ended(run.port, b"SSH-2.0-OpenSSH\r\n\r\n")
        assert (status, headers["x-spark-reason"]) == (400, "bad_request")


async def test_headers_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_TIMEOUT_S", 0.05)
    async with FakeEngine() as engine, running(engine.url) as run:
        status, headers, _ = await ended(run.port, b"GET /health HTTP/1.1\r\nho")
        assert (status, headers["x-spark-reason"]) == (408, "headers_timeout")


async def test_a_connection_on_which_nothing_is_asked_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "IDLE_TIMEOUT_S", 0.05)
    async with FakeEngine() as engine, running(engine.url) as run:
        assert await ended(run.port) == (0, {}, b"")


async def test_a_next_request_that_comes_slowly_does_not_break_the_response_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "HEAD_TIMEOUT_S", 0.02)
    late = asyncio.Event()

    async def waits(asked: Asked) -> None:
        await late.wait()
        await streams(asked)

    async with FakeEngine(waits) as engine, running(engine.url) as run:
        body = ask()
        first = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        asyncio.get_running_loop().call_later(0.1, late.set)
        status, _, answer = await ended(run.port, first, b"GET /health HT")
        assert status == 200
        assert b"[DONE]" in answer


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.gateway.client.BODY_TIMEOUT_S", 0.05)
    async with FakeEngine() as engine, running(engine.url) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-id: r0\r\ncontent-length: 9\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        record = await run.record("r0")
        assert (record.outcome, record.reason) == ("rejected", "body_timeout")
