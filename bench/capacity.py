"""How often the capacity search is right: simulated servers whose answer is known from a long run.

    python -m bench.capacity [--repeats 200] [--shape knee ...] [--careful] [--cap 360] [--sentences]

Closed-loop people with exponential think times in front of a queue with slots. The sequences of a batch share one clock of
tokens, whose pace falls with the batch and in stalls. Nothing here runs in real time. The truth is the level at which a
long run has 95 % good requests. `off` is the share of searches whose estimate is off by more than 10 %, of all and of those
that call themselves resolved; `covered` the share whose 90 % interval holds the truth.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A script's own folder comes first, and this one has a `loadgen` too.
sys.path.insert(0, str(Path(__file__).parents[1]))

from loadgen.capacity import Answer, Block, Question, Search, Step
from loadgen.slo import CHAT, Slo
from loadgen.summary import quantile

LONG_RUN_S = 6000.0


@dataclass(frozen=True)
class Shape:
    """One server and its people."""

    name: str
    slots: int
    tokens: float
    """Mean of a reply's length (gamma)."""
    spread: float
    """Its coefficient of variation."""
    prefill_s: float
    tpot_s: float
    """Of a batch of one."""
    tpot_per_sequence_s: float
    """Added by each further sequence."""
    stall_every_s: float = math.inf
    stall_s: float = 0.0
    """Means (exponential) of the time between stalls and of their length."""
    stall_pace: float = 1.0
    """Pace in a stall over the pace outside of it."""
    think_s: float = 8.0

    def pace(self, batch: int) -> float:
        """Tokens a second of each sequence."""
        return 1.0 / (self.tpot_s + self.tpot_per_sequence_s * (batch - 1))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("knee", 64, 128, 0.3, 0.08, 0.0075, 0.00018),
        Shape("cpu", 8, 64, 0.5, 0.3, 0.03, 0.0025),
        Shape("tpot", 1024, 64, 0.3, 0.1, 0.03, 0.0016),
        Shape("noisy", 32, 128, 0.3, 0.08, 0.012, 0.0002, stall_every_s=25.0, stall_s=2.0, stall_pace=0.25),
    )
}


