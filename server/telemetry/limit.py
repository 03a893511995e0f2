"""What holds the setup back, as one phrase with its evidence and a next step. Pure: seconds of snapshots in, a Limit out.

The rules are asked in the order of `RULES` and the first that holds is named, so what makes the later ones meaningless
stands first: a device cannot be the limit while nobody asks, and slots cannot while each step is full of prompt tokens.
A rule whose evidence is missing says what is missing and does not hold. Where no rule holds the answer is "not evaluated" if
evidence was missing, else that nothing stands out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from server.telemetry.limit_replicas import stuck, uneven, where
from server.telemetry.limit_seen import FULL, Seen, see
from server.telemetry.snapshot import Limit, LimitName, LimitRule, Snapshot

HOLD_S = 3.0
"""Another answer must be due for this long before it replaces the one that stands."""

NOBODY = "nobody asks"
NOTHING = "nothing stands out"
"""Every rule could be asked, and none holds."""
SOMEBODY = 0.5
"""Mean number waiting from which on somebody waits most of the time."""
HELD_BACK_SHARE = 0.8
CAPPED_SHARE = 0.5
SLOW_SHARE = 0.5
THINKING_SHARE = 1 / 3
KV_FULL = 0.9
KV_AFTER_PREEMPTION = 0.7
"""A preemption frees a whole request's blocks, so the KV cache swings below full while the pressure lasts."""
FRONT_END_SHARE = 0.4
BUDGET_SHARE = 0.75
"""Mean tokens of a step against the budget. Steps between two prompts carry decode tokens only and pull the mean down."""
SATURATED = 0.8
"""Above this share a device gives little more, whatever the settings: nothing but large matrix products brought an H100's
tensor cores to 0.93 (measured, held down by the power cap)."""
BOUND = 0.5
"""The steps of a batch alternate between reading weights, attention and matrix products, and launches lie between, so a
device that is bound by one of them throughout shows 0.6 to 0.7 of it (one chat on an H100: HBM 0.67, tensor 0.02)."""
STALLED_S = 10.0
STALLED_UNSEEN_S = 60.0
"""Without a power reading a long step cannot be told from a stall, so the verdict's patience counts."""
IDLE_POWER_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Found:
    """What one rule says. `holds` None: `evidence` is what is missing."""

    holds: bool | None
    evidence: str
    next_step: str = ""


NOT_EVALUATED = Limit()


@dataclass(frozen=True, slots=True)
class HeldLimit:
    """The answer that stands, and since when another one is due."""

    limit: Limit = NOT_EVALUATED
    since: float = 0.0
    differs_since: float | None = None


def limit_of(snapshots: Sequence[Snapshot]) -> Limit:
    """The limit over the last seconds of `snapshots`, oldest first, at least one."""
    return evaluate(see(snapshots))


def evaluate(seen: Seen) -> Limit:
    """All rules on one window."""
    if seen.phase != "ready":
        return _unknown("the engine is down" if seen.phase in {"down", "failed"} else f"the engine: {seen.phase}", [])
    if seen.running is None:
        return _unknown("the engine's /metrics give no running requests", [])
    found = [(name, rule(seen)) for name, rule in (RULES if not seen.replicas else _WITH_REPLICAS)]
    rules = [LimitRule(name, one.holds, one.evidence) for name, one in found]
    for name, one in found:
        if one.holds:
            replica = where(name, seen.replicas)
            evidence = f"{one.evidence}, most of it at {replica}" if replica else one.evidence
            return Limit(
                name=name,
                phrase=f"{name.upper()}  {evidence}: {one.next_step}",
                because=evidence,
                next_step=one.next_step,
                rules=rules,
                window_s=seen.window_s,
            )
    missing = list(dict.fromkeys(one.evidence for _, one in reversed(found) if one.holds is None))
    if missing:
        return _unknown("; ".join(missing), rules, seen)
    device = _device(seen)
    return Limit(phrase=f"{NOTHING}: {device}", because=device, rules=rules, window_s=seen.window_s)


