from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest

from server.engine.discover import Found, base_url, discover, probe
from server.engine.errors import EngineError

Answer = tuple[int, str, bytes]
MODELS = json.dumps({"data": [{"id": "SmolLM2", "max_model_len": 2048}]}).encode()
METRICS = b'vllm:num_requests_running{engine="0",model_name="by-metric"} 0.0\n'
VLLM: dict[str, Answer] = {
    "/v1/models": (200, "application/json", MODELS),
    "/metrics": (200, "text/plain", METRICS),
    "/version": (200, "application/json", b'{"version":"0.32.0"}'),
}


@contextmanager
def serving(pages: dict[str, Answer]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = pages.get(self.path, (404, "application/json", b'{"detail":"Not Found"}'))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status in {301, 302, 307}:
                self.send_header("Location", "http://192.0.2.1/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_vllm_is_what_it_says() -> None:
    with serving(VLLM) as port:
        expected = Found(f"http://127.0.0.1:{port}", os.getpid(), "SmolLM2", "0.32.0", 2048)
        assert probe(f"http://127.0.0.1:{port}/") == expected
        assert probe(f"127.0.0.1:{port}/v1") == expected


def test_a_vllm_with_a_key_is_recognised_by_its_metrics() -> None:
    with serving(VLLM | {"/v1/models": (401, "application/json", b'{"error":"Unauthorized"}')}) as port:
        assert probe(f"http://127.0.0.1:{port}").model == "by-metric"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"/v1/models": (200, "text/html", b"<html>welcome</html>")}, "answers with a web page"),
        ({"/v1/models": (404, "text/plain", b"<!doctype html>")}, "answers with a web page"),
        ({"/metrics": (200, "text/plain", b"other:thing 1\n")}, "speaks the OpenAI API but is no vLLM"),
        ({"/metrics": (404, "text/plain", b"")}, "speaks the OpenAI API but is no vLLM"),
        ({"/v1/models": (200, "application/json", b"[1]")}, "is no OpenAI-compatible server"),
        ({"/v1/models": (500, "application/json", b"{}")}, "/v1/models says 500"),
        ({"/v1/models": (200, "application/json", b'{"data":[1]}')}, "is no OpenAI-compatible server"),
        ({"/v1/models": (302, "text/plain", b"")}, "sends us elsewhere"),
        ({"/v1/models": (200, "text/plain", b"x" * (5 << 20))}, "without an end"),
    ],
)
def test_what_is_no_vllm_is_one_sentence(changes: dict[str, Answer], sentence: str) -> None:
    with serving(VLLM | changes) as port, pytest.raises(EngineError, match=sentence):
        probe(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://127.0.0.1:8000", "is not http"),
        ("http://user:pass@127.0.0.1:8000", "user or a password"),
        ("http://", "names no host"),
        ("http://127.0.0.1:99999", "is no URL"),
        ("http://127.0.0.1:8000/some/where", "something behind the port"),
        ("http://127.0.0.1:8000?x=1", "something behind the port"),
    ],
)
def test_urls_that_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        base_url(url)


def test_nobody_there_and_nobody_who_answers() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        with pytest.raises(EngineError, match="Nothing answers"):
            probe(f"http://127.0.0.1:{port}")
        server.listen()
        with pytest.raises(EngineError, match="did not answer in time"):
            probe(f"http://127.0.0.1:{port}", timeout=httpx.Timeout(0.2))


def test_something_that_is_not_http() -> None:
    def speak(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with running(lambda: speak(server)), pytest.raises(EngineError, match="does not speak HTTP"):
            probe(f"http://127.0.0.1:{server.getsockname()[1]}")


@contextmanager
def running(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def test_engines_on_this_machine_are_found_by_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "process_iter", lambda attrs=None: iter(()))
    with serving(VLLM) as port, serving({}) as other:
        assert [found.url for found in discover(ports=(port, other))] == [f"http://127.0.0.1:{port}"]
