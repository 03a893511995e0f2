"""One worker: people who think and ask, strangers who arrive, bursts and crowds; commands in, records out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from loadgen import arrivals
from loadgen.arrivals import Arrival, Arrivals
from loadgen.behaviours import STUCK, Budget, Leaving, pick, retry_after_s
from loadgen.commands import (
    Burst,
    Flash,
    Leave,
    LoadCommand,
    SetArrivals,
    SetCrowds,
    SetProfile,
    SetTarget,
    Stall,
    Stop,
)
from loadgen.histogram import Histogram
from loadgen.profile import Profile
from loadgen.prompts import Conversation, Prompt, chat_body, last_turn, make_prompt, person_prefix, prompt_of
from loadgen.records import OUTCOMES, RESIDENTS, Behaviour, IntervalRecord, LoadRecord, Outcome, RequestRecord
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.slo import CHAT, STOPPED, Slo
from loadgen.target import Target
from loadgen.trace import TraceError
from loadgen.waiting import sleep_until

T = TypeVar("T")

BACKOFF_S = 1.0
"""A person whose request failed comes back no sooner than this, so that a dead server is not hammered."""
MISSED_S = 1.0
TICK_S = 0.05
"""Period of the clock by which the loop's own lag is measured."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker starts with. Numbers of people are for all workers together."""

    model: str
    worker: int = 0
    workers: int = 1
    crowds: dict[Behaviour, int] = {}
    arrivals: SetArrivals | None = None
    """Open loop; None is closed loop."""
    profile: Profile = Profile()
    limits: Limits = Limits()
    slo: Slo = CHAT
    """Whose token deadlines fluidity counts."""
    interval_s: float = 0.5


@dataclass(eq=False)
class _Person:
    """Somebody with random numbers and a prefix of their own."""

    name: str
    behaviour: Behaviour
    rng: random.Random
    talk: Conversation
    thinking: bool = False
    leaving: bool = False
    departure: Leaving | None = None
    """How they leave each request."""
    stall_s: float | None = None
    """They stop reading each reply after its first token, for so long."""
    life: asyncio.Task[None] | None = None


@dataclass
class _Crowd:
    """The people of one kind, in order of arrival; numbers are never used twice."""

    behaviour: Behaviour
    wanted: int = 0
    present: list[_Person] = field(default_factory=list)
    number: int = 0
    """People of this kind so far, those of the other workers included."""


@dataclass
class _Totals:
    """Since the worker started."""

    scheduled: int = 0
    retries: int = 0
    left: int = 0
    wasted_tokens: int = 0
    clipped: int = 0
    due: int = 0


