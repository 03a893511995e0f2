"""What the stack makes of policy commands, and what a snapshot says of the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from server import commands
from server.config import EngineKnobs, Paths, StackSettings
from server.engine.errors import EngineError
from server.gateway import records as gateway
from server.gateway.policy import Policy, PolicyChange
from server.stack import Stack
from server.telemetry.exposition import Sample
from server.telemetry.gateway_series import PREFIX, GatewaySeries
from server.telemetry.snapshot import Engine, Snapshot, Value


class Gate:
    """The gateway's process, as far as the stack talks to it."""

    def __init__(self) -> None:
        self.pid: int | None = 1
        self.told: list[Any] = []

    def send(self, command: Any) -> None:
        self.told.append(command)

    @property
    def policy(self) -> Policy:
        """What it would have in force."""
        policy = Policy()
        for command in self.told:
            if isinstance(command, gateway.SetPolicy):
                policy = policy.changed(command)
        return policy


class TunedEngine:
    url = "http://127.0.0.1:9"
    phase = "ready"
    attached = False
    max_num_seqs = 8
    comes_back = False

    def __init__(self) -> None:
        self.knobs: list[EngineKnobs] = []

    def tune(self, knobs: EngineKnobs) -> None:
        if knobs.max_num_queued_reqs is not None:
            raise EngineError("vLLM 0.24.0 has no --max-num-queued-reqs; 0.32 or newer is needed.")
        self.knobs.append(knobs)

    async def restart(self, kind: str = "process") -> None: ...


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    made._gateway = Gate()  # type: ignore[assignment]
    made._engine = TunedEngine()  # type: ignore[assignment]
    return made


def gate(stack: Stack) -> Gate:
    return stack._gateway  # type: ignore[return-value]


def knows_kv(stack: Stack, tokens: float | None) -> None:
    stack._feed.latest = Snapshot(seq=1, at=0.0, wall=0.0, engine=Engine(kv_tokens=Value(v=tokens)))


async def test_a_policy_goes_to_the_gateway_and_onto_the_charts(stack: Stack) -> None:
    answer = await stack.execute(commands.Policy(order="shortest", ageing_s=0))
    assert (answer.ok, answer.message) == (True, "Policy shortest first, no ageing.")
    assert gate(stack).policy == Policy(order="shortest", ageing_s=None, max_in_flight=8)
    event = stack._events[-1]
    assert (event.kind, event.mark, event.text) == ("policy", "p", "policy shortest first, no ageing")


async def test_changes_add_up_and_limits_are_part_of_them(stack: Stack) -> None:
    await stack.execute(commands.Policy(order="fair", overload="shed"))
    await stack.execute(commands.Limits(max_in_flight=3))
    await stack.execute(commands.Policy(max_queue=5))
    expected = Policy(order="fair", overload="shed", max_in_flight=3, max_queue=5)
    assert gate(stack).policy == expected
    gate(stack).told.clear()
    stack._tell_gateway()  # as to a gateway that was started again
    assert gate(stack).policy == expected


async def test_what_is_imposed_goes_before_what_was_told_and_comes_off_without_a_trace(stack: Stack) -> None:
    await stack.execute(commands.Policy(order="fair", max_queue=5))
    before = gate(stack).policy
    told: list[Any] = []
    for policy in (Policy(order="shortest", ageing_s=None, overload="shed", deadline_s=2.0), Policy(max_in_flight=3)):
        stack.impose(policy, "compare")
        assert gate(stack).policy == policy
        assert (await stack.execute(commands.Policy(order="fifo"))).message.startswith("A comparison runs")
        assert (await stack.execute(commands.Limits(max_queue=1))).message.startswith("A comparison runs")
        told, gate(stack).told = gate(stack).told, []
        stack._tell_gateway()  # as to a gateway that was started again
        assert gate(stack).policy == policy
        gate(stack).told = told + gate(stack).told
    assert stack.policy_in_force() == before
    stack.impose(None, "as it was")
    assert gate(stack).policy == before
    assert (await stack.execute(commands.Policy(order="fifo"))).ok
    assert [event.text for event in stack._events][-2:] == ["as it was", "policy first come first served"]


async def test_settings_hold_until_somebody_says_otherwise(stack: Stack) -> None:
    stack.settings = msgspec.structs.replace(stack.settings, policy=PolicyChange(order="priority", deadline_s=9))
    stack._tell_gateway()
    assert (gate(stack).policy.order, gate(stack).policy.deadline_s) == ("priority", 9)
    await stack.execute(commands.Policy(deadline_s=0))
    assert (gate(stack).policy.order, gate(stack).policy.deadline_s) == ("priority", None)


async def test_a_token_budget_is_the_kv_caches_size_unless_told(stack: Stack) -> None:
    answer = await stack.execute(commands.Policy(limit="tokens"))
    assert (answer.ok, "not known yet" in answer.message) == (False, True)
    assert gate(stack).told == []
    knows_kv(stack, 5000.0)
    assert (await stack.execute(commands.Policy(limit="tokens"))).ok
    assert gate(stack).policy.token_budget == 5000
    knows_kv(stack, 7000.0)  # of an engine that was started again
    stack._tell_gateway()
    assert gate(stack).policy.token_budget == 7000
    await stack.execute(commands.Policy(token_budget=100))
    assert gate(stack).policy.token_budget == 100
    await stack.execute(commands.Policy(token_budget=0))
    assert gate(stack).policy.token_budget == 7000


