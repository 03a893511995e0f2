"""`python -m server.gateway`: the gateway as a process.

Commands come as JSON lines on stdin, records go as JSON lines to stdout, after one first line `{"type":"listening","port":N}`;
the log goes to stderr. A key that clients have to bring comes in SPARK_SERVE_API_KEY, the engine's in SPARK_SERVE_ENGINE_KEY.
It ends, with code 0, at the end of stdin and on SIGTERM or SIGINT; code 1: it cannot listen; 2: it must not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import get_args

import msgspec
import prometheus_client
import uvloop

from loadgen.target import API_KEY
from server.gateway.access import Access, exposed, is_loopback
from server.gateway.listener import Listener, bind
from server.gateway.policy import Balance, Policy, PolicyChange
from server.gateway.records import EngineState, GapRecord, GatewayCommand, GatewayRecord, QueueRecord
from server.gateway.relay import Gateway
from server.gateway.stdio import LineWriter, read_lines
from server.keys import engine_key

REPORT_S = 0.5

_log = logging.getLogger("server.gateway")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m server.gateway", description="The gateway in front of one engine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101, help="0 lets the kernel choose")
    parser.add_argument(
        "--engine-url", required=True, action="append", help="http://HOST:PORT; again for each further one"
    )
    parser.add_argument("--balance", choices=get_args(Balance), default="least", help="which of several gets the next")
    parser.add_argument("--max-in-flight", type=int)
    parser.add_argument("--max-queue", type=int)
    parser.add_argument("--policy", metavar="JSON", default="{}", help="a PolicyChange of the default policy")
    parser.add_argument("--host-name", action="append", metavar="NAME", help="a name clients may know this gateway by")
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
        told = msgspec.json.decode(options.policy, type=PolicyChange)
        bounds = PolicyChange(max_in_flight=options.max_in_flight, max_queue=options.max_queue)
        gateway = Gateway(
            engine_url=options.engine_url,
            balance=options.balance,
            policy=Policy().changed(told.over(bounds)),
            engine_state=options.engine_state,
            sink=sink,
            connections=lambda: listener.connections,
            access=_access(options.host, options.host_name),
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
    gc.collect()
    gc.freeze()  # what is imported stays: no need to look through it while streams wait
    listener = Listener(gateway, sock, ready=lambda: writer.write(ready))
    uvloop.run(_serve(gateway, listener, lambda record: writer.write(encoder.encode(record))))
    writer.close(timeout_s=1.0)
    return 0


def _access(host: str, names: list[str] | None) -> Access:
    """Only a gateway that listens for this machine alone knows all names it may be called by, unless it is told them.

    Raises ValueError for one that would let in whoever reaches this machine.
    """
    key = os.environ.get(API_KEY) or None
    if why := exposed(host, key):
        raise ValueError(why)
    known = None if names is None and not is_loopback(host) else [host, *(names or [])]
    return Access(hosts=known, api_key=key, engine_key=engine_key())


async def _serve(gateway: Gateway, listener: Listener, write: Callable[[QueueRecord | GapRecord], None]) -> None:
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
    reporting = asyncio.create_task(_report(gateway, write))
    await listener.run_until_stopped()
    reporting.cancel()


async def _report(gateway: Gateway, write: Callable[[QueueRecord | GapRecord], None]) -> None:
    """Tell of the line while somebody waits, and of every change once; and of the gaps while tokens come."""
    last: QueueRecord | None = None
    while True:
        record = gateway.queue()
        if last is None or record.waiting or record != msgspec.structs.replace(last, at=record.at):
            write(record)
        last = record
        if (gaps := gateway.gaps()).n:
            write(GapRecord(at=record.at, gaps=gaps))
        await asyncio.sleep(REPORT_S)


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed: the gateway is gone anyway
        loop.call_soon_threadsafe(call)


if __name__ == "__main__":
    sys.exit(main())
