from __future__ import annotations

from typing import Any

import msgspec
import pytest
import samples

from console.rules import (
    KNOBS,
    NOT_OURS,
    NOTHING_CHANGED,
    RULES,
    UNKNOWN,
    Draft,
    changed,
    drafted,
    in_play,
    ordered,
    rows,
    taken,
    wont_start,
)
from server import commands
from server.config import EngineKnobs
from server.gateway.policy import Policy, PolicyChange, difference, waits_for_ever
from server.telemetry.snapshot import Snapshot, Value

KV = 40_000


def stack(policy: Policy | None = None, knobs: EngineKnobs | None = None, **engine: Any) -> Snapshot:
    """A CPU stack with 8 slots under this policy."""
    told = {
        "argv": [],
        "kv_tokens": Value(KV),
        "max_num_seqs": Value(8),
        "max_num_batched_tokens": Value(2048),
        **engine,
    }
    return samples.change(
        samples.LOADED,
        queue={"rules": policy or Policy(max_in_flight=8)},
        engine={"knobs": knobs or EngineKnobs(), **told},
    )


def stepped(snapshot: Snapshot, *steps: tuple[str, int], draft: Draft | None = None) -> Draft:
    after = draft or Draft()
    for row, sign in steps:
        made = changed(snapshot, after, row, sign)
        assert isinstance(made, Draft), made
        after = made
    return after


def test_every_field_of_a_policy_is_a_row() -> None:
    named = {row.replace("-", "_") for row in RULES}
    assert {name.removesuffix("_s") for name in Policy.__struct_fields__} == named
    assert {row.replace("-", "_") for row in KNOBS} == set(EngineKnobs.__struct_fields__)


@pytest.mark.parametrize(
    ("policy", "idle"),
    [
        (Policy(), {"ageing", "token-budget", "ttft-target", "tpot-target", "max-wait"}),
        (Policy(order="fair", limit="adaptive"), {"token-budget", "max-wait"}),
        (
            Policy(order="shortest", limit="tokens", token_budget=9, overload="wait"),
            {"ttft-target", "tpot-target", "max-queue", "max-wait"},
        ),
        (Policy(overload="estimate"), {"ageing", "token-budget", "ttft-target", "tpot-target"}),
    ],
)
def test_only_rules_in_play_can_be_chosen(policy: Policy, idle: set[str]) -> None:
    assert {row for row in RULES if not in_play(policy, row)} == idle
    assert rows(policy) == [row for row in RULES if row not in idle] + list(KNOBS)


def test_orders_go_round_with_the_plain_ones_as_the_lesson() -> None:
    snapshot, draft, seen = stack(Policy(ageing_s=60.0)), Draft(), []
    for _ in range(6):
        draft = stepped(snapshot, ("order", 1), draft=draft)
        policy = drafted(snapshot, draft)
        assert policy is not None
        seen.append((policy.order, policy.ageing_s, bool(waits_for_ever(policy))))
    assert seen == [
        ("shortest", 60.0, False),
        ("shortest", None, True),
        ("priority", 60.0, False),
        ("priority", None, True),
        ("fair", 60.0, False),
        ("fifo", 60.0, False),
    ]
    assert draft == Draft(), "what was changed back is no change"


def test_orders_go_round_backwards_too() -> None:
    assert stepped(stack(), ("order", -1)).policy == PolicyChange(order="fair")


