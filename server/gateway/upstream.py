"""Where the engine is, and the connections to it that are kept."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from server.gateway.exchange import READ_BYTES, EngineConnection

MAX_IDLE_CONNECTIONS = 64
CONNECT_TIMEOUT_S = 5.0


class Upstream:
    """Where the engine is, and the idle connections to it. Raises ValueError for a URL that is not plain http."""

    def __init__(self, url: str) -> None:
        self._idle: list[EngineConnection] = []
        self._spare: EngineConnection | None = None
        """Never used so far."""
        self._preparing: asyncio.Task[None] | None = None
        self._closed = False
        self.point_at(url)

    def point_at(self, url: str) -> None:
        """From now on connect there; what is under way ends where it began."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"the engine URL must look like http://HOST:PORT, not {url!r}")
        self._address = (parts.hostname, parts.port or 80)
        self.host_header = parts.netloc.rpartition("@")[2].encode("ascii")
        self._drop()

    def is_at(self, address: tuple[str, int]) -> bool:
        """It connects there now."""
        return address == self._address

    async def lease(self, *, fresh: bool = False) -> tuple[EngineConnection, bool]:
        """A connection and whether it was there before, so that it may turn out stale. Raises OSError or TimeoutError."""
        connection = None if fresh else self._take()
        kept = connection is not None
        if connection is None:
            connection = await self._open()
        if not self._idle and self._spare is None and self._preparing is None and not self._closed:
            self._preparing = asyncio.get_running_loop().create_task(self._prepare())
        return connection, kept

    def _take(self) -> EngineConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        spare, self._spare = self._spare, None
        return None if spare is None or spare.closed else spare

    async def _open(self) -> EngineConnection:
        """To where the engine is once the connection is there."""
        while True:
            host, port = address = self._address
            opened = await EngineConnection.open(host, port, rcvbuf=READ_BYTES // 2, timeout=CONNECT_TIMEOUT_S)
            assert isinstance(opened, EngineConnection)  # `open` makes one of its own class
            opened.address = address
            if address == self._address:
                return opened
            opened.close()  # it moved in the meantime

    async def _prepare(self) -> None:
        """Open one ahead of need: opening takes longer than all else that a request does here."""
        try:
            self._spare = await self._open()
        except (OSError, TimeoutError):
            pass  # whoever needs one will be told
        finally:
            self._preparing = None

    def give_back(self, connection: EngineConnection) -> None:
        """Take a connection back after its exchange, unless the engine has moved in the meantime."""
        if not connection.reusable:
            return
        self._idle = [idle for idle in self._idle if idle.reusable]
        here = connection.address == self._address
        if here and len(self._idle) < MAX_IDLE_CONNECTIONS and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Keep none any more."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        for connection in (*self._idle, *([self._spare] if self._spare is not None else [])):
            connection.close()
        self._idle.clear()
        self._spare = None
