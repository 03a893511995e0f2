"""The people of a stack: every command said to every worker, and what is wanted said to everybody else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from loadgen import commands as told
from loadgen.arrivals import Gamma, OnOff, Ramp, Replay
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import LoadRecord, RequestRecord
from loadgen.runner import WorkerSettings
from loadgen.slo import INTERACTIVE
from server import commands
from server.config import LoadSettings, Paths, StackSettings
from server.population import Population
from tests.fakes.known_server import KnownServer
from tests.fakes.waiting import until


@dataclass
class FakeEngine:
    """What the population asks of an engine."""

    phase: str = "ready"
    served_name: str = "m"
    context_tokens: int = 2048
    max_num_seqs: int | None = 8
    default_lengths: tuple[int, int] = (100, 40)
    ignores_eos: bool = True


class FakeChild:
    """A worker that remembers what it was told."""

    made: ClassVar[list[FakeChild]] = []

    def __init__(self, name: str, argv: Callable[[], Sequence[str]], **_: Any) -> None:
        self.name = name
        self.argv = argv
        self.told: list[Any] = []
        self.pid: int | None = None
        FakeChild.made.append(self)

    async def start(self) -> None:
        self.pid = 4000 + len(FakeChild.made)
        self.told.append(settings_of(self.argv()))

    def send(self, message: Any) -> bool:
        self.told.append(message)
        return True

    async def stop(self, timeout_s: float) -> None:
        self.pid = None


def settings_of(argv: Sequence[str]) -> WorkerSettings:
    return msgspec.json.decode(argv[argv.index("--settings") + 1], type=WorkerSettings)


@pytest.fixture
def fake_children(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    FakeChild.made = []
    monkeypatch.setattr("server.population.KeptChild", FakeChild)
    return FakeChild.made


def made(
    tmp_path: Path, url: str = "http://127.0.0.1:1", slo: str = "chat", lines: Any = None, **load: Any
) -> Population:
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    paths.logs.mkdir(exist_ok=True)
    return Population(
        StackSettings(load=LoadSettings(**load), slo=slo),
        paths,
        FakeEngine(),  # type: ignore[arg-type]
        url=lambda: url,
        on_line=lines or (lambda line: None),
        on_ended=lambda index, what: None,
    )


@pytest.fixture
def population(tmp_path: Path, fake_children: list[FakeChild]) -> Population:
    return made(tmp_path, people=10, workers=2)


async def test_before_the_engine_is_known_there_is_nobody(population: Population) -> None:
    assert "no people yet" in population.why_not
    await population.start()
    assert population.why_not == ""
    assert population.pids == [4001, 4002]
    FakeChild.made[1].pid = None
    assert "does not run" in population.why_not
    assert population.pids == [4001]


async def test_workers_start_with_all_that_is_wanted_and_know_their_part(
    tmp_path: Path, fake_children: list[FakeChild]
) -> None:
    population = made(
        tmp_path, people=10, slow=3, workers=2, seed=9, think_s=4.0, turns=2.0, weights={"patient": 4, "long": 1},
        slo="interactive",
    )  # fmt: skip
    await population.start()
    first, second = (child.told[0] for child in fake_children)
    assert msgspec.structs.replace(second, worker=0) == first
    assert (first.worker, second.worker, first.workers, first.model, first.slo) == (0, 1, 2, "m", INTERACTIVE)
    assert first.crowds == {"patient": 8, "long": 2, "slow": 3}
    profile = first.profile
    assert (profile.seed, profile.think_s, profile.turns, profile.sampling.ignore_eos) == (9, 4.0, 2.0, True)
    assert profile.mix == Mix.of(100, 40, 2048)
    assert fake_children[0].argv()[:3] == [sys.executable, "-m", "loadgen.worker"]
    wanted = population.wanted
    assert (wanted.wanted, wanted.extras, wanted.weights) == (10, {"slow": 3}, {"patient": 4, "long": 1})


async def test_people_are_sent_elsewhere_and_back_and_so_are_workers_who_come_back(
    tmp_path: Path, fake_children: list[FakeChild]
) -> None:
    population = made(tmp_path, url="http://127.0.0.1:1", workers=2)
    await population.start()

    def starts_at() -> list[str]:
        return [argv[argv.index("--url") + 1] for argv in (child.argv() for child in fake_children)]

    population.retarget("http://127.0.0.1:2")
    assert [child.told[-1] for child in fake_children] == [told.SetTarget("http://127.0.0.1:2")] * 2
    assert starts_at() == ["http://127.0.0.1:2"] * 2
    population.retarget(None)
    assert [child.told[-1] for child in fake_children] == [told.SetTarget("http://127.0.0.1:1")] * 2
    assert starts_at() == ["http://127.0.0.1:1"] * 2


async def test_lengths_and_a_rate_of_the_settings(tmp_path: Path, fake_children: list[FakeChild]) -> None:
    population = made(tmp_path, rate=3.0, prompt_tokens=7, output_tokens=5)
    await population.start()
    settings = fake_children[0].told[0]
    assert settings.arrivals.process == Gamma(3.0)
    assert settings.profile.mix == Mix.of(7, 5, 2048)
    assert population.is_open
    assert population.wanted.arrivals == "Poisson 3 /s"


async def test_a_preset_of_the_settings_is_picked_at_the_start(tmp_path: Path, fake_children: list[FakeChild]) -> None:
    population = made(tmp_path, preset="flash-crowd")
    await population.start()
    settings, *more = fake_children[0].told
    assert settings.crowds == {"patient": 10}
    assert more == [told.Flash(40)]
    assert population.wanted.preset == "flash-crowd"


@pytest.mark.parametrize(
    ("command", "expected", "kind", "text"),
    [
        (commands.People(count=4), told.SetCrowds({"patient": 4}), "people", "4 people"),
        (commands.People(delta=2), told.SetCrowds({"patient": 12}), "people", "12 people"),
        (commands.People(delta=-99), told.SetCrowds({}), "people", "0 people"),
        (commands.People(count=-3), told.SetCrowds({}), "people", "0 people"),
        (commands.Extra("slow"), told.SetCrowds({"patient": 10, "slow": 2}), "slow", "2 slow readers"),
        (commands.Extra("retrier", 5), told.SetCrowds({"patient": 10, "retrier": 5}), "retrier", "5 retriers"),
        (commands.Extra("patient", 5), told.SetCrowds({"patient": 15}), "patient", "5 more patient people"),
        (commands.Burst(), told.Burst(24), "burst", "burst +24"),
        (commands.Burst(7), told.Burst(7), "burst", "burst +7"),
        (commands.Leave(), told.Leave(16, "1", "rst"), "leaver", "16 leave after the first token by RST"),
        (
            *(commands.Leave(3, "50%", "half-close"), told.Leave(3, "50%", "half-close")),
            *("leaver", "3 leave at half of the reply by a half-close"),
        ),
        (commands.Stall(), told.Stall(16, 60.0), "staller", "16 stop reading, for 60 s at most"),
        (commands.Stall(2, 5.0), told.Stall(2, 5.0), "staller", "2 stop reading, for 5 s at most"),
        (commands.Flash(), told.Flash(24, 5.0, 3), "flash", "flash crowd of 24"),
        (commands.Flash(6, over_s=-1.0, asks=0), told.Flash(6, 0.0, 1), "flash", "flash crowd of 6"),
    ],
)
async def test_a_command_is_said_to_every_worker_as_a_whole(
    population: Population, command: Any, expected: told.LoadCommand, kind: str, text: str
) -> None:
    await population.start()
    change = population.change(command)
    assert (change.ok, change.kind, change.text) == (True, kind, text)
    for child in FakeChild.made:
        assert child.told[1:] == [expected]


async def test_an_extra_toggles(population: Population) -> None:
    await population.start()
    assert population.change(commands.Extra("abandoner")).text == "2 abandoners"
    assert population.wanted.extras == {"abandoner": 2}
    assert population.change(commands.Extra("abandoner")).text == "no abandoners"
    assert population.wanted.extras == {}
    assert FakeChild.made[0].told[-1] == told.SetCrowds({"patient": 10, "abandoner": 0})


async def test_weights_split_people_and_strangers(population: Population) -> None:
    await population.start()
    change = population.change(commands.Mix({"patient": 3.0, "slow": 1.0, "long": 0.0}))
    assert change.text == "mix patient 3, slow 1"
    assert told.SetCrowds({"patient": 8, "slow": 2}) in FakeChild.made[0].told
    population.change(commands.Open(OnOff(5.0)))
    *_, arrivals = FakeChild.made[1].told
    assert (arrivals.process, arrivals.weights) == (OnOff(5.0), {"patient": 3.0, "slow": 1.0})
    origin = arrivals.origin
    population.change(commands.Mix({}))
    *_, again = FakeChild.made[1].told
    assert (again.process, again.weights, again.origin) == (OnOff(5.0), {}, origin), "the schedule goes on"


async def test_an_open_loop_and_back(population: Population, tmp_path: Path) -> None:
    await population.start()
    change = population.change(commands.Open(Ramp(0.5, 4.0, 60.0)))
    assert "ramp 0.5 to 4 /s" in change.text
    first, second = (child.told[-1] for child in FakeChild.made)
    assert first == second
    assert settings_of(FakeChild.made[0].argv()).arrivals == first, "one that comes back goes on with it"
    assert population.change(commands.Open(None)).text == "people again"
    assert FakeChild.made[0].told[-1].process is None
    assert not population.is_open


async def test_what_people_ask_is_changed_within_the_context(population: Population) -> None:
    await population.start()
    profile = Profile(think_s=1.0, mix=Mix.of(50, 20, 100_000))
    change = population.change(commands.Ask(profile))
    assert change.text == "50/20 tokens, 3 turns, think 1 s"
    asked = FakeChild.made[0].told[-1].profile
    assert asked.mix.context == 2048
    assert msgspec.structs.replace(asked, mix=profile.mix) == profile
    assert population.wanted.profile == asked


async def test_a_preset_is_whole_and_a_change_by_hand_ends_it(population: Population) -> None:
    await population.start()
    population.change(commands.Extra("slow", 3))
    assert population.change(commands.Preset("lunch-rush")).text == "lunch rush"
    profile, crowds, arrivals = FakeChild.made[0].told[-3:]
    assert isinstance(profile, told.SetProfile)
    assert crowds == told.SetCrowds({}), "the extras are gone"
    assert arrivals.process == Ramp(0.5, 8.0, 120.0, 0.5)
    assert set(arrivals.weights) == {"patient", "abandoner", "retrier"}
    assert population.wanted.preset == "lunch-rush"
    population.change(commands.Preset("flash-crowd"))
    assert FakeChild.made[0].told[-1] == told.Flash(40)
    assert not population.is_open
    population.change(commands.People(count=3))
    assert population.wanted.preset == ""


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (commands.People(), "either a count or a delta"),
        (commands.People(count=1, delta=1), "either a count or a delta"),
        (commands.Extra("burst", 3), "Nobody can be kept as 'burst'"),
        (commands.Leave(0), "Between 1 and 1,000 clients"),
        (commands.Stall(1001), "Between 1 and 1,000 clients"),
        (commands.Stall(1, for_s=0.0), "They stall for up to 600 s"),
        (commands.Stall(1, for_s=float("nan")), "They stall for up to 600 s"),
        (commands.Mix({"patient": -1.0}), "'patient' cannot be carried out"),
        (commands.Mix({"flash": 1.0}), "'flash' cannot be carried out"),
        (commands.Open(Gamma(-1.0)), "cannot be sent"),
        (commands.Open(Replay("/nowhere/at/all")), "cannot be read (No such file"),
        (commands.Ask(Profile(turns=0.0)), "at least one turn"),
        (commands.Preset("replay"), "no preset 'replay'; there are one-chat, ten-friends"),
    ],
)
async def test_what_cannot_be_done_is_said_and_changes_nothing(population: Population, command: Any, part: str) -> None:
    await population.start()
    before = population.wanted
    change = population.change(command)
    assert not change.ok
    assert part in change.text
    assert change.kind == ""
    assert msgspec.structs.astuple(population.wanted) == msgspec.structs.astuple(before)
    assert len(FakeChild.made[0].told) == 1


async def test_a_trace_of_the_settings_is_a_preset(tmp_path: Path, fake_children: list[FakeChild]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,10,5\n")
    population = made(tmp_path, trace=str(trace))
    await population.start()
    assert population.change(commands.Preset("replay")).ok
    assert fake_children[0].told[-1].process == Replay(str(trace))


async def test_what_was_wanted_comes_back_after_a_search(population: Population) -> None:
    await population.start()
    population.change(commands.Preset("ten-friends"))
    population.change(commands.Extra("slow", 3))
    before = msgspec.structs.astuple(population.wanted)
    held = population.hold()
    population.freeze(Profile(seed=77))
    assert population.wanted.extras == {}
    population.set_people(64)
    assert FakeChild.made[0].told[-1] == told.SetCrowds({"patient": 64})
    population.renew(5)
    assert FakeChild.made[0].told[-1].profile.seed == 5
    population.release(held)
    assert msgspec.structs.astuple(population.wanted) == before
    assert told.SetCrowds({"patient": 10, "slow": 3}) in FakeChild.made[0].told[-3:]


async def test_real_workers_come_ask_and_leave(tmp_path: Path) -> None:
    records: list[LoadRecord] = []
    decoder = msgspec.json.Decoder(LoadRecord)
    async with KnownServer() as server:
        population = made(
            tmp_path,
            server.url,
            lines=lambda line: records.append(decoder.decode(line)),
            people=4,
            workers=2,
            think_s=0.05,
        )
        await population.start()
        try:

            def who() -> set[str]:
                return {r.person for r in records if isinstance(r, RequestRecord)}

            await until(lambda: who() == {f"patient-{n}" for n in range(1, 5)})
            population.change(commands.Burst(6))
            await until(lambda: who() >= {f"burst-{n}" for n in range(1, 7)})
        finally:
            await population.stop(10)
        assert population.pids == []
        await until(lambda: server.open_connections == 0)