@pytest.mark.parametrize(
    ("policy", "row", "sign", "change"),
    [
        (Policy(), "max-in-flight", 1, PolicyChange(max_in_flight=96)),
        (Policy(max_in_flight=9), "max-in-flight", -1, PolicyChange(max_in_flight=8)),
        (Policy(max_in_flight=1), "max-in-flight", -1, PolicyChange()),
        (Policy(max_queue=4), "max-queue", -1, PolicyChange(max_queue=0)),
        (Policy(), "ageing", 1, PolicyChange(ageing_s=60.0)),
        (Policy(ageing_s=120.0), "ageing", 1, PolicyChange(ageing_s=0)),
        (Policy(ageing_s=None), "ageing", 1, PolicyChange()),
        (Policy(ageing_s=None), "ageing", -1, PolicyChange(ageing_s=120.0)),
        (Policy(), "queue-timeout", -1, PolicyChange(queue_timeout_s=300.0)),
        (Policy(deadline_s=2.0), "deadline", -1, PolicyChange()),
        (Policy(keep_alive_s=30.0), "keep-alive", 1, PolicyChange(keep_alive_s=0)),
        (Policy(), "max-wait", 1, PolicyChange(max_wait_s=60.0)),
        (Policy(max_wait_s=120.0), "max-wait", 1, PolicyChange()),
        (Policy(), "ttft-target", -1, PolicyChange(ttft_target_s=0.5)),
        (Policy(), "tpot-target", 1, PolicyChange(tpot_target_s=0.5)),
        (Policy(), "hold", 1, PolicyChange(hold=False)),
        (Policy(), "overload", -1, PolicyChange(overload="wait")),
        (Policy(), "overload", 1, PolicyChange(overload="estimate")),
        (Policy(limit="tokens", token_budget=KV), "token-budget", -1, PolicyChange(token_budget=35_000)),
        (Policy(limit="tokens", token_budget=KV), "token-budget", 1, PolicyChange()),
        (Policy(limit="tokens", token_budget=900), "token-budget", -1, PolicyChange()),
        (Policy(limit="tokens", token_budget=900), "limit", -1, PolicyChange(limit="in-flight")),
    ],
)
def test_a_step_goes_along_its_ladder_and_ends_at_its_end(
    policy: Policy, row: str, sign: int, change: PolicyChange
) -> None:
    assert stepped(stack(policy), (row, sign)).policy == change


def test_the_engines_slots_are_a_rung_of_max_in_flight() -> None:
    assert stepped(
        stack(Policy(max_in_flight=12), max_num_seqs=Value(14)), ("max-in-flight", 1)
    ).policy == PolicyChange(max_in_flight=14)


def test_the_limit_by_tokens_offers_the_kv_cache_and_leaves_it_to_the_stack() -> None:
    snapshot = stack()
    draft = stepped(snapshot, ("limit", 1))
    policy = drafted(snapshot, draft)
    assert policy is not None
    assert (policy.limit, policy.token_budget) == ("tokens", KV)
    assert taken(snapshot, draft, "limit") == commands.Policy(limit="tokens", token_budget=0)
    smaller = stepped(snapshot, ("token-budget", -1), ("token-budget", -1), draft=draft)
    assert taken(snapshot, smaller, "limit") == commands.Policy(limit="tokens", token_budget=30_000)


def test_without_a_known_kv_cache_a_budget_is_given() -> None:
    snapshot = stack(kv_tokens=Value(None))
    assert stepped(snapshot, ("limit", 1)).policy == PolicyChange(limit="tokens", token_budget=1024)
    assert stepped(snapshot, ("limit", 1), ("token-budget", 1)).policy.token_budget == 2048


@pytest.mark.parametrize("policy", [Policy(), Policy(order="shortest", ageing_s=None, deadline_s=30.0)])
def test_a_difference_makes_the_one_of_the_other(policy: Policy) -> None:
    other = Policy(order="fair", limit="tokens", token_budget=7, hold=False, keep_alive_s=5.0, deadline_s=None)
    assert policy.changed(difference(policy, other)) == other
    assert other.changed(difference(other, policy)) == policy
    assert difference(policy, policy) == PolicyChange()


def test_all_that_changed_is_taken_as_one_command() -> None:
    snapshot = stack()
    draft = stepped(snapshot, ("order", 1), ("max-queue", -1), ("hold", 1))
    assert taken(snapshot, draft, "order") == commands.Policy(order="shortest", max_queue=128, hold=False)
    assert taken(snapshot, Draft(), "order") == NOTHING_CHANGED


def test_somebody_elses_change_meanwhile_stays() -> None:
    draft = stepped(stack(), ("order", 1))
    after = stack(Policy(max_in_flight=8, max_queue=16))
    assert drafted(after, draft) == Policy(order="shortest", max_in_flight=8, max_queue=16)
    assert taken(after, draft, "order") == commands.Policy(order="shortest")


