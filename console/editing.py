"""What can be changed on the Load screen: its rows, and the command that one step of a row makes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec

from console.deeds import PRESETS
from console.ladder import around, beside
from loadgen.arrivals import Arrivals, Constant, Gamma, OnOff, in_words
from loadgen.behaviours import RetryKind
from loadgen.presets import fitting
from loadgen.profile import Profile
from loadgen.prompts import TRACE_FITS, Mix
from loadgen.records import RESIDENTS, Behaviour
from server import commands
from server.commands import Command
from server.telemetry.snapshot import People

SETTINGS = ("arrivals", "rate", "think", "turns", "lengths", "retries", "retry-after")
THINK_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
TURNS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
RATES = tuple(step * 10.0**power for power in (-1, 0, 1, 2, 3) for step in (1, 1.5, 2, 3, 4, 6, 8))
LENGTHS = ("even", *TRACE_FITS)
RETRIES: tuple[RetryKind, ...] = get_args(RetryKind)
ALL_PATIENT = {"patient": 10.0}
"""What no weights at all stand for when they are changed: a step is then a tenth of the people."""
UNKNOWN = "nothing is known of the people yet"

_ARRIVALS: tuple[Callable[[float], Arrivals | None], ...] = (
    lambda rate: None,
    Gamma,
    lambda rate: Gamma(rate, 0.5),
    lambda rate: Gamma(rate, 0.25),
    OnOff,
    Constant,
)
"""People who come back, then open loops of the same rate: Poisson, busy, bursty, heavy clients, constant."""


def rows(people: People) -> list[str]:
    """What can be chosen, from the top: behaviours, settings, presets. A rate is there in open loop only."""
    settings = [name for name in SETTINGS if name != "rate" or people.arrivals]
    return [*RESIDENTS, *settings, *(preset.name for preset in PRESETS)]


def shares(people: People) -> dict[str, float]:
    """How the people, or the strangers, are split by behaviour, 0..1."""
    total = sum(people.weights.values())
    return {name: weight / total for name, weight in people.weights.items()} if total > 0 else {"patient": 1.0}


def taken(people: People, row: str, even: Mix | None = None) -> Command | str:
    """What enter makes of a row: a preset is loaded, a behaviour comes besides or goes, a setting takes its next value."""
    if row in RESIDENTS:
        return commands.Extra(_behaviour(row))
    if row in SETTINGS:
        return changed(people, row, 1, even)
    return commands.Preset(row)


def changed(people: People, row: str, sign: int, even: Mix | None = None) -> Command | str:
    """The command of one step up (1) or down (-1), or why there is none, in one clause.

    `even` are the lengths that the cycle comes back to after those of the published traces.
    """
    if row in RESIDENTS:
        return _weighed(people, _behaviour(row), sign)
    if row == "arrivals":
        return _arriving(people, sign)
    if row == "rate":
        return _at_rate(people, sign)
    if row not in SETTINGS:
        return "a preset is taken with enter"
    profile = people.profile
    return UNKNOWN if profile is None else commands.Ask(_asking(profile, row, sign, even))


def more_people(people: People, sign: int, step: int) -> Command | str:
    """People more or fewer; in open loop, where nobody stays, a step of the rate."""
    return _at_rate(people, sign) if people.arrivals else commands.People(delta=sign * step)


def expected(people: People, command: Command) -> People:
    """The people as they should be once the command is carried out, as far as it changes what is wanted."""
    if isinstance(command, commands.Mix):
        return msgspec.structs.replace(people, weights=dict(command.weights.items()), preset="")
    if isinstance(command, commands.Ask):
        return msgspec.structs.replace(people, profile=command.profile, preset="")
    if isinstance(command, commands.Open):
        rate = msgspec.structs.replace(people.rate_asked_per_s, v=getattr(command.arrivals, "per_s", None), age_s=0.0)
        words = in_words(command.arrivals) if command.arrivals is not None else ""
        return msgspec.structs.replace(people, arrivals=words, rate_asked_per_s=rate, preset="")
    return people


def _behaviour(row: str) -> Behaviour:
    return next(behaviour for behaviour in RESIDENTS if behaviour == row)


def _weighed(people: People, behaviour: Behaviour, sign: int) -> Command | str:
    weights: dict[str, float] = {name: weight for name, weight in people.weights.items() if weight > 0} or ALL_PATIENT
    if sign < 0 and behaviour not in weights:
        return "they have no part of the people"
    if sign < 0 and len(weights) == 1:
        return "everybody is like that; give another behaviour more first"
    total = sum(weights.values())
    unit = 1.0 if total >= 8 else total / 10
    moved = {name: weights.get(name, 0.0) + (sign * unit if name == behaviour else 0.0) for name in RESIDENTS}
    return commands.Mix({_behaviour(name): round(weight, 6) for name, weight in moved.items() if weight > unit / 100})


def _process(people: People) -> int | None:
    """Which of the arrivals offered here they are; None where they are others (a ramp, a replay)."""
    if not people.arrivals:
        return 0
    rate = people.rate_asked_per_s.v
    if rate is None:
        return None
    made = [make(rate) for make in _ARRIVALS]
    return next((i for i, process in enumerate(made) if process and in_words(process) == people.arrivals), None)


def _arriving(people: People, sign: int) -> Command | str:
    if people.mode == "none":
        return UNKNOWN
    kind = _process(people)
    rate = people.rate_asked_per_s.v if people.arrivals else people.sent_per_s.v
    new = 0 if kind is None else (kind + sign) % len(_ARRIVALS)
    return commands.Open(_ARRIVALS[new](min(RATES, key=lambda known: abs(known - (rate or 1.0)))))


def _at_rate(people: People, sign: int) -> Command | str:
    kind, rate = _process(people), people.rate_asked_per_s.v
    if not kind or rate is None:
        return "these arrivals have no rate to change"
    return commands.Open(_ARRIVALS[kind](beside(RATES, rate, sign)))


def _asking(profile: Profile, row: str, sign: int, even: Mix | None) -> Profile:
    retry = profile.manners.retry
    match row:
        case "think":
            return msgspec.structs.replace(profile, think_s=beside(THINK_S, profile.think_s, sign))
        case "turns":
            return msgspec.structs.replace(profile, turns=beside(TURNS, profile.turns, sign))
        case "lengths":
            context = profile.mix.context
            name = around(LENGTHS, profile.mix.name, sign)
            mix = Mix.named(name, context) if name in TRACE_FITS else even or Mix(context=context)
            return msgspec.structs.replace(profile, mix=mix if mix is even else fitting(mix))
        case "retries":
            retry = msgspec.structs.replace(retry, kind=around(RETRIES, retry.kind, sign))
        case _:
            retry = msgspec.structs.replace(retry, honours_retry_after=not retry.honours_retry_after)
    return msgspec.structs.replace(profile, manners=msgspec.structs.replace(profile.manners, retry=retry))
