"""`python -m server.gateway`: the gateway as a process.

Commands come as JSON lines on stdin, records go as JSON lines to stdout, after one first line `{"type":"listening","port":N}`;
the log goes to stderr. It ends, with code 0, at the end of stdin and on SIGTERM or SIGINT; code 1: it cannot listen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from typing import get_args

import msgspec
import prometheus_client
import uvloop

from server.gateway.listener import Listener, bind
from server.gateway.records import EngineState, GatewayCommand, GatewayRecord
from server.gateway.relay import Gateway
from server.gateway.stdio import LineWriter, read_lines

_log = logging.getLogger("server.gateway")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m server.gateway", description="The gateway in front of one engine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101, help="0 lets the kernel choose")
    parser.add_argument("--engine-url", required=True, help="http://HOST:PORT")
    parser.add_argument("--max-in-flight", type=int, default=64)
    parser.add_argument("--max-queue", type=int, default=256)
    parser.add_argument("--engine-state", choices=get_args(EngineState), default="ready")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    encoder = msgspec.json.Encoder()

    def sink(record: GatewayRecord) -> None:
        writer.write(encoder.encode(record))

    def dropped() -> None:
        gateway.metrics.records_dropped.inc()

    try:
        gateway = Gateway(
            engine_url=options.engine_url,
            max_in_flight=options.max_in_flight,
            max_queue=options.max_queue,
            engine_state=options.engine_state,
            sink=sink,
            connections=lambda: listener.connections,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        sock = bind(options.host, options.port)
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    port = sock.getsockname()[1]
    ready = msgspec.json.encode({"type": "listening", "port": port})
    writer = LineWriter(sys.stdout.fileno(), dropped)
    listener = Listener(gateway, sock, ready=lambda: writer.write(ready))
    uvloop.run(_serve(gateway, listener))
    writer.close(timeout_s=1.0)
    return 0


async def _serve(gateway: Gateway, listener: Listener) -> None:
    loop = asyncio.get_running_loop()
    decoder: msgspec.json.Decoder[GatewayCommand] = msgspec.json.Decoder(GatewayCommand)

    def command(line: bytes) -> None:
        try:
            gateway.command(decoder.decode(line))
        except ValueError as error:  # msgspec's errors are ValueErrors
            _log.error("not carried out: %s (%s)", line[:200].decode("utf-8", "replace"), error)

    def stop() -> None:
        if not listener.should_exit:
            listener.should_exit = True
            gateway.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    read_lines(
        sys.stdin.fileno(),
        line=lambda line: _post(loop, lambda: command(line)),
        end=lambda: _post(loop, stop),
    )
    await listener.run_until_stopped()


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed: the gateway is gone anyway
        loop.call_soon_threadsafe(call)


if __name__ == "__main__":
    sys.exit(main())
