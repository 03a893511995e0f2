from __future__ import annotations

import msgspec
import pytest
import samples

from console.deeds import PRESETS
from console.editing import changed, expected, more_people, rows, shares, taken
from loadgen.arrivals import Constant, Gamma, OnOff, Ramp, check, in_words
from loadgen.profile import profile_error
from loadgen.prompts import Mix
from loadgen.records import RESIDENTS
from server import commands
from server.telemetry.snapshot import People, Value

CLOSED = samples.CROWDED.people
OPEN = samples.STRANGERS.people


def people(**parts: object) -> People:
    return msgspec.structs.replace(CLOSED, **parts)


def asked(command: object) -> commands.Ask:
    assert isinstance(command, commands.Ask)
    return command


def test_a_rate_is_there_in_open_loop_only() -> None:
    assert "rate" not in rows(CLOSED)
    assert "rate" in rows(OPEN)
    assert rows(CLOSED)[: len(RESIDENTS)] == list(RESIDENTS)
    assert rows(CLOSED)[-len(PRESETS) :] == [preset.name for preset in PRESETS]
    assert len(set(rows(OPEN))) == len(rows(OPEN))


def test_shares_of_no_weights_are_all_patient() -> None:
    assert shares(People()) == {"patient": 1.0}
    assert shares(CLOSED) == {"patient": 0.7, "abandoner": 0.2, "retrier": 0.1}


@pytest.mark.parametrize(
    ("weights", "row", "sign", "after"),
    [
        ({}, "abandoner", 1, {"patient": 10, "abandoner": 1}),
        ({"patient": 7, "abandoner": 2, "retrier": 1}, "retrier", -1, {"patient": 7, "abandoner": 2}),
        ({"patient": 0.8, "slow": 0.2}, "slow", 1, {"patient": 0.8, "slow": 0.3}),
        ({"patient": 10, "long": 1}, "patient", -1, {"patient": 9, "long": 1}),
    ],
)
def test_a_step_of_a_behaviour_moves_its_weight(
    weights: dict[str, float], row: str, sign: int, after: dict[str, float]
) -> None:
    assert changed(people(weights=weights), row, sign) == commands.Mix(after)


def test_the_last_behaviour_stays() -> None:
    assert isinstance(changed(people(weights={"slow": 3.0}), "slow", -1), str)
    assert isinstance(changed(people(weights={}), "slow", -1), str)


@pytest.mark.parametrize(
    ("row", "sign", "of", "value"),
    [
        ("think", 1, "think_s", 15.0),
        ("think", -1, "think_s", 4.0),
        ("turns", 1, "turns", 5.0),
        ("turns", -1, "turns", 2.0),
    ],
)
def test_a_step_of_a_setting_goes_along_its_ladder(row: str, sign: int, of: str, value: float) -> None:
    assert getattr(asked(changed(CLOSED, row, sign)).profile, of) == value


def test_ladders_end() -> None:
    assert CLOSED.profile is not None
    longest = people(profile=msgspec.structs.replace(CLOSED.profile, think_s=60.0, turns=1.0))
    assert asked(changed(longest, "think", 1)).profile.think_s == 60.0
    assert asked(changed(longest, "turns", -1)).profile.turns == 1.0


def test_lengths_go_round_and_come_back_to_what_they_were() -> None:
    even = samples.PROFILE.mix
    seen, now = [], CLOSED
    for _ in range(4):
        command = asked(changed(now, "lengths", 1, even))
        now = expected(now, command)
        assert command.profile.mix.context == even.context
        assert command.profile.mix.prompt.median <= even.context // 8
        assert profile_error(command.profile) == ""
        seen.append(command.profile.mix.name)
    assert seen == ["chat", "code", "long", "even"]
    assert now.profile == CLOSED.profile


def test_even_lengths_that_were_never_seen_are_modest() -> None:
    mix = asked(
        changed(people(profile=msgspec.structs.replace(samples.PROFILE, mix=Mix.named("long", 512))), "lengths", 1)
    )
    assert mix.profile.mix.name == "even"
    assert mix.profile.mix.prompt.median <= 64


def test_retries_and_retry_after() -> None:
    kinds, now = [], CLOSED
    for _ in range(3):
        command = asked(changed(now, "retries", 1))
        kinds.append(command.profile.manners.retry.kind)
        now = expected(now, command)
    assert kinds == ["jitter", "budget", "naive"]
    honours = asked(changed(CLOSED, "retry-after", 1)).profile.manners.retry
    assert honours.honours_retry_after
    assert honours.kind == "naive"


def test_arrivals_go_round_at_the_rate_people_had() -> None:
    now, made = CLOSED, []
    for _ in range(6):
        command = changed(now, "arrivals", 1)
        assert isinstance(command, commands.Open)
        assert command.arrivals is None or check(command.arrivals) == ""
        made.append(command.arrivals)
        now = msgspec.structs.replace(expected(now, command), mode="open" if command.arrivals else "closed")
    # 25 requests a second were sent; 20 and 30 are as near
    assert made == [Gamma(20.0), Gamma(20.0, 0.5), Gamma(20.0, 0.25), OnOff(20.0), Constant(20.0), None]


def test_a_rate_steps_whatever_the_arrivals() -> None:
    for process in (Gamma(3.0), Gamma(3.0, 0.25), OnOff(3.0), Constant(3.0)):
        now = people(mode="open", arrivals=in_words(process), rate_asked_per_s=Value(3.0))
        for command in (changed(now, "rate", 1), more_people(now, 1, 25)):
            assert command == commands.Open(msgspec.structs.replace(process, per_s=4.0))


def test_a_ramp_has_no_rate_to_step_but_can_be_left() -> None:
    now = people(mode="open", arrivals=in_words(Ramp(0.5, 8.0, 120.0)), rate_asked_per_s=Value(3.2))
    assert isinstance(changed(now, "rate", 1), str)
    assert changed(now, "arrivals", 1) == commands.Open(None)


def test_people_step_in_closed_loop() -> None:
    assert more_people(CLOSED, -1, 25) == commands.People(delta=-25)


def test_enter_takes_what_is_chosen() -> None:
    assert taken(CLOSED, "retrier") == commands.Extra("retrier")
    assert taken(CLOSED, "lunch-rush") == commands.Preset("lunch-rush")
    assert taken(CLOSED, "think") == changed(CLOSED, "think", 1)
    assert isinstance(changed(CLOSED, "lunch-rush", 1), str)


def test_nothing_is_asked_of_people_nobody_knows() -> None:
    assert isinstance(changed(People(), "think", 1), str)
    assert isinstance(changed(People(), "arrivals", 1), str)


def test_an_edit_is_no_preset_any_more() -> None:
    picked = people(preset="ten-friends")
    for row in ("abandoner", "think", "arrivals"):
        command = changed(picked, row, 1)
        assert not isinstance(command, str)
        assert expected(picked, command).preset == ""
    assert expected(picked, commands.Burst()) is picked
