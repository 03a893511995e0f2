"""The limit's rules on seconds that were recorded while each limit was provoked (see bench/limits.py), and on those seconds
with a single figure changed."""

from __future__ import annotations

from collections import deque
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.telemetry.limit import HOLD_S, NOBODY, NOTHING, RULES, HeldLimit, evaluate, limit_of, settle
from server.telemetry.limit_seen import WINDOW_S, see
from server.telemetry.recording import read
from server.telemetry.snapshot import Limit, LimitName, LimitRule, Snapshot, Value, snapshot_decoder, snapshot_encoder

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "data" / "limits"
FIXTURES = sorted(FOLDER.glob("*.json"))


class Fixture(msgspec.Struct):
    about: str
    expected: str
    snapshots: list[Snapshot]


decoder = msgspec.json.Decoder(Fixture)


def recorded(name: str) -> list[Snapshot]:
    return decoder.decode((FOLDER / f"{name}.json").read_bytes()).snapshots


def changed(snapshots: list[Snapshot], **parts: dict[str, Any]) -> list[Snapshot]:
    """The same seconds with fields of a part replaced, e.g. `engine={"running": Value(v=3)}`; `gpu` is the first device."""
    made = []
    for snapshot in snapshots:
        new: dict[str, Any] = {}
        for part, fields in parts.items():
            if part == "gpu":
                new["gpus"] = [msgspec.structs.replace(snapshot.gpus[0], **fields), *snapshot.gpus[1:]]
            else:
                new[part] = msgspec.structs.replace(getattr(snapshot, part), **fields)
        made.append(msgspec.structs.replace(snapshot, **new))
    return made


def holds(limit: Limit, name: LimitName) -> list[bool | None]:
    return [rule.holds for rule in limit.rules if rule.name == name]


@pytest.mark.parametrize("path", FIXTURES, ids=[path.stem for path in FIXTURES])
def test_what_was_provoked_is_named(path: Path) -> None:
    fixture = decoder.decode(path.read_bytes())
    found = limit_of(fixture.snapshots)
    assert found.name == fixture.expected
    assert found.because
    assert found.because in found.phrase
    assert bool(found.next_step) is bool(fixture.expected)
    if fixture.expected:
        assert found.phrase.startswith(fixture.expected.upper())
        assert len(found.rules) == len(RULES)
    else:
        assert found.phrase.startswith("not evaluated: ")


def test_every_limit_has_its_seconds() -> None:
    provoked = {decoder.decode(path.read_bytes()).expected for path in FIXTURES}
    assert provoked - {""} >= {name for name, _ in RULES}


def test_the_tour_of_an_h100_from_end_to_end() -> None:
    """A recording from before there was a limit still decodes, and is named all the same."""
    recent: deque[Snapshot] = deque(maxlen=32)
    held, named = HeldLimit(), []
    for snapshot in read(ROOT / "screenshots" / "h100.sparkrec"):
        recent.append(snapshot)
        held = settle(limit_of(recent), held, snapshot.at)
        people = snapshot.people.people.v
        if snapshot.engine.phase == "ready" and people is not None:
            named.append((int(people), held.limit.name))
    runs = [(run, len(list(ticks))) for run, ticks in groupby(named)]
    assert [run for run, ticks in runs if ticks >= 20] == [
        (1, "people's think time"),
        (64, "people's think time"),
        (200, "sequence cap"),
        (64, "sequence cap"),  # until the queue is empty
        (64, "sequence cap"),  # a burst of 200
        (64, "people's think time"),  # with slow readers among them
        (64, "people's think time"),  # after a cold restart
    ]


# one figure changed


def test_the_window_is_the_last_seconds_of_one_phase() -> None:
    seconds = recorded("h100-sequence-cap")
    last = seconds[-1]
    old = msgspec.structs.replace(seconds[0], at=last.at - WINDOW_S - 1)
    other = changed([seconds[0]], engine={"phase": "starting", "running": Value(v=0.0)})
    assert see([old, *other, *seconds]) == see(seconds)


def test_kv_use_says_whether_more_slots_help() -> None:
    seconds = recorded("h100-sequence-cap")
    assert "raise --max-num-seqs: KV is at 13 %" in limit_of(seconds).next_step
    full = limit_of(changed(seconds, engine={"kv_usage": Value(v=0.82)}))
    assert full.name == "sequence cap"
    assert full.next_step.startswith("more KV memory first")


def test_full_slots_are_no_cap_while_nobody_waits() -> None:
    found = limit_of(changed(recorded("h100-sequence-cap"), queue={"depth": Value(v=0.0)}))
    assert found.name == "memory bandwidth"


def test_a_saturated_device_comes_before_the_cap() -> None:
    seconds = recorded("h100-sequence-cap")
    assert limit_of(changed(seconds, gpu={"dram": Value(v=0.85)})).name == "memory bandwidth"
    assert limit_of(changed(seconds, gpu={"tensor": Value(v=0.85)})).name == "compute"