@dataclass
class Verdict:
    at: float
    miss: str
    """Empty: good."""
    counts: bool
    """False for the end of a request that was late: its miss fell when it became late."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass
class _Request:
    scheduled: float
    person: int
    tokens: float
    admitted: float | None = None
    late: bool = False


@dataclass
class Simulation:
    """A discrete-event simulation of one shape; `run` moves it on and returns the verdicts that fell."""

    shape: Shape
    slo: Slo
    rng: random.Random
    now: float = 0.0
    wanted: int = 0
    _present: set[int] = field(default_factory=set)
    _thinking: set[int] = field(default_factory=set)
    _numbers: int = 0
    _events: list[tuple[float, int, str, int, _Request | None]] = field(default_factory=list)
    _order: int = 0
    _queue: deque[_Request] = field(default_factory=deque)
    _batch: list[tuple[float, int, _Request]] = field(default_factory=list)
    _clock: float = 0.0
    """Tokens that a sequence which ran all the time would have made."""
    _stalled: bool = False

    def __post_init__(self) -> None:
        if self.shape.stall_every_s < math.inf:
            self._at(self.rng.expovariate(1 / self.shape.stall_every_s), "stall")

    def set_people(self, people: int) -> None:
        """Newcomers think first; who is too many leaves before the next question."""
        self.wanted = people
        while len(self._present) < people:
            self._numbers += 1
            self._present.add(self._numbers)
            self._think(self._numbers)
        for person in list(self._thinking)[: len(self._present) - people]:
            self._thinking.discard(person)
            self._present.discard(person)

    def run(self, seconds: float) -> list[Verdict]:
        verdicts: list[Verdict] = []
        end = self.now + seconds
        shape, events, batch = self.shape, self._events, self._batch
        while True:
            pace = shape.pace(len(batch)) * (shape.stall_pace if self._stalled else 1.0) if batch else 0.0
            finish = self.now + (batch[0][0] - self._clock) / pace if batch else math.inf
            event = events[0][0] if events else math.inf
            at = min(finish, event, end)
            self._clock += pace * (at - self.now)
            self.now = at
            if at == end and finish > end and event > end:
                return verdicts
            if finish <= event:
                self._clock = batch[0][0]
                self._finish(heapq.heappop(batch)[2], verdicts)
                continue
            _, _, kind, person, request = heapq.heappop(events)
            if kind == "ask":
                self._ask(person)
            elif kind == "late":
                assert request is not None
                if request.admitted is None:
                    request.late = True
                    verdicts.append(Verdict(at, "ttft", True))
            else:
                self._stalled = kind == "stall"
                mean = shape.stall_s if self._stalled else shape.stall_every_s
                self._at(at + self.rng.expovariate(1 / mean), "go on" if self._stalled else "stall")

    def _at(self, at: float, kind: str, person: int = 0, request: _Request | None = None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, kind, person, request))

    def _think(self, person: int) -> None:
        self._thinking.add(person)
        self._at(self.now + self.rng.expovariate(1 / self.shape.think_s), "ask", person)

    def _ask(self, person: int) -> None:
        if person not in self._thinking:
            return
        self._thinking.discard(person)
        form = 1 / self.shape.spread**2
        request = _Request(self.now, person, max(1.0, self.rng.gammavariate(form, self.shape.tokens / form)))
        if len(self._batch) < self.shape.slots:
            self._admit(request)
        else:
            self._queue.append(request)
            self._at(self.now + self.slo.ttft_s - self.shape.prefill_s, "late", person, request)

    def _admit(self, request: _Request) -> None:
        request.admitted = self.now
        self._order += 1
        work = request.tokens + self.shape.prefill_s / self.shape.tpot_s
        heapq.heappush(self._batch, (self._clock + work, self._order, request))

    def _finish(self, request: _Request, verdicts: list[Verdict]) -> None:
        assert request.admitted is not None
        ttft = request.admitted - request.scheduled + self.shape.prefill_s
        tpot = max(0.0, self.now - request.admitted - self.shape.prefill_s) / request.tokens
        miss = "ttft" if request.late else "tpot" if tpot > self.slo.tpot_s else ""
        verdicts.append(Verdict(self.now, miss, not request.late, ttft, tpot, self.now - request.scheduled))
        if len(self._present) > self.wanted:
            self._present.discard(request.person)
        else:
            self._think(request.person)
        if self._queue:
            self._admit(self._queue.popleft())


def long_run_share(shape: Shape, people: int, seconds: float = LONG_RUN_S, seed: int = 1) -> float:
    simulation = Simulation(shape, CHAT, random.Random(seed))
    simulation.set_people(people)
    simulation.run(100.0)
    misses = [verdict.miss for verdict in simulation.run(seconds) if verdict.counts]
    return misses.count("") / len(misses)


def truth(shape: Shape, target: float = 0.95) -> float:
    """People at whom the long-run share is `target`: between the two whole numbers around it, a straight line."""
    low, high = 1, 2
    while long_run_share(shape, high) >= target:
        low, high = high, 2 * high
    share_low = share_high = None
    while high - low > 1:
        middle = (low + high) // 2
        if long_run_share(shape, middle) >= target:
            low = middle
        else:
            high = middle
    share_low, share_high = long_run_share(shape, low), long_run_share(shape, high)
    return low + (share_low - target) / (share_low - share_high)


def block_of(step: Step, begin_s: float, verdicts: list[Verdict]) -> Block:
    ttfts = sorted(verdict.ttft_s for verdict in verdicts if verdict.ttft_s is not None)
    tpots = sorted(verdict.tpot_s for verdict in verdicts if verdict.tpot_s is not None)
    e2es = sorted(verdict.e2e_s for verdict in verdicts if verdict.e2e_s is not None)
    misses = Counter(verdict.miss for verdict in verdicts if verdict.counts)
    good = misses.pop("", 0)
    return Block(
        people=step.people,
        phase=step.phase,
        begin_s=begin_s,
        seconds=step.measure_s,
        good=good,
        due=good + misses.total(),
        misses=dict(misses),
        ttft_p95_s=quantile(ttfts, 0.95) if ttfts else None,
        ttft_n=len(ttfts),
        tpot_p95_s=quantile(tpots, 0.95) if tpots else None,
        tpot_n=len(tpots),
        e2e_p95_s=quantile(e2es, 0.95) if e2es else None,
        goodput_per_s=good / step.measure_s,
    )


@dataclass(frozen=True)
class Outcome:
    """One search on a server of its own."""

    answer: Answer
    blocks: list[Block]
    seconds: float
    """Simulated."""


def search(shape: Shape, seed: int, *, careful: bool = False, cap_s: float = 360.0, first: int = 4) -> Outcome:
    """Drives the search as it is driven on a live stack; deterministic for a seed."""
    simulation = Simulation(shape, CHAT, random.Random(seed))
    question = Question(think_s=shape.think_s, seed=seed, careful=careful, cap_s=cap_s, first=first)
    searched = Search(question)
    while (step := searched.next(simulation.now)) is not None:
        if simulation.wanted != step.people:
            simulation.set_people(step.people)
            settling = simulation.run(shape.think_s)
            e2es = sorted(verdict.e2e_s for verdict in settling if verdict.e2e_s is not None)
            simulation.run(quantile(e2es, 0.95) if e2es else shape.think_s)
        begin_s = simulation.now
        searched.observe(block_of(step, begin_s, simulation.run(step.measure_s)))
    assert searched.answer is not None
    return Outcome(searched.answer, searched.progress(simulation.now).blocks, simulation.now)


def share(outcomes: Sequence[object]) -> str:
    return f"{100 * sum(map(bool, outcomes)) / len(outcomes):.1f} %" if outcomes else "—"


def row(shape: Shape, true: float, outcomes: Sequence[Outcome]) -> str:
    answers = [outcome.answer for outcome in outcomes]
    bests = [answer.best or 0.0 for answer in answers]
    off = [abs(best - true) > 0.1 * true for best in bests]
    covered = [(answer.low or 0.0) <= true <= (answer.high or 0.0) for answer in answers]
    figures = (
        f"{true:.1f}",
        f"{statistics.median(bests):.1f}",
        f"{100 * statistics.pstdev(bests) / true:.1f} %",
        share(off),
        share([miss for miss, answer in zip(off, answers, strict=True) if answer.resolved]),
        share(covered),
        share([not answer.resolved for answer in answers]),
        share([(answer.safe or 0) > true for answer in answers]),
        share([answer.confirmed for answer in answers]),
        f"{statistics.fmean(outcome.seconds for outcome in outcomes):.0f}",
        f"{max(outcome.seconds for outcome in outcomes):.0f}",
    )
    return f"{shape.name:8}" + "".join(f"{figure:>11}" for figure in figures)


HEAD = ("truth", "median", "sd", "off", "resolved", "covered", "unresolved", "unsafe", "confirmed", "mean s", "max s")


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the capacity search is right.")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--shape", choices=list(SHAPES), nargs="*", default=list(SHAPES))
    parser.add_argument("--careful", action="store_true", help="stop at a half-width of 10 %% instead of 15 %%")
    parser.add_argument("--cap", type=float, default=360.0, help="seconds that a search may take")
    parser.add_argument("--sentences", action="store_true", help="print what each search says")
    options = parser.parse_args()
    print(" " * 8 + "".join(f"{word:>11}" for word in HEAD), flush=True)
    for name in options.shape:
        shape = SHAPES[name]
        outcomes = [search(shape, seed, careful=options.careful, cap_s=options.cap) for seed in range(options.repeats)]
        print(row(shape, truth(shape), outcomes), flush=True)
        if options.sentences:
            for outcome in outcomes:
                print(f"    {outcome.answer.sentence}")


if __name__ == "__main__":
    main()
