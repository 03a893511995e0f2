"""What a lesson may do for a person: a closed vocabulary of actions, each a command of `server.commands`. Pure.

How many can be said as a number or, so that it suits any engine, as `of_slots`: times the slots of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from loadgen.arrivals import parse_arrivals
from loadgen.behaviours import Manners, Moment, RetryKind, Way
from loadgen.presets import presets
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import RESIDENTS
from server import commands
from server.commands import Command
from server.engine.cold import KINDS
from server.faults.catalogue import NAMES, FaultError
from server.gateway.policy import Policy, PolicyChange
from server.telemetry.snapshot import Snapshot

Settings = Mapping[str, Any]
MOST = 10_000
IN_FLIGHT = "in_flight_of_slots"
"""How many may be at the engine, as a part of its slots."""


class ActError(ValueError):
    """What is wrong with an action, as one clause."""


@dataclass(frozen=True)
class Act:
    """One action, checked."""

    do: str
    settings: Settings = field(default_factory=dict)

    def command(self, snapshot: Snapshot) -> Command:
        """As it is sent to this stack. Raises ActError where the stack does not tell what is needed."""
        return ACTS[self.do].make(self.settings, snapshot)

    @property
    def in_words(self) -> str:
        """What it does, in a few words."""
        return f"{self.do} {', '.join(_said(key, value) for key, value in self.settings.items())}".rstrip()


@dataclass(frozen=True)
class Kind:
    """One word of the vocabulary."""

    says: str
    settings: dict[str, Callable[[Any], object]]
    """What may be set, with what checks it and raises ActError."""
    make: Callable[[Settings, Snapshot], Command]
    needs: tuple[tuple[str, ...], ...] = ()
    """Of each group one has to be set."""
    whole: Callable[[Settings], object] | None = None
    """Checks all of it together."""


def checked(do: object, settings: Settings) -> Act:
    """An action. Raises ActError."""
    if not isinstance(do, str) or do not in ACTS:
        raise ActError(f"there is no action {do!r}; there are {', '.join(ACTS)}")
    kind = ACTS[do]
    for name, value in settings.items():
        if do != "fault" and name not in kind.settings:
            raise ActError(f"the action {do} has no {name!r}; it has {', '.join(kind.settings) or 'nothing to set'}")
        if name in kind.settings:
            try:
                kind.settings[name](value)
            except ActError as error:
                raise ActError(f"{name} {error}") from None
    for group in kind.needs:
        given = [name for name in group if name in settings]
        if len(given) != 1:
            raise ActError(f"the action {do} needs {'one of ' if len(group) > 1 else ''}{' or '.join(group)}")
    if kind.whole is not None:
        kind.whole(settings)
    return Act(do, dict(settings))


def _said(key: str, value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if key.endswith("of_slots"):
        return f"{key.removesuffix('of_slots').replace('_', ' ')}{text} x the slots"
    if key in {"name", "count", "who", "kind", "process", "order"}:
        return text
    name = key.removesuffix("_s").replace("_", " ")
    return f"{name} {text} s" if key.endswith("_s") else f"{name} {text}"


# checks


def _number(least: float, most: float, *, whole: bool = False) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            raise ActError(f"is a {'whole ' if whole else ''}number from {least:g} to {most:g}, not {value!r}")
        return value

    return check


def _one_of(*words: str) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        if value not in words:
            raise ActError(f"is one of {', '.join(words)}, not {value!r}")
        return value

    return check


def _flag(value: Any) -> object:
    if not isinstance(value, bool):
        raise ActError(f"is true or false, not {value!r}")
    return value


def _note(value: Any) -> object:
    if not isinstance(value, str) or not 0 < len(value) <= 60:
        raise ActError("is a text of up to 60 characters")
    return value


def _process(value: Any) -> object:
    try:
        return parse_arrivals(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ActError(f"is no process of arrivals: {error}") from None


def _weights(value: Any) -> object:
    if not isinstance(value, dict) or any(name not in RESIDENTS for name in value):
        raise ActError(f"is a table of {', '.join(RESIDENTS)} with a weight each")
    for weight in value.values():
        _number(0, 1e5)(weight)
    return value


def _whole_policy(settings: Settings) -> object:
    if not settings:
        raise ActError(f"the action policy needs something to change: {', '.join(ACTS['policy'].settings)}")
    try:
        return Policy(token_budget=1_000_000).changed(msgspec.convert(_told(settings), PolicyChange))
    except (msgspec.ValidationError, ValueError) as error:
        raise ActError(f"the policy cannot be so: {error}") from None


def _whole_fault(settings: Settings) -> object:
    rest = {name: value for name, value in settings.items() if name not in {"name", "seconds"}}
    try:
        kind = NAMES[settings["name"]]
        return (kind.settled(rest), kind.lasts(settings.get("seconds")))
    except FaultError as error:
        raise ActError(str(error).rstrip(".")) from None


# commands


def _slots(snapshot: Snapshot) -> float:
    slots = snapshot.engine.max_num_seqs.v or snapshot.queue.max_in_flight.v
    if not slots:
        raise ActError("how many slots the engine has is not known")
    return slots


def _count(settings: Settings, snapshot: Snapshot) -> int | None:
    if "count" in settings:
        return int(settings["count"])
    if "of_slots" in settings:
        of_slots: float = settings["of_slots"]
        return max(1, min(MOST, round(of_slots * _slots(snapshot))))
    return None


def _told(settings: Settings) -> dict[str, Any]:
    """What the policy itself has a name for."""
    return {name: value for name, value in settings.items() if name != IN_FLIGHT}


def _policy(settings: Settings, snapshot: Snapshot) -> Command:
    told = _told(settings)
    if IN_FLIGHT in settings:
        told["max_in_flight"] = max(1, round(settings[IN_FLIGHT] * _slots(snapshot)))
    return msgspec.convert(told, commands.Policy)


def _ask(settings: Settings, snapshot: Snapshot) -> Command:
    profile = snapshot.people.profile
    if profile is None:
        raise ActError("what people ask is not known yet")
    mix = profile.mix
    prompt, output = settings.get("prompt_tokens", mix.prompt.median), settings.get("output_tokens", mix.output.median)
    if (prompt, output) != (mix.prompt.median, mix.output.median):
        mix = Mix.of(min(prompt, mix.context // 4), min(output, mix.context // 4), mix.context)
    return commands.Ask(
        msgspec.structs.replace(
            profile,
            mix=mix,
            think_s=float(settings.get("think_s", profile.think_s)),
            turns=float(settings.get("turns", profile.turns)),
            manners=_retrying(profile.manners, settings),
        )
    )


def _retrying(manners: Manners, settings: Settings) -> Manners:
    if "retries" not in settings:
        return manners
    return msgspec.structs.replace(manners, retry=msgspec.structs.replace(manners.retry, kind=settings["retries"]))


def _fault(settings: Settings, snapshot: Snapshot) -> Command:
    del snapshot
    rest = {name: value for name, value in settings.items() if name not in {"name", "seconds"}}
    return commands.Fault(settings["name"], rest, settings.get("seconds"))


_HOW_MANY: dict[str, Callable[[Any], object]] = {
    "count": _number(0, MOST, whole=True),
    "of_slots": _number(0.05, 100),
}
_PRESETS = tuple(preset.name for preset in presets(Profile()))
_POLICY = (
    *("order", "ageing_s", "limit", "max_in_flight", "overload", "max_queue", "max_wait_s", "queue_timeout_s"),
    "deadline_s",
)

ACTS: dict[str, Kind] = {
    "preset": Kind(
        "a load with a name",
        {"name": _one_of(*_PRESETS)},
        lambda s, _: commands.Preset(s["name"]),
        (("name",),),
    ),
    "people": Kind(
        "have so many people", _HOW_MANY, lambda s, now: commands.People(_count(s, now)), (("count", "of_slots"),)
    ),
    "ask": Kind(
        "change what people ask and how long they think",
        {
            "think_s": _number(0, 3600),
            "turns": _number(1, 100),
            "prompt_tokens": _number(1, 1_000_000, whole=True),
            "output_tokens": _number(1, 1_000_000, whole=True),
            "retries": _one_of(*get_args(RetryKind)),
        },
        _ask,
    ),
    "mix": Kind(
        "split the people by behaviour", {"weights": _weights}, lambda s, _: commands.Mix(s["weights"]), (("weights",),)
    ),
    "arrivals": Kind(
        "strangers by this process instead of people",
        {"process": _process},
        lambda s, _: commands.Open(parse_arrivals(s["process"])),
        (("process",),),
    ),
    "burst": Kind(
        "so many requests at once; 3 x the slots unless told", _HOW_MANY, lambda s, now: commands.Burst(_count(s, now))
    ),
    "flash": Kind(
        "a crowd comes, asks and goes",
        {**_HOW_MANY, "over_s": _number(0, 600), "asks": _number(1, 100, whole=True)},
        lambda s, now: commands.Flash(_count(s, now), float(s.get("over_s", 5.0)), s.get("asks", 3)),
    ),
    "extra": Kind(
        "have so many people of one behaviour besides the others",
        {"who": _one_of(*RESIDENTS), **_HOW_MANY},
        lambda s, now: commands.Extra(s["who"], _count(s, now)),
        (("who",), ("count", "of_slots")),
    ),
    "stall": Kind(
        "clients ask and stop reading",
        {**_HOW_MANY, "for_s": _number(1, 600)},
        lambda s, now: commands.Stall(_count(s, now), float(s.get("for_s", 60.0))),
    ),
    "leave": Kind(
        "clients ask and leave",
        {**_HOW_MANY, "at": _one_of(*get_args(Moment)), "how": _one_of(*get_args(Way))},
        lambda s, now: commands.Leave(_count(s, now), s.get("at", "1"), s.get("how", "rst")),
    ),
    "policy": Kind(
        "change the queue's policy",
        {IN_FLIGHT: _number(0.05, 1), **dict.fromkeys(_POLICY, lambda value: value)},
        _policy,
        whole=_whole_policy,
    ),
    "restart": Kind(
        "cold-restart the engine",
        {"kind": _one_of(*(kind.name for kind in KINDS.values()))},
        lambda s, _: commands.Restart(s.get("kind", "process")),
    ),
    "capacity": Kind(
        "search for how many people can be served",
        {"careful": _flag, "cap_s": _number(30, 3600)},
        lambda s, _: commands.Capacity(careful=s.get("careful", False), cap_s=float(s.get("cap_s", 360.0))),
    ),
    "fault": Kind(
        "provoke a fault; what else is set are its own settings",
        {"name": _one_of(*NAMES), "seconds": _number(1, 600)},
        _fault,
        (("name",),),
        _whole_fault,
    ),
    "unfault": Kind("undo every fault that lasts", {}, lambda s, _: commands.Unfault()),
    "marker": Kind(
        "note something on the charts", {"note": _note}, lambda s, _: commands.Marker(s["note"]), (("note",),)
    ),
}
