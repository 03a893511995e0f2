"""The network between people, gateway and engine goes wrong, by toxics; 16 streams each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.commands import Burst
from loadgen.request import Limits
from server.faults.records import ProxyRecord
from server.faults.toxics import Bandwidth, Latency, LimitData, ResetPeer, Slicer, SlowClose, Timeout, Toxic, in_words
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until
from tests.faults.edges import Edges, outcomes

STREAMS = 16
QUICK = Behaviour(gap_s=0.02)
LONG = Behaviour(gap_s=0.1, tokens=600)
"""A minute, were nothing to happen."""


@pytest.mark.parametrize(
    "toxic",
    [
        Latency(latency=300, jitter=50),
        Bandwidth(rate=4),
        Slicer(average_size=40, size_variation=20, delay=200),
        pytest.param(Latency(latency=200, stream="up"), marks=pytest.mark.faults),
    ],
    ids=in_words,
)
async def test_what_only_delays_loses_nothing(toxic: Toxic, tmp_path: Path) -> None:
    async with KnownServer(QUICK) as engine, Edges(engine, tmp_path, proxied="engine") as edges:
        edges.poison(toxic)
        edges.ask(Burst(STREAMS))
        await edges.ended(STREAMS)
        ours = await edges.finish(f"engine edge: {in_words(toxic)}")
    assert {record.outcome for record in ours} == {"ok"}
    assert all(record.completion_tokens == record.max_tokens for record in ours)
    assert outcomes(edges.relayed) == {("completed", ""): STREAMS}
    if isinstance(toxic, Latency):
        assert min(record.ttft_s or 0.0 for record in ours) >= (toxic.latency - toxic.jitter) / 1e3
    if isinstance(toxic, Bandwidth):
        least_s = min(served.bytes for served in engine.served) / (toxic.rate * 1e3)
        assert min(record.e2e_s for record in ours) >= least_s


@pytest.mark.parametrize(
    ("toxic", "word"),
    [
        (ResetPeer(), "The engine broke off: the connection was lost"),
        pytest.param(ResetPeer(timeout=300), "The engine broke off: the connection was lost", marks=pytest.mark.faults),
        pytest.param(
            Timeout(timeout=300),
            "The engine broke off: the connection was closed before the response ended",
            marks=pytest.mark.faults,
        ),
        (LimitData(bytes=3000), "The engine broke off: the connection was closed before the response ended"),
        (Timeout(), "The engine sent nothing for 3 s"),
        pytest.param(Timeout(stream="up"), "HTTP 504: The engine sent nothing for 3 s", marks=pytest.mark.faults),
        pytest.param(ResetPeer(stream="up"), "HTTP 50", marks=pytest.mark.faults),
    ],
    ids=lambda value: in_words(value) if not isinstance(value, str) else "",
)
async def test_what_cuts_is_told_to_every_client(toxic: Toxic, word: str, tmp_path: Path) -> None:
    """Those `down` strike while all stream, those `up` before anything was asked."""
    async with KnownServer(LONG) as engine, Edges(engine, tmp_path, proxied="engine") as edges:
        if toxic.stream == "up":
            edges.poison(toxic)
            edges.ask(Burst(STREAMS))
        else:
            edges.ask(Burst(STREAMS))
            await until(lambda: edges.streaming == STREAMS, "everybody streaming")
            edges.poison(toxic)
        await edges.ended(STREAMS)
        ours = await edges.finish(f"engine edge: {in_words(toxic)}")
    assert {record.outcome for record in ours} <= {"error", "rejected"}  # 503 where the connection was gone at once
    assert all(word in record.reason for record in ours), {record.reason for record in ours}
    assert {record.outcome for record in edges.relayed} == {"failed"}


@pytest.mark.faults
async def test_what_hits_half_of_the_connections_spares_the_others(tmp_path: Path) -> None:
    toxic = ResetPeer(toxicity=0.5)
    async with KnownServer(QUICK) as engine, Edges(engine, tmp_path, proxied="engine", tokens=40) as edges:
        edges.ask(Burst(STREAMS))
        await until(lambda: edges.streaming == STREAMS, "everybody streaming")
        edges.poison(toxic)
        await edges.ended(STREAMS)
        ours = await edges.finish(f"engine edge: {in_words(toxic)}")
    assert {record.outcome for record in ours} == {"ok", "error"}
    good = {record.request_id for record in ours if record.outcome == "ok"}
    assert good == {record.request_id for record in edges.relayed if record.outcome == "completed"}


@pytest.mark.faults
async def test_the_end_of_a_stream_that_broke_off_comes_late(tmp_path: Path) -> None:
    toxic = SlowClose(delay=500)
    broken = Behaviour(gap_s=0.01, fault="bare_fin", fault_after=6)
    async with KnownServer(broken) as engine, Edges(engine, tmp_path, proxied="engine") as edges:
        edges.poison(toxic)
        edges.ask(Burst(STREAMS))
        await edges.ended(STREAMS)
        ours = await edges.finish(f"engine edge: {in_words(toxic)}, the engine's streams end early")
    assert outcomes(edges.relayed) == {("failed", "stream_cut"): STREAMS}
    assert all((record.last_token or 0.0) + 0.45 <= record.done for record in ours)


@pytest.mark.faults
async def test_a_silence_that_is_taken_away_ends_what_was_swallowed_and_all_is_well_again(tmp_path: Path) -> None:
    async with KnownServer(LONG) as engine, Edges(engine, tmp_path, proxied="engine") as edges:
        edges.ask(Burst(STREAMS))
        await until(lambda: edges.streaming == STREAMS, "everybody streaming")
        edges.poison(Timeout())
        await until(lambda: any(isinstance(line, ProxyRecord) and line.swallowed for line in edges.proxy.lines))
        edges.poison()
        await edges.ended(STREAMS)
        engine.behaviour = QUICK
        edges.ask(Burst(STREAMS))
        await edges.ended(2 * STREAMS)
        ours = await edges.finish("engine edge: silence, taken away again")
    assert [record.outcome for record in ours] == ["error"] * STREAMS + ["ok"] * STREAMS


@pytest.mark.faults
async def test_an_engine_edge_that_nobody_listens_behind(tmp_path: Path) -> None:
    async with KnownServer(QUICK) as engine, Edges(engine, tmp_path, proxied="engine") as edges:
        engine._server.close()
        edges.ask(Burst(STREAMS))
        await edges.ended(STREAMS)
        ours = await edges.finish("engine edge: nobody listens at the proxy's target")
    assert {record.outcome for record in ours} <= {"error", "rejected"}  # 502, or 503 where it was gone at once
    assert {record.outcome for record in edges.relayed} == {"failed"}


@pytest.mark.parametrize(
    ("toxic", "limits", "word", "theirs"),
    [
        (ResetPeer(), Limits(), "the connection was lost", "cancelled"),
        pytest.param(
            *(Timeout(timeout=300), Limits(), "the connection was closed before the response ended", "cancelled"),
            marks=pytest.mark.faults,
        ),
        pytest.param(
            *(Timeout(), Limits(total_s=2.0), "not finished within 2 s", "cancelled"), marks=pytest.mark.faults
        ),
        pytest.param(
            *(Timeout(stream="up"), Limits(first_byte_s=1.0), "no first byte within 1 s", ""), marks=pytest.mark.faults
        ),
    ],
    ids=lambda value: in_words(value) if not isinstance(value, str | Limits) else "",
)
async def test_people_who_are_cut_off_free_their_slots(
    toxic: Toxic, limits: Limits, word: str, theirs: str, tmp_path: Path
) -> None:
    async with KnownServer(LONG) as engine, Edges(engine, tmp_path, proxied="people", limits=limits) as edges:
        if toxic.stream == "up":
            edges.poison(toxic)
            edges.ask(Burst(STREAMS))
        else:
            edges.ask(Burst(STREAMS))
            await until(lambda: edges.streaming == STREAMS, "everybody streaming")
            edges.poison(toxic)
        await edges.ended(STREAMS)
        ours = await edges.finish(f"people's edge: {in_words(toxic)}", unseen=STREAMS if toxic.stream == "up" else 0)
    assert {record.outcome for record in ours} == {"error"}
    assert all(word in record.reason for record in ours), {record.reason for record in ours}
    if theirs:
        assert outcomes(edges.relayed) == {(theirs, "client_left"): STREAMS}
        assert {served.ending for served in engine.served} == {"client_left"}
    else:
        assert (edges.relayed, engine.served) == ([], [])


async def test_people_are_sent_through_a_proxy_and_back_while_they_stream(tmp_path: Path) -> None:
    async with (
        KnownServer(Behaviour(gap_s=0.05)) as engine,
        Edges(engine, tmp_path, proxied="people", tokens=30) as edges,
    ):
        edges.ask(Burst(STREAMS))
        await until(lambda: edges.streaming == STREAMS, "everybody streaming")
        edges.send_elsewhere(edges.gateway_url)
        edges.ask(Burst(STREAMS))
        await until(lambda: edges.streaming == 2 * STREAMS)
        edges.poison(ResetPeer())
        await edges.ended(2 * STREAMS)
        ours = await edges.finish("people's edge: reset while half of them go past it")
    assert sorted(record.outcome for record in ours) == ["error"] * STREAMS + ["ok"] * STREAMS
