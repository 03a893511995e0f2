"""What the gateway's admission does, as frozen settings that change on a running stack, and how one change is said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

Order = Literal["fifo", "shortest", "priority", "fair"]
"""Who of those who wait goes next: who came first; the shortest prompt; the lowest priority number, as vLLM has it; the
user who has had the fewest tokens. Ties go to who came first."""

LimitKind = Literal["in-flight", "tokens", "adaptive"]
"""What admits: free places; those and the tokens that may be in the KV cache at once; those and a limit that follows
TTFT after dispatch and TPOT."""

Overload = Literal["wait", "queue", "estimate", "shed"]
"""What happens to those for whom there is no place: all wait; those beyond `max_queue` are turned away; those who would
wait over `max_wait_s`; at `max_queue` whoever has the worst priority, be it the one who comes or one who waits."""

Balance = Literal["least", "round-robin"]
"""Which of several engines gets the next request: the one with the fewest of ours under way, or each in turn."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. None switches a thing off."""

    order: Order = "fifo"
    ageing_s: float | None = 30.0
    """Who has waited so long goes before all who have not, oldest first. None: nobody does, and some may starve."""
    limit: LimitKind = "in-flight"
    max_in_flight: int = 64
    """Never exceeded, whatever the kind of limit."""
    token_budget: int | None = None
    """Prompt and reply tokens that all in flight may need together at most. A request that alone needs more goes alone."""
    ttft_target_s: float = 1.0
    """From dispatch; what the adaptive limit keeps nine of ten requests under."""
    tpot_target_s: float = 0.2
    overload: Overload = "queue"
    max_queue: int = 256
    max_wait_s: float = 30.0
    """For the overload `estimate`; where no rate has been measured yet, `max_queue` stands in."""
    queue_timeout_s: float | None = None
    """Who has waited so long is turned away with 429."""
    deadline_s: float | None = None
    """For requests that bring none of their own, seconds from their accept: then they end with 504, wherever they are."""
    silence_s: float | None = 600.0
    """For requests dispatched from then on: an engine that sends nothing for so long, before the response or in the middle,
    is given up, and the request fails. Long, as a prefill is silent, and a reply that is no stream is until it is whole."""
    hold: bool = True
    """While the engine restarts, people wait. False: they get 503."""
    keep_alive_s: float | None = None
    """A stream that waits gets an SSE comment so often. Its status is 200 from the first one on, come what may."""

    def changed(self, change: PolicyChange) -> Policy:
        """With what the change says, checked. Raises ValueError whose text says what is wrong."""
        policy = self.drafted(change)
        policy.check()
        return policy

    def drafted(self, change: PolicyChange) -> Policy:
        """With what the change says, be it possible or not."""
        values: dict[str, object] = {}
        for name in PolicyChange.__struct_fields__:
            value = getattr(change, name)
            if value is not None:
                values[name] = None if name in _CAN_BE_OFF and value == 0 else value
        return msgspec.structs.replace(self, **values)

    def whole(self) -> PolicyChange:
        """The change that makes any policy this one."""
        return _change_to(self, self.__struct_fields__)

    def check(self) -> None:
        """Raises ValueError whose text says what is wrong."""
        if self.max_in_flight < 1:
            raise ValueError(f"max in-flight must be at least 1, not {self.max_in_flight}")
        if self.max_queue < 0:
            raise ValueError(f"max queue must be at least 0, not {self.max_queue}")
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"the token budget must be at least 1, not {self.token_budget}")
        if self.limit == "tokens" and self.token_budget is None:
            raise ValueError("the limit `tokens` needs a token budget")
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name.removesuffix('_s').replace('_', ' ')} must be over 0 s, not {value:g}")


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to change of a policy: None leaves a setting as it is, 0 switches one off that can be off."""

    order: Order | None = None
    ageing_s: float | None = None
    limit: LimitKind | None = None
    max_in_flight: int | None = None
    token_budget: int | None = None
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    overload: Overload | None = None
    max_queue: int | None = None
    max_wait_s: float | None = None
    queue_timeout_s: float | None = None
    deadline_s: float | None = None
    silence_s: float | None = None
    hold: bool | None = None
    keep_alive_s: float | None = None

    def over(self, earlier: PolicyChange) -> PolicyChange:
        """Both changes as one, this one being the later."""
        both = {name: getattr(earlier, name) for name in PolicyChange.__struct_fields__}
        both.update({name: value for name, value in self.said().items() if value is not None})
        return PolicyChange(**both)

    def said(self) -> dict[str, object]:
        """What it changes, by name."""
        return {name: value for name in PolicyChange.__struct_fields__ if (value := getattr(self, name)) is not None}

    def in_words(self) -> str:
        """As an event says it: `shortest first, ageing 30 s, max queue 64`; empty when it changes nothing."""
        return ", ".join(_word(name, value) for name, value in self.said().items())


def difference(before: Policy, after: Policy) -> PolicyChange:
    """The change that makes the one of the other."""
    return _change_to(
        after, [name for name in PolicyChange.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    )


def _change_to(policy: Policy, names: Iterable[str]) -> PolicyChange:
    values = {name: getattr(policy, name) for name in names}
    return msgspec.convert({name: 0 if value is None else value for name, value in values.items()}, PolicyChange)


def waits_for_ever(policy: Policy) -> str:
    """Who may wait for ever under this policy, and why, in one sentence; empty where nobody does."""
    if policy.ageing_s is not None:
        return ""
    return {
        "shortest": "While short prompts keep coming, a long one waits for ever: nothing moves it up.",
        "priority": "While better priorities keep coming, a worse one waits for ever: nothing moves it up.",
    }.get(policy.order, "")


_CAN_BE_OFF = frozenset(("ageing_s", "token_budget", "queue_timeout_s", "deadline_s", "silence_s", "keep_alive_s"))
_SECONDS = (
    *("ageing_s", "ttft_target_s", "tpot_target_s", "max_wait_s", "queue_timeout_s"),
    *("deadline_s", "silence_s", "keep_alive_s"),
)

_ORDERS = {
    "fifo": "first come first served",
    "shortest": "shortest first",
    "priority": "by priority",
    "fair": "fair share",
}
_LIMITS = {"in-flight": "limit in flight", "tokens": "limit tokens", "adaptive": "limit adaptive"}
_OVERLOADS = {
    "wait": "all wait",
    "queue": "reject at queue length",
    "estimate": "reject at estimated wait",
    "shed": "shed worst priority",
}


def order_in_words(policy: Policy) -> str:
    """As the screen has it: `shortest`, or `plain shortest` without ageing, which first come first served has no use for."""
    return policy.order if policy.order == "fifo" or policy.ageing_s is not None else f"plain {policy.order}"


def _word(name: str, value: object) -> str:
    if name == "order":
        return _ORDERS[str(value)]
    if name == "limit":
        return _LIMITS[str(value)]
    if name == "overload":
        return _OVERLOADS[str(value)]
    if name == "hold":
        return "hold while it restarts" if value else "reject while it restarts"
    said = name.removesuffix("_s").replace("max_in_flight", "max in-flight").replace("_", " ")
    if name in _CAN_BE_OFF and value == 0:
        return f"no {said}"
    return f"{said} {value:g} s" if name in _SECONDS else f"{said} {value}"
