"""The search carried out: on people and a server of a virtual clock, where every verdict is known, and once for real."""

import asyncio
import functools
import random
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest

from loadgen.capacity import Question, Search, Step
from loadgen.explorer import EMPTY_S, SETTLE_MOST_S, Explorer, explore
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import OUTCOMES, IntervalRecord, RequestRecord
from loadgen.runner import WorkerSettings
from loadgen.slo import CHAT
from loadgen.target import Target
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.virtual_time import run_virtually
from tests.fakes.waiting import until

QUESTION = Question(think_s=2.0, block_s=20.0, cap_s=240.0, seed=7)


@dataclass
class World:
    """People who think and ask a server that is good for up to `capacity` of them, and what became of every request.

    Over the capacity the first token takes `slow_s`. It is the hands of a search, too.
    """

    capacity: int = 12
    slow_s: float = 3.0
    reply_s: float = 1.0
    hang_share: float = 0.0
    """Requests that never get a token."""
    retries: bool = False
    """Whoever waited 2.5 s for the first token asks again, three times at most."""
    told: list = field(default_factory=list)
    """What the search told the hands, with its stamp."""
    verdicts: list = field(default_factory=list)
    """(moment, good) of every request, as the world itself knows it."""
    trouble_ms: float = 1.0
    silent: bool = False
    gone: str = ""

    def __post_init__(self):
        self.dice = random.Random(3)
        self.waiting = {}
        self.people = []
        self.lives = []
        self.totals = dict.fromkeys(OUTCOMES, 0)
        self.number = 0

    async def __aenter__(self):
        self.loop = asyncio.get_running_loop()
        self.explorer = None
        self.ticking = asyncio.create_task(self.tick())
        return self

    async def __aexit__(self, *how):
        for task in (self.ticking, *self.lives):
            task.cancel()
        await asyncio.gather(self.ticking, *self.lives, return_exceptions=True)

    def search(self, question=QUESTION):
        self.explorer = Explorer(question, self, clock=self.loop.time)
        return self.explorer

    # hands

    def set_people(self, count):
        self.told.append((self.loop.time(), "people", count))
        del self.people[count:]  # whoever asks reads on, and then goes
        while len(self.people) < count:
            self.number += 1
            self.people.append(f"person {self.number}")
            self.lives.append(asyncio.create_task(self.live(self.people[-1])))

    def renew(self, seed):
        self.told.append((self.loop.time(), "seed", seed))

    def evidence(self):
        return f"{len(self.waiting)} waiting"

    def blocked(self):
        return self.gone

    # people

    async def live(self, name):
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / QUESTION.think_s))
            if name not in self.people:
                return
            since = self.loop.time()
            for attempt in range(1, 4 if self.retries else 2):
                if await self.ask(name, since, attempt):
                    break

    async def ask(self, name, since, attempt):
        """One attempt; true when it was answered."""
        self.number += 1
        key, scheduled = self.number, self.loop.time()
        hangs = self.dice.random() < self.hang_share
        ttft_s = self.slow_s if len(self.people) > self.capacity else 0.2
        self.waiting[key] = (since, None)
        late = since + CHAT.ttft_s
        first = None
        try:
            if hangs:
                await asyncio.sleep(1e9)
            if self.retries and ttft_s > 2.5:
                await asyncio.sleep(2.5)
            else:
                await asyncio.sleep(ttft_s)
                first = self.loop.time()
                self.waiting[key] = (since, first)
                await asyncio.sleep(self.reply_s)
        except asyncio.CancelledError:  # the test is over
            if attempt == 1 and (self.loop.time() if first is None else first) > late:
                self.verdicts.append((late, False))
            raise
        outcome = "abandoned" if first is None else "ok"
        self.end(key, name, since, scheduled, attempt, first, outcome, "out of patience" if first is None else "")
        good = first is not None and first <= late
        overdue = first is None or first > late
        self.verdicts.append((late if overdue and attempt == 1 else self.loop.time(), good))
        return first is not None

    def end(self, key, name, since, scheduled, attempt, first, outcome, reason):
        del self.waiting[key]
        self.totals[outcome] += 1
        now = self.loop.time()
        self.emit(
            RequestRecord(
                request_id=str(key), person=name, behaviour="retrier" if self.retries else "patient",
                scheduled=scheduled, intended=None if attempt == 1 else since, attempt=attempt, first_token=first,
                last_token=None if first is None else now, done=now, outcome=outcome, reason=reason,
                completion_tokens=None if first is None else 50,
            )
        )  # fmt: skip

    async def tick(self):
        while True:
            await asyncio.sleep(0.5)
            if not self.silent:
                self.emit(
                    IntervalRecord(
                        worker=0, at=self.loop.time(), mode="closed", crowds={"patient": len(self.people)},
                        in_flight=len(self.waiting), waiting=list(self.waiting.values()),
                        scheduled_total=self.number, outcomes=dict(self.totals), loop_lag_ms=self.trouble_ms,
                    )
                )  # fmt: skip

    def emit(self, record):
        if self.explorer is not None:
            self.explorer.on_record(record)

    def true_block(self, block, began):
        """Good and due of a block, by the world's own book and from those who still wait at the end of it."""
        begin, end = began + block.begin_s, began + block.begin_s + block.seconds
        inside = [good for at, good in self.verdicts if begin <= at < end]
        return sum(inside), len(inside)


