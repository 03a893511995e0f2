"""A comparison's load through the real gateway: who goes first, by counting; and a whole comparison on a real worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.arrivals import Script, ScriptedRequest
from loadgen.commands import SetArrivals, Stop
from loadgen.known import Server, listen
from loadgen.known_replies import Plan
from loadgen.records import LoadRecord, RequestRecord
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import Target
from server import commands
from server.compare.arm import parse_arm
from server.compare.result import load
from server.compare.runner import Comparer
from server.config import LoadSettings, Paths, StackSettings
from server.gateway.listener import Listener, bind
from server.gateway.policy import Policy
from server.gateway.records import GatewayRecord, SetPolicy
from server.gateway.relay import Gateway
from server.population import Population
from server.telemetry.snapshot import Queue, Snapshot
from tests.gateway.gateway_fakes import FakeEngine, Gate, running, until

SCRIPT = Script(
    [
        ScriptedRequest(
            at_s=0.0,
            prompt_tokens=400 if long else 40,
            output_tokens=2,
            client="batch" if long else f"user{number}",
            behaviour="long" if long else "patient",
            priority=1 if long else 0,
        )
        for number, long in enumerate([False, True, False, True, False, False, True, False])
    ]
)


@pytest.mark.parametrize("arm", ["shortest", "plain-priority", "fifo"])
async def test_who_goes_first_through_the_gateway(arm: str) -> None:
    """One place, and a request that holds it until all others wait: then only the policy says who goes next. By hand: under
    `shortest` and by priority no long one goes before a short one; under `fifo` all go as they came."""
    gate = Gate()
    policy = parse_arm(arm).policy(Policy(), 1)
    records: list[LoadRecord] = []
    async with FakeEngine(gate) as engine, running(engine.url, **msgspec.structs.asdict(policy)) as run:
        script = Script([msgspec.structs.replace(SCRIPT.requests[0], client="first"), *SCRIPT.requests])
        settings = WorkerSettings(model="m", arrivals=SetArrivals(script, origin=asyncio.get_running_loop().time()))
        runner = Runner(Target.parse(f"http://127.0.0.1:{run.port}"), settings, records.append)
        load = asyncio.create_task(runner.run())
        waiting = len(SCRIPT.requests)
        await until(lambda: run.gateway.queue().waiting == waiting and gate.came)
        came = [waiter.ticket for waiter in run.gateway.admission.line]
        while len(gate.came) <= waiting:
            done = len(gate.came)
            gate.open(gate.came[-1])
            await until(lambda done=done: len(gate.came) > done)  # type: ignore[misc]
        gate.open_all()
        await until(lambda: sum(isinstance(record, RequestRecord) for record in records) == waiting + 1)
        runner.apply(Stop())
        await load
        went = [await run.record(name) for name in gate.came[1:]]
    assert {record.outcome for record in records if isinstance(record, RequestRecord)} == {"ok"}
    if arm == "fifo":
        assert [(r.user, r.priority) for r in went] == [(ticket.user, ticket.priority) for ticket in came]
        return
    kinds = [record.priority for record in went]
    assert kinds == sorted(kinds), "no long one before a short one"
    assert 1 in kinds
    assert {record.order for record in went} == {policy.order}


class KnownEngine:
    phase = "ready"
    served_name = "known-timing"
    context_tokens = 2048
    max_num_seqs = 2
    default_lengths = (40, 32)
    ignores_eos = False

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"


class Hands:
    """A stack's, on a gateway of this very process."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.base = gateway.admission.policy

    def policy_in_force(self) -> Policy:
        return self.base

    def impose(self, policy: Policy | None, why: str) -> None:
        self.gateway.command(msgspec.convert((policy or self.base).whole().said(), SetPolicy))

    def note(self, text: str) -> None: ...

    def gateway_gone(self) -> bool:
        return False

    def seen(self) -> Snapshot:
        return Snapshot(seq=1, at=1.0, wall=1.0, queue=Queue(rules=self.gateway.admission.policy))


@contextlib.asynccontextmanager
async def real(tmp_path: Path) -> AsyncIterator[tuple[Comparer, Hands, Population]]:
    """The known-timing server, the gateway and a load worker, as a stack has them."""
    comparer: Comparer
    records: list[GatewayRecord] = []

    def passed(record: GatewayRecord) -> None:
        records.append(record)
        comparer.on_gateway(record)

    sock = listen()
    known = Server(sock, Plan(ttft_s=0.01, gap_s=0.001))
    engine: Any = KnownEngine(sock.getsockname()[1])
    gateway = Gateway(engine_url=engine.url, policy=Policy(order="fair", overload="shed", ageing_s=None), sink=passed)
    listener = Listener(gateway, bound := bind("127.0.0.1", 0))
    serving = asyncio.create_task(listener.run_until_stopped())
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    paths.make()
    population = Population(
        StackSettings(load=LoadSettings(people=1, think_s=0.1)),
        paths,
        engine,
        url=lambda: f"http://127.0.0.1:{bound.getsockname()[1]}",
        on_line=lambda line: comparer.on_load(msgspec.json.decode(line, type=LoadRecord)),
        on_ended=lambda what: None,
    )
    hands = Hands(gateway)
    comparer = Comparer(population, engine, hands, paths, seen=hands.seen)
    await population.start()
    try:
        yield comparer, hands, population
    finally:
        await population.stop(5.0)
        gateway.stop()
        listener.should_exit = True
        await serving
        known.close()


async def test_a_whole_comparison_conserves_its_requests_and_puts_all_back(tmp_path: Path) -> None:
    async with real(tmp_path) as (comparer, hands, population):
        before = msgspec.structs.astuple(population.wanted)
        change = comparer.change(commands.Compare(arms=["fifo", "plain-shortest"], rate=30.0, seconds=1.0))
        assert change.ok, change.text
        assert comparer.task is not None
        await comparer.task
        progress = comparer.progress
        assert progress is not None
        assert progress.phase == "done"
        assert "a short prompt waits" in progress.message
        comparison = load(Path(progress.saved))
        assert hands.gateway.admission.policy == hands.base
        assert msgspec.structs.astuple(population.wanted) == before
    assert [run.arm for run in comparison.runs] == [0, 1, 1, 0]
    planned = comparison.runs[0].planned
    assert planned > 10
    schedules = [[(r.at_s, r.long, r.completion_tokens) for r in run.requests] for run in comparison.runs]
    assert all(schedule == schedules[0] for schedule in schedules)
    for run in comparison.runs:
        assert (len(run.requests), run.planned, run.others) == (planned, planned, 0)
        assert all(r.outcome == "ok" and r.wait_s is not None and r.wait_s <= r.e2e_s for r in run.requests)


async def test_an_error_between_two_runs_leaves_the_policy_as_it_was(tmp_path: Path) -> None:
    async with real(tmp_path) as (comparer, hands, population):
        comparer.change(commands.Compare(arms=["fifo", "plain-shortest"], rate=30.0, seconds=1.0))
        await until(lambda: comparer.progress is not None and comparer.progress.runs == 1, 30.0)
        comparer._engine.phase = "down"
        assert comparer.task is not None
        await comparer.task
        progress = comparer.progress
        assert progress is not None
        assert progress.phase == "stopped"
        assert [run.arm for run in load(Path(progress.saved)).runs] == [0]
        assert hands.gateway.admission.policy == hands.base
        assert population.wanted.wanted == 1
