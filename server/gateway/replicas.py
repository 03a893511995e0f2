"""The engines behind one gateway: which of them gets the next request, and what becomes of one that is not there.

One to which no connection comes about is taken out at once, and the request that found out goes to another. It is asked for
its /health after a pause, which doubles, by the gateway itself: no request of a person's pays for asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from server.gateway.exchange import EngineConnection, Exchange
from server.gateway.inbound import Headers
from server.gateway.policy import Balance
from server.gateway.records import ReplicaState
from server.gateway.upstream import Upstream

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
HEALTH_TIMEOUT_S = 5.0
_OK = 200


class Replica:
    """One engine and what the gateway has there."""

    def __init__(self, url: str) -> None:
        self.name = urlsplit(url).netloc
        self.upstream = Upstream(url)
        self.under_way = 0
        """Requests that were sent there, or are on their way, and are not through."""
        self.out = False


def choose(replicas: Sequence[Replica], balance: Balance, turn: int, tried: Iterable[Replica] = ()) -> Replica | None:
    """The next one to send to; None when all that are not out were tried. Ties go round, so that the first one named does not
    get all that comes one by one."""
    here = [replica for replica in replicas if not replica.out and replica not in tried]
    if not here:
        return None
    in_turn = sorted(here, key=lambda replica: (replicas.index(replica) - turn) % len(replicas))
    return in_turn[0] if balance == "round-robin" else min(in_turn, key=lambda replica: replica.under_way)


class Replicas:
    """All of them; at least one. Raises ValueError for a URL that is not plain http."""

    def __init__(self, urls: Sequence[str], balance: Balance = "least", *, pause_s: float = FIRST_PAUSE_S) -> None:
        self._all = [Replica(url) for url in urls]
        self._balance = balance
        self._pause_s = pause_s
        self._turn = itertools.count()
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def several(self) -> bool:
        return len(self._all) > 1

    def point_at(self, urls: Sequence[str]) -> None:
        """From now on connect there; as many as before, and each keeps its name: it is the way there that has changed.
        Raises ValueError."""
        if len(urls) != len(self._all):
            raise ValueError(f"{len(urls)} engines instead of {len(self._all)}")
        for replica, url in zip(self._all, urls, strict=True):
            replica.upstream.point_at(url)

    def choose(self, tried: Iterable[Replica] = ()) -> Replica:
        """The next one to send to. Where all are out the first stands for all: whoever asks is told that it does not answer."""
        return choose(self._all, self._balance, next(self._turn), tried) or self._all[0]

    def lost(self, replica: Replica) -> bool:
        """No connection to it came about: False when there is nobody else to ask instead."""
        if not self.several:
            return False
        if not replica.out:
            replica.out = True
            task = asyncio.get_running_loop().create_task(self._ask_again(replica), name="replica")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return any(not other.out for other in self._all)

    def give_back(self, connection: EngineConnection) -> None:
        """To the one it came from."""
        for replica in self._all:
            if replica.upstream.is_at(connection.address):
                replica.upstream.give_back(connection)
                return
        connection.close()

    def states(self) -> list[ReplicaState]:
        """Each by its name, where there are several."""
        if not self.several:
            return []
        return [ReplicaState(replica.name, replica.under_way, replica.out) for replica in self._all]

    def close(self) -> None:
        """Keep no connection any more."""
        for task in self._asking:
            task.cancel()
        for replica in self._all:
            replica.upstream.close()

    async def _ask_again(self, replica: Replica) -> None:
        pause_s = self._pause_s
        while replica.out:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with contextlib.suppress(OSError, TimeoutError):
                replica.out = not await self._is_well(replica.upstream)

    async def _is_well(self, upstream: Upstream) -> bool:
        exchange = Exchange(give_back=self.give_back)
        sent: Headers = [(b"host", upstream.host_header)]
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                connection, reused = await upstream.lease(fresh=True)
                exchange.begin(connection, reused, "GET", "/health", sent, b"")
                await exchange.head()
                while await exchange.next():
                    pass
            return exchange.status == _OK
        finally:
            exchange.abort()
