"""People, strangers, bursts and crowds: who is there, what they send, and that every request is accounted for."""

import asyncio
import contextlib
import itertools
import random
import time
from itertools import pairwise

import msgspec
import pytest

from loadgen.arrivals import Constant, Gamma, OnOff, Ramp, Replay, Script, ScriptedRequest, schedule
from loadgen.behaviours import Manners, Patience, Reading, Retry
from loadgen.commands import Burst, Flash, SetArrivals, SetCrowds, SetProfile, Stop
from loadgen.profile import Profile
from loadgen.prompts import PREFIX_WORDS, TEMPLATE_TOKENS, Mix
from loadgen.records import IntervalRecord, RequestRecord
from loadgen.request import Limits
from loadgen.runner import Runner, WorkerSettings
from loadgen.slo import STOPPED
from loadgen.target import Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until

HASTY = Profile(think_s=0.02, turns=1.0, mix=Mix.of(20, 6, 512))


BACKOFF_S = 0.25


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    """People whose requests failed come back sooner than they do elsewhere."""
    monkeypatch.setattr("loadgen.runner.BACKOFF_S", BACKOFF_S)


def hasty(**changes):
    return msgspec.structs.replace(HASTY, **changes)


class Load:
    """A runner on a known server, and everything it emitted."""

    def __init__(self, server, **settings):
        self.records = []
        self.intervals = []
        defaults = {"model": server.model, "interval_s": 0.05, "profile": HASTY}
        self.settings = WorkerSettings(**(defaults | settings))
        self.runner = Runner(Target.parse(server.url), self.settings, self.take)
        self.apply = self.runner.apply

    def take(self, record):
        (self.records if isinstance(record, RequestRecord) else self.intervals).append(record)
        if isinstance(record, IntervalRecord):
            assert record.scheduled_total == record.in_flight + sum(record.outcomes.values())
            assert sum(record.outcomes.values()) == len(self.records)
            assert len(record.waiting) == record.in_flight
            assert record.retries_total == sum(r.attempt > 1 for r in self.records) or record.in_flight
            left = [r for r in self.records if r.outcome == "abandoned" and r.reason != STOPPED]
            assert record.left_total == len(left)
            assert record.wasted_tokens_total == sum(r.wasted_tokens for r in left)

    @property
    def last(self):
        return self.intervals[-1] if self.intervals else None

    def of(self, person):
        return [record for record in self.records if record.person == person]

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
        assert load.last.in_flight == load.last.flash == load.last.thinking == 0
        assert load.last.scheduled_total == len(load.records)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def open_loop(process, **more):
    return SetArrivals(process, origin=time.monotonic(), **more)


# closed loop


async def test_people_come_ask_think_and_leave():
    async with KnownServer() as server, running(server, crowds={"patient": 5}) as load:
        await until(lambda: len(load.records) >= 25)
        record = await load.seen(lambda it: it.people == 5)
        assert (record.mode, record.rate_asked, record.crowds) == ("closed", None, {"patient": 5})
        assert {r.person for r in load.records} == {f"patient-{n}" for n in range(1, 6)}
        assert {(r.outcome, r.behaviour, r.attempt) for r in load.records} == {("ok", "patient", 1)}
        assert server.in_flight <= 5  # closed loop: nobody asks twice at once
        load.apply(SetCrowds({"patient": 2}))
        await load.seen(lambda it: it.people == 2)
        load.apply(SetCrowds({}))
        await load.seen(lambda it: it.people == 0 and it.thinking == 0 and it.in_flight == 0)
        count = len(load.records)
        load.apply(SetCrowds({"patient": 1}))
        await until(lambda: len(load.records) > count)
        assert load.records[-1].person == "patient-6"  # somebody new


async def test_who_leaves_finishes_reading_and_those_who_think_go_first():
    profile = hasty(think_s=0.0)
    server = KnownServer(Behaviour(ttft_s=0.6))
    async with server, running(server, crowds={"patient": 1}, profile=profile) as load:
        await load.seen(lambda it: it.in_flight == 1)
        load.apply(SetCrowds({}))
        record = await load.seen(lambda it: it.people == 0)
        assert record.in_flight == 1
        await load.seen(lambda it: it.in_flight == 0)
        assert load.records[-1].outcome == "ok"


