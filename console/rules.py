"""What can be changed of the queue's policy and of the engine's own scheduling: rows, the steps of a row, and the command
that takes what was changed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec

from console.ladder import around, beside
from server import commands
from server.commands import Command
from server.config import EngineKnobs
from server.gateway.policy import LimitKind, Order, Overload, Policy, PolicyChange, difference
from server.telemetry.snapshot import Engine, Snapshot

RULES = (
    "order",
    "ageing",
    "limit",
    "max-in-flight",
    "token-budget",
    "ttft-target",
    "tpot-target",
    "overload",
    "max-queue",
    "max-wait",
    "queue-timeout",
    "deadline",
    "silence",
    "hold",
    "keep-alive",
)
KNOBS = ("scheduling-policy", "max-num-batched-tokens", "chunked-prefill", "max-num-queued-reqs")
"""vLLM's own, as its command line names them."""

ORDERS: tuple[tuple[Order, bool], ...] = (
    ("fifo", True),
    ("shortest", True),
    ("shortest", False),
    ("priority", True),
    ("priority", False),
    ("fair", True),
)
"""An order, with or without ageing: without it two of them are the lesson of what goes wrong."""
AGEING_S = 30.0
"""What an order takes that had no ageing before."""
SECONDS: dict[str, tuple[float, ...]] = {
    "ageing": (5, 10, 20, 30, 60, 120),
    "ttft-target": (0.2, 0.5, 1, 2, 5, 10),
    "tpot-target": (0.02, 0.05, 0.1, 0.2, 0.5, 1),
    "max-wait": (1, 2, 5, 10, 20, 30, 60, 120),
    "queue-timeout": (2, 5, 10, 20, 30, 60, 120, 300),
    "deadline": (2, 5, 10, 20, 30, 60, 120, 300),
    "silence": (30, 60, 120, 300, 600, 1200, 3600),
    "keep-alive": (1, 2, 5, 10, 15, 30),
}
OFF_ABOVE = frozenset(("ageing", "queue-timeout", "deadline", "silence", "keep-alive"))
"""Ladders of seconds that end in `off`: never."""
IN_FLIGHT = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
QUEUE = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BUDGET_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)
"""Of the KV cache."""
BUDGETS = tuple(1024 * 2**power for power in range(12))
"""Where nobody knows the KV cache's size."""
BATCHED_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
QUEUED_REQS = (4, 8, 16, 32, 64, 128, 256, 512)

UNKNOWN = "the gateway has not told its policy yet"
NOTHING_CHANGED = "nothing is changed yet: ← → does"
NOT_OURS = "somebody else started this engine; it cannot be restarted from here"


class Draft(msgspec.Struct, frozen=True):
    """What a person has changed on the panel and not taken yet."""

    policy: PolicyChange = PolicyChange()
    knobs: EngineKnobs = EngineKnobs()


def rows(policy: Policy) -> list[str]:
    """What can be chosen, from the top: rules that are in play, then the engine's knobs."""
    return [*(row for row in RULES if in_play(policy, row)), *KNOBS]


def in_play(policy: Policy, row: str) -> bool:
    """Whether a rule has a say under the others."""
    return {
        "ageing": policy.order != "fifo",
        "token-budget": policy.limit == "tokens",
        "ttft-target": policy.limit == "adaptive",
        "tpot-target": policy.limit == "adaptive",
        "max-queue": policy.overload != "wait",
        "max-wait": policy.overload == "estimate",
    }.get(row, True)


def drafted(snapshot: Snapshot, draft: Draft) -> Policy | None:
    """The policy as it would be; a token budget that nobody gave is the KV cache's size. None: nobody knows it yet."""
    rules = snapshot.queue.rules
    if rules is None:
        return None
    policy = rules.drafted(draft.policy)
    if policy.limit == "tokens" and policy.token_budget is None:
        return msgspec.structs.replace(policy, token_budget=kv_tokens(snapshot.engine))
    return policy


def tuned(engine: Engine, draft: Draft) -> EngineKnobs:
    """The engine's knobs as they would be."""
    return engine.knobs.changed(draft.knobs)


def changed(snapshot: Snapshot, draft: Draft, row: str, sign: int) -> Draft | str:
    """The draft after one step of a row up (1) or down (-1), or why there is none, in one clause."""
    if row in KNOBS:
        return _turned(snapshot.engine, draft, row, sign)
    rules, policy = snapshot.queue.rules, drafted(snapshot, draft)
    if rules is None or policy is None:
        return UNKNOWN
    return msgspec.structs.replace(
        draft, policy=difference(rules, _stepped(policy, snapshot.engine, row, sign, rules.ageing_s))
    )


def taken(snapshot: Snapshot, draft: Draft, row: str) -> Command | str:
    """The command that enter makes: all changed rules at once, or on a knob all changed knobs; or why there is none."""
    if row in KNOBS:
        said = msgspec.structs.asdict(draft.knobs)
        return commands.Knobs(**said) if draft.knobs != EngineKnobs() else NOTHING_CHANGED
    change = draft.policy
    if not change.said():
        return NOTHING_CHANGED
    if change.token_budget is not None and change.token_budget == kv_tokens(snapshot.engine):
        change = msgspec.structs.replace(change, token_budget=0)  # so that it stays the cache's size after a restart
    return msgspec.convert(change.said(), commands.Policy)


def ordered(rules: Policy | None, order: Order, *, plain: bool) -> commands.Policy:
    """The command for an order by name. With ageing unless it is to be the plain one."""
    if plain:
        return commands.Policy(order=order, ageing_s=0)
    aged = rules is None or rules.ageing_s is not None
    return commands.Policy(order=order, ageing_s=None if aged else AGEING_S)