def test_preemptions_come_before_the_cap() -> None:
    seconds = recorded("h100-sequence-cap")
    pressed = {"preemptions_per_min": Value(v=12.0), "kv_usage": Value(v=0.97)}
    assert limit_of(changed(seconds, engine=pressed)).name == "KV pressure"
    calm = {"preemptions_per_min": Value(v=12.0), "kv_usage": Value(v=0.3)}
    assert limit_of(changed(seconds, engine=calm)).name == "sequence cap"


def test_a_queue_before_free_places_is_the_policys() -> None:
    seconds = recorded("h100-sequence-cap")
    free = changed(seconds, queue={"in_flight": Value(v=20.0)}, engine={"running": Value(v=20.0)})
    assert limit_of(free).name == "queue policy"
    known = changed(seconds, queue={"max_in_flight": Value(v=32.0), "in_flight": Value(v=32.0)})
    found = limit_of(changed(known, engine={"running": Value(v=32.0)}))
    assert (found.name, found.next_step) == ("queue policy", "spark-serve limits --max-in-flight 64")


def test_without_max_num_seqs_the_cap_is_not_evaluated() -> None:
    found = limit_of(changed(recorded("h100-sequence-cap"), engine={"max_num_seqs": Value()}))
    assert holds(found, "sequence cap") == [None]
    assert found.name == "queue policy"  # the gateway's places are taken and nobody waits in the engine


def test_without_gpm_the_engines_estimate_counts() -> None:
    seconds = recorded("h100-memory-bandwidth")
    no_gpm = {name: Value(src="gpm", why="needs GPM: Hopper or newer") for name in ("tensor", "dram", "sm_active")}
    estimated = {**no_gpm, "mfu": Value(v=0.02), "mbu": Value(v=0.81)}
    found = limit_of(changed(seconds, gpu=estimated))
    assert (found.name, found.because.split(",")[0]) == ("memory bandwidth", "MBU 81 %")
    nothing = limit_of(changed(seconds, gpu={**no_gpm, "mfu": Value(), "mbu": Value()}))
    assert nothing.name == ""
    assert "memory bandwidth and compute are not measured" in nothing.phrase


def test_busy_alone_is_no_evidence() -> None:
    seconds = recorded("h100-memory-bandwidth")
    lacking = {name: Value() for name in ("tensor", "dram", "sm_active", "mfu", "mbu")}
    assert limit_of(changed(seconds, gpu={**lacking, "busy": Value(v=1.0)})).name == ""


def test_several_gpus_of_which_none_is_known_to_be_the_engines_are_not_averaged() -> None:
    seconds = recorded("h100-memory-bandwidth")
    two = [msgspec.structs.replace(s, gpus=[s.gpus[0], s.gpus[0]]) for s in seconds]
    assert limit_of(two).name == ""
    mine = [
        msgspec.structs.replace(s, gpus=[msgspec.structs.replace(s.gpus[0], engines=True), s.gpus[0]]) for s in seconds
    ]
    assert limit_of(mine).name == "memory bandwidth"


def test_throttled_clocks_are_said() -> None:
    seconds = changed(recorded("h100-memory-bandwidth"), gpu={"tensor": Value(v=0.7), "slowed_by": ["the power cap"]})
    found = limit_of(seconds)
    assert found.name == "compute"
    assert "clocks held down by the power cap" in found.because


@pytest.mark.parametrize(
    ("age_s", "power_w", "limit_w", "stalled"),
    [
        (12.0, 75.0, 700.0, True),
        (12.0, 610.0, 700.0, False),  # a long step
        (4.0, 75.0, 700.0, False),
        (12.0, None, None, False),  # nobody knows whether it works
        (61.0, None, None, True),
    ],
)
def test_a_stall_is_a_silent_engine_on_a_resting_gpu(
    age_s: float, power_w: float | None, limit_w: float | None, stalled: bool
) -> None:
    seconds = recorded("h100-sequence-cap")
    gpu = {"power_w": Value(v=power_w), "power_limit_w": Value(v=limit_w), "busy": Value()}
    found = limit_of(changed(seconds, engine={"heartbeat_age_s": age_s}, gpu=gpu))
    assert (found.name == "stalled") is stalled


def test_a_stall_is_not_an_engine_that_is_down() -> None:
    found = limit_of(changed(recorded("cpu-stalled"), engine={"phase": "down"}))
    assert (found.name, found.phrase, found.rules) == ("", "not evaluated: the engine is down", [])


def test_an_open_loop_is_limited_by_its_rate() -> None:
    seconds = changed(
        recorded("h100-people-think-time"),
        people={"mode": "open", "people": Value(), "thinking": Value()},
        queue={"arrivals_per_s": Value(v=4.2)},
    )
    found = limit_of(seconds)
    assert (found.name, found.next_step) == ("no load", "raise the rate")
    assert "4.2 requests/s come and nobody waits" in found.because