async def test_crowds_are_changed_live_each_by_itself():
    profile = hasty(manners=Manners(slow=Reading(bytes_per_s=50_000.0)))
    crowds = {"patient": 3, "long": 1}
    async with KnownServer() as server, running(server, crowds=crowds, profile=profile) as load:
        await load.seen(lambda it: it.crowds == {"patient": 3, "long": 1})
        load.apply(SetCrowds({"patient": 1, "abandoner": 2, "retrier": 2, "slow": 1, "long": -4}))
        record = await load.seen(lambda it: it.crowds == {"patient": 1, "abandoner": 2, "retrier": 2, "slow": 1})
        assert record.people == 6
        begin = len(load.records)
        wanted = {"patient", "abandoner", "retrier", "slow"}
        await until(lambda: {r.behaviour for r in load.records[begin:]} >= wanted)
        load.apply(SetCrowds({"patient": 3}))
        await load.seen(lambda it: it.crowds == {"patient": 3})


async def test_long_prompt_authors_write_several_times_as_much():
    profile = hasty(mix=Mix.of(20, 6, 4096), manners=Manners(long_factor=10.0))
    async with KnownServer() as server, running(server, crowds={"patient": 2, "long": 2}, profile=profile) as load:
        await until(lambda: all(sum(r.behaviour == b for r in load.records) >= 30 for b in ("patient", "long")))
        mean = {
            b: sum(r.prompt_tokens for r in load.records if r.behaviour == b)
            / sum(r.behaviour == b for r in load.records)
            for b in ("patient", "long")
        }
    assert 4 < mean["long"] / mean["patient"] < 20


async def test_a_profile_holds_from_each_persons_next_request_on():
    async with KnownServer() as server, running(server, crowds={"patient": 2}) as load:
        await until(lambda: len(load.records) >= 4)
        assert {served.body["max_tokens"] for served in server.served} != {3}
        load.apply(
            SetProfile(hasty(mix=Mix.of(20, 3, 512), sampling=msgspec.structs.replace(HASTY.sampling, ignore_eos=True)))
        )
        begin = len(server.served)
        await until(lambda: len(server.served) > begin + 10)
        assert all(served.body["ignore_eos"] for served in server.served[begin + 2 :])
        assert all(served.body["max_tokens"] <= 24 for served in server.served[begin + 2 :])
        assert {r.person for r in load.records} == {"patient-1", "patient-2"}


# conversations


def grown(bodies):
    """For each request after the first of a person: the messages before its newest one, if it carries any."""
    return [
        (earlier["messages"], later["messages"]) for earlier, later in pairwise(bodies) if len(later["messages"]) > 1
    ]


async def test_a_turn_carries_the_question_and_the_reply_that_was_received():
    profile = hasty(turns=4.0, mix=Mix.of(20, 6, 8192))
    async with KnownServer() as server, running(server, crowds={"patient": 2}, profile=profile) as load:
        await until(lambda: len(load.records) >= 60)
        by_id = {served.request_id: served for served in server.served}
        seen = 0
        for person in ("patient-1", "patient-2"):
            records = load.of(person)
            for before, record in pairwise(records):
                body, said = by_id[record.request_id].body, by_id[before.request_id].body
                assert len(body["messages"]) == 2 * record.turn - 1
                if record.turn == 1:
                    continue
                seen += 1
                assert record.turn == before.turn + 1
                *past, newest = body["messages"]
                assert past[:-1] == said["messages"]
                assert past[-1] == {"role": "assistant", "content": " word" * before.completion_tokens}
                assert newest["role"] == "user"
        assert seen > 20
        assert {r.turn for r in load.records} >= {1, 2, 3}


async def test_a_conversation_begins_anew_when_the_context_is_full_or_a_request_failed():
    """`turns` would go on for ever; prompts of 100 tokens and replies of 40 fill a context of 512 in a few turns."""
    profile = hasty(turns=9_999.0, mix=Mix.of(100, 40, 512))
    async with KnownServer() as server, running(server, crowds={"patient": 1}, profile=profile) as load:
        await until(lambda: sum(r.turn == 1 for r in load.records) >= 4)
        assert max(r.turn for r in load.records) >= 2
        for record in load.records:
            assert record.prompt_tokens + record.max_tokens + TEMPLATE_TOKENS <= 512
        assert {r.clipped for r in load.records} == {True, False}
        clipped = (await load.seen(lambda it: True)).clipped_total
        assert 0 < clipped <= load.last.scheduled_total
        server.behaviour = Behaviour(fault="status", status=500)
        await until(lambda: load.records[-1].outcome == "error")
        server.behaviour = Behaviour()
        failed = len(load.records) - 1
        await until(lambda: len(load.records) > failed + 1)
        assert load.records[failed + 1].turn == 1


