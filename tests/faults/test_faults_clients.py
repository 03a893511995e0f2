"""Clients who leave, stop reading, read slowly, come all at once or again and again, at a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.behaviours import MOMENTS, WAYS, Leaving, Manners, Moment, Reading, Retry, Way
from loadgen.commands import Burst, Leave, SetCrowds, Stall
from loadgen.profile import Profile
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until
from tests.faults.edges import Edges, outcomes

CLIENTS = 16
LONG = Behaviour(ttft_s=0.4, gap_s=0.1, tokens=600)
"""A minute, were nobody to leave."""


def _each_once() -> Iterator[object]:
    """Every moment in every way; one of each where there is little time."""
    for number, at in enumerate(MOMENTS):
        for other, how in enumerate(WAYS):
            yield pytest.param(at, how, marks=() if number == other else pytest.mark.faults)


@pytest.mark.parametrize(("at", "how"), _each_once())
async def test_who_leaves_frees_the_engine(at: Moment, how: Way, tmp_path: Path) -> None:
    async with KnownServer(LONG) as engine, Edges(engine, tmp_path, tokens=12) as edges:
        edges.ask(Leave(CLIENTS, at, how))
        await edges.ended(CLIENTS)
        ours = await edges.finish(f"{CLIENTS} clients leave {Leaving(at, how).in_words()}")
    assert {record.outcome for record in ours} == {"abandoned"}
    assert outcomes(edges.relayed) == {("cancelled", "client_left"): CLIENTS}
    assert {served.ending for served in engine.served} == {"client_left"}
    seen = {"0": range(1), "1": range(1, 4), "50%": range(6, 10)}[at]
    assert all(record.chunks in seen for record in ours), [record.chunks for record in ours]


async def test_who_leaves_the_queue_was_never_at_the_engine(tmp_path: Path) -> None:
    async with KnownServer(LONG) as engine, Edges(engine, tmp_path, in_flight=1) as edges:
        edges.ask(Burst(1))
        await until(lambda: engine.in_flight == 1)
        edges.ask(Leave(CLIENTS, "0", "rst"))
        await until(lambda: len(edges.requests) == CLIENTS)
        await until(lambda: len(edges.relayed) == CLIENTS)
        assert len(engine.served) == 1
        await edges.finish(f"{CLIENTS} clients leave the queue by RST")
    assert {record.reason for record in edges.relayed} == {"client_left"}


@pytest.mark.faults
async def test_who_stops_reading_is_cut_off_and_nobody_else_feels_it(tmp_path: Path) -> None:
    """Half a minute: so long a client may take nothing."""
    flood = Behaviour(tokens=3000, chunk_bytes=1000)
    async with KnownServer(flood) as engine, Edges(engine, tmp_path) as edges:
        edges.ask(Stall(CLIENTS, for_s=50.0))
        await until(lambda: edges.now is not None and edges.now.held == CLIENTS)
        engine.behaviour = Behaviour(gap_s=0.01)
        edges.ask(Burst(CLIENTS))
        await until(lambda: len(edges.requests) == CLIENTS)
        assert {record.outcome for record in edges.requests} == {"ok"}
        await edges.ended(2 * CLIENTS, within_s=50.0)
        ours = await edges.finish(f"{CLIENTS} clients stop reading, {CLIENTS} others read on")
    stalled = [record for record in ours if record.behaviour == "staller"]
    assert {(record.outcome, record.reason) for record in stalled} == {
        ("abandoned", "stopped reading, and was cut off")
    }
    assert outcomes(edges.relayed) == {("completed", ""): CLIENTS, ("cancelled", "client_stalled"): CLIENTS}


async def test_who_stops_reading_leaves_at_last(tmp_path: Path) -> None:
    flood = Behaviour(tokens=3000, chunk_bytes=1000)
    async with KnownServer(flood) as engine, Edges(engine, tmp_path) as edges:
        edges.ask(Stall(CLIENTS, for_s=0.6))
        await edges.ended(CLIENTS)
        ours = await edges.finish(f"{CLIENTS} clients stop reading for 0.6 s and leave")
    assert {record.reason for record in ours} == {"stopped reading, and left at last"}
    assert outcomes(edges.relayed) == {("cancelled", "client_left"): CLIENTS}


@pytest.mark.faults
async def test_slow_readers_get_all_of_it(tmp_path: Path) -> None:
    """2.5 KB each at 1 KB/s."""
    manners = Manners(slow=Reading(rcvbuf_bytes=4096, bytes_per_s=1024.0))
    profile = Profile(think_s=0.0, manners=manners)
    async with KnownServer() as engine, Edges(engine, tmp_path, profile=profile) as edges:
        edges.ask(SetCrowds({"slow": CLIENTS}))
        await until(lambda: edges.now is not None and edges.now.in_flight == CLIENTS)
        edges.ask(SetCrowds({}))
        await edges.ended(CLIENTS)
        await until(lambda: edges.now is not None and not edges.now.in_flight)
        ours = await edges.finish(f"{CLIENTS} slow readers at 1 KB/s")
    assert {record.outcome for record in ours} == {"ok"}


@pytest.mark.parametrize("count", [pytest.param(16, marks=pytest.mark.faults), 200])
async def test_a_burst_is_served_or_told(count: int, tmp_path: Path) -> None:
    async with (
        KnownServer(Behaviour(gap_s=0.002)) as engine,
        Edges(engine, tmp_path, in_flight=8, max_queue=64) as edges,
    ):
        edges.ask(Burst(count))
        await edges.ended(count)
        ours = await edges.finish(f"a burst of {count}, 8 in flight, a queue of 64")
    if count == 16:
        assert {record.outcome for record in ours} == {"ok"}
    else:
        assert {record.outcome for record in ours} == {"ok", "rejected"}
        assert {record.reason for record in ours} == {"", "HTTP 429: The queue is full; try again later."}
        assert sum(record.outcome == "ok" for record in ours) >= 72


async def test_a_retry_storm_is_refused_and_ends(tmp_path: Path) -> None:
    storm = Profile(think_s=0.0, manners=Manners(retry=Retry("naive", at_once_s=0.05)))
    async with (
        KnownServer(Behaviour(gap_s=0.02)) as engine,
        Edges(engine, tmp_path, in_flight=2, max_queue=2, profile=storm) as edges,
    ):
        edges.ask(SetCrowds({"retrier": CLIENTS}))
        await until(lambda: edges.now is not None and edges.now.retries_total >= 60)
        edges.ask(SetCrowds({}))
        await until(lambda: edges.now is not None and not edges.now.in_flight and not edges.now.crowds)
        ours = await edges.finish(f"a naive retry storm of {CLIENTS}, 2 in flight, a queue of 2")
    assert {record.outcome for record in ours} == {"ok", "rejected"}
    attempts = [record.attempt for record in ours]
    assert max(attempts) == Retry().most
