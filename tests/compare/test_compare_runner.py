"""A comparison inside a stack: what it does to people and policy, which runs count, and that all is as before after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from loadgen import commands as told
from loadgen.arrivals import Arrival, Gamma, Script, schedule
from loadgen.records import IntervalRecord, Outcome, RequestRecord
from server import commands
from server.compare import measuring
from server.compare.measuring import served_per_s
from server.compare.result import Comparison, load
from server.compare.runner import Comparer
from server.config import LoadSettings, Paths, StackSettings
from server.gateway.policy import Policy
from server.gateway.records import GatewayRecord
from server.population import Population
from server.telemetry.snapshot import Engine, Queue, Snapshot
from tests.fakes.waiting import until


class FakeEngine:
    phase = "ready"
    served_name = "m"
    url = "http://127.0.0.1:1"
    context_tokens = 2048
    max_num_seqs: int | None = 8
    default_lengths = (40, 32)
    ignores_eos = False


class ScriptedChild:
    """A worker that carries a script out in no time: short ones wait 1 s for their first token, long ones 2 s."""

    on_record: ClassVar[Callable[[Any], None]]
    on_passage: ClassVar[Callable[[GatewayRecord], None]]
    outcome: ClassVar[Callable[[Arrival], Outcome]]
    lost: ClassVar[int] = 0
    """Requests at the end of each script that never end."""
    others: ClassVar[int] = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.told: list[Any] = []
        self.pid: int | None = None
        self.playing: tuple[told.SetProfile, Script, float] | None = None

    async def start(self) -> None:
        self.pid = 1

    def send(self, message: Any) -> bool:
        self.told.append(message)
        if isinstance(message, told.SetProfile):
            self.profile = message.profile
        if isinstance(message, told.SetArrivals) and isinstance(message.process, Script):
            asyncio.get_running_loop().call_soon(self._play, message.process, message.origin)
        return True

    def _play(self, script: Script, origin: float) -> None:
        ScriptedChild.on_record(
            IntervalRecord(worker=0, at=1e12, mode="open", in_flight=0, scheduled_total=0, outcomes={})
        )
        arrivals = list(schedule(script, self.profile.seed))
        for arrival in arrivals[: len(arrivals) - ScriptedChild.lost]:
            due = origin + arrival.at_s
            waits = 2.0 if arrival.behaviour == "long" else 1.0
            outcome = ScriptedChild.outcome(arrival)
            name = f"{self.profile.sampling.cache_salt} {arrival.number}"
            ScriptedChild.on_record(
                RequestRecord(
                    request_id=name,
                    person=arrival.client,
                    behaviour=arrival.behaviour or "patient",
                    scheduled=due,
                    sent=due,
                    first_token=due + waits if outcome == "ok" else None,
                    last_token=due + waits + 0.5,
                    done=due + waits + 1.0,
                    outcome=outcome,
                    completion_tokens=11,
                )
            )
            ScriptedChild.on_passage(passage(name, due, waits))
        for number in range(ScriptedChild.others):
            ScriptedChild.on_passage(passage(f"other {number}", origin, 0.1))


def passage(name: str, at: float, waits: float) -> GatewayRecord:
    return GatewayRecord(
        request_id=name,
        trace_id="",
        route="/v1/chat/completions",
        stream=True,
        accepted=at,
        queued=at,
        admitted=at + waits / 2,
        done=at + waits,
        outcome="completed",
    )


class Bench:
    """A comparer with a population of one scripted worker, and the hands of a stack."""

    def __init__(self, population: Population, paths: Paths) -> None:
        self.engine = FakeEngine()
        self.population = population
        self.base = Policy(order="fair", overload="shed", deadline_s=99.0)
        self.imposed: list[Policy | None] = []
        self.notes: list[str] = []
        self.gone = False
        self.healthy = True
        self.takes = True
        """The gateway takes what is imposed."""
        self.on_impose: Callable[[], None] = lambda: None
        self.comparer = Comparer(population, self.engine, self, paths, seen=self.seen)  # type: ignore[arg-type]
        ScriptedChild.on_record = self.comparer.on_load
        ScriptedChild.on_passage = self.comparer.on_gateway

    @property
    def told(self) -> list[Any]:
        return self.population.workers[0].told  # type: ignore[attr-defined, no-any-return]

    def seen(self) -> Snapshot:
        rules = self.imposed[-1] if self.takes and self.imposed else None
        engine = Engine(healthy=self.healthy)
        return Snapshot(seq=1, at=1.0, wall=1_795_445_000.0, queue=Queue(rules=rules or self.base), engine=engine)

    def policy_in_force(self) -> Policy:
        return self.base

    def impose(self, policy: Policy | None, why: str) -> None:
        self.imposed.append(policy)
        self.on_impose()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def gateway_gone(self) -> bool:
        return self.gone

    async def run(self, **options: Any) -> Comparison | None:
        """Until it is over; what was saved."""
        asked: dict[str, Any] = {"arms": ["fifo", "shortest"], "rate": 5.0, "seconds": 4.0, **options}
        change = self.comparer.change(commands.Compare(**asked))
        assert (change.ok, change.kind) == (True, "compare"), change.text
        assert self.comparer.task is not None
        await self.comparer.task
        progress = self.comparer.progress
        assert progress is not None
        return load(Path(progress.saved)) if progress.saved else None


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("server.population.KeptChild", ScriptedChild)
    for name in ("LEAD_S", "TICK_S", "COUNTERS_S"):
        monkeypatch.setattr(measuring, name, 0.001)
    ScriptedChild.outcome = lambda arrival: "ok"
    ScriptedChild.lost = ScriptedChild.others = 0
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    engine: Any = FakeEngine()
    population = Population(
        StackSettings(load=LoadSettings(people=10, slow=2)),
        paths,
        engine,
        url=lambda: "http://x",
        on_line=lambda line: None,
        on_ended=lambda what: None,
    )
    await population.start()
    made = Bench(population, paths)
    original = made.population.set_aside

    def set_aside() -> None:
        original()
        made.comparer.on_load(
            IntervalRecord(worker=0, at=1e12, mode="closed", in_flight=0, scheduled_total=0, outcomes={})
        )

    monkeypatch.setattr(population, "set_aside", set_aside)
    yield made
    if made.comparer.task is not None:
        made.comparer.task.cancel()
        await asyncio.gather(made.comparer.task, return_exceptions=True)


def wanted(bench: Bench) -> tuple[Any, ...]:
    return msgspec.structs.astuple(bench.population.wanted)


async def test_runs_alternate_on_the_same_load_and_all_is_put_back(bench: Bench) -> None:
    before = wanted(bench)
    comparison = await bench.run()
    assert comparison is not None
    assert [run.arm for run in comparison.runs] == [0, 1, 1, 0]
    common: dict[str, Any] = {"overload": "shed", "deadline_s": 99.0, "max_in_flight": 8}
    fifo, shortest = Policy(**common), Policy(order="shortest", **common)
    assert bench.imposed == [Policy(overload="wait", max_in_flight=8), fifo, shortest, shortest, fifo, None]
    assert wanted(bench) == before
    assert told.SetCrowds({"patient": 10, "slow": 2}) in bench.told[-3:]
    loads = [[(r.at_s, r.long, r.outcome) for r in run.requests] for run in comparison.runs]
    assert all(load == loads[0] for load in loads)
    assert all(run.planned == len(run.requests) > 10 for run in comparison.runs)
    assert {r.wait_s for r in comparison.runs[0].requests} == {0.5, 1.0}
    assert comparison.question.alone_s == pytest.approx(2.0)
    assert comparison.ended == ""
    progress = bench.comparer.progress
    assert progress is not None
    assert (progress.phase, progress.runs, progress.runs_planned) == ("done", 4, 4)
    assert bench.notes == [progress.message]
    assert progress.message.startswith("No difference beyond the noise between runs: a short prompt waits 1 s")


async def test_each_run_has_a_salt_and_words_of_its_own_and_replies_of_full_length(bench: Bench) -> None:
    await bench.run()
    profiles = [message.profile for message in bench.told if isinstance(message, told.SetProfile)]
    played = [profile for profile in profiles if profile.sampling.cache_salt]
    assert len(played) == 3 + 4, "three alone, four runs"
    assert len({profile.sampling.cache_salt for profile in played}) == len({profile.seed for profile in played}) == 7
    assert all(profile.sampling.ignore_eos and profile.turns == 1.0 for profile in played)
    assert profiles[-1].sampling.cache_salt == ""


async def test_the_rate_is_a_little_more_than_was_served(bench: Bench) -> None:
    comparison = await bench.run(rate=None, seconds=None)
    assert comparison is not None
    # 24 at once: the 16 that end before the queue runs empty are short ones, which end after 2 s
    assert comparison.question.served_per_s == 10.0
    assert (comparison.question.rate_per_s, comparison.question.seconds) == (14.0, 16.0)


async def test_an_open_loop_comes_back(bench: Bench) -> None:
    bench.population.change(commands.Open(Gamma(2.0)))
    await bench.run()
    assert bench.population.wanted.arrivals == "Poisson 2 /s"


def _engine_dies(bench: Bench) -> None:
    bench.engine.phase = "failed"


def _gateway_dies(bench: Bench) -> None:
    bench.gone = True


def _stopped(bench: Bench) -> None:
    bench.comparer.change(commands.Compare(on=False))


def _breaks(bench: Bench) -> None:
    raise RuntimeError("a bug")


def _loses(bench: Bench) -> None:
    ScriptedChild.lost = 2


def _fails(bench: Bench) -> None:
    ScriptedChild.outcome = lambda arrival: "error"


def _ill(bench: Bench) -> None:
    bench.healthy = False


def _deaf(bench: Bench) -> None:
    bench.takes = False


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (_engine_dies, "The engine is failed: the comparison cannot go on."),
        (_gateway_dies, "The gateway does not run"),
        (_stopped, "It was stopped by hand."),
        (_breaks, "It failed (RuntimeError('a bug'))"),
        (_loses, "2 requests of"),
        (_fails, "The engine stopped answering in run 3 (shortest), which does not count."),
        (_ill, "The engine stopped answering in run 3"),
        (_deaf, "did not take the policy"),
    ],
)
async def test_whatever_ends_it_all_is_put_back_and_whole_runs_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: Callable[[Bench], None], says: str
) -> None:
    for name in ("SILENT_S", "POLICY_S"):
        monkeypatch.setattr(measuring, name, 0.05)
    monkeypatch.setattr(measuring, "GATEWAY_S", 0.0)
    before = wanted(bench)

    def impose() -> None:
        if len(bench.imposed) == 4 and bench.imposed[-1] is not None:
            what(bench)

    bench.on_impose = impose
    comparison = await bench.run()
    assert bench.imposed[-1] is None
    assert wanted(bench) == before
    progress = bench.comparer.progress
    assert progress is not None
    assert not bench.comparer.running
    assert progress.phase == "stopped"
    assert says in progress.message
    assert bench.notes == [progress.message]
    assert comparison is not None
    assert [run.arm for run in comparison.runs] == [0, 1]
    assert says in comparison.ended


async def test_without_a_whole_run_nothing_is_saved(bench: Bench) -> None:
    bench.on_impose = lambda: _stopped(bench)
    before = wanted(bench)
    assert await bench.run() is None
    assert (wanted(bench), bench.imposed[-1]) == (before, None)
    assert not list(bench.comparer._paths.comparisons.glob("*"))


async def test_a_stack_that_goes_down_puts_back_too(bench: Bench) -> None:
    ScriptedChild.lost = 1
    bench.comparer.change(commands.Compare(arms=["fifo", "shortest"], rate=5.0))
    await until(lambda: bench.imposed)
    assert bench.comparer.task is not None
    bench.comparer.task.cancel()
    await asyncio.gather(bench.comparer.task, return_exceptions=True)
    assert bench.imposed[-1] is None
    assert bench.population.wanted.wanted == 10


async def test_refusals_and_failures_are_counted_and_others_are_seen(bench: Bench) -> None:
    kinds: list[Outcome] = ["ok", "ok", "rejected", "error"]
    ScriptedChild.outcome = lambda arrival: kinds[arrival.number % 4]
    ScriptedChild.others = 3
    comparison = await bench.run()
    assert comparison is not None
    for run in comparison.runs:
        assert (run.others, run.prefix_hit_share) == (3, None)
        assert {request.outcome for request in run.requests} == {"ok", "rejected", "error"}
        assert len(run.requests) == run.planned


@pytest.mark.parametrize(
    ("options", "phase", "part"),
    [
        ({"on": False}, "ready", "No comparison runs."),
        ({}, "starting", "The engine is starting"),
        ({"arms": ["fifo"]}, "ready", "Give 2 to 6 policies"),
        (
            {"arms": ["fifo", "fifo:max-in-flight=8"]},
            "ready",
            "`fifo` and `fifo:max-in-flight=8` are the same policy here.",
        ),
        ({"arms": ["fifo", "shortest:limit=tokens"]}, "ready", "needs a token budget"),
        ({"rounds": 0}, "ready", "There are 1 to 20 rounds."),
        ({"seconds": 0.5}, "ready", "A run takes 1 s to an hour."),
        ({"rate": float("nan")}, "ready", "The rate is a number"),
        ({"max_in_flight": 0}, "ready", "Max-in-flight must be at least 1."),
        ({"short": [1]}, "ready", "two numbers of tokens"),
        ({"long": [9000, 10]}, "ready", "may not fit in the context of 2048"),
        ({"long_share": 2.0}, "ready", "between 0 and 1"),
    ],
)
async def test_what_cannot_be_compared_is_refused_and_nothing_is_touched(
    bench: Bench, options: dict[str, Any], phase: str, part: str
) -> None:
    bench.engine.phase = phase
    change = bench.comparer.change(commands.Compare(**{"arms": ["fifo", "shortest"], **options}))
    assert not change.ok
    assert part in change.text
    assert (bench.told, bench.imposed, bench.comparer.progress) == ([], [], None)


async def test_one_at_a_time(bench: Bench) -> None:
    ScriptedChild.lost = 1
    bench.comparer.change(commands.Compare(arms=["fifo", "shortest"]))
    assert bench.comparer.change(commands.Compare(arms=["fifo", "fair"])).text == "A comparison runs already."


@pytest.mark.parametrize(
    ("slots", "places", "why"), [(8, 8, "max-num-seqs"), (256, 16, "fewer"), (None, 16, "not known")]
)
async def test_so_few_are_in_flight_that_the_others_wait_at_the_gateway(
    bench: Bench, slots: int | None, places: int, why: str
) -> None:
    bench.engine.max_num_seqs = slots
    comparison = await bench.run(max_in_flight=None)
    assert comparison is not None
    assert comparison.question.max_in_flight == places
    assert why in comparison.question.why_in_flight


def test_the_rate_of_a_burst_is_that_of_the_time_in_which_all_places_are_taken() -> None:
    def ended(*times: float) -> list[RequestRecord]:
        return [
            RequestRecord(request_id="", person="", behaviour="patient", scheduled=10.0, done=10.0 + at, outcome="ok")
            for at in times
        ]

    assert served_per_s(ended(1.0, 2.0, 3.0, 4.0, 9.0, 30.0), 2) == (4 + 1) / 4.0
    assert served_per_s(ended(1.0, 2.0), 8) == 1.0
    assert served_per_s([], 8) is None
    failed = [msgspec.structs.replace(record, outcome="error") for record in ended(1.0, 1.0, 1.0)]
    assert served_per_s([*failed, *ended(1.0)], 1) is None


async def test_a_policy_that_cannot_be_put_back_keeps_nobody_away(bench: Bench) -> None:
    def impose() -> None:
        if bench.imposed[-1] is None:
            raise OSError("no gateway")

    bench.on_impose = impose
    before = wanted(bench)
    with pytest.raises(OSError, match="no gateway"):
        await bench.run()
    assert wanted(bench) == before
    assert not bench.comparer.running
