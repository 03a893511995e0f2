"""An engine that somebody else runs, as its pages on a raw socket, and all that can be odd about its /metrics."""

from __future__ import annotations

import contextlib
import gzip
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

Write = Callable[[bytes], object]
Odd = Callable[[str, Write], None]
"""(the right page, write) -> something else on the wire."""


def answer(body: bytes, status: str = "200 OK", more: str = "", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\n{more}content-length: {len(body) if length is None else length}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode() + body


def endless(write: Write, piece: bytes) -> None:
    while True:
        write(piece)


def slowly(write: Write, *parts: bytes | int) -> None:
    """Ten seconds for all of them."""
    for part in parts:
        write(part if isinstance(part, bytes) else bytes([part]))
        time.sleep(10 / len(parts))


BOMB = gzip.compress(b"\0" * 10**7, mtime=0)
WITHOUT_LENGTH = b"HTTP/1.0 200 OK\r\n\r\n"
ODDITIES: dict[str, tuple[Odd, str]] = {
    "HTML": (lambda _, write: write(answer(b"<html><body>It works!</body></html>\n")), "web page"),
    "another service's metrics": (lambda _, write: write(answer(b"node_load1 0.3\n")), "another service"),
    "empty": (lambda _, write: write(answer(b"")), "empty"),
    "cut in a line": (lambda page, write: write(WITHOUT_LENGTH + page.encode()[:-20]), "cut in the middle"),
    "shorter than it says": (lambda page, write: write(answer(page.encode(), length=10**6)), "not a valid answer"),
    "NaN, Inf and negative": (
        lambda page, write: write(answer(page.replace("} 3\n", "} NaN\n").replace("} 0.25\n", "} -0.25\n").encode())),
        "NaN",
    ),
    "beyond all numbers": (lambda page, write: write(answer(page.replace("} 3\n", "} 1e999\n").encode())), "infinite"),
    "100,000 series": (
        lambda page, write: write(answer(page.encode() + b"".join(b'x{a="%d"} 1\n' % n for n in range(100_000)))),
        "more than 50,000 lines",
    ),
    "of 8 MB": (lambda page, write: write(answer(page.encode() * 12_000)), "more than 4 MB"),
    "without end": (
        lambda page, write: endless(write, WITHOUT_LENGTH + page.encode() * 100),
        "more than 4 MB|no answer",
    ),
    "headers without end": (
        lambda _, write: endless(write, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000),
        "valid|answer",
    ),
    "a line without end": (lambda _, write: endless(write, b"y" * 65536), "valid|no answer"),
    "10 s late": (lambda page, write: slowly(write, b"", answer(page.encode())), "no answer in 1 s"),
    "a byte a second": (
        lambda page, write: slowly(write, *answer(page.encode())[:10]),
        "no answer in 1 s",
    ),
    "compressed unasked": (
        lambda page, write: write(answer(gzip.compress(page.encode()), more="content-encoding: gzip\r\n")),
        "compressed",
    ),
    "a bomb of gzip": (
        lambda _, write: write(answer(BOMB, more="content-encoding: gzip\r\n")),
        "compressed",
    ),
    "500": (lambda _, write: write(answer(b"oh", "500 Internal Server Error")), "HTTP 500"),
    "not HTTP": (lambda _, write: write(b"SSH-2.0-OpenSSH_9.2\r\n"), "not a valid answer"),
    "closed without a word": (lambda _, write: None, "not a valid answer"),
}
"""Of /metrics: what it is, how, and the word for it."""


class Pages(socketserver.ThreadingTCPServer):
    """`odd`: what /metrics is instead of right; `paths` all others."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, model: str = "known-model") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.odd: Odd | None = None
        self.paths = {
            "/v1/models": answer(
                json.dumps({"object": "list", "data": [{"id": model, "max_model_len": 4096}]}).encode()
            ),
            "/version": answer(b'{"version": "0.32.0"}'),
            "/health": answer(b""),
        }
        self.asked: list[str] = []
        self.base = 0.0
        """Taken from its counters: a process that began anew."""
        self._began = time.monotonic()

    def right(self) -> str:
        """Three requests run, 1,000 tokens a second are made, since an hour."""
        tokens = 1000 * (3600 + time.monotonic() - self._began) - self.base
        label = '{model_name="m",engine="0"}'
        return (
            f"vllm:num_requests_running{label} 3\nvllm:num_requests_waiting{label} 0\n"
            f"vllm:kv_cache_usage_perc{label} 0.25\nvllm:generation_tokens_total{label} {tokens:.0f}\n"
            f'vllm:iteration_tokens_total_bucket{{model_name="m",engine="0",le="+Inf"}} {tokens / 3:.0f}\n'
            f"vllm:iteration_tokens_total_sum{label} {tokens:.0f}\nvllm:iteration_tokens_total_count{label} {tokens / 3:.0f}\n"
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has left."""


class _Handler(socketserver.StreamRequestHandler):
    server: Pages

    def handle(self) -> None:
        first = self.rfile.readline(4096).decode("latin-1").split(" ")
        path = first[1] if len(first) > 1 else ""
        while self.rfile.readline(65536).strip():
            pass
        self.server.asked.append(path)
        with contextlib.suppress(OSError):
            if path != "/metrics":
                self.wfile.write(self.server.paths.get(path, answer(b"no", "404 Not Found")))
            elif self.server.odd is not None:
                self.server.odd(self.server.right(), self.wfile.write)
            else:
                self.wfile.write(answer(self.server.right().encode()))


@contextlib.contextmanager
def pages(model: str = "known-model") -> Iterator[Pages]:
    """Served from a thread of this process."""
    with Pages(model) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
