"""A receiver for the spans that vLLM sends about each request (OTLP over HTTP, protobuf), on loopback."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable
from typing import cast

import httptools
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server.telemetry.join import EngineTimes

PATH = b"/v1/traces"
BODY_LIMIT = 16 * 1024 * 1024
"""Bytes, as sent and unpacked. A batch of 512 spans is about 0.5 MB."""

_QUEUE = "gen_ai.latency.time_in_queue"
_PREFILL = "gen_ai.latency.time_in_model_prefill"
_DECODE = "gen_ai.latency.time_in_model_decode"
_TTFT = "gen_ai.latency.time_to_first_token"
_E2E = "gen_ai.latency.e2e"

OnTimes = Callable[[EngineTimes], None]


def decode(body: bytes) -> list[EngineTimes]:
    """The times of every finished request in one export; other spans (start-up stages, aborted requests) hold none.

    Raises google.protobuf.message.DecodeError.
    """
    export = ExportTraceServiceRequest.FromString(body)
    spans = (span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans)
    found = (_times(span) for span in spans if span.name == "llm_request")
    return [times for times in found if times is not None]


def _times(span: Span) -> EngineTimes | None:
    latencies: dict[str, float] = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        if kind in {"double_value", "int_value"}:
            seconds = float(getattr(attribute.value, kind))
            if math.isfinite(seconds) and seconds >= 0:
                latencies[attribute.key] = seconds
    if len(span.trace_id) != 16 or not {_QUEUE, _PREFILL, _DECODE} <= latencies.keys():
        return None
    return EngineTimes(
        trace_id=span.trace_id.hex(),
        queue_s=latencies[_QUEUE],
        prefill_s=latencies[_PREFILL],
        decode_s=latencies[_DECODE],
        ttft_s=latencies.get(_TTFT),
        e2e_s=latencies.get(_E2E),
    )


class OtlpReceiver:
    """`async with OtlpReceiver(on_times) as receiver: receiver.endpoint` is what vLLM's --otlp-traces-endpoint takes."""

    def __init__(self, on_times: OnTimes) -> None:
        self._on_times = on_times
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def endpoint(self) -> str:
        assert self._server is not None, "the receiver is not open"
        port: int = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}{PATH.decode()}"

    async def __aenter__(self) -> OtlpReceiver:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self._on_times, self._connections), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    """One exporter's connection; requests come one after another."""

    def __init__(self, on_times: OnTimes, open_connections: set[_Connection]) -> None:
        self._on_times = on_times
        self._open = open_connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._answer(b"400 Bad Request", keep_alive=False)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value.lower()

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect") == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) <= BODY_LIMIT:
            self._body += body

    def on_message_complete(self) -> None:
        self._answer(self._take(), keep_alive=self._parser.should_keep_alive())

    def _take(self) -> bytes:
        """Hand on what the request holds; returns the status line's end."""
        if self._target.partition(b"?")[0] != PATH:
            return b"404 Not Found"
        if self._parser.get_method() != b"POST":
            return b"405 Method Not Allowed"
        if not self._headers.get(b"content-type", b"").startswith(b"application/x-protobuf"):
            return b"415 Unsupported Media Type"
        body = bytes(self._body)
        try:
            if self._headers.get(b"content-encoding") == b"gzip" and len(body) <= BODY_LIMIT:
                unpacker = zlib.decompressobj(wbits=31)
                body = unpacker.decompress(body, BODY_LIMIT + 1)
            if len(body) > BODY_LIMIT:
                return b"413 Content Too Large"
            found = decode(body)
        except (zlib.error, DecodeError):
            return b"400 Bad Request"
        for times in found:
            self._on_times(times)
        return b"200 OK"

    def _answer(self, status: bytes, *, keep_alive: bool) -> None:
        """An empty body is a valid ExportTraceServiceResponse."""
        if self._transport is None or self._transport.is_closing():
            return
        connection = b"keep-alive" if keep_alive else b"close"
        head = b"HTTP/1.1 %s\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: %s\r\n\r\n"
        self._transport.write(head % (status, connection))
        if not keep_alive:
            self._transport.close()