def test_nothing_can_be_changed_before_the_gateway_told() -> None:
    silent = samples.change(samples.LOADED, queue={"rules": None})
    assert changed(silent, Draft(), "order", 1) == UNKNOWN
    assert drafted(silent, Draft()) is None


@pytest.mark.parametrize(
    ("knobs", "row", "sign", "after"),
    [
        (EngineKnobs(), "scheduling-policy", 1, EngineKnobs(scheduling_policy="priority")),
        (EngineKnobs(scheduling_policy="priority"), "scheduling-policy", 1, EngineKnobs(scheduling_policy="fcfs")),
        (EngineKnobs(), "chunked-prefill", 1, EngineKnobs(chunked_prefill=False)),
        (EngineKnobs(chunked_prefill=False), "chunked-prefill", -1, EngineKnobs(chunked_prefill=True)),
        (EngineKnobs(), "max-num-batched-tokens", -1, EngineKnobs(max_num_batched_tokens=1024)),
        (EngineKnobs(max_num_batched_tokens=128), "max-num-batched-tokens", -1, EngineKnobs()),
        (EngineKnobs(), "max-num-queued-reqs", -1, EngineKnobs(max_num_queued_reqs=512)),
        (EngineKnobs(max_num_queued_reqs=8), "max-num-queued-reqs", -1, EngineKnobs(max_num_queued_reqs=4)),
    ],
)
def test_a_step_of_a_knob(knobs: EngineKnobs, row: str, sign: int, after: EngineKnobs) -> None:
    assert stepped(stack(knobs=knobs), (row, sign)).knobs == after


def test_knobs_are_taken_as_a_set_and_only_on_their_rows() -> None:
    snapshot = stack()
    draft = stepped(snapshot, ("scheduling-policy", 1), ("max-num-batched-tokens", 1), ("order", 1))
    wanted = commands.Knobs(scheduling_policy="priority", max_num_batched_tokens=4096)
    assert taken(snapshot, draft, "chunked-prefill") == wanted
    assert taken(snapshot, draft, "order") == commands.Policy(order="shortest")
    back = stepped(snapshot, ("max-num-batched-tokens", -1), draft=draft)
    assert back.knobs == EngineKnobs(scheduling_policy="priority"), "what it has anyway is no change"


def test_somebody_elses_engine_keeps_its_knobs() -> None:
    attached = stack(attached=True)
    assert changed(attached, Draft(), "chunked-prefill", 1) == NOT_OURS
    assert isinstance(changed(attached, Draft(), "order", 1), Draft)


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        (EngineKnobs(), ""),
        (EngineKnobs(chunked_prefill=False), "uncut prompt of up to 4096"),
        (EngineKnobs(chunked_prefill=False, max_num_batched_tokens=4096), ""),
        (EngineKnobs(max_num_batched_tokens=4), "--max-num-seqs 8"),
    ],
)
def test_knobs_with_which_the_engine_would_not_start(knobs: EngineKnobs, why: str) -> None:
    said = wont_start(stack().engine, knobs)
    assert (why in said) if why else not said


def test_an_order_by_name_brings_ageing_back_and_the_plain_one_takes_it() -> None:
    off = Policy(ageing_s=None)
    assert ordered(Policy(ageing_s=5.0), "fair", plain=False) == commands.Policy(order="fair")
    assert ordered(off, "shortest", plain=False) == commands.Policy(order="shortest", ageing_s=30.0)
    assert ordered(None, "priority", plain=True) == commands.Policy(order="priority", ageing_s=0)


def test_every_draft_makes_a_policy_that_can_work() -> None:
    for row in RULES:
        for sign in (1, -1):
            draft = Draft()
            for _ in range(12):
                draft = stepped(stack(), (row, sign), draft=draft)
                policy = drafted(stack(), draft)
                assert policy is not None
                policy.check()
    assert msgspec.structs.asdict(Draft().policy)
