"""Carries a capacity search out on live people: sets them, throws away the settling, counts a block, tells the search.

The search decides (`loadgen.capacity`), the hands act: a running stack, or workers of our own against any server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from loadgen.capacity import Block, Progress, Question, Search, Step
from loadgen.commands import SetCrowds, SetProfile, Stop
from loadgen.crew import Crew, crew
from loadgen.profile import Profile
from loadgen.records import IntervalRecord, LoadRecord, RequestRecord
from loadgen.runner import WorkerSettings
from loadgen.selfcheck import trouble
from loadgen.slo import STOPPED, miss, verdict_at
from loadgen.summary import P95_NEEDS, quantile
from loadgen.target import Target

SETTLE_MOST_S = 60.0
"""However long replies take, settling ends: what it leaves is the overload itself."""
E2E_WINDOW_S = 30.0
TICK_S = 0.25
VOID_SHARE = 0.2
"""Of a block's intervals: with more of them in trouble the generator is the limit, and the search says so and ends."""
EMPTY_S = 20.0
SILENT_S = 5.0


class Hands(Protocol):
    """What a search needs of whoever keeps the people."""

    def set_people(self, count: int) -> None:
        """Have so many from now on."""

    def renew(self, seed: int) -> None:
        """From now on, those who come are new people of another seed."""

    def evidence(self) -> str:
        """What is seen of the engine now, in words; empty when nothing is."""

    def blocked(self) -> str:
        """Why measuring makes no sense now (the engine is gone), as one sentence; empty when it does."""


class Explorer:
    """One search. Feed it every load record; `run` ends with an answer, on `stop`, or when measuring makes no sense."""

    def __init__(
        self,
        question: Question,
        hands: Hands,
        *,
        changed: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._question = question
        self._hands = hands
        self._changed = changed
        self._clock = clock
        self._search = Search(question)
        self._began = clock()
        self._people: int | None = None
        self._seeds = 0
        self._done: deque[RequestRecord] = deque(maxlen=200_000)
        self._latest: dict[int, IntervalRecord] = {}
        self._troubles: deque[tuple[float, str]] = deque(maxlen=10_000)
        self._evidence = ""
        self._message = ""
        self._why = ""
        self._stopped = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """The search as it stands."""
        found = self._search.progress(self._elapsed_s)
        if not self._message or found.answer is not None:
            return found
        return _with_message(found, self._message)

    def on_record(self, record: LoadRecord) -> None:
        """Every record of every worker."""
        if isinstance(record, RequestRecord):
            self._done.append(record)
            return
        self._latest[record.worker] = record
        self._troubles.append((record.at, trouble(record, self._question.slo)))

    def stop(self, why: str = "stopped") -> None:
        """End it as soon as may be, with an answer from what is known."""
        self._why = self._why or why
        self._stopped.set()

    async def run(self) -> Progress:
        """The whole search. The people are left as the last step had them."""
        while (step := self._search.next(self._elapsed_s)) is not None:
            self._changed(self.progress)
            try:
                block = await self._carry_out(step)
            except _EndedError as ended:
                self._search.stop()
                return self._finish(str(ended))
            self._search.observe(block)
            self._changed(self.progress)
        return self._finish("")

    def _finish(self, why: str) -> Progress:
        found = self._search.progress(self._elapsed_s)
        if why:
            found = _with_message(found, why)
        self._changed(found)
        return found

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._began

    async def _carry_out(self, step: Step) -> Block:
        if step.fresh_seed:
            await self._empty()
        if step.people != self._people or step.fresh_seed:
            self._people = step.people
            self._hands.set_people(step.people)
            await self._settle(step)
        begin = self._clock()
        self._say(f"{step.phase}: {step.people} people, measuring {step.measure_s:.0f} s")
        await self._wait(step.measure_s, watch=True)
        end = self._clock()
        await self._reported(end)
        return self._block(step, begin, end)

    async def _reported(self, end: float) -> None:
        """Wait until every worker has told what was under way at `end`."""
        last = self._clock() + SILENT_S
        while any(record.at < end for record in self._latest.values()) or not self._latest:
            if self._clock() > last:
                raise _EndedError("The load generator does not report any more.")
            await self._wait(TICK_S)

    async def _empty(self) -> None:
        """Everybody leaves, so that those who come next are new."""
        self._say("everybody leaves; new people come")
        self._hands.set_people(0)
        end = self._clock() + EMPTY_S
        while self._clock() < end and any(record.in_flight for record in self._latest.values()):
            await self._wait(TICK_S)
        self._seeds += 1
        self._hands.renew(self._question.seed + 1000 * self._seeds)

    async def _settle(self, step: Step) -> None:
        """One think time plus the p95 of whole replies, thrown away. It grows with the replies while they get longer."""
        begin = self._clock()
        self._say(f"{step.phase}: {step.people} people, settling")
        while True:
            e2e_s = self._e2e_p95_s(self._clock())
            needed_s = self._question.think_s + (e2e_s or 0.0)
            if self._clock() - begin >= min(needed_s, SETTLE_MOST_S):
                return
            await self._wait(TICK_S)

    def _e2e_p95_s(self, now: float) -> float | None:
        """Of the replies that ended lately; of a handful the longest."""
        times = sorted(r.e2e_s for r in self._done if r.done >= now - E2E_WINDOW_S and r.reason != STOPPED)
        return quantile(times, 0.95) if times else None

    async def _wait(self, seconds: float, *, watch: bool = False) -> None:
        """Raises _EndedError when the search must end."""
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left, TICK_S)):
                    await self._stopped.wait()
            except TimeoutError:
                pass
            if self._stopped.is_set():
                raise _EndedError(self._why)
            if why := self._hands.blocked():
                raise _EndedError(why)
            if watch:
                self._evidence = self._hands.evidence() or self._evidence
            self._changed(self.progress)

    def _block(self, step: Step, begin: float, end: float) -> Block:
        """Each request counts at the moment its judgement became certain, so none counts in two blocks."""
        slo = self._question.slo
        seconds = end - begin
        in_trouble = [what for at, what in self._troubles if begin <= at <= end]
        if in_trouble and sum(map(bool, in_trouble)) > VOID_SHARE * len(in_trouble):
            what = next(filter(None, reversed(in_trouble)))
            raise _EndedError(f"Void: the load generator was the limit at {step.people} people: {what}.")
        judged = [r for r in self._done if begin <= verdict_at(r, slo) < end]
        reasons = [miss(record, slo) for record in judged]
        misses: Counter[str] = Counter(why for why in reasons if why is not None)
        good = sum(why is None and record.outcome != "abandoned" for why, record in zip(reasons, judged, strict=True))
        counted = {record.waited_since for record in self._done}
        late = sum(
            begin <= since + slo.ttft_s < end and (first is None or first > since + slo.ttft_s) and since not in counted
            for record in self._latest.values()
            for since, first in record.waiting
        )
        misses["ttft"] += late
        ended = [record for record in self._done if begin <= record.done < end and record.reason != STOPPED]
        ttfts = sorted(record.first_token - record.waited_since for record in ended if record.first_token is not None)
        tpots = sorted(r.tpot_s for r in ended if r.tpot_s is not None and r.outcome == "ok" and r.behaviour != "slow")
        wholes = sorted(record.e2e_s for record in ended if record.outcome == "ok")
        tokens = sum(record.completion_tokens or 0 for record in ended)
        return Block(
            people=step.people,
            phase=step.phase,
            begin_s=round(begin - self._began, 3),
            seconds=round(seconds, 3),
            good=good,
            due=good + misses.total(),
            misses={why: count for why, count in misses.items() if count},
            ttft_p95_s=_p95(ttfts),
            ttft_n=len(ttfts),
            tpot_p95_s=_p95(tpots),
            tpot_n=len(tpots),
            e2e_p95_s=quantile(wholes, 0.95) if wholes else None,
            goodput_per_s=good / seconds,
            tokens_per_s=tokens / seconds,
            evidence=self._evidence,
        )

    def _say(self, what: str) -> None:
        self._message = what
        self._changed(self.progress)