async def test_a_reply_that_was_not_kept_makes_no_next_turn():
    """Turns are asked for while a single-turn request is under way: its reply is not known, so it ends there."""
    async with KnownServer(Behaviour(ttft_s=0.5)) as server, running(server, crowds={"patient": 1}) as load:
        await until(lambda: server.in_flight)
        load.apply(SetProfile(hasty(turns=9_999.0, mix=Mix.of(20, 6, 8192))))
        server.behaviour = Behaviour()
        await until(lambda: len(load.records) >= 3)
        assert [record.turn for record in load.records[:3]] == [1, 1, 2]
        assert all(message["content"] for served in server.served for message in served.body["messages"])


# the same seed


@contextlib.asynccontextmanager
async def crew_of(server, workers, **settings):
    """So many runners in this process, each with its part."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(server, worker=worker, workers=workers, **settings))
            for worker in range(workers)
        ]


@pytest.mark.parametrize("turns", [1.0, 3.0])
async def test_the_same_seed_asks_the_same_whatever_the_number_of_workers(turns):
    crowds = {"patient": 3, "long": 2}
    people = [f"{behaviour}-{n + 1}" for behaviour, count in crowds.items() for n in range(count)]

    async def bodies(seed, workers):
        profile = hasty(seed=seed, turns=turns, mix=Mix.of(20, 6, 8192))
        async with KnownServer() as server, crew_of(server, workers, crowds=crowds, profile=profile) as loads:
            for load in loads:
                load.apply(Burst(5))
                load.apply(Flash(4, over_s=0.01, asks=2))
            everybody = [*people, *(f"burst-{n + 1}" for n in range(5)), *(f"flash-{n + 1}" for n in range(4))]
            enough = {person: 1 if "burst" in person else 2 if "flash" in person else 4 for person in everybody}

            def records(person):
                return [record for load in loads for record in load.of(person)]

            await until(lambda: all(len(records(person)) >= enough[person] for person in everybody))
            by_id = {served.request_id: served.body for served in server.served}
            assert len(by_id) == len(server.served)
            return {
                (person, number): (record.request_id, by_id[record.request_id])
                for person in everybody
                for number, record in enumerate(records(person)[: enough[person]])
            }

    one = await bodies(1, 1)
    assert await bodies(1, 2) == one
    assert await bodies(1, 3) == one
    other = await bodies(2, 1)
    assert not {request_id for request_id, _ in one.values()} & {request_id for request_id, _ in other.values()}


@pytest.mark.parametrize(
    "process", [Gamma(200.0, 0.5), OnOff(200.0, clients=3, share=0.9, on_s=1.0, off_s=1.0)], ids=str
)
async def test_an_open_loop_asks_the_same_whatever_the_number_of_workers(process):
    expected = list(itertools.islice(schedule(process, 1), 40))

    async def bodies(workers):
        async with KnownServer() as server:
            arrivals = open_loop(process, weights={"patient": 1.0, "long": 1.0})
            async with crew_of(server, workers, arrivals=arrivals) as loads:

                def first():
                    """By the moment in the schedule for which each was meant."""
                    found = {record.scheduled: record for load in loads for record in load.records}
                    return [found.get(arrivals.origin + arrival.at_s) for arrival in expected]

                await until(lambda: all(first()), "the first 40 arrivals")
                by_id = {served.request_id: served.body for served in server.served}
                assert len(by_id) == len(server.served), "two requests with one id"
                return [(r.person, r.behaviour, r.request_id, by_id[r.request_id]) for r in first()]

    one = await bodies(1)
    assert [person for person, *_ in one] == [f"open-{arrival.client}" for arrival in expected]
    assert await bodies(2) == one
    assert await bodies(3) == one


# open loop


async def test_open_loop_keeps_coming_whatever_is_in_flight_and_goes_back():
    async with KnownServer(Behaviour(fault="hang")) as server:
        arrivals = open_loop(Gamma(100.0))
        async with running(server, crowds={"patient": 3}, arrivals=arrivals) as load:
            record = await load.seen(lambda it: it.in_flight >= 30)
            assert (record.mode, record.rate_asked, record.people, record.thinking) == ("open", 100.0, 0, 0)
            assert 0 <= record.due_total - record.scheduled_total <= 1  # the latest may be about to begin
            assert len({since for since, _ in record.waiting}) == record.in_flight
            assert {first for _, first in record.waiting} == {None}
            load.apply(open_loop(Constant(0.0)))
            total = (await load.seen(lambda it: it.rate_asked == 0.0)).due_total
            server.behaviour = Behaviour()
            load.apply(SetArrivals(None))
            record = await load.seen(lambda it: it.people == 3 and it.scheduled_total > total)
            assert (record.mode, record.due_total, record.rate_asked) == ("closed", total, None)


async def test_an_open_loop_is_replaced_live():
    async with KnownServer() as server, running(server, arrivals=open_loop(Gamma(50.0))) as load:
        await until(lambda: len(load.records) >= 5)
        load.apply(open_loop(Ramp(10.0, 400.0, 1.0)))
        await load.seen(lambda it: it.rate_asked == 400.0)
        second = open_loop(Constant(150.0))
        load.apply(second)
        await until(lambda: sum(r.scheduled >= second.origin for r in load.records) >= 10)
    places = sorted((r.scheduled - second.origin) * 150 for r in load.records if r.scheduled > second.origin)
    assert places == pytest.approx(range(1, len(places) + 1), abs=1e-3), (
        "one by one, and nothing of the schedules before"
    )


async def test_other_strangers_come_by_the_schedule_that_goes_on():
    """The weights alone change: nothing of the schedule is sent twice."""
    process = Gamma(100.0)
    async with KnownServer() as server:
        arrivals = open_loop(process)
        async with running(server, arrivals=arrivals) as load:
            await until(lambda: len(load.records) >= 20)
            load.apply(SetArrivals(process, origin=arrivals.origin, weights={"long": 1.0}))
            await until(lambda: sum(r.behaviour == "long" for r in load.records) >= 20)
    ids = [record.request_id for record in load.records]
    assert len(set(ids)) == len(ids)
    stamps = sorted(record.scheduled - arrivals.origin for record in load.records)
    assert stamps == pytest.approx([a.at_s for a in itertools.islice(schedule(process, 1), len(stamps))], abs=1e-6)
    behaviours = [r.behaviour for r in sorted(load.records, key=lambda r: r.scheduled)]
    assert behaviours == sorted(behaviours, key=["patient", "long"].index)


async def test_a_worker_that_comes_late_does_not_make_up_for_what_it_missed():
    async with KnownServer() as server:
        arrivals = SetArrivals(Constant(100.0), origin=time.monotonic() - 3600.0)
        async with running(server, arrivals=arrivals) as load:
            await until(lambda: len(load.records) >= 150)
    assert min(r.scheduled for r in load.records) > arrivals.origin + 3590.0


async def test_heavy_clients_keep_who_they_are():
    process = OnOff(300.0, clients=3, share=1.0, on_s=1.0, off_s=0.0)
    async with KnownServer() as server:
        arrivals = open_loop(process, weights={"patient": 1.0, "long": 1.0, "abandoner": 1.0})
        async with running(server, arrivals=arrivals) as load:
            await until(lambda: len(load.records) >= 60)
            seen = list(load.records)
        by_id = {served.request_id: served.body["messages"] for served in server.served}
    assert {r.person for r in seen} == {"open-h1", "open-h2", "open-h3"}
    for person in ("open-h1", "open-h2", "open-h3"):
        records = [record for record in seen if record.person == person]
        assert len({record.behaviour for record in records}) == 1
        texts = [by_id[record.request_id][0]["content"].split() for record in records]
        prefix = max(texts, key=len)[:PREFIX_WORDS]
        assert all(words[:PREFIX_WORDS] == prefix[: len(words)] for words in texts)
        assert len({tuple(words) for words in texts}) > 1


async def test_a_trace_is_replayed_and_ends(tmp_path):
    path = tmp_path / "trace.csv"
    lengths = [(10, 4), (30, 7), (5_000, 9)]
    rows = [f"2023-11-16 18:00:{n * 10:02d},{prompt},{output}" for n, (prompt, output) in enumerate(lengths)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    async with KnownServer() as server, running(server, arrivals=open_loop(Replay(str(path), 200.0))) as load:
        await until(lambda: len(load.records) == 3)
        records = sorted(load.records, key=lambda r: r.scheduled)
        assert [r.max_tokens for r in records] == [4, 7, 9]
        assert [r.prompt_tokens for r in records[:2]] == [10, 30]
        assert [r.clipped for r in records] == [False, False, True]
        gaps = [b.scheduled - a.scheduled for a, b in pairwise(records)]
        assert gaps == pytest.approx([0.05, 0.05])
        assert (await load.seen(lambda it: True)).rate_asked is None
        assert load.last.trouble == ""


async def test_a_script_says_who_sends_what_with_which_priority_and_the_seed_only_the_words():
    script = Script(
        [
            ScriptedRequest(0.0, 40, 3, "user1"),
            ScriptedRequest(0.01, 90, 5, "batch", "long", 2),
            ScriptedRequest(0.01, 40, 3, "user1", "patient", -1),
        ]
    )
    asked = []
    for seed in (1, 2):
        async with (
            KnownServer() as server,
            running(server, arrivals=open_loop(script), profile=hasty(seed=seed, mix=Mix.of(20, 6, 2048))) as load,
        ):
            await until(lambda load=load: len(load.records) == 3)
        records = sorted(load.records, key=lambda record: record.max_tokens)
        assert [(r.person, r.behaviour, r.max_tokens, r.prompt_tokens) for r in records] == [
            ("open-user1", "patient", 3, 40),
            ("open-user1", "patient", 3, 40),
            ("open-batch", "long", 5, 90),
        ]
        sent = sorted((s.body["max_tokens"], s.headers.get("x-vllm-priority", "none")) for s in server.served)
        assert sent == [(3, "-1"), (3, "none"), (5, "2")]
        asked.append({s.body["messages"][0]["content"] for s in server.served})
    assert not asked[0] & asked[1]


async def test_a_trace_that_cannot_be_read_is_said_until_something_else_is_asked(tmp_path):
    async with KnownServer() as server, running(server, arrivals=open_loop(Replay(str(tmp_path / "none")))) as load:
        record = await load.seen(lambda it: it.trouble)
        assert "cannot be read (No such file" in record.trouble
        load.apply(open_loop(Gamma(50.0)))
        await load.seen(lambda it: not it.trouble)
        await until(lambda: load.records)


async def test_latency_counts_from_the_intended_start():
    async with KnownServer() as server, running(server, arrivals=open_loop(Gamma(200.0))) as load:
        await until(lambda: len(load.records) >= 20)
        for record in load.records:
            assert record.scheduled <= record.sent
            assert record.ttft_s == record.first_token - record.scheduled
            assert record.intended is None
            assert record.waited_since == record.scheduled
        stamps = sorted(r.scheduled for r in load.records)
        assert len(set(stamps)) == len(stamps)  # each by the clock, none by the batch in which it was sent


# bursts and crowds


async def test_a_burst_is_sent_at_once_besides_everything_else():
    async with KnownServer(Behaviour(ttft_s=1.0)) as server, running(server) as load:
        load.apply(Burst(40))
        load.apply(Burst(-3))
        await until(lambda: server.in_flight == 40)
        await until(lambda: len(load.records) == 40)
        assert {(r.outcome, r.behaviour) for r in load.records} == {("ok", "burst")}
        assert len({r.person for r in load.records}) == len({r.request_id for r in load.records}) == 40
        assert len({r.scheduled for r in load.records}) == 1
        assert load.last.people == 0


async def test_a_flash_crowd_comes_asks_and_goes():
    async with KnownServer() as server, running(server, crowds={"patient": 1}) as load:
        await load.seen(lambda it: it.people == 1)
        load.apply(Flash(12, over_s=0.3, asks=3))
        moment = load.runner.interval()
        load.take(moment)
        assert (moment.flash, moment.crowds) == (12, {"patient": 1})
        await load.seen(lambda it: it.flash == 0)
        crowd = [r for r in load.records if r.behaviour == "flash"]
        assert len(crowd) == 36
        assert {len(load.of(f"flash-{n + 1}")) for n in range(12)} == {3}
        firsts = [load.of(f"flash-{n + 1}")[0].scheduled for n in range(12)]
        assert len(set(firsts)) == 12, "they come one by one"
        assert max(firsts) - min(firsts) <= 0.3
        load.apply(Flash(2, over_s=0.0, asks=1))
        await until(lambda: load.of("flash-13") and load.of("flash-14"))


async def test_slow_readers_hold_their_connections():
    manners = Manners(slow=Reading(rcvbuf_bytes=4096, bytes_per_s=2_000))
    server = KnownServer(Behaviour(tokens=200, chunk_bytes=230), sndbuf=16384)
    async with server, running(server, crowds={"slow": 2}, profile=hasty(manners=manners)) as load:
        record = await load.seen(lambda it: it.held == 2)
        assert record.crowds == {"slow": 2}
        first = sorted(record.waiting)
        assert all(stamp is not None for _, stamp in first)
        later = await load.seen(lambda it: it.at > record.at and it.held == 2)
        assert sorted(later.waiting) == first
        assert later.gaps.n == 0
        load.apply(SetCrowds({"slow": 2, "patient": 1}))
        await until(lambda: any(r.behaviour == "patient" for r in load.records))
        assert load.last.held == 2
        load.apply(SetCrowds({}))
        assert (await load.seen(lambda it: it.crowds == {})).held == 2  # they finish what they read
    assert {(r.outcome, r.reason) for r in load.records if r.behaviour == "slow"} == {("abandoned", STOPPED)}


# patience and retries


async def test_abandoners_leave_and_what_was_made_for_them_is_counted():
    manners = Manners(patience=Patience(ttft_s=60.0, stall_s=0.2), patience_sigma=0.0)
    async with KnownServer(Behaviour(fault="stall", fault_after=3)) as server:
        crowds = {"abandoner": 2, "patient": 1}
        async with running(server, crowds=crowds, profile=hasty(manners=manners)) as load:
            record = await load.seen(lambda it: it.left_total >= 2)
            assert record.wasted_tokens_total == 3 * record.left_total
            assert record.tokens_in_flight >= 3
            left = [r for r in load.records if r.reason.startswith("out of patience")]
            assert {(r.behaviour, r.outcome, r.chunks) for r in left} == {("abandoner", "abandoned", 3)}
    assert [(r.behaviour, r.reason) for r in load.records if r.behaviour == "patient"] == [("patient", STOPPED)]
    assert load.last.wasted_tokens_total == 3 * load.last.left_total, "those who were stopped did not leave"


def retries(kind, **more):
    return Manners(retry=Retry(kind, at_once_s=0.01, base_s=0.02, cap_s=0.05, **more))


async def test_retriers_ask_the_same_again_and_wait_since_the_first_time():
    server = KnownServer(Behaviour(fault="status", status=503))
    async with server, running(server, crowds={"retrier": 1}, profile=hasty(manners=retries("naive", most=4))) as load:
        await until(lambda: len(load.records) >= 8)
        first, second = load.records[:4], load.records[4:8]
        bodies = {served.request_id: served.body for served in server.served}
        for attempts in (first, second):
            assert [r.attempt for r in attempts] == [1, 2, 3, 4]
            assert attempts[0].intended is None
            assert {r.waited_since for r in attempts} == {attempts[0].scheduled}
            assert all(b.scheduled - a.done == pytest.approx(0.01) for a, b in pairwise(attempts))
            assert len({r.request_id for r in attempts}) == 4
            assert len({str(bodies[r.request_id]) for r in attempts}) == 1
        assert second[0].scheduled - first[-1].done >= BACKOFF_S
        assert (await load.seen(lambda it: it.scheduled_total >= 8)).retries_total >= 6


async def test_only_retriers_ask_again():
    crowds = {"patient": 1, "abandoner": 1, "long": 1}
    async with KnownServer(Behaviour(fault="status", status=503)) as server, running(server, crowds=crowds) as load:
        load.apply(Burst(3))
        await until(lambda: all(sum(r.behaviour == b for r in load.records) >= 2 for b in crowds))
    assert {r.attempt for r in load.records} == {1}
    assert load.last.retries_total == 0


async def test_an_attempt_that_takes_too_long_is_given_up_and_made_again():
    manners = retries("naive", most=2, timeout_s=0.1)
    server = KnownServer(Behaviour(fault="hang"))
    async with server, running(server, crowds={"retrier": 1}, profile=hasty(manners=manners)) as load:
        await until(lambda: len(load.records) >= 2)
        assert [(r.attempt, r.outcome) for r in load.records[:2]] == [(1, "abandoned"), (2, "abandoned")]


@pytest.mark.parametrize("honours", [True, False])
async def test_retry_after_is_honoured_or_not(honours):
    """Who honours it does not come back while the test looks; who does not makes all the attempts there are."""
    manners = retries("jitter", most=5, honours_retry_after=honours)
    async with KnownServer(Behaviour(fault="status", status=429, retry_after=3600)) as server:
        crowds = {"retrier": 2, "patient": 1}
        async with running(server, crowds=crowds, profile=hasty(manners=manners)) as load:
            await until(lambda: sum(r.behaviour == "patient" for r in load.records) >= 2)
            await until(lambda: load.of("retrier-1") and load.of("retrier-2"))
            if not honours:
                await until(lambda: max(r.attempt for r in load.records) == 5)
        assert {r.retry_after_s for r in load.records} == {3600.0}
    assert max(r.attempt for r in load.records) == (1 if honours else 5)


async def test_a_budget_bounds_a_retry_storm():
    async def amplification(kind):
        manners = retries(kind, most=5, budget_share=0.1)
        async with KnownServer(Behaviour(fault="status", status=503)) as server:
            arrivals = open_loop(Constant(200.0), weights={"retrier": 1.0})
            async with running(server, arrivals=arrivals, profile=hasty(manners=manners)) as load:
                await load.seen(lambda it: it.due_total >= 100 and it.scheduled_total > it.due_total)
        firsts = load.last.scheduled_total - load.last.retries_total
        if kind == "budget":
            assert load.last.retries_total <= 3 + 0.1 * firsts
        return load.last.scheduled_total / firsts

    assert await amplification("budget") < 1.2
    assert await amplification("naive") > 2.0


async def test_a_dead_server_is_not_hammered_and_people_come_back():
    async with KnownServer() as server:
        port = server.port
    async with running(server, crowds={"patient": 3}, profile=hasty(think_s=0.0)) as load:
        await until(lambda: len(load.records) >= 6)
        assert {(r.outcome, r.reason) for r in load.records} == {("error", "connection refused")}
        for person in ("patient-1", "patient-2", "patient-3"):
            assert all(b.scheduled - a.done >= BACKOFF_S for a, b in pairwise(load.of(person)))
        async with KnownServer(port=port):
            await until(lambda: any(r.outcome == "ok" for r in load.records))


# intervals


async def test_gaps_and_lags_are_reported_once():
    async with KnownServer(Behaviour(gap_s=0.01, tokens=6)) as server, running(server) as load:
        load.apply(Burst(4))
        await until(lambda: len(load.records) == 4)
        await load.seen(lambda it: True)
        assert sum(it.gaps.n for it in load.intervals) == 4 * 5
        sent_ms = [it.send_lag_ms for it in load.intervals if it.send_lag_ms is not None]
        assert max(sent_ms) == pytest.approx(max(r.sent - r.scheduled for r in load.records) * 1e3, abs=1e-2)
        started_ms = [it.start_lag_ms for it in load.intervals if it.start_lag_ms is not None]
        assert 0 <= max(started_ms) <= max(sent_ms)
        assert len(sent_ms) <= 4
        longest = max(r.longest_gap_s for r in load.records)
        assert max(it.gaps.largest for it in load.intervals) == longest
        assert all(it.loop_lag_ms >= 0 and 0 <= it.cpu_share <= 1 for it in load.intervals)


# stopping


@pytest.mark.parametrize("grace_s", [0.0, 30.0])
async def test_stopping(grace_s):
    async with KnownServer(Behaviour(ttft_s=1.0)) as server:
        load = Load(server, crowds={"patient": 2}, profile=hasty(think_s=0.0))
        load.apply(Burst(5))  # before it runs: it acts when it does
        running_load = asyncio.create_task(load.runner.run())
        await until(lambda: server.in_flight == 7)
        load.apply(Stop(grace_s))
        load.apply(Burst(5))
        load.apply(Flash(5))
        load.apply(SetCrowds({"patient": 9}))
        load.apply(open_loop(Gamma(100.0)))
        await running_load
        assert len(load.records) == 7
        expected = ("ok", "") if grace_s else ("abandoned", STOPPED)
        assert {(r.outcome, r.reason) for r in load.records} == {expected}
        assert (load.last.scheduled_total, load.last.left_total) == (7, 0)
        assert len(server.served) == 7


async def test_a_second_stop_cuts_the_grace_short():
    async with KnownServer(Behaviour(fault="hang")) as server, running(server) as load:
        load.apply(Burst(2))
        await until(lambda: server.in_flight == 2)
        load.apply(Stop(3600.0))
        await load.seen(lambda it: it.in_flight == 2)


@pytest.mark.parametrize("grace_s", [0.0, 3600.0])
async def test_nobody_on_the_way_or_about_to_ask_again_holds_up_the_end(grace_s):
    """A retrier in an hour's backoff, a flash crowd on its way for an hour, people who think for hours."""
    manners = retries("jitter", honours_retry_after=True)
    async with KnownServer(Behaviour(fault="status", status=429, retry_after=3600)) as server:
        load = Load(server, crowds={"retrier": 1, "patient": 3}, profile=hasty(manners=manners, think_s=1e6))
        load.apply(open_loop(Constant(1000.0), weights={"retrier": 1.0}))
        load.apply(Flash(5, over_s=3600.0))
        stopped = asyncio.create_task(load.runner.run())
        await until(lambda: load.records)
        assert load.runner.interval().flash == 5
        load.apply(Stop(grace_s))
        async with asyncio.timeout(20):
            await stopped
    assert (load.last.flash, load.last.in_flight, load.last.thinking) == (0, 0, 0)
    assert load.last.scheduled_total == len(load.records)


