"""One worker: people who think and ask, strangers who arrive, bursts; commands in, records out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from loadgen import arrivals
from loadgen.behaviours import AT_ONCE, SLOWLY, Reading
from loadgen.prompts import Mix, Sampling, chat_body, make_prompt, person_prefix
from loadgen.records import (
    OUTCOMES,
    Behaviour,
    Burst,
    IntervalRecord,
    LoadCommand,
    LoadRecord,
    Outcome,
    RequestRecord,
    SetPeople,
    SetRate,
    SetSlow,
    Stop,
)
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.slo import STOPPED
from loadgen.target import Target

BACKOFF_S = 1.0
"""A person whose request failed comes back no sooner than this, so that a dead server is not hammered."""
TICK_S = 0.05
"""Period of the clock by which the loop's own lag is measured."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker starts with."""

    model: str
    worker: int = 0
    seed: int = 1
    people: int = 0
    slow: int = 0
    rate: float | None = None
    """Requests per second in open loop; None is closed loop."""
    think_s: float = 8.0
    mix: Mix = Mix()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    slowly: Reading = SLOWLY
    """How slow readers read."""
    interval_s: float = 0.5


@dataclass(eq=False)
class _Person:
    """Somebody with random numbers and a prefix of their own."""

    name: str
    behaviour: Behaviour
    rng: random.Random
    prefix: str
    thinking: bool = False
    leaving: bool = False
    life: asyncio.Task[None] | None = None


@dataclass
class _Crowd:
    """The people of one kind, in order of arrival; numbers are never used twice."""

    behaviour: Behaviour
    letter: str
    wanted: int = 0
    present: list[_Person] = field(default_factory=list)
    number: int = 0