class _EndedError(Exception):
    """The search ends now; the text says why."""


def _p95(ordered: list[float]) -> float | None:
    return quantile(ordered, 0.95) if len(ordered) >= P95_NEEDS else None


def _with_message(progress: Progress, message: str) -> Progress:
    return msgspec.structs.replace(progress, message=message)


class _Crew:
    """Workers of our own as hands, against any server; nothing is seen of its engine."""

    def __init__(self, profile: Profile) -> None:
        self.workers: Crew
        self._profile = profile
        self._ended = ""

    def set_people(self, count: int) -> None:
        self.workers.apply(SetCrowds({"patient": count} if count else {}))

    def renew(self, seed: int) -> None:
        self._profile = msgspec.structs.replace(self._profile, seed=seed)
        self.workers.apply(SetProfile(self._profile))

    def evidence(self) -> str:
        return ""

    def ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._ended = str(error) if error else "The load workers ended."

    def blocked(self) -> str:
        return self._ended


async def explore(
    target: Target,
    settings: WorkerSettings,
    question: Question,
    changed: Callable[[Progress], None] = lambda progress: None,
    stop: asyncio.Event | None = None,
) -> Progress:
    """A whole search against any OpenAI-compatible server, with people of our own, until it ends or `stop` is set."""
    hands = _Crew(settings.profile)
    explorer = Explorer(question, hands, changed=changed)
    hands.workers = crew(target, settings, explorer.on_record)
    running = asyncio.create_task(hands.workers.run())
    running.add_done_callback(hands.ended)
    stopping = asyncio.create_task(_stop_on(stop, explorer)) if stop is not None else None
    try:
        return await explorer.run()
    finally:
        if stopping is not None:
            stopping.cancel()
        hands.workers.apply(Stop())
        await asyncio.wait({running})


async def _stop_on(stop: asyncio.Event, explorer: Explorer) -> None:
    await stop.wait()
    explorer.stop("stopped by hand")
