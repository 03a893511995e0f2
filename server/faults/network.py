"""The network edge: a proxy with toxics on the way to the engine or to the gateway, there only while a fault is."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from server.child import JsonChild
from server.faults import toxics
from server.faults.catalogue import FaultError, FaultKind, Settings
from server.faults.kit import Begun
from server.faults.records import Listening, ProxyLine, ProxyRecord, SetTarget, SetToxics
from server.faults.toxics import Toxic, toxic_error

START_S = 20.0
"""For the proxy to listen; it takes half a second on an idle machine."""
STOP_S = 2.0
LINGER_S = 60.0
"""After the last fault the proxy stays as long for those who are still on their way through it."""
Route = Callable[[str | None], None]
"""Leads there from now on (an URL), or by the direct way again (None)."""

_lines: msgspec.json.Decoder[ProxyLine] = msgspec.json.Decoder(ProxyLine)


def toxic_of(name: str, settings: Settings) -> Toxic:
    """The toxic of a fault in the catalogue. Raises FaultError."""
    names = {
        "latency": {"ms": "latency"},
        "bandwidth": {},
        "slow-close": {"ms": "delay"},
        "timeout": {"ms": "timeout"},
        "reset-peer": {"ms": "timeout"},
        "slicer": {"bytes": "average_size", "variation": "size_variation", "gap": "delay"},
        "limit-data": {},
    }[name]
    fields = {names.get(key, key): value for key, value in settings.items() if key != "on"}
    toxic: Toxic = msgspec.convert({"type": name.replace("-", "_"), **fields}, toxics.Toxic)
    if why := toxic_error(toxic):
        raise FaultError(why)
    return toxic


class NetworkEdge:
    """`targets`: where each way leads; `route`: who goes that way is told of a detour."""

    def __init__(self, log: Path, targets: Mapping[str, Callable[[], str]], route: Mapping[str, Route]) -> None:
        self._ways = {name: _Way(name, log, targets[name], route[name]) for name in targets}

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun:
        way = self._ways[str(settings["on"])]
        toxic = toxic_of(kind.name, settings)
        await way.add(toxic)

        async def undo() -> None:
            way.remove(toxic)

        return Begun(undo, lambda: way.stands)

    def moved(self) -> None:
        """A target may be elsewhere now."""
        for way in self._ways.values():
            way.aim()

    async def close(self) -> None:
        for way in self._ways.values():
            await way.close()


class _Way:
    """One way, and the proxy on it while there is one."""

    def __init__(self, name: str, log: Path, target: Callable[[], str], route: Route) -> None:
        self._name = name
        self._log = log
        self._target = target
        self._route = route
        self._toxics: list[Toxic] = []
        self._proxy: JsonChild | None = None
        self._port: asyncio.Future[int] | None = None
        self._open = 0
        self._leaving: asyncio.Task[None] | None = None

    @property
    def stands(self) -> bool:
        return self._proxy is not None

    async def add(self, toxic: Toxic) -> None:
        """Raises FaultError."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._proxy is None:
            self._proxy = JsonChild(
                f"fault proxy {self._name}",
                [sys.executable, "-m", "server.faults", "--target", urlsplit(self._target()).netloc],
                log=self._log,
                on_line=self._line,
                on_exit=self._exited,
            )
            self._port = asyncio.get_running_loop().create_future()
            try:
                await self._proxy.start()
                async with asyncio.timeout(START_S):
                    await asyncio.shield(self._port)
            except (OSError, TimeoutError):
                await self.close()
                raise FaultError("The fault's proxy does not come up; see `faults.log` among the logs.") from None
        assert self._port is not None
        self._toxics.append(toxic)
        self.aim()
        self._proxy.send(SetToxics(self._toxics))
        self._route(f"http://127.0.0.1:{self._port.result()}")

    def remove(self, toxic: Toxic) -> None:
        """The direct way again when it was the last one."""
        if toxic in self._toxics:
            self._toxics.remove(toxic)
        if self._proxy is None:
            return
        self._proxy.send(SetToxics(self._toxics))
        if not self._toxics:
            self._route(None)
            self._leaving = asyncio.create_task(self._leave(), name=f"fault proxy {self._name} leaves")

    def aim(self) -> None:
        if self._proxy is not None:
            parts = urlsplit(self._target())
            self._proxy.send(SetTarget(parts.hostname or "127.0.0.1", parts.port or 80))

    async def close(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
        proxy, self._proxy = self._proxy, None
        self._toxics.clear()
        if proxy is not None:
            await proxy.stop(STOP_S)

    async def _leave(self) -> None:
        """Once nobody is on the way through it any more."""
        end = time.monotonic() + LINGER_S
        while True:
            await asyncio.sleep(
                1.0
            )  # at least once: what it told of its connections may be older than the last of them
            if not self._open or time.monotonic() > end:
                break
        proxy, self._proxy = self._proxy, None
        self._leaving = None
        if proxy is not None:
            await proxy.stop(STOP_S)

    def _line(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            match _lines.decode(line):
                case Listening(port=port):
                    if self._port is not None and not self._port.done():
                        self._port.set_result(port)
                case ProxyRecord(open=still):
                    self._open = still

    def _exited(self, code: int) -> None:
        """Nobody asked for it: the way is free again, and its faults are over."""
        if self._proxy is not None and self._port is not None and self._port.done():
            self._proxy = None
            self._open = 0
            self._toxics.clear()
            self._route(None)
