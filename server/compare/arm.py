"""The policies that are set against each other, as a person names them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import msgspec

from server.gateway.policy import LimitKind, Order, Overload, Policy, PolicyChange

ARMS = (2, 6)
"""At least and at most so many."""
ORDERS = get_args(Order)
PLAIN = "plain-"
EXAMPLES = "`fifo`, `plain-shortest`, `shortest:ageing=10,overload=shed`"


class Arm(msgspec.Struct, frozen=True):
    """One policy to try."""

    name: str
    """As it was typed."""
    change: PolicyChange
    """What it names."""

    def policy(self, base: Policy, max_in_flight: int) -> Policy:
        """The whole policy: `base` but for what the arm names. Ageing is the usual one unless the arm, or `base`, says
        another; fifo has no use for it. Raises ValueError whose text says what is wrong."""
        change = self.change
        usual = Policy().ageing_s if base.ageing_s is None or change.order == "fifo" else base.ageing_s
        named = PolicyChange(max_in_flight=max_in_flight, ageing_s=usual)
        if change.order == "fifo":
            change = msgspec.structs.replace(change, ageing_s=None)
        return base.changed(change.over(named))


def parse_arm(text: str) -> Arm:
    """Read `ORDER` or `plain-ORDER` (without ageing), and after a colon `NAME=VALUE,..` with the names that
    `spark-serve policy` has for its options. Raises ValueError with one sentence."""
    order, _, settings = text.partition(":")
    plain = order.startswith(PLAIN)
    order = order.removeprefix(PLAIN)
    if order not in ORDERS or (plain and order == "fifo"):
        known = ", ".join((*ORDERS, *(f"{PLAIN}{one}" for one in ORDERS if one != "fifo")))
        raise ValueError(f"{text!r} names no order; there are {known}.")
    values: dict[str, object] = {"order": order}
    for setting in filter(None, settings.split(",")):
        name, _, value = setting.partition("=")
        field, read = _SETTINGS.get(name, ("", _whole))
        if not field:
            raise ValueError(f"{name!r} in {text!r} is no setting; there are {', '.join(_SETTINGS)}.")
        if field in values:
            raise ValueError(f"{name!r} stands twice in {text!r}.")
        try:
            values[field] = read(value)
        except ValueError:
            raise ValueError(f"{setting!r} in {text!r} cannot be read; it is like {EXAMPLES}.") from None
    if plain:
        if "ageing_s" in values:
            raise ValueError(f"{text!r} is plain, which means without ageing.")
        values["ageing_s"] = 0.0
    return Arm(text, msgspec.convert(values, PolicyChange))


def parse_arms(texts: Sequence[str]) -> list[Arm]:
    """All of them. Raises ValueError with one sentence; `distinct` asks whether they differ."""
    if not ARMS[0] <= len(texts) <= ARMS[1]:
        raise ValueError(f"Give {ARMS[0]} to {ARMS[1]} policies to compare, like {EXAMPLES}.")
    arms = [parse_arm(text) for text in texts]
    distinct(arms, [arm.policy(Policy(token_budget=1), 1) for arm in arms])
    return arms


def distinct(arms: Sequence[Arm], policies: Sequence[Policy]) -> None:
    """Raises ValueError with one sentence where two arms come to the same policy."""
    for index, policy in enumerate(policies):
        earlier = policies.index(policy)
        if earlier < index:
            raise ValueError(f"`{arms[earlier].name}` and `{arms[index].name}` are the same policy here.")


def _whole(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 10_000_000:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError
    return number


def _seconds_or_off(text: str) -> float:
    return 0.0 if text == "off" else _seconds(text)


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return read


def _hold(text: str) -> bool:
    return _word("hold", "reject")(text) == "hold"


_SETTINGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "ageing": ("ageing_s", _seconds_or_off),
    "limit": ("limit", _word(*get_args(LimitKind))),
    "max-in-flight": ("max_in_flight", _whole),
    "token-budget": ("token_budget", _whole),
    "ttft-target": ("ttft_target_s", _seconds),
    "tpot-target": ("tpot_target_s", _seconds),
    "overload": ("overload", _word(*get_args(Overload))),
    "max-queue": ("max_queue", _whole),
    "max-wait": ("max_wait_s", _seconds),
    "queue-timeout": ("queue_timeout_s", _seconds_or_off),
    "deadline": ("deadline_s", _seconds_or_off),
    "silence": ("silence_s", _seconds_or_off),
    "during-restart": ("hold", _hold),
    "keep-alive": ("keep_alive_s", _seconds_or_off),
}
"""Names of `spark-serve policy`'s options -> field of PolicyChange, and how its value is read."""