def effective(engine: Engine, knobs: EngineKnobs) -> EngineKnobs:
    """The knobs with what the engine's own command line says of those that nobody turned. None: vLLM's default holds, or on
    an engine that somebody else started nobody knows."""
    argv = [part for argument in engine.argv for part in argument.split("=", 1)]
    said: dict[str, object] = {}
    for row in ("scheduling-policy", "max-num-batched-tokens", "max-num-queued-reqs"):
        if f"--{row}" in argv[:-1]:
            said[row.replace("-", "_")] = argv[argv.index(f"--{row}") + 1]
    for flag, on in (("--enable-chunked-prefill", True), ("--no-enable-chunked-prefill", False)):
        if flag in argv:
            said["chunked_prefill"] = on
    try:
        return msgspec.convert(said, EngineKnobs, strict=False).changed(knobs)
    except ValueError:  # vLLM takes spellings that are not understood here
        return knobs


def kv_tokens(engine: Engine) -> int | None:
    """The KV cache's size in tokens, as far as it is known."""
    size = engine.kv_tokens.v
    return None if size is None or size < 1 else round(size)


def wont_start(engine: Engine, knobs: EngineKnobs) -> str:
    """Why vLLM would refuse to start with these knobs, in one sentence; empty where nothing speaks against them."""
    knobs = effective(engine, knobs)
    tokens = knobs.max_num_batched_tokens or engine.max_num_batched_tokens.v
    longest, sequences = engine.max_model_len.v, engine.max_num_seqs.v
    if tokens is None:
        return ""
    if sequences is not None and tokens < sequences:
        return f"vLLM will not start: a step needs a token for each of --max-num-seqs {sequences:.0f}."
    if knobs.chunked_prefill is False and longest is not None and tokens < longest:
        return f"vLLM will not start: an uncut prompt of up to {longest:.0f} tokens needs a step as long."
    return ""


def _stepped(policy: Policy, engine: Engine, row: str, sign: int, ageing_s: float | None) -> Policy:
    change = msgspec.structs.replace
    match row:
        case "order":
            order, aged = around(ORDERS, (policy.order, _aged(policy)), sign)
            if order == "fifo":
                return change(policy, order=order)
            return change(policy, order=order, ageing_s=(policy.ageing_s or ageing_s or AGEING_S) if aged else None)
        case "limit":
            kind: LimitKind = around(get_args(LimitKind), policy.limit, sign)
            if kind == "tokens" and policy.token_budget is None:
                return change(policy, limit=kind, token_budget=kv_tokens(engine) or BUDGETS[0])
            return change(policy, limit=kind)
        case "overload":
            overload: Overload = around(get_args(Overload), policy.overload, sign)
            return change(policy, overload=overload)
        case "hold":
            return change(policy, hold=not policy.hold)
        case "max-in-flight":
            slots = engine.max_num_seqs.v
            ladder = sorted({*IN_FLIGHT, *([round(slots)] if slots else [])})
            return change(policy, max_in_flight=round(beside(ladder, policy.max_in_flight, sign)))
        case "max-queue":
            return change(policy, max_queue=round(beside(QUEUE, policy.max_queue, sign)))
        case "token-budget":
            size = kv_tokens(engine)
            budgets = BUDGETS if size is None else sorted({max(1, round(size * share)) for share in BUDGET_SHARES})
            return change(policy, token_budget=round(beside(budgets, policy.token_budget or size or 0, sign)))
    name = row.replace("-", "_") + "_s"
    return change(policy, **{name: _seconds(row, getattr(policy, name), sign)})


def _aged(policy: Policy) -> bool:
    """Ageing is no part of the order where it has no say, or where nobody needs it."""
    return policy.order in {"fifo", "fair"} or policy.ageing_s is not None


def _seconds(row: str, now: float | None, sign: int) -> float | None:
    ladder: Sequence[float] = SECONDS[row]
    if now is None:
        return ladder[-1] if sign < 0 else None
    if row in OFF_ABOVE and sign > 0 and now >= ladder[-1]:
        return None
    return float(beside(ladder, now, sign))


def _turned(engine: Engine, draft: Draft, row: str, sign: int) -> Draft | str:
    if engine.attached:
        return NOT_OURS
    knobs = effective(engine, tuned(engine, draft))
    name = row.replace("-", "_")
    match row:
        case "scheduling-policy":
            value: object = "fcfs" if knobs.scheduling_policy == "priority" else "priority"
        case "chunked-prefill":
            value = knobs.chunked_prefill is False
        case "max-num-batched-tokens":
            now = knobs.max_num_batched_tokens or engine.max_num_batched_tokens.v
            value = BATCHED_TOKENS[4] if now is None else round(beside(BATCHED_TOKENS, now, sign))
        case _:
            bound = knobs.max_num_queued_reqs
            value = QUEUED_REQS[-1] if bound is None else round(beside(QUEUED_REQS, bound, sign))
    turned = {**msgspec.structs.asdict(tuned(engine, draft)), name: value}
    said = {name: new for name, new in turned.items() if new is not None and new != getattr(engine.knobs, name)}
    if (
        engine.knobs.max_num_batched_tokens is None
        and said.get("max_num_batched_tokens") == engine.max_num_batched_tokens.v
    ):
        said.pop("max_num_batched_tokens", None)  # what it has anyway
    return msgspec.structs.replace(draft, knobs=msgspec.convert(said, EngineKnobs))
