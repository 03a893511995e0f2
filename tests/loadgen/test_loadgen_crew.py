"""Several worker processes behind one face: the same requests, and nothing that outlives the run."""

import asyncio
import os
import signal

import psutil
import pytest

from loadgen.commands import Burst, SetCrowds, Stop
from loadgen.crew import Workers, crew
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import IntervalRecord, RequestRecord
from loadgen.run import LoadOptions, run_load
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import LoadError, Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until

HASTY = Profile(think_s=0.02, turns=1.0, mix=Mix.of(20, 6, 512))


def load_workers():
    """The load workers that this process has started and that still run."""
    found = psutil.Process().children()
    return [child for child in found if child.status() != psutil.STATUS_ZOMBIE and "loadgen.worker" in child.cmdline()]


def settings(server, **more):
    return WorkerSettings(model=server.model, profile=HASTY, interval_s=0.05, **{"workers": 2, **more})


async def ids_of(workers, tmp_path):
    """The requests of a burst, by whom and how, and the records in the file."""
    stop = asyncio.Event()
    out = tmp_path / f"{workers}.jsonl"
    async with KnownServer(Behaviour(gap_s=0.001)) as server:
        options = LoadOptions(
            url=server.url, burst=21, profile=HASTY, duration_s=3600.0, workers=workers, out=str(out), api_key="sk-1"
        )
        run = asyncio.create_task(run_load(options, stop=stop))
        await until(lambda: sum(served.ending == "complete" for served in server.served) == 21, "the burst")
        stop.set()
        summary = await run
        assert {served.headers["authorization"] for served in server.served} == {"Bearer sk-1"}
        assert summary.requests == sum(summary.outcomes.values()) == 21
        assert summary.workers == workers
        assert summary.gap_ms.n > 21
        return {served.request_id: served.body for served in server.served}


async def test_two_processes_make_the_same_requests_as_one(tmp_path):
    assert await ids_of(2, tmp_path) == await ids_of(1, tmp_path)
    assert load_workers() == []
    assert {line.count(b'"type"') for line in (tmp_path / "2.jsonl").read_bytes().splitlines()} == {1}


async def test_commands_reach_all_workers_before_and_while_they_run():
    records = []
    async with KnownServer() as server:
        made = crew(Target.parse(server.url), settings(server, crowds={"patient": 2}), records.append)
        assert isinstance(made, Workers)
        made.apply(Burst(4))
        run = asyncio.create_task(made.run())
        await until(load_workers, "the first worker")
        made.apply(Burst(6))  # while they start: for all of them, too
        await until(lambda: sum(isinstance(r, RequestRecord) and r.behaviour == "burst" for r in records) == 10)
        made.apply(SetCrowds({"patient": 6, "long": 1}))

        def there():
            latest = {r.worker: r.crowds for r in records if isinstance(r, IntervalRecord)}
            return latest == {0: {"patient": 3, "long": 1}, 1: {"patient": 3}}

        await until(there)
        made.apply(Stop())
        await run
    lasts = {record.worker: record for record in records if isinstance(record, IntervalRecord)}
    assert sum(record.scheduled_total for record in lasts.values()) == sum(
        isinstance(r, RequestRecord) for r in records
    )
    assert {record.in_flight for record in lasts.values()} == {0}
    assert load_workers() == []


def test_one_worker_stays_in_this_process():
    async def made():
        async with KnownServer() as server:
            return crew(Target.parse(server.url), settings(server, workers=1), lambda record: None)

    assert isinstance(asyncio.run(made()), Runner)


async def test_a_worker_that_dies_ends_the_run_with_a_sentence_and_leaves_nothing():
    async with KnownServer(Behaviour(fault="hang")) as server:
        records = []
        made = Workers(Target.parse(server.url), settings(server), records.append)
        made.apply(Burst(6))
        run = asyncio.create_task(made.run())
        await until(lambda: server.in_flight == 6)
        os.kill(load_workers()[0].pid, signal.SIGKILL)
        with pytest.raises(LoadError, match="A load worker ended with exit code -9"):
            await run
        assert load_workers() == []
        await until(lambda: server.open_connections == 0)
    assert [record.outcome for record in records if isinstance(record, RequestRecord)] == ["abandoned"] * 3


async def test_settings_that_no_worker_can_carry_out_are_a_sentence(capfd):
    async with KnownServer() as server:
        made = Workers(Target.parse(server.url), settings(server, crowds={"patient": -1}), lambda record: None)
        with pytest.raises(LoadError, match="exit code 2"):
            await made.run()
    assert load_workers() == []
    assert "fewer than 0 people" in capfd.readouterr().err


async def test_a_run_that_is_cancelled_leaves_no_worker():
    async with KnownServer(Behaviour(fault="hang")) as server:
        options = LoadOptions(url=server.url, burst=4, duration_s=3600.0, workers=2)
        run = asyncio.create_task(run_load(options))
        await until(lambda: server.in_flight == 4)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert load_workers() == []
        await until(lambda: server.open_connections == 0)
