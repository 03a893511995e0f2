"""Each rule of the queue and each knob of the engine in words: its value, and one sentence on what that does."""

from __future__ import annotations

from collections.abc import Callable

from console import format as fmt
from console.panels.queue import KNOB_LABELS, knob_value
from console.rules import kv_tokens
from server.config import EngineKnobs
from server.gateway.policy import Policy, waits_for_ever
from server.telemetry.snapshot import Engine

LABELS = {
    "order": "order",
    "ageing": "ageing",
    "limit": "limit",
    "max-in-flight": "max in flight",
    "token-budget": "token budget",
    "ttft-target": "TTFT target",
    "tpot-target": "TPOT target",
    "overload": "overload",
    "max-queue": "max queue",
    "max-wait": "max wait",
    "queue-timeout": "queue timeout",
    "deadline": "deadline",
    "silence": "silence",
    "hold": "in a restart",
    "keep-alive": "keep-alives",
    **KNOB_LABELS,
}
Said = tuple[str, ...]
"""A value in words, the longest first."""

_ORDERS: dict[str, Said] = {
    "fifo": ("first come first served", "fifo"),
    "shortest": ("shortest prompt first", "shortest"),
    "priority": ("by priority",),
    "fair": ("fair share of users", "fair share"),
}
_LIMITS: dict[str, Said] = {
    "in-flight": ("requests in flight", "in-flight"),
    "tokens": ("and their tokens in the KV", "tokens"),
    "adaptive": ("adaptive: by TTFT and TPOT", "adaptive"),
}
_OVERLOADS: dict[str, Said] = {
    "wait": ("everybody waits",),
    "queue": ("refuse at a queue length", "queue length"),
    "estimate": ("refuse at an estimated wait", "estimated wait"),
    "shed": ("shed the worst priority", "shed"),
}
_ORDER_SAYS = {
    "fifo": "Who came first goes first, so that one long prompt keeps back everybody behind it.",
    "shortest": "Short prompts overtake long ones; ageing sees to it that a long one is not overtaken for ever.",
    "priority": "The lowest number goes first, as vLLM has it: body field priority, or header X-Vllm-Priority.",
    "fair": "Who has had the fewest tokens goes next: a heavy user waits for himself and not the others for him.",
}
_LIMIT_SAYS = {
    "in-flight": "So many are at the engine at once and the rest wait here, where the policy is.",
    "tokens": "Prompts and replies must fit a budget too: the KV cache never overflows, but a long head keeps all back.",
    "adaptive": "It finds itself: misses of the TTFT and TPOT targets shrink it, and while they are met it grows.",
}
_OVERLOAD_SAYS = {
    "wait": "Nobody is refused; what goes wrong: past what the engine can do, the wait grows without end.",
    "queue": "Who comes when max queue wait already gets 429, with a Retry-After from the measured rate.",
    "estimate": "Who would wait over max wait, by the measured rate, gets 429 at once instead of after the wait.",
    "shed": "When max queue wait already, the worst priority gets 429, be it the one who comes or one who waits.",
}