class Runner:
    """Runs on the current event loop until a `Stop`. All methods belong to that loop.

    At every moment requests begun = requests in flight + requests ended by outcome.
    """

    def __init__(self, target: Target, settings: WorkerSettings, emit: Callable[[LoadRecord], None]) -> None:
        self._target = target
        self._settings = settings
        self._profile = settings.profile
        self._emit = emit
        self._tasks: asyncio.TaskGroup | None = None
        self._lives: set[asyncio.Task[object]] = set()
        self._crowds = {behaviour: _Crowd(behaviour) for behaviour in RESIDENTS}
        self._open = settings.arrivals
        self._arriving: asyncio.Task[None] | None = None
        self._coming: list[Burst | Leave | Stall | Flash] = []
        self._at_once: dict[Behaviour, int] = {}
        """One-off requests so far by behaviour, those of the other workers included."""
        self._flashes = 0
        self._flash_people = 0
        self._budget = Budget()
        self._stop_at: float | None = None
        self._wake = asyncio.Event()
        """Set when a command came or the last request in flight ended."""
        self._in_flight: set[StreamedRequest] = set()
        self._totals = _Totals()
        self._outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._meter = Meter(settings.slo)
        self._trouble = ""
        self._loop_lag_s = 0.0
        self._interval_began = time.monotonic()
        self._cpu_began = time.process_time()
        self._want(settings.crowds)

    def apply(self, command: LoadCommand) -> None:
        """Take a command; it acts at once, or when `run` begins. Raises LoadError, and then nothing has changed."""
        match command:
            case SetCrowds(counts=counts):
                self._want(counts)
            case SetArrivals(process=process, origin=origin):
                before, self._open = self._open, None if process is None else command
                if before is None or (before.process, before.origin) != (process, origin):
                    self._end_arrivals()  # else the schedule goes on, with other strangers
                    self._trouble = ""
            case SetProfile(profile=profile):
                self._profile = profile
            case SetTarget(url=url):
                self._target = Target.parse(url, self._target.api_key)
            case Burst() | Leave() | Stall() | Flash():
                self._coming.append(command)
            case Stop(grace_s=grace_s):
                stop_at = time.monotonic() + max(0.0, grace_s)
                self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
        self._follow()
        self._wake.set()

    async def run(self) -> None:
        """Returns when a `Stop` was carried out and every request has its record."""
        async with asyncio.TaskGroup() as self._tasks:
            ticking = self._tasks.create_task(self._tick())
            self._follow()
            while self._stop_at is None or (self._in_flight and self._stop_at > time.monotonic()):
                self._wake.clear()
                patience = None if self._stop_at is None else max(0.0, self._stop_at - time.monotonic())
                try:
                    async with asyncio.timeout(patience):
                        await self._wake.wait()
                except TimeoutError:
                    break
            for request in list(self._in_flight):
                request.abandon(STOPPED)
            while self._in_flight:
                self._wake.clear()
                await self._wake.wait()
            for task in (ticking, *self._lives):  # who is on the way, or about to ask again
                task.cancel()
        self._emit(self.interval())

    def _start(self, life: Coroutine[object, object, T]) -> asyncio.Task[T]:
        assert self._tasks is not None
        task = self._tasks.create_task(life)
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)
        return task

    # who is there

    def _want(self, counts: dict[Behaviour, int]) -> None:
        for behaviour, crowd in self._crowds.items():
            crowd.wanted = max(0, counts.get(behaviour, 0))

    def _follow(self) -> None:
        """Bring who is there in line with what is wanted."""
        if self._tasks is None:
            return
        stopping = self._stop_at is not None
        for crowd in self._crowds.values():
            resident = not stopping and (self._open is None or crowd.behaviour == "slow")
            self._settle_crowd(crowd, crowd.wanted if resident else 0)
        if stopping or self._open is None:
            self._end_arrivals()
        elif self._arriving is None and self._open.process is not None:
            self._arriving = self._start(self._arrive(self._open.process, self._open.origin))
        coming, self._coming = self._coming, []
        for what in coming if not stopping else ():
            match what:
                case Burst(count=count):
                    self._all_at_once("burst", count)
                case Leave(count=count, at=at, how=how):
                    self._all_at_once("leaver", count, leaving=Leaving(at, how))
                case Stall(count=count, for_s=for_s):
                    self._all_at_once("staller", count, stall_s=for_s)
                case Flash():
                    self._flash(what)

    def _end_arrivals(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _is_mine(self, number: int) -> bool:
        return number % self._settings.workers == self._settings.worker

    def _share(self, total: int) -> int:
        """This worker's part of a number of people: the first workers take what is left over."""
        base, rest = divmod(total, self._settings.workers)
        return base + (1 if self._settings.worker < rest else 0)

    def _settle_crowd(self, crowd: _Crowd, total: int) -> None:
        wanted = self._share(total)
        while len(crowd.present) < wanted:
            if self._is_mine(crowd.number):
                person = self._person(f"{crowd.behaviour}-{crowd.number + 1}", crowd.behaviour)
                crowd.present.append(person)
                person.life = self._start(self._live(person))
            crowd.number += 1
        surplus = len(crowd.present) - wanted
        if surplus > 0:  # the thinking go first, the latest of them before the others
            by_ease = sorted(enumerate(crowd.present), key=lambda pair: (pair[1].thinking, pair[0]), reverse=True)
            for _, person in by_ease[:surplus]:
                crowd.present.remove(person)
                person.leaving = True
                if person.thinking and person.life is not None:
                    person.life.cancel()

    def _person(self, name: str, behaviour: Behaviour) -> _Person:
        rng = arrivals.generator(self._profile.seed, name)
        return _Person(name, behaviour, rng, Conversation(person_prefix(rng)))

    # what they do

    async def _live(self, person: _Person, asks: int | None = None, due: float | None = None) -> None:
        """Closed loop: think, ask, read, and again. The next request is meant for when the thinking ends, the first for
        `due` if it is given."""
        if due is None:
            due = time.monotonic() + arrivals.first_think_s(person.rng, self._profile.think_s)
        while not person.leaving and asks != 0:
            person.thinking = True
            await sleep_until(due)
            person.thinking = False
            if self._stop_at is not None:  # somebody of a flash crowd; residents were sent away
                return
            record = await self._ask(person, due)
            pause = arrivals.think_s(person.rng, self._profile.think_s)
            due = record.done + (pause if record.outcome == "ok" else max(pause, BACKOFF_S))
            asks = None if asks is None else asks - 1

    def _all_at_once(
        self, behaviour: Behaviour, count: int, leaving: Leaving | None = None, stall_s: float | None = None
    ) -> None:
        now, first = time.monotonic(), self._at_once.get(behaviour, 0)
        self._at_once[behaviour] = first + max(0, count)
        for number in range(first, self._at_once[behaviour]):
            if self._is_mine(number):
                person = self._person(f"{behaviour}-{number + 1}", behaviour)
                person.departure, person.stall_s = leaving, stall_s
                self._start(self._ask(person, now))

    def _flash(self, flash: Flash) -> None:
        now = time.monotonic()
        for number in range(self._flashes, self._flashes + max(0, flash.count)):
            if self._is_mine(number):
                person = self._person(f"flash-{number + 1}", "flash")
                self._flash_people += 1
                self._start(self._visit(person, now + person.rng.uniform(0.0, flash.over_s), flash.asks))
        self._flashes += max(0, flash.count)

    async def _visit(self, person: _Person, at: float, asks: int) -> None:
        """Somebody of a flash crowd: comes, asks a few times, goes."""
        try:
            await sleep_until(at)
            if self._stop_at is None:
                await self._live(person, max(1, asks), at)
        finally:
            self._flash_people -= 1

    async def _arrive(self, process: Arrivals, origin: float) -> None:
        """Open loop: strangers come by the central schedule, whatever is in flight."""
        settings = self._settings
        began = time.monotonic()
        every = arrivals.schedule(process, self._profile.seed)
        try:
            for arrival in arrivals.mine(every, settings.worker, settings.workers):
                due = origin + arrival.at_s
                if due < began - MISSED_S:  # a worker that comes back does not make up for what it missed
                    continue
                await sleep_until(due)
                self._totals.due += 1
                self._start(self._ask(self._stranger(arrival), due, arrival))
        except TraceError as error:
            self._trouble = str(error)

    def _stranger(self, arrival: Arrival) -> _Person:
        """Whoever sends it. A heavy client keeps a prefix and a behaviour, but draws each request from a generator of its
        own: so it does not matter which worker sends which, nor how many are under way."""
        person = self._person(f"open-{arrival.client}", "patient")
        weights = self._open.weights if self._open is not None else {}
        person.behaviour = arrival.behaviour or pick(weights, person.rng.random())
        person.rng = arrivals.generator(self._profile.seed, f"open request {arrival.number}")
        return person

    # one request

    async def _ask(self, person: _Person, due: float, arrival: Arrival | None = None) -> RequestRecord:
        """Send the next request of somebody, again if they are of that kind; the record of the last attempt."""
        prompt = self._next_prompt(person, arrival)
        retry = self._profile.manners.retry
        self._budget.earn(retry.budget_share)
        intended: float | None = None
        attempt = 1
        while True:
            request = self._begin(person, prompt, due, intended, attempt, arrival)
            record = await self._carry(request)
            again_s = None
            if person.behaviour == "retrier" and self._stop_at is None and not person.leaving:
                again_s = retry_after_s(retry, record, person.rng, self._budget)
            if again_s is None:
                break
            intended = record.waited_since
            due, attempt = record.done + again_s, attempt + 1
            await sleep_until(due)
            if self._stop_at is not None:
                break
        if record.outcome == "ok" and not last_turn(person.rng, self._profile.turns) and request.call.keeps_text:
            person.talk.answered(prompt, request.reply, record.prompt_tokens, record.completion_tokens)
        else:
            person.talk.anew()
        return record

    def _next_prompt(self, person: _Person, arrival: Arrival | None) -> Prompt:
        profile = self._profile
        if arrival is not None and arrival.row is not None:
            return prompt_of(person.rng, arrival.row.prompt_tokens, arrival.row.output_tokens, profile.mix.context)
        factor = profile.manners.long_factor if person.behaviour == "long" else 1.0
        return make_prompt(person.rng, profile.mix, person.talk, factor=factor)

    def _begin(
        self,
        person: _Person,
        prompt: Prompt,
        due: float,
        intended: float | None,
        attempt: int,
        arrival: Arrival | None,
    ) -> StreamedRequest:
        """Write the request and count it; from here it is in flight until `_carry` has its record."""
        profile = self._profile
        call = Call(
            request_id=arrivals.request_id(person.rng),
            person=person.name,
            behaviour=person.behaviour,
            scheduled=due,
            body=chat_body(prompt, self._settings.model, profile.sampling),
            reading=STUCK if person.stall_s is not None else profile.manners.reading(person.behaviour),
            patience=profile.manners.waits(person.behaviour, person.rng),
            intended=intended,
            attempt=attempt,
            turn=person.talk.turn,
            max_tokens=prompt.max_tokens,
            clipped=prompt.clipped,
            keeps_text=arrival is None and profile.turns > 1,
            priority=0 if arrival is None else arrival.priority,
            departure=person.departure,
            stall_s=person.stall_s,
        )
        request = StreamedRequest(self._target, call, self._settings.limits, self._meter)
        self._totals.scheduled += 1
        self._totals.retries += attempt > 1
        self._totals.clipped += prompt.clipped
        self._in_flight.add(request)
        return request

    async def _carry(self, request: StreamedRequest) -> RequestRecord:
        record = await request.run()
        self._in_flight.remove(request)
        self._outcomes[record.outcome] += 1
        if record.outcome == "abandoned" and record.reason != STOPPED:
            self._totals.left += 1
            self._totals.wasted_tokens += record.wasted_tokens
        if not self._in_flight:
            self._wake.set()
        self._emit(record)
        return record

    # what is told

    async def _tick(self) -> None:
        due = time.monotonic()
        interval_due = due + self._settings.interval_s
        while True:
            due += TICK_S
            await sleep_until(due)
            now = time.monotonic()
            self._loop_lag_s = max(self._loop_lag_s, now - due)
            due = max(due, now - TICK_S)  # ticks missed are not made up for
            if now >= interval_due:
                self._emit(self.interval())
                interval_due += self._settings.interval_s
                if interval_due <= now:
                    interval_due = now + self._settings.interval_s

    def interval(self) -> IntervalRecord:
        """The state now; what was collected goes with it, and the next interval begins."""
        now, cpu = time.monotonic(), time.process_time()
        wall_s = now - self._interval_began
        crowds = {crowd.behaviour: len(crowd.present) for crowd in self._crowds.values() if crowd.present}
        asked = None
        if self._open is not None and self._open.process is not None:
            asked = arrivals.rate_at(self._open.process, now - self._open.origin)
        totals, meter = self._totals, self._meter
        record = IntervalRecord(
            worker=self._settings.worker,
            at=now,
            mode="closed" if self._open is None else "open",
            crowds=crowds,
            flash=self._flash_people,
            thinking=sum(person.thinking for crowd in self._crowds.values() for person in crowd.present),
            rate_asked=asked,
            due_total=totals.due,
            in_flight=len(self._in_flight),
            waiting=[(request.call.waited_since, request.first_token) for request in self._in_flight],
            tokens_in_flight=sum(len(request.token_at) for request in self._in_flight),
            held=sum(
                request.call.behaviour in {"slow", "staller"} and bool(request.token_at) for request in self._in_flight
            ),
            scheduled_total=totals.scheduled,
            retries_total=totals.retries,
            left_total=totals.left,
            wasted_tokens_total=totals.wasted_tokens,
            clipped_total=totals.clipped,
            outcomes=dict(self._outcomes),
            gaps=meter.gaps,
            loop_lag_ms=round(self._loop_lag_s * 1e3, 3),
            cpu_share=round(min(1.0, (cpu - self._cpu_began) / wall_s), 4) if wall_s > 0 else None,
            send_lag_ms=None if meter.send_lag_ms is None else round(meter.send_lag_ms, 3),
            start_lag_ms=None if meter.start_lag_ms is None else round(meter.start_lag_ms, 3),
            trouble=self._trouble,
        )
        meter.gaps, meter.send_lag_ms, meter.start_lag_ms = Histogram(), None, None
        self._loop_lag_s = 0.0
        self._interval_began, self._cpu_began = now, cpu
        return record
