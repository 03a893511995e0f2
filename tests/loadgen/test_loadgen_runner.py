"""People, strangers and bursts: who is there, what they send, and that every request is accounted for."""

import asyncio
import contextlib
import random
from itertools import pairwise

import msgspec
import pytest

from loadgen.behaviours import Reading
from loadgen.prompts import Mix
from loadgen.records import Burst, IntervalRecord, RequestRecord, SetPeople, SetRate, SetSlow, Stop
from loadgen.request import Limits
from loadgen.runner import BACKOFF_S, Runner, WorkerSettings
from loadgen.slo import STOPPED
from loadgen.target import Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until


class Load:
    """A runner on a known server, and everything it emitted."""

    def __init__(self, server, **settings):
        self.records = []
        self.intervals = []
        defaults = {"model": server.model, "interval_s": 0.05, "mix": Mix.of(20, 6, 512), "think_s": 0.02}
        self.settings = WorkerSettings(**(defaults | settings))
        self.runner = Runner(Target.parse(server.url), self.settings, self.take)
        self.apply = self.runner.apply

    def take(self, record):
        (self.records if isinstance(record, RequestRecord) else self.intervals).append(record)
        if isinstance(record, IntervalRecord):
            assert record.scheduled_total == record.in_flight + sum(record.outcomes.values())
            assert sum(record.outcomes.values()) == len(self.records)
            assert len(record.ttft_so_far_s) == record.in_flight

    @property
    def last(self):
        return self.intervals[-1] if self.intervals else None

    async def seen(self, condition, what="the interval record"):
        """Wait until an interval record meets the condition, and return it."""
        begin = len(self.intervals)
        await until(lambda: any(condition(record) for record in self.intervals[begin:]), what)
        return next(record for record in self.intervals[begin:] if condition(record))


@contextlib.asynccontextmanager
async def running(server, **settings):
    load = Load(server, **settings)
    task = asyncio.create_task(load.runner.run())
    try:
        yield load
        load.apply(Stop())
        await task
        assert load.last.in_flight == 0
        assert load.last.scheduled_total == len(load.records)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_people_come_ask_think_and_leave():
    async with KnownServer() as server, running(server, people=5) as load:
        await until(lambda: len(load.records) >= 25)
        record = await load.seen(lambda it: it.people == 5)
        assert (record.mode, record.rate_asked, record.slow_people) == ("closed", None, 0)
        assert {r.person for r in load.records} == {f"w0-p{n}" for n in range(1, 6)}
        assert {(r.outcome, r.behaviour) for r in load.records} == {("ok", "patient")}
        assert server.in_flight <= 5  # closed loop: nobody asks twice at once
        load.apply(SetPeople(2))
        await load.seen(lambda it: it.people == 2)
        load.apply(SetPeople(0))
        await load.seen(lambda it: it.people == 0 and it.thinking == 0 and it.in_flight == 0)
        count = len(load.records)
        load.apply(SetPeople(1))
        await until(lambda: len(load.records) > count)
        assert load.records[-1].person == "w0-p6"  # somebody new


async def test_who_leaves_finishes_reading_and_those_who_think_go_first():
    async with KnownServer(Behaviour(ttft_s=0.6)) as server, running(server, people=1, think_s=0.0) as load:
        await load.seen(lambda it: it.in_flight == 1)
        load.apply(SetPeople(0))
        record = await load.seen(lambda it: it.people == 0)
        assert record.in_flight == 1
        await load.seen(lambda it: it.in_flight == 0)
        assert load.records[-1].outcome == "ok"


async def test_the_same_seed_asks_the_same():
    async def bodies(seed):
        async with KnownServer() as server, running(server, seed=seed, people=2, rate=None) as load:
            load.apply(Burst(3))
            await until(lambda: all(sum(r.person == f"w0-p{n}" for r in load.records) >= 3 for n in (1, 2)))
            await until(lambda: sum(r.behaviour == "burst" for r in load.records) == 3)
            by_id = {served.request_id: served.body for served in server.served}
            return {
                (r.person, number): (r.request_id, by_id[r.request_id])
                for person in {r.person for r in load.records}
                for number, r in enumerate([r for r in load.records if r.person == person][:3])
            }

    one, again, other = await bodies(1), await bodies(1), await bodies(2)
    assert one == again
    assert not {request_id for request_id, _ in one.values()} & {request_id for request_id, _ in other.values()}


async def test_open_loop_keeps_coming_whatever_is_in_flight_and_goes_back():
    async with KnownServer(Behaviour(fault="hang")) as server, running(server, people=3, rate=100.0) as load:
        record = await load.seen(lambda it: it.in_flight >= 30)
        assert (record.mode, record.rate_asked, record.people, record.thinking) == ("open", 100.0, 0, 0)
        assert len(record.ttft_so_far_s) == record.in_flight
        assert max(record.ttft_so_far_s) > min(record.ttft_so_far_s)
        load.apply(SetRate(0.0))
        total = (await load.seen(lambda it: it.rate_asked == 0.0)).scheduled_total
        server.behaviour = Behaviour()
        load.apply(SetRate(None))
        record = await load.seen(lambda it: it.people == 3 and it.scheduled_total > total)
        assert record.mode == "closed"


async def test_a_burst_is_sent_at_once_besides_everything_else():
    async with KnownServer(Behaviour(ttft_s=1.0)) as server, running(server) as load:
        load.apply(Burst(40))
        await until(lambda: server.in_flight == 40)
        await until(lambda: len(load.records) == 40)
        assert {(r.outcome, r.behaviour) for r in load.records} == {("ok", "burst")}
        assert len({r.person for r in load.records}) == len({r.request_id for r in load.records}) == 40
        assert load.last.people == 0