def settle(due: Limit, held: HeldLimit, now: float) -> HeldLimit:
    """The answer that stands now. A stall, a start, an end, the first who come or the last who go, and the first answer there
    is show at once."""
    if due.name == held.limit.name:
        return HeldLimit(_dated(due, held.since, now), held.since)
    if not held.limit.name or _at_once(due) or _at_once(held.limit):
        return HeldLimit(_dated(due, now, now), now)
    since = now if held.differs_since is None else held.differs_since
    if now - since >= HOLD_S:
        return HeldLimit(_dated(due, now, now), now)
    return HeldLimit(_dated(held.limit, held.since, now), held.since, since)


def _at_once(limit: Limit) -> bool:
    return limit.name == "stalled" or limit.because == NOBODY or not limit.rules


def _dated(limit: Limit, since: float, now: float) -> Limit:
    return msgspec.structs.replace(limit, since_s=round(max(0.0, now - since), 3))


def _unknown(missing: str, rules: list[LimitRule], seen: Seen | None = None) -> Limit:
    window_s = 0.0 if seen is None else seen.window_s
    return Limit(phrase=f"not evaluated: {missing}", because=missing, rules=rules, window_s=window_s)


# the rules


def _stalled(seen: Seen) -> Found:
    """Requests run, no step is made, and the device rests. A long step (a prompt, a compilation) draws power."""
    if one := stuck(seen.replicas, STALLED_UNSEEN_S):
        return Found(True, one, "read its log, restart it; until then send it nothing")
    age_s = seen.heartbeat_age_s
    if age_s is None:
        return Found(False, "nothing runs" if not seen.running else "the engine has no step counter")
    steps = f"{seen.running:.0f} running, no step for {age_s:.0f} s"
    if age_s < STALLED_S:
        return Found(False, f"a step {age_s:.1f} s ago")
    step = "read the engine's log (key 3), then restart it (c)"
    if seen.power_w is None or not seen.power_limit_w:
        if seen.busy is not None and seen.busy < 0.05:
            return Found(True, f"{steps}, GPU {_percent(seen.busy)} busy", step)
        return Found(age_s >= STALLED_UNSEEN_S, f"{steps}, power not known", step)
    power = f"{seen.power_w:.0f} of {seen.power_limit_w:.0f} W"
    return Found(seen.power_w < IDLE_POWER_SHARE * seen.power_limit_w, f"{steps}, {power}", step)


def _no_load(seen: Seen) -> Found:
    """Nothing is anywhere on its way, and nobody is there who would send; or an open loop whose every request finds room."""
    under_way = (seen.asked or 0.0) + (seen.admitted or 0.0) + (seen.depth or 0.0) + (seen.running or 0.0)
    if not under_way and not seen.people and not seen.slow and seen.mode != "open":
        return Found(True, NOBODY, "send people (+) or a burst (b)")
    if seen.mode == "open" and not _waits(seen) and not _full(seen) and not _unread_share(seen) >= SLOW_SHARE:
        rate = "" if seen.arrivals_per_s is None else f"{seen.arrivals_per_s:.1f} requests/s come and "
        return Found(True, f"{rate}nobody waits, {_slots(seen)}", "raise the rate")
    return Found(False, f"{seen.running:.0f} running, {seen.people or 0:.0f} people")


def _slow_clients(seen: Seen) -> Found:
    """Most of what is under way only waits for its reader, and no queue stands behind full slots."""
    if seen.unread is None:
        return Found(None, "what clients have yet to read is not known")
    whole = seen.asked if seen.asked is not None else (seen.admitted or 0.0) + seen.unread
    if whole < SOMEBODY:
        return Found(False, "nothing under way")
    evidence = f"{_percent(_unread_share(seen))} of {whole:.0f} under way only wait for their reader"
    if _waits(seen) and _full(seen):
        return Found(False, f"{evidence}, but others wait for a slot")
    return Found(
        _unread_share(seen) >= SLOW_SHARE, evidence, "fewer slow readers (s), or a limit on how long one may read"
    )