@functools.cache
def searched(question=QUESTION, **world):
    """A whole search in a world; the world, the moment of its beginning and its end. Nobody changes them."""

    async def main():
        async with World(**world) as made:
            explorer = made.search(question)
            began = made.loop.time()
            progress = await explorer.run()
        return made, began, progress

    return run_virtually(main())


def test_the_answer_of_a_server_with_a_known_capacity():
    """12 are served well and 13 are not. How narrow the answer is, is the search's own business."""
    _, _, progress = searched()
    answer = progress.answer
    assert progress.phase == "done"
    assert progress.message == answer.sentence
    assert answer.best == pytest.approx(12.5, rel=0.2)
    assert answer.safe <= 12
    assert answer.clear_break >= 13
    assert answer.confirmed
    assert answer.limit == "TTFT"
    assert progress.elapsed_s <= QUESTION.cap_s + 1
    assert "waiting" in answer.evidence
    assert progress.blocks[0].phase == "double"
    assert "confirm" in [block.phase for block in progress.blocks]
    assert all(block.evidence for block in progress.blocks)


@pytest.mark.parametrize(
    "world",
    [{}, {"reply_s": 8.0}, {"hang_share": 0.1}, {"slow_s": 30.0}, {"retries": True}],
    ids=["plain", "long replies", "some hang", "very late", "retries"],
)
def test_each_request_counts_once_whichever_block_it_ends_in(world):
    """Good and due of every block equal the book of the world, where a request has one verdict at one moment."""
    made, began, progress = searched(**world)
    assert len(progress.blocks) >= 5
    for block in progress.blocks:
        assert (block.good, block.due) == made.true_block(block, began), block
        assert sum(block.misses.values()) == block.due - block.good


class Fixed(Search):
    """Four blocks of the same people, one after the other."""

    def next(self, elapsed_s):
        return Step(people=14, phase="refine", measure_s=6.0) if len(self._blocks) < 4 else super().next(elapsed_s)


@pytest.mark.parametrize(
    "world",
    [{}, {"reply_s": 8.0}, {"hang_share": 0.3}, {"slow_s": 30.0}, {"retries": True}],
    ids=["plain", "long replies", "some hang", "very late", "retries"],
)
def test_a_request_that_lasts_for_several_blocks_is_one_miss(world, monkeypatch):
    """The blocks follow each other without settling, and many a request is overdue in one and ends in another."""
    monkeypatch.setattr("loadgen.explorer.Search", Fixed)
    made, began, progress = searched.__wrapped__(msgspec.structs.replace(QUESTION, cap_s=1.0), **world)
    blocks = progress.blocks[:4]
    assert [block.people for block in blocks] == [14] * 4
    assert all(b.begin_s - a.begin_s - a.seconds < 1.0 for a, b in pairwise(blocks))
    for block in blocks:
        assert (block.good, block.due) == made.true_block(block, began), block
    assert sum(block.due for block in blocks) > 7
    assert sum(block.due for block in blocks) <= len(made.verdicts)


def test_what_settles_is_thrown_away():
    """After a change of people: one think time and the p95 of whole replies, and nothing of it in any block."""
    made, began, progress = searched(reply_s=4.0)
    changes = [(at - began, count) for at, what, count in made.told if what == "people" and count]
    for block in progress.blocks:
        at, count = max(change for change in changes if change[0] <= block.begin_s)
        assert count == block.people
        assert block.begin_s - at >= QUESTION.think_s + (4.2 if at else 0.0) - 1e-6
    counted = sum(block.due for block in progress.blocks)
    assert 0 < counted < len(made.verdicts)


def test_settling_ends_however_long_replies_take():
    made, began, progress = searched(
        msgspec.structs.replace(QUESTION, cap_s=600.0), capacity=1, slow_s=400.0, reply_s=500.0
    )
    people = [at for at, what, _ in made.told if what == "people"]
    first = progress.blocks[0]
    assert first.begin_s <= people[0] - began + SETTLE_MOST_S + 1


def test_the_safe_level_is_confirmed_by_new_people_after_everybody_left():
    made, _, progress = searched()
    kinds = [(what, value) for _, what, value in made.told]
    seeds = [index for index, (what, _) in enumerate(kinds) if what == "seed"]
    assert len(seeds) == 1
    assert kinds[seeds[0] - 1] == ("people", 0)
    assert kinds[seeds[0]][1] != QUESTION.seed
    confirmed = next(block for block in progress.blocks if block.phase == "confirm")
    assert kinds[seeds[0] + 1] == ("people", confirmed.people)
    emptied = [at for at, what, value in made.told if (what, value) == ("people", 0)]
    renewed = [at for at, what, _ in made.told if what == "seed"]
    assert renewed[0] - emptied[0] <= EMPTY_S