async def test_a_flash_crowd_asks_nothing_new_while_a_stop_has_patience():
    """Somebody reads on in the grace; the others end their thinking in it and must not ask again."""
    async with KnownServer(Behaviour(ttft_s=0.3)) as server, running(server, profile=hasty(think_s=0.01)) as load:
        load.apply(Flash(6, over_s=0.0, asks=50))
        await until(lambda: server.in_flight == 6)
        load.apply(Stop(3600.0))
        await until(lambda: len(load.records) == 6)
    assert len(server.served) == 6
    assert {r.outcome for r in load.records} == {"ok"}


async def test_accounting_holds_under_a_hail_of_commands():
    rng = random.Random(5)
    behaviours = [
        Behaviour(gap_s=0.002),
        Behaviour(fault="status", status=503, retry_after=1),
        Behaviour(fault="error_event", fault_after=2),
        Behaviour(fault="cut", fault_after=2),
        Behaviour(fault="hang"),
        Behaviour(fault="stall", fault_after=1),
        Behaviour(fault="garbage"),
    ]
    manners = Manners(
        slow=Reading(rcvbuf_bytes=4096, bytes_per_s=20_000),
        patience=Patience(0.1, 0.1),
        retry=Retry("jitter", timeout_s=0.1, base_s=0.02),
    )
    limits = Limits(first_byte_s=0.2, total_s=0.4)
    weights = {"patient": 1.0, "abandoner": 1.0, "retrier": 1.0}
    async with KnownServer() as server, running(server, profile=hasty(manners=manners), limits=limits) as load:
        for _ in range(80):
            server.behaviour = rng.choice(behaviours)
            process = rng.choice([None, Constant(0.0), Gamma(50.0), OnOff(400.0, on_s=0.1, off_s=0.1)])
            command = rng.choice(
                [
                    SetCrowds({b: rng.randrange(6) for b in ("patient", "slow", "abandoner", "retrier", "long")}),
                    SetArrivals(None) if process is None else open_loop(process, weights=weights),
                    Burst(rng.randrange(20)),
                    Flash(rng.randrange(10), over_s=0.2, asks=2),
                    SetProfile(hasty(manners=manners, turns=rng.choice([1.0, 3.0]), seed=rng.randrange(3))),
                ]
            )
            load.apply(command)
            load.take(load.runner.interval())
            await asyncio.sleep(rng.random() * 0.02)
        server.behaviour = Behaviour()
        load.apply(SetArrivals(None))
        load.apply(SetCrowds({"patient": 3}))
        count = len(load.records)
        await until(lambda: sum(r.outcome == "ok" for r in load.records[count:]) > 10)
    assert {r.outcome for r in load.records} == {"ok", "rejected", "error", "abandoned"}
    assert load.last.retries_total > 0
    assert load.last.left_total > 0
    assert {served.request_id for served in server.served} <= {r.request_id for r in load.records}


def test_records_and_commands_travel_as_json_lines():
    interval = IntervalRecord(
        worker=1, at=2.0, mode="open", crowds={"patient": 1}, in_flight=1, waiting=[(1.5, None), (1.0, 1.25)],
        scheduled_total=1, outcomes={"ok": 0, "rejected": 0, "error": 0, "abandoned": 0},
    )  # fmt: skip
    decoder = msgspec.json.Decoder(IntervalRecord | RequestRecord)
    assert decoder.decode(msgspec.json.encode(interval)) == interval
    settings = WorkerSettings(
        model="m", arrivals=SetArrivals(OnOff(2.0), origin=5.0, weights={"long": 1.0}), profile=HASTY
    )
    assert msgspec.json.decode(msgspec.json.encode(settings), type=WorkerSettings) == settings