def _kv_pressure(seen: Seen) -> Found:
    """Requests are preempted (their KV is thrown away and computed again), or wait though slots are free."""
    if seen.kv is None or seen.kv_peak is None or seen.preemptions_per_min is None:
        return Found(None, "the engine does not report its KV cache or preemptions")
    preempted = seen.preemptions_per_min
    evidence = f"KV at {_percent(seen.kv_peak)}, {preempted:.0f} preempted a minute"
    fits = f"lower --max-num-seqs to {max(1.0, seen.running or 1.0):.0f}"
    if preempted > 0 and seen.running and seen.kv_peak >= KV_AFTER_PREEMPTION:
        return Found(True, evidence, f"{fits}, shorten replies or give the KV cache more memory")
    waits = (seen.waiting or 0.0) >= SOMEBODY and seen.kv >= KV_FULL
    evidence = f"KV at {_percent(seen.kv)}, {seen.waiting or 0:.0f} wait in the engine" if waits else evidence
    return Found(waits, evidence, "give the KV cache more memory, or shorten prompts and replies")


def _front_end(seen: Seen) -> Found:
    """Template, tokeniser, dispatch and detokeniser take longer than a fair part of what the engine needs altogether."""
    if seen.front_end_s is None or not seen.upstream_s:
        return Found(None, "no request's stages are known yet")
    share = seen.front_end_s / seen.upstream_s
    seconds = f"{seen.front_end_s:.2f} of {seen.upstream_s:.2f} s"
    evidence = f"{_percent(share)} of the time at the engine ({seconds})"
    step = "shorter prompts, --api-server-count 2, or more CPU cores"
    return Found(share >= FRONT_END_SHARE and bool(seen.running or seen.admitted), evidence, step)


def _token_budget(seen: Seen) -> Found:
    """Steps are full of prompt tokens, so prompts wait for one another. A saturated device would be the same with more."""
    if seen.budget is None:
        return Found(None, "--max-num-batched-tokens is not known")
    if seen.step_tokens is None:
        return Found(False, "no step in the window")
    evidence = f"steps carry {seen.step_tokens:.0f} of {seen.budget:.0f} tokens"
    full = seen.step_tokens >= BUDGET_SHARE * seen.budget and not _saturated(seen)
    return Found(full, evidence, "raise --max-num-batched-tokens, or shorten prompts")


def _queue_policy(seen: Seen) -> Found:
    """People wait at the gateway while the engine has room for them."""
    if seen.depth is None or seen.admitted is None or seen.max_in_flight is None:
        return Found(None, "the gateway does not answer")
    if not _waits(seen):
        return Found(False, "nobody waits at the gateway")
    waiting = f"{seen.depth:.0f} wait"
    if seen.held_back >= HELD_BACK_SHARE:
        places = f"{seen.admitted:.0f} of {seen.max_in_flight:.0f} places taken"
        return Found(True, f"{waiting} with {places}", "another policy, or a looser one")
    if seen.slots is None:
        fits = (seen.waiting or 0.0) < SOMEBODY
        return Found(
            fits,
            f"{waiting} for {seen.max_in_flight:.0f} places, nobody in the engine",
            "raise the gateway's max in-flight",
        )
    evidence = f"{waiting}: max in-flight is {seen.max_in_flight:.0f}, the engine has {seen.slots:.0f} slots"
    step = f"spark-serve limits --max-in-flight {seen.slots:.0f}"
    return Found(seen.max_in_flight < seen.slots, evidence, step)


def _sequence_cap(seen: Seen) -> Found:
    """Slots are full and somebody waits for one, at the gateway or in the engine."""
    if seen.slots is None:
        return Found(None, "--max-num-seqs is not known")
    waiting = (seen.depth or 0.0) + (seen.waiting or 0.0)
    evidence = f"{_slots(seen)}, {waiting:.0f} wait"
    kv = "" if seen.kv is None else f": KV is at {_percent(seen.kv)}"
    step = f"raise --max-num-seqs{kv}"
    if seen.kv is not None and seen.kv >= KV_AFTER_PREEMPTION:
        step = f"more KV memory first{kv}, more slots would preempt"
    return Found(seen.capped >= CAPPED_SHARE, evidence, step)


def _memory_saturated(seen: Seen) -> Found:
    return _device_rule(seen, "memory", SATURATED)


def _compute_saturated(seen: Seen) -> Found:
    return _device_rule(seen, "compute", SATURATED)


