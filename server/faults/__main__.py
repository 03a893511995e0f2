"""`python -m server.faults --target HOST:PORT`: the fault proxy as a process.

Commands come as JSON lines on stdin, records go as JSON lines to stdout (`server.faults.records`), after one first line
`{"type":"listening","port":N}`; it listens on loopback only. It ends, with code 0, at the end of stdin and on SIGTERM or
SIGINT, and its connections with it; code 1: it cannot listen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable

import msgspec
import uvloop

from loadgen.http1 import allow_many_sockets
from server.faults.proxy import Proxy, bind
from server.faults.records import Listening, ProxyCommand, ProxyLine, SetTarget, SetToxics
from server.faults.toxics import Toxic, toxic_error
from server.gateway.stdio import LineWriter, read_lines

HOST = "127.0.0.1"
REPORT_S = 0.5

_command_decoder: msgspec.json.Decoder[ProxyCommand] = msgspec.json.Decoder(ProxyCommand)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m server.faults", description="A TCP proxy that does what toxics say."
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="0 lets the kernel choose")
    parser.add_argument("--toxics", metavar="JSON", default="[]", help="those to begin with")
    options = parser.parse_args(argv)
    host, _, port = str(options.target).rpartition(":")
    try:
        toxics = msgspec.json.decode(options.toxics, type=list[Toxic])
        proxy = Proxy(host.strip("[]"), int(port))
        _set(proxy, SetToxics(toxics))
    except ValueError as error:  # msgspec's errors are ValueErrors
        parser.error(str(error))
    try:
        sock = bind(HOST, options.port)
    except (OSError, OverflowError) as error:
        complain(f"cannot listen on {HOST} port {options.port}: {error}")
        return 1
    allow_many_sockets()
    writer = LineWriter(sys.stdout.fileno(), lambda: None)
    encoder = msgspec.json.Encoder()
    uvloop.run(_serve(proxy, sock, lambda line: writer.write(encoder.encode(line))))
    writer.close(timeout_s=1.0)
    return 0


def _set(proxy: Proxy, command: ProxyCommand) -> None:
    """Raises ValueError, and then nothing has changed."""
    match command:
        case SetTarget(host=host, port=port):
            proxy.set_target(host, port)
        case SetToxics(toxics=toxics):
            if wrong := next(filter(None, map(toxic_error, toxics)), ""):
                raise ValueError(wrong)
            proxy.set_toxics(toxics)


async def _serve(proxy: Proxy, sock: socket.socket, write: Callable[[ProxyLine], None]) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def from_thread(call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving already
            loop.call_soon_threadsafe(call)

    def command(line: bytes) -> None:
        try:
            _set(proxy, _command_decoder.decode(line))
        except ValueError as error:
            complain(f"not carried out: {error}")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    read_lines(sys.stdin.fileno(), lambda line: from_thread(lambda: command(line)), lambda: from_thread(stopping.set))
    write(Listening(sock.getsockname()[1]))
    tasks = [loop.create_task(proxy.serve(sock)), loop.create_task(_report(proxy, write))]
    await stopping.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sock.close()


async def _report(proxy: Proxy, write: Callable[[ProxyLine], None]) -> None:
    """Tell of every change once, a few times a second at most."""
    last = proxy.record()
    while True:
        await asyncio.sleep(REPORT_S)
        record = proxy.record()
        if record != msgspec.structs.replace(last, at=record.at):
            write(record)
        last = record


def complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"faults: {sentence}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
