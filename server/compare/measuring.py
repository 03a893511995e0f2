"""One comparison under way: the people drained, the rate found out, and every arm's runs measured."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from loadgen.arrivals import Script
from loadgen.counters import Counters, fetch_counters
from loadgen.profile import Profile
from loadgen.records import IntervalRecord, LoadRecord, RequestRecord
from loadgen.summary import quantile
from loadgen.target import LoadError, Target
from server import commands
from server.compare import mixture, plan, text
from server.compare.plan import Question
from server.compare.progress import KEPT, CompareProgress
from server.compare.result import Measured, Run
from server.engine.lifecycle import Lifecycle
from server.gateway.policy import Policy
from server.gateway.records import GatewayRecord
from server.population import Population
from server.report.text import ABSENT, digits, plural, seconds, share
from server.telemetry.snapshot import Snapshot

LEAD_S = 0.5
"""From telling the workers a script to its first moment: the words of hundreds of requests are made on the way."""
TICK_S = 0.1
DRAIN_S = 120.0
"""The longest wait for what was under way when the people were set aside. Slow readers hold their connections longer, and cost
the engine nothing by then."""
SILENT_S = 180.0
"""Without any request ending for so long, while some are missing, they will not end."""
POLICY_S = 10.0
GATEWAY_S = 5.0
"""The gateway's records come by another way than the client's."""
COUNTERS_S = 3.0
TEXT_SEEDS = 1_000
"""Between the seeds of two runs' words."""
ENOUGH_COMPLETED = 0.5
"""Of the calibration's requests: with fewer of them the rate it shows is that of failures."""


class Hands(Protocol):
    """What a comparison needs of the stack besides its people and its engine."""

    def policy_in_force(self) -> Policy: ...

    def impose(self, policy: Policy | None, why: str) -> None:
        """From now on this policy, whatever else was told; None: as if nothing had been imposed."""

    def note(self, text: str) -> None:
        """An event on the charts."""

    def gateway_gone(self) -> bool: ...


class EndedError(Exception):
    """The comparison ends now; the text says why."""