def rule_said(policy: Policy, engine: Engine, row: str) -> Said:
    """A rule's value in words."""
    match row:
        case "order":
            if waits_for_ever(policy):
                return (f"plain {policy.order}: no ageing", f"plain {policy.order}")
            return _ORDERS[policy.order]
        case "limit":
            return _LIMITS[policy.limit]
        case "overload":
            return _OVERLOADS[policy.overload]
        case "hold":
            return ("everybody waits",) if policy.hold else ("everybody gets 503",)
        case "max-in-flight":
            return (fmt.count(policy.max_in_flight),)
        case "max-queue":
            return (fmt.count(policy.max_queue),)
        case "token-budget":
            return _budget(policy, engine)
    seconds = getattr(policy, f"{row.replace('-', '_')}_s")
    return ("off" if seconds is None else f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s",)


def _budget(policy: Policy, engine: Engine) -> Said:
    size = kv_tokens(engine)
    budget = policy.token_budget or size
    if budget is None:
        return (fmt.ABSENT_TEXT,)
    if size is None:
        return (fmt.count(budget),)
    return (
        fmt.count(budget) + (", all of the KV" if budget == size else f", {budget / size:.0%} of the KV"),
        fmt.count(budget),
    )


def rule_says(policy: Policy, engine: Engine, row: str) -> tuple[str, str]:
    """One sentence on what a rule does with this value, and its style: `warn` where it goes wrong."""
    if row == "order" and (ill := waits_for_ever(policy)):
        return f"What goes wrong: {ill[:1].lower()}{ill[1:]}", "warn"
    if row == "ageing" and policy.ageing_s is None:
        return "Off: nobody is moved up for having waited long.", "warn" if waits_for_ever(policy) else "label"
    if row == "order":
        return _ORDER_SAYS[policy.order], "label"
    if row == "limit":
        return _LIMIT_SAYS[policy.limit], "label"
    if row == "overload":
        return _OVERLOAD_SAYS[policy.overload], "warn" if policy.overload == "wait" else "label"
    if row == "max-in-flight":
        return _in_flight_says(policy, engine)
    return _RULES_SAY[row](policy), "label"


def _in_flight_says(policy: Policy, engine: Engine) -> tuple[str, str]:
    slots = fmt.known(engine.max_num_seqs.v)
    if slots is not None and policy.max_in_flight > slots:
        return (
            f"Over max-num-seqs, {fmt.count(slots)}: who is let through waits in the engine, where no policy sees him.",
            "warn",
        )
    if slots is not None and policy.max_in_flight < slots:
        return (
            f"Never exceeded, whatever the limit; the engine has {fmt.count(slots)} slots, so that some stay empty.",
            "label",
        )
    return (
        "Never exceeded, whatever the limit; as many as the engine has slots, so that all waiting is done here.",
        "label",
    )


_RULES_SAY: dict[str, Callable[[Policy], str]] = {
    "ageing": lambda _: "Who has waited so long goes before all who have not, the oldest first: nobody waits for ever.",
    "token-budget": lambda _: (
        "What all in flight may need together, prompt and reply; one that alone needs more goes alone."
    ),
    "ttft-target": lambda _: "Nine of ten shall have their first token so soon after dispatch, or the limit shrinks.",
    "tpot-target": lambda _: "Nine of ten shall have each further token so soon, or the limit shrinks.",
    "max-queue": lambda policy: (
        "Stands in while no rate has been measured; a change drops nobody who waits already."
        if policy.overload == "estimate"
        else "So many may wait; a change drops nobody who waits already."
    ),
    "max-wait": lambda _: (
        "The estimate is what waits over what the engine finishes a second, of its busy period's last 30 s."
    ),
    "queue-timeout": lambda _: "Who has waited so long gets 429; it holds for those who wait now, too.",
    "deadline": lambda _: (
        "For requests that bring no time limit of their own: they end with 504, wherever they are then."
    ),
    "silence": lambda _: (
        "An engine that sends nothing for so long is given up, and the request fails; a prefill is silent, too."
    ),
    "hold": lambda policy: (
        "While the engine restarts people wait in the line, and their streams begin when it is back."
        if policy.hold
        else "While the engine restarts whoever waits or comes gets 503 and is to come again."
    ),
    "keep-alive": lambda _: (
        "A stream that waits gets an SSE comment so often, so that no proxy on the way hangs up on it."
    ),
}


def knob_said(engine: Engine, knobs: EngineKnobs, row: str) -> str:
    """A knob's value in words; vLLM's own default is called that."""
    value, told = knob_value(engine, knobs, row)
    return value if told or engine.attached else f"{value} (default)"


def knob_says(knobs: EngineKnobs, policy: Policy, row: str) -> tuple[str, str]:
    """One sentence on what a knob does, and its style: `warn` where it goes wrong."""
    bound = knobs.max_num_queued_reqs
    if row == "max-num-queued-reqs" and bound is not None and bound < policy.max_in_flight:
        return (
            f"Under max in flight, {policy.max_in_flight}: the engine answers 503 to some that were let through.",
            "warn",
        )
    if row == "chunked-prefill" and knobs.chunked_prefill is False:
        return "What goes wrong: a long prompt is read in one step, and everybody's tokens wait for it.", "warn"
    return _KNOBS_SAY[row], "label"


_KNOBS_SAY = {
    "scheduling-policy": "Of the engine's own queue; by priority it also preempts the worst when the KV cache is full.",
    "max-num-batched-tokens": "Few keep the tokens of running replies smooth, many get prompts through sooner.",
    "chunked-prefill": "Long prompts are read in pieces, so that running replies go on between them.",
    "max-num-queued-reqs": "vLLM's own bound on who runs and waits in it together; 503 beyond it (0.32 and newer).",
}


def why_idle(row: str) -> str:
    """Why a rule that is not in play has no say, in one clause."""
    return {
        "ageing": "first come first served has no use for it",
        "token-budget": "for the limit by tokens",
        "ttft-target": "for the adaptive limit",
        "tpot-target": "for the adaptive limit",
        "max-queue": "everybody waits, however many they are",
        "max-wait": "for refusing at an estimated wait",
    }[row]