def interrupted(act, when, **world):
    """A search in which `act(world, explorer)` happens `when` seconds after its begin; its progress and duration."""

    async def main():
        async with World(**world) as made:
            explorer = made.search()
            began = made.loop.time()
            made.loop.call_later(when, act, made, explorer)
            return await explorer.run(), made.loop.time() - began

    return run_virtually(main())


@pytest.mark.parametrize("when", [0.0, 1.0, 12.0, 60.0, 100.0])
def test_it_stops_at_once_with_what_is_known(when):
    progress, seconds = interrupted(lambda world, explorer: explorer.stop("stopped by hand"), when)
    assert seconds == pytest.approx(when, abs=0.01)
    assert progress.phase == "stopped"
    assert progress.message == "stopped by hand"
    assert progress.answer.sentence
    assert not progress.answer.resolved or progress.blocks


def test_stopping_before_it_runs_and_twice():
    async def main():
        async with World() as world:
            explorer = world.search()
            explorer.stop("first")
            explorer.stop("second")
            return await explorer.run()

    progress = run_virtually(main())
    assert (progress.phase, progress.message, progress.blocks) == ("stopped", "first", [])


def test_it_ends_when_the_engine_is_gone():
    def go(world, explorer):
        world.gone = "The engine is down: the search cannot go on."

    progress, seconds = interrupted(go, 50.0)
    assert (progress.phase, progress.message) == ("stopped", "The engine is down: the search cannot go on.")
    assert seconds <= 50.5


def test_a_generator_in_trouble_makes_it_void():
    """The block in which the generator is late is thrown away, those before it stand."""

    def lag(world, explorer):
        world.trouble_ms = 400.0

    progress, _ = interrupted(lag, 40.0)
    assert progress.phase == "stopped"
    assert progress.message.startswith("Void: the load generator was the limit at ")
    assert "400 ms late" in progress.message
    assert all(block.begin_s + block.seconds < 50 for block in progress.blocks)


def test_a_hiccup_of_the_generator_is_not_the_end():
    def hiccup(world, explorer):
        world.trouble_ms = 400.0
        world.loop.call_later(0.9, setattr, world, "trouble_ms", 1.0)

    progress, _ = interrupted(hiccup, 45.0)
    assert progress.phase == "done"


def test_a_load_generator_that_falls_silent_ends_it():
    def silence(world, explorer):
        world.silent = True

    progress, seconds = interrupted(silence, 30.0)
    assert progress.message == "The load generator does not report any more."
    assert seconds < 80


def test_progress_tells_what_goes_on():
    seen = []

    async def main():
        async with World() as world:
            world.explorer = Explorer(QUESTION, world, changed=seen.append, clock=world.loop.time)
            return await world.explorer.run()

    last = run_virtually(main())
    messages = {progress.message for progress in seen}
    assert {"double: 4 people, settling", "everybody leaves; new people come"} <= messages
    assert any(message.startswith("refine: ") and "measuring 20 s" in message for message in messages)
    assert [progress.elapsed_s for progress in seen] == sorted(progress.elapsed_s for progress in seen)
    assert msgspec.json.decode(msgspec.json.encode(seen[-1]), type=type(last)) == last


# for real


def settings(server, **more):
    profile = Profile(think_s=0.05, turns=1.0, mix=Mix.of(20, 4, 512), seed=3)
    return WorkerSettings(model=server.model, profile=profile, interval_s=0.1, **more)


async def test_a_search_against_a_real_server_with_people_of_our_own():
    async with KnownServer(Behaviour(ttft_s=0.02)) as server:
        question = Question(think_s=0.05, block_s=1.0, cap_s=2.0, first=3)
        seen = []
        progress = await explore(Target.parse(server.url), settings(server), question, seen.append)
        assert server.in_flight == 0
        await until(lambda: server.open_connections == 0)
        (block,) = progress.blocks
        assert (block.people, block.good) == (3, block.due)
        assert 10 < block.due <= len(server.served)
        assert progress.answer is not None
        assert progress.phase == "done"
        assert seen


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_stops_by_hand_and_leaves_nobody_behind(workers):
    stop = asyncio.Event()
    async with KnownServer(Behaviour(fault="hang")) as server:
        target = Target.parse(server.url)
        searching = asyncio.create_task(explore(target, settings(server, workers=workers), QUESTION, stop=stop))
        await until(lambda: server.in_flight == 4)
        stop.set()
        progress = await searching
        await until(lambda: server.open_connections == 0)
    assert (progress.phase, progress.message) == ("stopped", "stopped by hand")


async def test_workers_that_cannot_run_end_it_with_their_own_sentence():
    async with KnownServer() as server:
        broken = settings(server, workers=2, crowds={"patient": -1})
        progress = await explore(Target.parse(server.url), broken, QUESTION)
    assert progress.phase == "stopped"
    assert "A load worker ended with exit code 2" in progress.message
