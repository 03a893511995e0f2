"""People and policy come back after whoever changed them for a while: when told, when not renewed, from an open loop too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from loadgen.arrivals import Gamma
from loadgen.profile import Profile
from server import commands
from server.config import Paths, StackSettings
from server.gateway import records as gateway
from server.gateway.policy import Policy, PolicyChange
from server.holding import Before, Holding
from server.population import Held, Population
from server.stack import Stack


class Child:
    """A worker, or the gateway, that takes note of what it is told."""

    def __init__(self, name: str = "", argv: Callable[[], Sequence[str]] = tuple, **_: Any) -> None:
        self.pid: int | None = 1
        self.told: list[Any] = []

    async def start(self) -> None: ...

    def send(self, command: Any) -> bool:
        self.told.append(command)
        return True

    @property
    def policy(self) -> Policy:
        """What a gateway would have in force."""
        policy = Policy()
        for command in self.told:
            if isinstance(command, gateway.SetPolicy):
                policy = policy.changed(command)
        return policy


ENGINE = SimpleNamespace(
    phase="ready",
    url="http://127.0.0.1:9",
    attached=False,
    served_name="m",
    context_tokens=2048,
    max_num_seqs=8,
    default_lengths=(100, 40),
    ignores_eos=True,
    comes_back=False,
)


class Measuring:
    """A search, or a comparison."""

    task = None
    progress = None

    def __init__(self, running: bool = False) -> None:
        self.running = running


@pytest.fixture
async def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr("server.population.KeptChild", Child)
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    made: Any = Stack(StackSettings(), paths)
    made._gateway, made._engine = Child(), ENGINE
    made._search, made._comparer = Measuring(), Measuring()
    made._population = Population(
        made.settings, paths, made._engine, url=str, on_line=lambda _: None, on_ended=lambda *_: None
    )
    await made._population.start()
    return made  # type: ignore[no-any-return]


async def changed_much(stack: Stack) -> None:
    """What a lesson may do."""
    for command in (
        commands.Preset("lunch-rush"),
        commands.Extra("slow", 5),
        commands.Policy(order="shortest", max_queue=4),
        commands.People(77),
    ):
        assert (await stack.execute(command)).ok


def wanted(stack: Stack) -> tuple[Any, ...]:
    return msgspec.structs.astuple(stack._population.wanted)


@pytest.mark.parametrize("open_loop", [False, True])
async def test_everything_comes_back_when_it_is_told(stack: Stack, open_loop: bool) -> None:
    await stack.execute(commands.Policy(order="fair"))
    await stack.execute(commands.Mix({"patient": 3, "abandoner": 1}))
    await stack.execute(commands.Extra("retrier", 2))
    if open_loop:
        await stack.execute(commands.Open(Gamma(3.0, 0.25)))
    before, policy = wanted(stack), stack._gateway.policy  # type: ignore[attr-defined]
    assert (await stack.execute(commands.Hold())).message == "People and policy are kept to come back to."
    await changed_much(stack)
    assert (await stack.execute(commands.Hold())).message == "Kept for longer."
    assert wanted(stack) != before
    assert (await stack.execute(commands.Hold(on=False))).message == "People and policy as they were before."
    assert wanted(stack) == before
    assert stack._gateway.policy == policy  # type: ignore[attr-defined]
    assert (stack._events[-1].kind, stack._events[-1].text) == ("load", "people and policy as they were before")
    again = await stack.execute(commands.Hold(on=False))
    assert (again.ok, again.message) == (True, "People and policy are as they were.")


async def test_what_nobody_renews_comes_back_by_itself_but_not_under_a_search(stack: Stack) -> None:
    before = wanted(stack)
    await stack.execute(commands.Hold(for_s=5.0))
    await changed_much(stack)
    await stack._put_back_what_lapsed()
    assert wanted(stack) != before
    stack._holding._until = 0.0
    stack._search = Measuring(True)  # type: ignore[assignment]
    await stack._put_back_what_lapsed()
    assert wanted(stack) != before
    stack._search = Measuring(False)  # type: ignore[assignment]
    await stack._put_back_what_lapsed()
    assert wanted(stack) == before


async def test_what_cannot_be_kept_is_said(stack: Stack) -> None:
    assert not (await stack.execute(commands.Hold(for_s=1.0))).ok
    stack._comparer = Measuring(True)  # type: ignore[assignment]
    assert (await stack.execute(commands.Hold())).message.startswith("A comparison runs")


def test_the_first_past_is_the_one_that_comes_back() -> None:
    holding = Holding()
    first = Before(Held(4, {}, Profile(), ""), PolicyChange())
    assert holding.hold(first, 10.0)
    assert not holding.hold(Before(Held(9, {}, Profile(), ""), PolicyChange()), 20.0)
    assert not holding.lapsed(19.0)
    assert holding.lapsed(20.0)
    assert holding.release() is first
    assert holding.release() is None
    assert not holding.lapsed(99.0)