def test_token_budget_is_read_from_the_command_line_where_the_log_does_not_say() -> None:
    seconds = recorded("cpu-token-budget")
    silent = changed(seconds, engine={"max_num_batched_tokens": Value(), "argv": []})
    assert holds(limit_of(silent), "token budget") == [None]
    for argv in (["--max-num-batched-tokens=32"], ["--max-num-batched-tokens", "32"]):
        told = changed(seconds, engine={"max_num_batched_tokens": Value(), "argv": ["vllm", *argv, "--seed", "1"]})
        assert limit_of(told).name == "token budget"


def test_a_silent_engine_is_not_judged() -> None:
    found = limit_of(changed(recorded("h100-sequence-cap"), engine={"running": Value(why="no answer for 12 s")}))
    assert (found.name, found.rules) == ("", [])


@pytest.mark.parametrize("path", FIXTURES, ids=[path.stem for path in FIXTURES])
def test_whatever_is_missing_no_rule_fails(path: Path) -> None:
    seconds = decoder.decode(path.read_bytes()).snapshots
    for part in ("people", "queue", "engine"):
        for name in getattr(seconds[-1], part).__struct_fields__:
            if isinstance(getattr(getattr(seconds[-1], part), name), Value):
                assert limit_of(changed(seconds, **{part: {name: Value(why="gone")}})).phrase
    bare = [
        msgspec.structs.replace(s, gpus=[], breakdown=type(s.breakdown)(), people=type(s.people)()) for s in seconds
    ]
    assert limit_of(bare).phrase


# what stands


def answer(name: LimitName, because: str = "evidence") -> Limit:
    return Limit(name=name, phrase=name, because=because, rules=[LimitRule(name)])


def test_another_answer_must_last_before_it_shows() -> None:
    held = settle(answer("sequence cap"), HeldLimit(), 100.0)
    assert held.limit.name == "sequence cap"
    held = settle(answer("compute"), held, 101.0)
    assert held.limit.name == "sequence cap"
    held = settle(answer("sequence cap"), held, 102.0)
    held = settle(answer("compute"), held, 103.0)
    held = settle(answer("compute"), held, 103.0 + HOLD_S - 0.1)
    assert (held.limit.name, held.limit.since_s) == ("sequence cap", pytest.approx(3.0 + HOLD_S - 0.1))
    held = settle(answer("compute"), held, 103.0 + HOLD_S)
    assert (held.limit.name, held.limit.since_s) == ("compute", 0.0)


@pytest.mark.parametrize("urgent", [answer("stalled"), answer("no load", NOBODY), Limit(because="the engine is down")])
def test_a_stall_an_end_and_silence_show_at_once(urgent: Limit) -> None:
    held = settle(answer("compute"), HeldLimit(), 100.0)
    held = settle(urgent, held, 100.5)
    assert held.limit.name == urgent.name
    assert settle(answer("compute"), held, 101.0).limit.name == "compute"


def test_the_first_answer_there_is_shows_at_once() -> None:
    held = settle(answer("", "nothing"), HeldLimit(), 100.0)
    assert settle(answer("sequence cap"), held, 100.5).limit.name == "sequence cap"


@pytest.mark.parametrize("other", [answer(""), answer("no load", "9 requests/s come and nobody waits")])
def test_a_figure_that_swings_around_a_bound_does_not_flicker(other: Limit) -> None:
    held = settle(answer("memory bandwidth"), HeldLimit(), 100.0)
    for at in (100.5, 101.5, 102.5):
        held = settle(other, held, at)
        held = settle(answer("memory bandwidth"), held, at + 0.5)
        assert held.limit.name == "memory bandwidth"
    held = settle(other, held, 103.5)
    assert settle(other, held, 103.5 + HOLD_S).limit.name == other.name


def test_when_every_rule_was_asked_and_none_holds_nothing_stands_out() -> None:
    calm = {"dram": Value(v=0.4), "tensor": Value(v=0.3), "mfu": Value(v=0.3), "mbu": Value(v=0.4)}
    seconds = changed(recorded("h100-compute"), gpu=calm)
    found = limit_of(seconds)
    assert (found.name, found.phrase) == ("", f"{NOTHING}: {found.because}")
    assert "40 %" in found.because
    assert all(rule.holds is False for rule in found.rules)


def test_a_limit_survives_the_wire() -> None:
    seconds = recorded("h100-sequence-cap")
    limit = evaluate(see(seconds))
    sent = msgspec.structs.replace(seconds[-1], limit=limit.phrase, limit_detail=limit)
    back = snapshot_decoder.decode(snapshot_encoder.encode(sent))
    assert back.limit_detail.phrase == back.limit == limit.phrase
    assert [rule.name for rule in back.limit_detail.rules] == [name for name, _ in RULES]