async def test_a_stack_that_begins_by_tokens_counts_places_until_it_knows_them(stack: Stack) -> None:
    stack.settings = msgspec.structs.replace(stack.settings, policy=PolicyChange(limit="tokens"))
    stack._tell_gateway()
    assert gate(stack).policy.limit == "in-flight"
    knows_kv(stack, 5000.0)
    stack._tell_gateway()
    assert (gate(stack).policy.limit, gate(stack).policy.token_budget) == ("tokens", 5000)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (commands.Policy(), "Nothing of the policy was named."),
        (commands.Policy(max_in_flight=0), "Max in-flight must be at least 1, not 0."),
        (commands.Policy(max_wait_s=-1), "Max wait must be over 0 s, not -1."),
    ],
)
async def test_a_policy_that_cannot_work_is_refused_in_a_sentence(
    stack: Stack, command: commands.Policy, said: str
) -> None:
    answer = await stack.execute(command)
    assert (answer.ok, answer.message) == (False, said)
    assert gate(stack).told == []


async def test_no_policy_without_a_gateway(stack: Stack) -> None:
    gate(stack).pid = None
    assert (await stack.execute(commands.Policy(order="fair"))).message == "The gateway does not run."


async def test_knobs_restart_the_engine_and_say_so(stack: Stack) -> None:
    answer = await stack.execute(commands.Knobs(scheduling_policy="priority", chunked_prefill=False))
    assert answer.ok
    assert answer.message == (
        "Cold restart (process-cold) with --scheduling-policy priority --no-enable-chunked-prefill."
    )
    assert stack._restarting is not None
    await stack._restarting
    await stack.execute(commands.Knobs(max_num_batched_tokens=512))
    engine: TunedEngine = stack._engine  # type: ignore[assignment]
    assert engine.knobs[-1] == EngineKnobs(
        scheduling_policy="priority", chunked_prefill=False, max_num_batched_tokens=512
    )
    assert [event.kind for event in stack._events] == ["policy", "restart"] * 2
    assert stack._restarting is not None
    await stack._restarting


async def test_knobs_that_cannot_be_had_restart_nothing(stack: Stack) -> None:
    engine: TunedEngine = stack._engine  # type: ignore[assignment]
    for command, why in (
        (commands.Knobs(), "changes nothing"),
        (commands.Knobs(max_num_batched_tokens=0), "at least 1"),
        (commands.Knobs(max_num_queued_reqs=9), "0.32 or newer"),
    ):
        answer = await stack.execute(command)
        assert not answer.ok
        assert why in answer.message
    engine.phase = "starting"
    assert "wait for it" in (await stack.execute(commands.Knobs(scheduling_policy="fcfs"))).message
    engine.attached = True
    assert "Somebody else" in (await stack.execute(commands.Knobs(scheduling_policy="fcfs"))).message
    assert engine.knobs == []
    assert stack.settings.knobs == EngineKnobs()


def sample(name: str, value: float) -> Sample:
    return Sample(PREFIX + name, {}, value)


def test_the_queue_says_its_rules_who_waits_and_for_what() -> None:
    series = GatewaySeries()
    queued = gateway.QueuedRequest("r1", "ann", 2, 100, 50, waited_s=1.5, aged=True)
    flying = gateway.FlyingRequest("r0", "bob", 3.0, first_token=3.5)
    policy = Policy(order="shortest", ageing_s=None, limit="tokens", token_budget=900)
    series.on_line(gateway.QueueRecord(at=9.0, policy=policy, waiting=1, why="tokens", first=[queued], flying=[flying]))
    series.add(
        10.0,
        [
            sample("queue_depth", 1),
            sample("limit", 8),
            sample("token_budget", 900),
            sample("tokens_in_flight", 850),
            sample("estimated_wait_seconds", 2.5),
            sample("drain_rate", 0.4),
            sample("waiting_users", 1),
        ],
    )
    queue = series.queue("http://g", "fifo", 10.0)
    assert (queue.policy, queue.rules, queue.why, queue.first) == ("plain shortest", policy, "tokens", [queued])
    assert queue.first_age_s == 1.0
    assert queue.flying == [flying]
    figures = (queue.limit, queue.token_budget, queue.tokens_in_flight, queue.estimated_wait_s, queue.drain_per_s)
    assert [value.v for value in figures] == [8, 900, 850, 2.5, 0.4]


def test_a_figure_that_means_nothing_now_is_absent_not_old() -> None:
    series = GatewaySeries()
    series.add(10.0, [sample("estimated_wait_seconds", 2.5), sample("limit", 8)])
    series.add(11.0, [sample("limit", 8)])
    queue = series.queue("http://g", "fifo", 11.0)
    assert queue.estimated_wait_s.v is None
    assert queue.estimated_wait_s.why == "no rate is known yet"
    assert (queue.rules, queue.why, queue.first_age_s) == (None, "", None)