class Measuring:
    """One comparison under way."""

    def __init__(
        self,
        draft: Question,
        policies: list[Policy],
        command: commands.Compare,
        population: Population,
        engine: Lifecycle,
        hands: Hands,
        seen: Callable[[], Snapshot | None],
    ) -> None:
        self.question = draft
        self.runs: list[Run] = []
        self._policies = policies
        self._command = command
        self._population = population
        self._profile = population.profile
        self._engine = engine
        self._hands = hands
        self._seen = seen
        self._salt = f"compare-{time.time_ns():x}"
        self._began = time.monotonic()
        self._lines: list[str] = []
        self._message = ""
        self._why = ""
        self._stopped = asyncio.Event()
        self._origin: float | None = None
        """Of the script that plays; None: none does."""
        self._records: list[RequestRecord] = []
        self._passages: dict[str, GatewayRecord] = {}
        self._latest: dict[int, IntervalRecord] = {}
        self._seeds = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def progress(self) -> CompareProgress:
        return CompareProgress(
            message=self._message,
            said=len(self._lines),
            lines=self._lines[-KEPT:],
            elapsed_s=round(self.elapsed_s, 1),
            runs=len(self.runs),
            runs_planned=len(self.question.order),
        )

    def on_load(self, record: LoadRecord) -> None:
        if isinstance(record, IntervalRecord):
            self._latest[record.worker] = record
        elif self._origin is not None and record.scheduled >= self._origin:
            self._records.append(record)

    def on_gateway(self, record: GatewayRecord) -> None:
        if self._origin is not None:
            self._passages[record.request_id] = record

    def stop(self, why: str) -> None:
        self._why = self._why or why
        self._stopped.set()

    def say(self, line: str) -> None:
        self._lines.append(f"{self.elapsed_s:6.1f} s  {line}")

    async def run(self) -> None:
        """Raises EndedError when it must end before its last run."""
        self.say(f"The people are set aside; {text.in_flight(self.question)}.")
        self._population.set_aside()
        await self._drain()
        await self._calibrate()
        question = self.question
        self.say(
            f"Load: Poisson {text.load(question)}, {question.mixture.words}; {len(question.order)} runs of "
            f"{seconds(question.seconds)}, about {seconds(plan.length_s(question))} in all."
        )
        for arm in question.order:
            await self._measure(arm)

    async def _drain(self) -> None:
        """Wait until nothing of the people's is under way."""
        end = time.monotonic() + DRAIN_S
        set_aside = time.monotonic()
        self._message = "what the people had asked is being finished"
        while True:
            told = [record for record in self._latest.values() if record.at > set_aside]
            if len(told) == len(self._population.workers) and all(r.in_flight <= r.held for r in told):
                return
            if time.monotonic() > end:
                raise EndedError(f"What the people had asked was not finished within {DRAIN_S:.0f} s.")
            await self._wait()

    async def _calibrate(self) -> None:
        """What a short request takes alone, and how many of the mixture are served in a second."""
        question, command = self.question, self._command
        easy = Policy(overload="wait", max_in_flight=question.max_in_flight)
        await self._impose(easy, "compare: fifo, all wait, to see what is served")
        alone = []
        for number in range(plan.ALONE):
            self._message = f"a short request alone, {number + 1} of {plan.ALONE}"
            played = await self._play(mixture.single(question.mixture))
            alone += [record.e2e_s for record in played if record.outcome == "ok"]
        alone_s = statistics.median(alone) if alone else None
        self.say(f"A short request alone takes {seconds(alone_s)} end to end.")
        served: float | None = None
        rate = command.rate
        if rate is None:
            count = max(plan.LEAST_CALIBRATION, plan.CALIBRATION * question.max_in_flight)
            self._message = f"{count} requests at once, to see how many are served in a second"
            played = await self._play(mixture.at_once(question.mixture, count, question.seed))
            served = served_per_s(played, question.max_in_flight)
            if served is None:
                raise EndedError(f"Of {count} requests at once too few ended well to tell a rate; give --rate.")
            rate = float(digits(plan.LOAD * served).replace(" ", ""))
            self.say(f"Of {count} requests at once {digits(served)} were served in a second.")
        self.question = msgspec.structs.replace(
            question,
            rate_per_s=rate,
            seconds=command.seconds or plan.seconds_of(rate, question.rounds),
            served_per_s=served,
            alone_s=alone_s,
        )

    async def _measure(self, arm: int) -> None:
        """One run of one arm, which counts only when every request of its schedule has ended."""
        question = self.question
        name = question.arms[arm].name
        number = len(self.runs) + 1
        total = len(question.order)
        script = mixture.steady(question.mixture, question.rate_per_s, question.seconds, question.seed)
        if not script.requests:
            raise EndedError("At this rate no request comes within a run; give more --seconds.")
        await self._impose(self._policies[arm], f"compare: {name}, run {number} of {total}")
        before = await self._counters()
        self._message = f"run {number} of {total}: {name}"
        played = await self._play(script)
        after = await self._counters(settle=True)
        if not any(record.outcome == "ok" for record in played) or self._engine_is_gone():
            raise EndedError(f"The engine stopped answering in run {number} ({name}), which does not count.")
        origin = self._origin
        assert origin is not None
        mine = {record.request_id for record in played}
        others = sum(request_id not in mine for request_id in self._passages)
        gain = None if before is None or after is None or others else after.since(before)
        run = Run(
            arm=arm,
            planned=len(script.requests),
            seconds=round(max(record.done for record in played) - min(record.scheduled for record in played), 4),
            requests=[
                Measured.of(record, self._passages.get(record.request_id), origin)
                for record in sorted(played, key=lambda record: record.scheduled)
            ],
            text_seed=self._seeds,
            prefix_hit_share=None if gain is None else gain.prefix_hit_share,
            preemptions=None if gain is None else round(gain.preemptions),
            others=others,
        )
        self.runs.append(run)
        self.say(in_a_line(run, number, total, name))

    async def _play(self, script: Script) -> list[RequestRecord]:
        """Every request of the script, ended. Each playing has words, ids and a cache of its own."""
        self._seeds += 1
        self._records, self._passages = [], {}
        origin = self._origin = time.monotonic() + LEAD_S
        self._population.play(script, self._asking(), origin)
        planned = len(script.requests)
        seen, changed = 0, origin + script.requests[-1].at_s
        what = self._message
        while len(self._records) < planned:
            self._message = f"{what}: {len(self._records)} of {planned} have ended"
            await self._wait()
            if len(self._records) > seen:
                seen, changed = len(self._records), max(changed, time.monotonic())
            if time.monotonic() > changed + SILENT_S:
                raise EndedError(
                    f"{plural(planned - seen, 'request')} of {planned} did not end; the run does not count."
                )
        end = time.monotonic() + GATEWAY_S
        while time.monotonic() < end and any(
            record.sent is not None and record.request_id not in self._passages for record in self._records
        ):
            await self._wait()
        return list(self._records)

    def _asking(self) -> Profile:
        """The people's profile, with one turn, whole replies, and a salt that no other run has."""
        profile = self._profile
        sampling = msgspec.structs.replace(profile.sampling, ignore_eos=True, cache_salt=f"{self._salt}-{self._seeds}")
        context = msgspec.structs.replace(profile.mix, context=self._engine.context_tokens)
        return msgspec.structs.replace(
            profile,
            seed=self.question.seed + TEXT_SEEDS * self._seeds,
            turns=1.0,
            mix=context,
            sampling=sampling,
        )

    async def _impose(self, policy: Policy, why: str) -> None:
        """Returns once the gateway says that it holds."""
        self._hands.impose(policy, why)
        end = time.monotonic() + POLICY_S
        while (snapshot := self._seen()) is None or snapshot.queue.rules != policy:
            if time.monotonic() > end:
                raise EndedError(f"The gateway did not take the policy ({why}) within {POLICY_S:.0f} s.")
            await self._wait()

    def _engine_is_gone(self) -> bool:
        """One that somebody else started has no phase to tell it by."""
        snapshot = self._seen()
        return snapshot is not None and snapshot.engine.healthy is False

    async def _counters(self, *, settle: bool = False) -> Counters | None:
        """The engine's own; `settle`: once nothing runs there."""
        try:
            target = Target.parse(self._engine.url)
        except LoadError:
            return None
        end = time.monotonic() + COUNTERS_S
        while True:
            found = await fetch_counters(target)
            if not settle or found is None or not found.running or time.monotonic() > end:
                return found
            await self._wait()

    async def _wait(self) -> None:
        """A tick. Raises EndedError when the comparison must end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._stopped.wait()
        if self._stopped.is_set():
            raise EndedError(f"It was {self._why}.")
        if self._engine.phase != "ready":
            raise EndedError(f"The engine is {self._engine.phase}: the comparison cannot go on.")
        if self._hands.gateway_gone():
            raise EndedError("The gateway does not run: the comparison cannot go on.")
        if why := self._population.why_not:
            raise EndedError(why)


def served_per_s(played: list[RequestRecord], places: int) -> float | None:
    """Requests served in a second while more waited than had a place, from a burst: those that ended before the queue ran
    empty, over the time until then. Those in flight at that moment began at different times and count half; at the
    beginning nobody was under way. None where too few ended well."""
    ended = sorted(record.done for record in played if record.outcome == "ok")
    if not ended or len(ended) < ENOUGH_COMPLETED * len(played):
        return None
    full = ended[:-places] if len(ended) > places else ended
    length_s = full[-1] - min(record.scheduled for record in played)
    return (len(full) + (len(ended) - len(full)) / 2) / length_s if length_s > 0 else None


def in_a_line(run: Run, number: int, total: int, name: str) -> str:
    """What one run came to, for those who watch."""
    ok = sum(request.outcome == "ok" for request in run.requests)
    parts = []
    for kind, long in (("short", False), ("long", True)):
        ttfts = sorted(r.ttft_s for r in run.requests if r.long == long and r.ttft_s is not None)
        parts.append(f"{kind} {seconds(quantile(ttfts, 0.5)) if ttfts else ABSENT} (n={len(ttfts)})")
    return (
        f"run {number} of {total}  {name}: {ok} of {run.planned} ok, TTFT p50 {', '.join(parts)}; prefix hits "
        f"{share(run.prefix_hit_share)}"
    )