class Runner:
    """Runs on the current event loop until a `Stop`. All methods belong to that loop.

    At every moment requests begun = requests in flight + requests ended by outcome.
    """

    def __init__(self, target: Target, settings: WorkerSettings, emit: Callable[[LoadRecord], None]) -> None:
        self._target = target
        self._settings = settings
        self._emit = emit
        self._tasks: asyncio.TaskGroup | None = None
        self._people = _Crowd("patient", "p", wanted=max(0, settings.people))
        self._slow = _Crowd("slow", "s", wanted=max(0, settings.slow))
        self._rate = settings.rate
        self._arriving: asyncio.Task[None] | None = None
        self._arrivals_rng = arrivals.generator(settings.seed, settings.worker, "arrivals")
        self._strangers = 0
        self._burst_people = 0
        self._burst_due = 0
        self._stop_at: float | None = None
        self._wake = asyncio.Event()
        """Set when a command came or the last request in flight ended."""
        self._in_flight: set[StreamedRequest] = set()
        self._scheduled_total = 0
        self._outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._meter = Meter()
        self._loop_lag_s = 0.0
        self._interval_began = time.monotonic()
        self._cpu_began = time.process_time()

    def apply(self, command: LoadCommand) -> None:
        """Take a command; it acts at once, or when `run` begins."""
        match command:
            case SetPeople(count=count):
                self._people.wanted = max(0, count)
            case SetSlow(count=count):
                self._slow.wanted = max(0, count)
            case SetRate(per_second=per_second):
                self._rate = per_second if per_second is None else max(0.0, per_second)
                self._redraw_arrivals()
            case Burst(count=count):
                self._burst_due += max(0, count)
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
            ticking.cancel()
        self._emit(self.interval())

    def _follow(self) -> None:
        """Bring who is there in line with what is wanted."""
        if self._tasks is None:
            return
        stopping = self._stop_at is not None
        self._settle_crowd(self._slow, 0 if stopping else self._slow.wanted)
        self._settle_crowd(self._people, 0 if stopping or self._rate is not None else self._people.wanted)
        if stopping or not self._rate:
            self._redraw_arrivals()
        elif self._arriving is None:
            self._arriving = self._tasks.create_task(self._arrive(self._rate))
        burst, self._burst_due = self._burst_due, 0
        for _ in range(0 if stopping else burst):
            self._burst_people += 1
            person = self._person(f"b{self._burst_people}", "burst")
            self._tasks.create_task(self._carry(person, self._begin(person, time.monotonic())))

    def _redraw_arrivals(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _settle_crowd(self, crowd: _Crowd, wanted: int) -> None:
        assert self._tasks is not None
        while len(crowd.present) < wanted:
            crowd.number += 1
            person = self._person(f"{crowd.letter}{crowd.number}", crowd.behaviour)
            crowd.present.append(person)
            person.life = self._tasks.create_task(self._live(person))
        surplus = len(crowd.present) - wanted
        if surplus > 0:  # the thinking go first, the latest of them before the others
            by_ease = sorted(enumerate(crowd.present), key=lambda pair: (pair[1].thinking, pair[0]), reverse=True)
            for _, person in by_ease[:surplus]:
                crowd.present.remove(person)
                person.leaving = True
                if person.thinking and person.life is not None:
                    person.life.cancel()

    def _person(self, name: str, behaviour: Behaviour) -> _Person:
        full_name = f"w{self._settings.worker}-{name}"
        rng = arrivals.generator(self._settings.seed, self._settings.worker, full_name)
        return _Person(full_name, behaviour, rng, person_prefix(rng))

    async def _live(self, person: _Person) -> None:
        """Closed loop: think, ask, read, and again. The next request is meant for when the thinking ends."""
        think_s = self._settings.think_s
        due = time.monotonic() + arrivals.first_think_s(person.rng, think_s)
        while not person.leaving:
            person.thinking = True
            await _sleep_until(due)
            person.thinking = False
            record = await self._carry(person, self._begin(person, due))
            pause = arrivals.think_s(person.rng, think_s)
            due = record.done + (pause if record.outcome == "ok" else max(pause, BACKOFF_S))

    async def _arrive(self, per_second: float) -> None:
        """Open loop: strangers come by the clock, whatever is in flight."""
        assert self._tasks is not None
        due = time.monotonic()
        while True:
            due += arrivals.poisson_gap_s(self._arrivals_rng, per_second)
            await _sleep_until(due)
            self._strangers += 1
            person = self._person(f"o{self._strangers}", "patient")
            self._tasks.create_task(self._carry(person, self._begin(person, due)))

    def _begin(self, person: _Person, scheduled: float) -> StreamedRequest:
        """Write the request and count it; from here it is in flight until `_carry` has its record."""
        settings = self._settings
        request_id = arrivals.request_id(person.rng)
        prompt = make_prompt(person.rng, settings.mix, person.prefix)
        body = chat_body(prompt, settings.model, settings.sampling)
        reading = settings.slowly if person.behaviour == "slow" else AT_ONCE
        call = Call(request_id, person.name, person.behaviour, scheduled, body, reading)
        request = StreamedRequest(self._target, call, settings.limits, self._meter)
        self._scheduled_total += 1
        self._in_flight.add(request)
        return request

    async def _carry(self, person: _Person, request: StreamedRequest) -> RequestRecord:
        record = await request.run()
        self._in_flight.remove(request)
        self._outcomes[record.outcome] += 1
        if not self._in_flight:
            self._wake.set()
        self._emit(record)
        return record

    async def _tick(self) -> None:
        due = time.monotonic()
        interval_due = due + self._settings.interval_s
        while True:
            due += TICK_S
            await _sleep_until(due)
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
        crowds = self._people.present + self._slow.present
        record = IntervalRecord(
            worker=self._settings.worker,
            at=now,
            mode="closed" if self._rate is None else "open",
            people=len(self._people.present),
            thinking=sum(person.thinking for person in crowds),
            slow_people=len(self._slow.present),
            rate_asked=self._rate,
            in_flight=len(self._in_flight),
            ttft_so_far_s=[
                round((now if request.first_token is None else request.first_token) - request.call.scheduled, 3)
                for request in self._in_flight
            ],
            held=sum(
                request.call.behaviour == "slow" and request.first_token is not None for request in self._in_flight
            ),
            scheduled_total=self._scheduled_total,
            outcomes=dict(self._outcomes),
            gaps_ms=self._meter.gaps_ms,
            loop_lag_ms=round(self._loop_lag_s * 1e3, 3),
            cpu_share=round(min(1.0, (cpu - self._cpu_began) / wall_s), 4) if wall_s > 0 else None,
            send_lag_ms=None if self._meter.send_lag_ms is None else round(self._meter.send_lag_ms, 3),
        )
        self._meter.gaps_ms, self._meter.send_lag_ms = [], None
        self._loop_lag_s = 0.0
        self._interval_began, self._cpu_began = now, cpu
        return record


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