def _think_time(seen: Seen) -> Found:
    """Nobody waits, slots are free, and a good part of the people is between two questions."""
    if seen.mode != "closed" or seen.people is None or seen.thinking is None:
        return Found(None, "how many people think is not known: they are not ours, or come by a rate")
    thinking = f"{seen.thinking:.0f} of {seen.people:.0f} people think"
    if 0 < seen.people < 8:
        thinking = f"{seen.people:.0f} people, {_percent(seen.thinking / seen.people)} of their time thinking"
    if _waits(seen) or _full(seen):
        return Found(False, f"{thinking}, but the slots are full")
    holds = seen.people > 0 and seen.thinking >= THINKING_SHARE * seen.people
    return Found(holds, f"{thinking}, {_slots(seen)}", "add people (+), there is room")


def _memory_bandwidth(seen: Seen) -> Found:
    """The device moves bytes rather than doing sums: each step reads all weights, for however few people."""
    return _device_rule(seen, "memory", BOUND)


def _compute(seen: Seen) -> Found:
    return _device_rule(seen, "compute", BOUND)


RULES: tuple[tuple[LimitName, Callable[[Seen], Found]], ...] = (
    ("stalled", _stalled),
    ("no load", _no_load),
    ("slow clients", _slow_clients),
    ("KV pressure", _kv_pressure),
    ("front end", _front_end),
    ("token budget", _token_budget),
    ("queue policy", _queue_policy),
    ("memory bandwidth", _memory_saturated),
    ("compute", _compute_saturated),
    ("sequence cap", _sequence_cap),
    ("people's think time", _think_time),
    ("memory bandwidth", _memory_bandwidth),
    ("compute", _compute),
)


def _uneven(seen: Seen) -> Found:
    """Who waits inside one engine would run at once at another."""
    holds, evidence = uneven(seen.replicas)
    return Found(holds, evidence, "send to the one with the fewest under way (--balance least, or a router that does)")


_PLACE = next(place for place, (name, _) in enumerate(RULES) if name == "queue policy")
_WITH_REPLICAS: tuple[tuple[LimitName, Callable[[Seen], Found]], ...] = (
    *RULES[:_PLACE],
    ("uneven replicas", _uneven),
    *RULES[_PLACE:],
)
"""Of several engines; before the rules that look at their slots together."""


# what they share


def _waits(seen: Seen) -> bool:
    return (seen.depth or 0.0) >= SOMEBODY


def _full(seen: Seen) -> bool:
    return seen.slots is not None and (seen.running or 0.0) >= FULL * seen.slots


def _unread_share(seen: Seen) -> float:
    whole = seen.asked if seen.asked is not None else (seen.admitted or 0.0) + (seen.unread or 0.0)
    return (seen.unread or 0.0) / whole if whole else 0.0


def _saturated(seen: Seen) -> bool:
    return any(part is not None and part[1] >= SATURATED for part in (seen.compute, seen.memory))


def _device_rule(seen: Seen, what: str, at_least: float) -> Found:
    """The device is bound by `what` when its share of that is high, and higher than of the other."""
    this, other = (seen.memory, seen.compute) if what == "memory" else (seen.compute, seen.memory)
    if this is None or other is None:
        why = seen.no_gpu if not seen.on_gpu else "neither GPM nor an estimate of FLOPs and bytes"
        return Found(None, f"memory bandwidth and compute are not measured ({why or 'no GPU reading'})")
    holds = bool(seen.running) and this[1] >= at_least and this[1] > other[1]
    evidence = f"{this[0]} {_percent(this[1])}, {other[0]} {_percent(other[1])}, {_slots(seen)}"
    if what == "memory":
        few = seen.running is not None and seen.running < 8
        step = "more people share each read of the weights" if few else "a smaller model or KV cache (FP8), more GPUs"
        return Found(holds, evidence, step)
    if seen.slowed_by:
        evidence += f", clocks held down by {' and '.join(seen.slowed_by)}"
    return Found(holds, evidence, "shorter prompts, prefix caching, FP8, or more GPUs")


def _device(seen: Seen) -> str:
    return ", ".join(f"{part[0]} {_percent(part[1])}" for part in (seen.compute, seen.memory) if part is not None)


def _slots(seen: Seen) -> str:
    running = seen.running or 0.0
    used = f"{running:.0f}" if running >= 0.95 or not running else f"{running:.1f}"
    return f"{used} running" if seen.slots is None else f"{used} of {seen.slots:.0f} slots"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
