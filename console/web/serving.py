"""Serves one console to browsers until it ends, or whoever serves it has enough."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import uvicorn

from console.web.audience import Audience
from console.web.child import Child
from console.web.entry import Entry
from console.web.pages import MESSAGE_BYTES, Site

SEATS = 200
"""Browsers at once, at most."""
SEND_BUFFER = 64 * 1024
"""The kernel's for one viewer: what it holds is old when a slow viewer comes to it."""
GONE_S = 30.0
"""A viewer that takes nothing for so long has its connection cut by the kernel."""
LOOK_S = 1.0


@dataclass(frozen=True)
class Web:
    """How to serve. `port` 0: any free one."""

    host: str
    port: int
    cells: int
    rows: int
    write: bool
    people: int
    minutes: float


@dataclass(frozen=True)
class Invitation:
    """What lets people in."""

    link: str
    """The operator's; works once."""
    site: str
    code: str


@dataclass(frozen=True)
class Figures:
    """What the serving terminal says of the audience."""

    watching: int
    bytes_per_s: float
    """Of the picture, as each viewer gets it."""
    dropped: int
    """Messages from viewers who may not type."""
    behind: int
    """Times that a slow viewer got the present screen instead of what it had missed."""


class ListenError(Exception):
    """Nobody can be served there; one sentence."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections hold little and do not hang. Raises ListenError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"--web-host {host} is no address of this machine ({error.strerror}).") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(GONE_S * 1000))
        listener.bind(address)
        listener.listen(SEATS)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"Cannot serve on {host} port {port} ({error.strerror}); choose --web-host, --web-port."
        ) from None
    return listener


def beyond_here(listener: socket.socket) -> bool:
    """Is it reached from other machines?"""
    return not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def site_of(listener: socket.socket) -> str:
    """The address to give people, without a path."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = next(_outside(), "127.0.0.1")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _outside() -> Iterator[str]:
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not ipaddress.ip_address(one.address).is_loopback:
                yield one.address


def in_front(terminal: int) -> bool:
    """Is this the job that its terminal's lines are for? Reading them as another would stop it."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False


def names_of(host: str) -> set[str]:
    """Names under which browsers may ask for this machine."""
    own = socket.gethostname().lower()
    return {host.lower(), own, own.partition(".")[0]} - {""}


async def serve(
    child: Child,
    listener: socket.socket,
    web: Web,
    *,
    invite: Callable[[Invitation], None],
    look: Callable[[Figures], None],
    again: int | None = None,
) -> tuple[int, bytes]:
    """The console's exit code, or 128 + n for the signal that ended it all; and the last that it wrote.

    `invite` is told what lets people in, at first and at each line that comes on the descriptor `again`; `look` every second
    how it goes.
    """
    loop = asyncio.get_running_loop()
    site, port = site_of(listener), listener.getsockname()[1]
    entry = Entry(web.people, web.minutes)
    audience = Audience(child, web.rows, SEATS)
    pages = Site(entry, audience, port, (web.cells, web.rows), write=web.write)
    application = pages.application(names_of(web.host), beyond=beyond_here(listener))

    def renew() -> None:
        invite(Invitation(f"{site}/open/{entry.new_token()}", f"{site}/", entry.new_code()))

    def entered() -> None:
        assert again is not None
        if in_front(again) and os.read(again, 1024):
            renew()
        else:
            loop.remove_reader(again)

    with _signals(loop) as signalled:
        child.follow(audience.came)
        renew()
        if again is not None:
            loop.add_reader(again, entered)
        server, serving = _start(application, listener)
        watching = asyncio.create_task(_watch(audience, look))
        ended = asyncio.create_task(child.ended())
        try:
            first: list[asyncio.Future[Any]] = [ended, signalled, serving]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if again is not None:
                loop.remove_reader(again)
            left = ended.done()
            watching.cancel()
            ended.cancel()
            await pages.close()
            server.should_exit = True
            code = await child.end(
                None if left else signal.Signals(signalled.result() if signalled.done() else signal.SIGTERM)
            )
            await asyncio.wait([serving, watching])
    if signalled.done():
        code = 128 + signalled.result()
    return code, audience.last_words


def _start(application: object, listener: socket.socket) -> tuple[uvicorn.Server, asyncio.Task[None]]:
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,  # one compressor a viewer costs more than the few KiB/s
        log_level="error",
        access_log=False,  # it would name the tokens
        proxy_headers=False,  # anybody could name any address
        server_header=False,
        lifespan="off",
        loop="none",
        limit_concurrency=2 * SEATS + 50,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]  # they are ours
    return server, asyncio.create_task(server.serve(sockets=[listener]), name="web")


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.Future[int]]:
    """The first that asks for the end."""
    first: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not first.done():
            first.set_result(number)

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in ends:
        loop.add_signal_handler(number, note, number)
    try:
        yield first
    finally:
        for number in ends:
            loop.remove_signal_handler(number)


async def _watch(audience: Audience, look: Callable[[Figures], None]) -> None:
    loop = asyncio.get_running_loop()
    at, written = loop.time(), 0
    while True:
        counts = audience.counts
        now = loop.time()
        rate = (counts["bytes"] - written) / (now - at) if now > at else 0.0
        look(Figures(audience.watching, rate, counts["dropped"], counts["behind"]))
        at, written = now, counts["bytes"]
        await asyncio.sleep(LOOK_S)
        audience.beat()
