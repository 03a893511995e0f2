"""A capacity search inside a stack: who may start one, what it does to the people, and that all is as before after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.arrivals import Gamma
from loadgen.capacity import Progress
from loadgen.commands import SetCrowds
from loadgen.slo import CHAT, INTERACTIVE
from server import commands
from server.config import LoadSettings, Paths, StackSettings
from server.population import Population
from server.search import CapacitySearch, in_evidence
from server.telemetry.snapshot import Engine, Gpu, Host, Quantiles, Queue, Snapshot, Value, Verdict
from tests.fakes.waiting import until


class FakeEngine:
    phase = "ready"
    served_name = "m"
    context_tokens = 2048
    max_num_seqs = 8
    default_lengths = (100, 40)
    ignores_eos = False


class FakeChild:
    """A worker that remembers what it was told."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.told: list[Any] = []
        self.pid: int | None = None

    async def start(self) -> None:
        self.pid = 1

    def send(self, message: Any) -> bool:
        self.told.append(message)
        return True


class Bench:
    """A search on a population of a fake worker."""

    def __init__(self, population: Population) -> None:
        self.engine = FakeEngine()
        self.population = population
        self.snapshot: Snapshot | None = None
        self.ended: list[Progress] = []
        self.search = CapacitySearch(
            population,
            self.engine,  # type: ignore[arg-type]
            seen=lambda: self.snapshot,
            ended=self.ended.append,
        )

    @property
    def told(self) -> list[Any]:
        return self.population.workers[0].told  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("server.population.KeptChild", FakeChild)
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    engine: Any = FakeEngine()
    settings = StackSettings(load=LoadSettings(people=10, weights={"patient": 4.0, "long": 1.0}))
    population = Population(
        settings, paths, engine, url=lambda: "http://x", on_line=lambda line: None, on_ended=lambda index, what: None
    )
    await population.start()
    made = Bench(population)
    yield made
    if made.search.task is not None:
        made.search.task.cancel()
        await asyncio.gather(made.search.task, return_exceptions=True)


async def test_a_search_freezes_the_question_and_steps_the_people(bench: Bench) -> None:
    bench.population.change(commands.Extra("slow", 3))
    change = bench.search.change(commands.Capacity(careful=True, cap_s=120.0), CHAT)
    assert (change.ok, change.kind) == (True, "capacity")
    assert bench.search.running
    await until(lambda: SetCrowds({"patient": 3, "long": 1}) in bench.told, "the first step")
    progress = bench.search.progress
    assert progress is not None
    question = progress.question
    assert (question.slo, question.careful, question.cap_s, question.think_s) == (CHAT, True, 120.0, 8.0)
    assert question.mix == "100/40 tokens, 3 turns; patient 4, long 1"
    salt = bench.population.profile.sampling.cache_salt
    assert salt.startswith("capacity-")
    assert progress.people == 4
    assert bench.population.wanted.extras == {}
    assert not bench.search.change(commands.Capacity(), CHAT).ok, "one at a time"


async def test_it_is_stopped_by_hand_and_all_is_as_before(bench: Bench) -> None:
    before = msgspec.structs.astuple(bench.population.wanted)
    bench.search.change(commands.Capacity(slo="interactive"), CHAT)
    await until(lambda: SetCrowds({"patient": 3, "long": 1}) in bench.told)
    assert bench.search.change(commands.Capacity(on=False), CHAT).ok
    assert bench.search.task is not None
    await bench.search.task
    assert not bench.search.running
    (progress,) = bench.ended
    assert progress is bench.search.progress
    assert (progress.phase, progress.message, progress.question.slo) == ("stopped", "stopped by hand", INTERACTIVE)
    assert msgspec.structs.astuple(bench.population.wanted) == before
    assert SetCrowds({"patient": 8, "long": 2}) in bench.told[-3:]
    assert not bench.search.change(commands.Capacity(on=False), CHAT).ok
    assert bench.search.change(commands.Capacity(), CHAT).ok, "another one may follow"


async def test_each_search_has_a_salt_of_its_own(bench: Bench) -> None:
    salts = set()
    for _ in range(2):
        bench.search.change(commands.Capacity(), CHAT)
        salts.add(bench.population.profile.sampling.cache_salt)
        bench.search.change(commands.Capacity(on=False), CHAT)
        assert bench.search.task is not None
        await bench.search.task
        assert bench.population.profile.sampling.cache_salt == ""
    assert len(salts) == 2


@pytest.mark.parametrize("what", ["the engine", "the workers"])
async def test_it_ends_when_there_is_nothing_left_to_measure(bench: Bench, what: str) -> None:
    bench.search.change(commands.Capacity(), CHAT)
    if what == "the engine":
        bench.engine.phase = "failed"
    else:
        bench.population.workers[0].pid = None  # type: ignore[misc]
    assert bench.search.task is not None
    await bench.search.task
    (progress,) = bench.ended
    assert progress.phase == "stopped"
    assert progress.message == (
        "The engine is failed: the search cannot go on."
        if what == "the engine"
        else "The load generator does not run; see `spark-serve logs load`."
    )


@pytest.mark.parametrize(
    ("command", "phase", "part"),
    [
        (commands.Capacity(on=False), "ready", "No capacity search runs"),
        (commands.Capacity(), "starting", "The engine is starting"),
        (commands.Capacity(slo="poetry"), "ready", "no SLO 'poetry'; there are chat, interactive"),
        (commands.Capacity(cap_s=5.0), "ready", "at least 30 s"),
        (commands.Capacity(cap_s=float("nan")), "ready", "at least 30 s"),
    ],
)
async def test_who_may_not_start_one(bench: Bench, command: commands.Capacity, phase: str, part: str) -> None:
    bench.engine.phase = phase
    change = bench.search.change(command, CHAT)
    assert not change.ok
    assert part in change.text
    assert not bench.search.running
    assert bench.search.progress is None
    assert bench.told == []


async def test_an_open_loop_has_no_people_to_count(bench: Bench) -> None:
    bench.population.change(commands.Open(Gamma(2.0)))
    assert "open loop" in bench.search.change(commands.Capacity(), CHAT).text


def value(v: float | None) -> Value:
    return Value(v=v)


SEEN = Snapshot(
    seq=1,
    at=1.0,
    wall=1.0,
    verdict=Verdict(word="BENDING", attainment=Value()),
    engine=Engine(running=value(64), max_num_seqs=value(64), kv_usage=value(0.134), preemptions_per_min=value(3.0)),
    queue=Queue(depth=value(12), wait_s=Quantiles(mean=3.61)),
    gpus=[Gpu(index=0, name="g", tensor=value(0.38))],
    host=Host(cpu_share=value(0.9)),
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "64 of 64 slots, KV 13%, 12 in the queue, waiting 3.6 s, 3 preemptions/min, tensor 38%"),
        ({"gpus": [], "queue": Queue()}, "64 of 64 slots, KV 13%, 3 preemptions/min, CPU 90%"),
        ({"gpus": [Gpu(index=0, name="g")], "queue": Queue(), "engine": Engine(running=value(3))}, ""),
        ({"gpus": [], "queue": Queue(), "host": Host(), "engine": Engine(kv_usage=value(0.0))}, "KV 0%"),
    ],
)
def test_what_is_seen_in_words(changes: dict[str, Any], expected: str) -> None:
    assert in_evidence(msgspec.structs.replace(SEEN, **changes)) == expected


async def test_what_is_seen_is_the_latest_snapshot(bench: Bench) -> None:
    assert bench.search.evidence() == ""
    bench.snapshot = SEEN
    assert bench.search.evidence().startswith("64 of 64 slots")