async def test_slow_readers_hold_their_connections():
    slowly = Reading(rcvbuf_bytes=4096, bytes_per_s=2_000)
    server = KnownServer(Behaviour(tokens=200, chunk_bytes=230), sndbuf=16384)
    async with server, running(server, slow=2, slowly=slowly) as load:
        record = await load.seen(lambda it: it.held == 2)
        assert (record.slow_people, record.people) == (2, 0)
        first = sorted(record.ttft_so_far_s)
        later = await load.seen(lambda it: it.at > record.at and it.held == 2)
        assert sorted(later.ttft_so_far_s) == first, "it stands still once the first token is there"
        load.apply(SetPeople(1))
        await until(lambda: any(r.behaviour == "patient" for r in load.records))
        assert load.last.held == 2
        load.apply(SetSlow(0))
        assert (await load.seen(lambda it: it.slow_people == 0)).held == 2  # they finish what they read
    assert {(r.outcome, r.reason) for r in load.records if r.behaviour == "slow"} == {("abandoned", STOPPED)}


async def test_gaps_and_lags_are_reported_once():
    async with KnownServer(Behaviour(gap_s=0.01, tokens=6)) as server, running(server) as load:
        load.apply(Burst(4))
        await until(lambda: len(load.records) == 4)
        await load.seen(lambda it: True)
        assert sum(len(it.gaps_ms) for it in load.intervals) == 4 * 5
        assert sum(it.send_lag_ms is not None for it in load.intervals) == 1
        assert all(it.loop_lag_ms >= 0 and 0 <= it.cpu_share <= 1 for it in load.intervals)


async def test_a_dead_server_is_not_hammered_and_people_come_back():
    async with KnownServer() as server:
        port = server.port
    async with running(server, people=3, think_s=0.0) as load:
        await until(lambda: len(load.records) >= 6)
        assert {(r.outcome, r.reason) for r in load.records} == {("error", "connection refused")}
        for person in ("w0-p1", "w0-p2", "w0-p3"):
            mine = [r for r in load.records if r.person == person]
            assert all(b.scheduled - a.done >= BACKOFF_S for a, b in pairwise(mine))
        async with KnownServer(port=port):
            await until(lambda: any(r.outcome == "ok" for r in load.records))


async def test_latency_counts_from_the_intended_start():
    async with KnownServer() as server, running(server, rate=200.0) as load:
        await until(lambda: len(load.records) >= 20)
        for record in load.records:
            assert record.scheduled <= record.sent
            assert record.ttft_s == record.first_token - record.scheduled
        gaps = sorted(r.scheduled for r in load.records)
        assert len(set(gaps)) == len(gaps)  # each by the clock, none by the batch in which it was sent


@pytest.mark.parametrize("grace_s", [0.0, 30.0])
async def test_stopping(grace_s):
    async with KnownServer(Behaviour(ttft_s=1.0)) as server:
        load = Load(server, people=2, think_s=0.0, rate=None)
        load.apply(Burst(5))  # before it runs: it acts when it does
        running_load = asyncio.create_task(load.runner.run())
        await until(lambda: server.in_flight == 7)
        load.apply(Stop(grace_s))
        load.apply(Burst(5))
        load.apply(SetPeople(9))
        await running_load
        assert len(load.records) == 7
        expected = ("ok", "") if grace_s else ("abandoned", STOPPED)
        assert {(r.outcome, r.reason) for r in load.records} == {expected}
        assert load.last.scheduled_total == 7
        assert len(server.served) == 7


async def test_a_second_stop_cuts_the_grace_short():
    async with KnownServer(Behaviour(fault="hang")) as server, running(server) as load:
        load.apply(Burst(2))
        await until(lambda: server.in_flight == 2)
        load.apply(Stop(3600.0))
        await load.seen(lambda it: it.in_flight == 2)


async def test_accounting_holds_under_a_hail_of_commands():
    rng = random.Random(5)
    behaviours = [
        Behaviour(gap_s=0.002),
        Behaviour(fault="status", status=503),
        Behaviour(fault="error_event", fault_after=2),
        Behaviour(fault="cut", fault_after=2),
        Behaviour(fault="hang"),
        Behaviour(fault="garbage"),
    ]
    slowly = Reading(rcvbuf_bytes=4096, bytes_per_s=20_000)
    limits = Limits(first_byte_s=0.2)
    async with KnownServer() as server, running(server, slowly=slowly, limits=limits) as load:
        for _ in range(60):
            server.behaviour = rng.choice(behaviours)
            command = rng.choice(
                [
                    SetPeople(rng.randrange(12)),
                    SetSlow(rng.randrange(4)),
                    SetRate(rng.choice([None, 0.0, 50.0, 400.0])),
                    Burst(rng.randrange(20)),
                ]
            )
            load.apply(command)
            moment = load.runner.interval()
            load.take(moment)
            await asyncio.sleep(rng.random() * 0.02)
        server.behaviour = Behaviour()
        load.apply(SetRate(None))
        load.apply(SetPeople(3))
        count = len(load.records)
        await until(lambda: sum(r.outcome == "ok" for r in load.records[count:]) > 10)
    assert {r.outcome for r in load.records} >= {"ok", "rejected", "error"}
    ids = [r.request_id for r in load.records]
    assert len(set(ids)) == len(ids)
    assert {served.request_id for served in server.served} <= set(ids)


def test_records_travel_as_json_lines():
    interval = IntervalRecord(
        worker=1, at=2.0, mode="open", people=0, thinking=0, slow_people=0, in_flight=1, scheduled_total=1,
        outcomes={"ok": 0, "rejected": 0, "error": 0, "abandoned": 0},
    )  # fmt: skip
    decoder = msgspec.json.Decoder(IntervalRecord | RequestRecord)
    assert decoder.decode(msgspec.json.encode(interval)) == interval
