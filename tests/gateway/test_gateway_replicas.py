"""One gateway before several engines: who gets the next request, and what becomes of one that is not there."""

from __future__ import annotations

import asyncio

import pytest
from gateway_fakes import Asked, FakeEngine, Gate, chat, running, streams, until
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.policy import Balance
from server.gateway.records import SetEngine
from server.gateway.replicas import Replica, Replicas, choose


def replicas(*under_way: int) -> list[Replica]:
    made = [Replica(f"http://127.0.0.1:{9000 + place}") for place in range(len(under_way))]
    for replica, count in zip(made, under_way, strict=True):
        replica.under_way = count
    return made


@given(
    loads=st.lists(st.integers(0, 9), min_size=1, max_size=8), turn=st.integers(0, 1000), out=st.sets(st.integers(0, 7))
)
def test_the_one_with_the_fewest_goes_next_and_never_one_that_is_out(
    loads: list[int], turn: int, out: set[int]
) -> None:
    made = replicas(*loads)
    for place, replica in enumerate(made):
        replica.out = place in out
    chosen = choose(made, "least", turn)
    here = [replica for replica in made if not replica.out]
    if not here:
        assert chosen is None
    else:
        assert chosen is not None
        assert not chosen.out
        assert chosen.under_way == min(replica.under_way for replica in here)


@pytest.mark.parametrize("balance", ["least", "round-robin"])
def test_who_come_one_by_one_go_round(balance: Balance) -> None:
    made = replicas(0, 0, 0)
    assert [made.index(choose(made, balance, turn)) for turn in range(6)] == [0, 1, 2, 0, 1, 2]  # type: ignore[arg-type]


def test_in_turn_whatever_is_under_way_and_not_where_it_was_tried() -> None:
    made = replicas(9, 0, 0)
    assert choose(made, "round-robin", 0) is made[0]
    assert choose(made, "round-robin", 0, [made[0]]) is made[1]
    assert choose(made, "least", 0, made) is None


async def test_requests_under_way_are_spread_and_each_record_names_its_engine() -> None:
    gates = Gate(), Gate()
    async with FakeEngine(gates[0]) as one, FakeEngine(gates[1]) as two, running([one.url, two.url]) as run:
        asking = [asyncio.create_task(chat(run, f"r{number}")) for number in range(6)]
        await until(lambda: len(gates[0].came) == len(gates[1].came) == 3)
        assert [(state.under_way, state.out) for state in run.gateway.queue().replicas] == [(3, False), (3, False)]
        for gate in gates:
            gate.open_all()
        assert [reply.status_code for reply in await asyncio.gather(*asking)] == [200] * 6
        await until(lambda: len(run.records) == 6)
        names = {f"127.0.0.1:{engine.port}": len(engine.asked) for engine in (one, two)}
        assert {name: sum(record.replica == name for record in run.records) for name in names} == names
        assert [state.under_way for state in run.gateway.queue().replicas] == [0, 0]


async def test_a_dead_one_costs_no_request_and_is_asked_again() -> None:
    async with FakeEngine() as alive, FakeEngine() as other:
        dead_port, dead_url = other.port, other.url
        await other.__aexit__()
        async with running([dead_url, alive.url], balance="round-robin") as run:
            run.gateway._replicas._pause_s = 0.01
            replies = [await chat(run, f"r{number}") for number in range(4)]
            assert [reply.status_code for reply in replies] == [200] * 4
            assert len(alive.asked) == 4
            assert {record.replica for record in run.records} == {f"127.0.0.1:{alive.port}"}
            assert [state.out for state in run.gateway.queue().replicas] == [True, False]

            back = FakeEngine(_healthy)
            server = await asyncio.start_server(back._serve, "127.0.0.1", dead_port)
            back._tasks = set()
            async with server:
                await until(lambda: not run.gateway.queue().replicas[0].out)
                await until(lambda: any(asked.target == "/health" for asked in back.asked))
                for number in range(2):
                    assert (await chat(run, f"later{number}")).status_code == 200
                assert [asked.method for asked in back.asked].count("POST") == 1
                for task in list(back._tasks):
                    task.cancel()


async def _healthy(asked: Asked) -> None:
    if asked.target == "/health":
        await asked.json(b"")
    else:
        await streams(asked)


async def test_an_unhealthy_one_stays_out() -> None:
    async def ill(asked: Asked) -> None:
        await asked.json(b"", status=503)

    async with FakeEngine(ill) as engine:
        made = Replicas([engine.url, "http://127.0.0.1:9"], pause_s=0.01)
        assert made.lost(made._all[0])
        await until(lambda: len(engine.asked) >= 2)
        assert made.states()[0].out
        made.close()


async def test_when_all_are_gone_who_asks_is_told() -> None:
    async with FakeEngine() as one, FakeEngine() as two:
        urls = [one.url, two.url]
        await one.__aexit__()
        await two.__aexit__()
        async with running(urls) as run:
            reply = await chat(run, "r1")
            assert reply.status_code == 503
            assert reply.headers["x-spark-reason"] == "engine_down"
            assert [state.under_way for state in run.gateway.queue().replicas] == [0, 0]


async def test_a_way_round_keeps_the_engines_name() -> None:
    async with FakeEngine() as one, FakeEngine() as way, FakeEngine() as two, running([one.url, two.url]) as run:
        with pytest.raises(ValueError, match="1 engines instead of 2"):
            run.gateway.command(SetEngine("ready", urls=[way.url]))
        run.gateway.command(SetEngine("ready", urls=[way.url, two.url]))
        for number in range(2):
            await chat(run, f"r{number}")
        assert (len(one.asked), len(way.asked), len(two.asked)) == (0, 1, 1)
        assert {record.replica for record in run.records} == {f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"}


async def test_one_engine_is_not_named() -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        await chat(run, "r1")
        assert (await run.record("r1")).replica == ""
        assert run.gateway.queue().replicas == []
