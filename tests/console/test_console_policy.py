from __future__ import annotations

from typing import Any

import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import until

from console.app import CockpitApp
from console.panels.policy import policy_panel
from console.panels.queue import blocked, limit_words, queue_panel, queue_row
from console.panels.rules import LABELS, rule_says
from console.panels.stages import stages
from console.rules import KNOBS, RULES, UNKNOWN, Draft
from console.screens.ask import AskKey
from console.screens.policy import PolicyScreen
from console.sources.scripted import ScriptedSource
from console.widgets.canvas import Canvas
from server import commands
from server.commands import Answer
from server.config import EngineKnobs
from server.gateway.policy import Policy, PolicyChange
from server.gateway.records import QueuedRequest
from server.telemetry.snapshot import Queue, Snapshot, Value

SIZE = (160, 48)
STATES = ["LOADED", "BY_TOKENS", "ADAPTIVE", "HELD", "PLAIN", "IDLE"]


def queue_of(state: str) -> Queue:
    return getattr(samples, state).queue  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("state", "limit"),
    [
        ("LOADED", ("in-flight 64/64", "64/64")),
        ("BY_TOKENS", ("tokens 36.9k/40.0k", "36.9k/40.0k")),
        ("ADAPTIVE", ("adaptive 18 of 64", "18 of 64")),
    ],
)
def test_a_limit_says_its_kind_and_how_much_of_it_is_taken(state: str, limit: tuple[str, str]) -> None:
    assert limit_words(queue_of(state)) == limit
    assert limit_words(Queue()) == ("", "")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("LOADED", "waits for a place in flight: all 64 are taken"),
        ("BY_TOKENS", "head needs 6 200 tokens, 3 100 free, and keeps 9 back"),
        ("ADAPTIVE", "waits for the adaptive limit: 18 at once for now"),
        ("HELD", "waits for the engine to be back"),
    ],
)
def test_each_reason_to_wait_is_said(state: str, said: str) -> None:
    words = blocked(queue_of(state))
    assert words[0] == said
    assert [len(word) for word in words] == sorted((len(word) for word in words), reverse=True)


def test_nobody_who_waits_waits_for_nothing() -> None:
    assert blocked(samples.IDLE.queue) == ()
    between = samples.change(samples.LOADED, queue={"depth": Value(0.0, src="gateway")})
    assert blocked(between.queue) == (), "the line was told before its last one went"


@pytest.mark.parametrize(
    ("state", "cells", "parts"),
    [
        ("LOADED", 160, ["10 waiting of 256", "oldest 1.10 s", "fifo, in-flight 64/64"]),
        ("LOADED", 80, ["10 waiting", "old 1.10 s", "fifo, 64/64"]),
        ("BY_TOKENS", 160, ["needs 6200, 3100 free", "fifo, tokens 36.9k/40"]),
        ("BY_TOKENS", 80, ["needs 6200", "fifo"]),
        ("ADAPTIVE", 160, ["oldest 1.10 s", "shortest, 18 of 64"]),
        ("HELD", 160, ["waits for the engine", "fifo, in-flight 0/64"]),
        ("HELD", 80, ["for engine"]),
        ("PLAIN", 160, ["plain shortest, 64/64"]),
        ("PLAIN", 80, ["plain short"]),
    ],
)
def test_the_queue_stage_says_who_waits_and_why(state: str, cells: int, parts: list[str]) -> None:
    text = text_of(stages(view_of(getattr(samples, state)), cells, 8))
    for part in parts:
        assert part in text


def test_a_gateway_that_tells_no_policy_shows_what_it_tells() -> None:
    older = samples.change(samples.LOADED, queue={"rules": None, "limit": Value(), "why": "", "first": []})
    assert "fifo, max 256" in text_of(stages(view_of(older), 160, 8))
    assert text_of(queue_row(view_of(older), 160, 1)) == ""


@pytest.mark.parametrize("cells", [80, 120, 160, 200])
@pytest.mark.parametrize("state", STATES)
def test_the_row_of_the_queue_fits(state: str, cells: int) -> None:
    [row] = queue_row(view_of(getattr(samples, state)), cells, 1)
    text = text_of([row])
    assert len(text) <= cells
    assert queue_of(state).policy in text
    assert ("nobody waits" in text) == (state == "IDLE")


def test_who_is_not_counted_is_not_said_to_be_nobody() -> None:
    assert "nobody" not in text_of(queue_row(view_of(samples.READ_ONLY), 160, 1))


def test_knobs_that_nobody_told_are_not_known_on_somebody_elses_engine() -> None:
    bare = samples.change(samples.READ_ONLY, engine={"argv": []})
    text = text_of(policy_panel(view_of(bare, chosen="order"), 160, 23))
    assert "fcfs" not in text
    assert "unbounded" not in text
    told = samples.change(samples.LOADED, engine={"argv": ["vllm", "--scheduling-policy=priority"]})
    assert "priority" in text_of(queue_panel(view_of(told), 60, 19)).splitlines()[-3]
    assert "on (default)" in text_of(policy_panel(view_of(told, chosen="order"), 160, 23))


def test_the_row_of_the_queue_names_the_next() -> None:
    text = text_of(queue_row(view_of(samples.BY_TOKENS), 200, 1))
    for part in ("tokens 36.9k/40.0k", "keeps 9 back", "about 2.10 s at 4.7 done/s", "9 users", "next reader 6200 tok"):
        assert part in text
    unknown = samples.change(samples.LOADED, queue={"estimated_wait_s": Value(), "drain_per_s": Value()})
    assert "how long is not known yet" in text_of(queue_row(view_of(unknown), 160, 1))


def test_the_panel_of_the_queue_has_the_line_and_the_knobs() -> None:
    text = text_of(queue_panel(view_of(samples.ADAPTIVE), 60, 19))
    for part in ("shortest, ageing 30 s", "10 waiting of at most 256", "key 5f0c31aa", "2 822", "31.2 s  aged", "fcfs"):
        assert part in text
    assert "and 2 more" in text
    short = text_of(queue_panel(view_of(samples.ADAPTIVE), 60, 12))
    assert "and 8 more" in short
    assert len(short.splitlines()) == 12
    told = samples.change(samples.LOADED, engine={"knobs": EngineKnobs(scheduling_policy="priority")})
    assert "priority" in text_of(queue_panel(view_of(told), 60, 19)).splitlines()[-3]


def test_names_from_outside_are_plain_text() -> None:
    evil = QueuedRequest("r\x1b]0;x\x07", "\x1b[31mred\u202e" + "w" * 90, 0, 5, 5, 1.0)
    shown = samples.change(samples.LOADED, queue={"first": [evil]})
    for text in (
        text_of(queue_panel(view_of(shown), 60, 19)),
        text_of(queue_row(view_of(shown), 200, 1)),
    ):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "red" in text


@pytest.mark.parametrize("size", [(160, 23), (120, 23), (80, 22), (60, 14)])
@pytest.mark.parametrize("chosen", [*RULES[:4], *KNOBS])
def test_the_panel_shows_what_is_chosen_and_what_it_does(size: tuple[int, int], chosen: str) -> None:
    cells, rows = size
    lines = policy_panel(view_of(samples.PLAIN, chosen=chosen), cells, rows)
    text = text_of(lines)
    assert len(lines) == rows
    assert all(len(row) == cells for row in text.splitlines())
    assert f"▸ {LABELS[chosen]}" in text


def test_every_rule_says_what_it_does_in_a_sentence() -> None:
    policies = [
        Policy(),
        Policy(order="shortest", ageing_s=None, overload="wait", hold=False),
        Policy(order="priority", ageing_s=None, overload="estimate", limit="adaptive", max_in_flight=100),
        Policy(order="fair", overload="shed", limit="tokens", token_budget=9, max_in_flight=3),
    ]
    for policy in policies:
        for row in RULES:
            sentence, _ = rule_says(policy, samples.LOADED.engine, row)
            assert sentence.endswith("."), (row, sentence)
            assert len(sentence) <= 156 - 47 or row == "order", (row, len(sentence))


def test_the_plain_orders_say_what_goes_wrong() -> None:
    for cells in (80, 160):
        text = text_of(policy_panel(view_of(samples.PLAIN, chosen="order"), cells, 22))
        assert "What goes wrong: while short prompts keep coming, a long one waits for ever" in text
        assert "plain shortest" in text
    assert "goes wrong" not in text_of(policy_panel(view_of(samples.LOADED, chosen="order"), 160, 23))


def test_more_in_flight_than_slots_is_warned_of() -> None:
    over = samples.change(samples.LOADED, queue={"rules": Policy(max_in_flight=128)})
    assert "waits in the engine" in text_of(policy_panel(view_of(over, chosen="order"), 160, 23))


def test_a_draft_says_what_enter_takes() -> None:
    draft = Draft(PolicyChange(order="fair", max_queue=64), EngineKnobs(max_num_batched_tokens=4096))
    text = text_of(policy_panel(view_of(samples.LOADED, chosen="order", draft=draft), 160, 23))
    assert "enter  takes: fair share, max queue 64" in text
    assert "▸•order" in text
    text = text_of(policy_panel(view_of(samples.LOADED, chosen="max-num-batched-tokens", draft=draft), 160, 23))
    assert "restarts the engine, after asking, with --max-num-batched-tokens 4096" in text


def test_what_cannot_be_changed_says_why() -> None:
    text = text_of(policy_panel(view_of(samples.READ_ONLY, chosen="order", greyed="a replay"), 80, 22))
    assert "read-only: a replay" in text
    attached = samples.change(samples.LOADED, engine={"attached": True})
    assert "it cannot be restarted from here" in text_of(policy_panel(view_of(attached, chosen="order"), 160, 23))
    silent = samples.change(samples.LOADED, queue={"rules": None})
    assert UNKNOWN in text_of(policy_panel(view_of(silent), 80, 22))


def panel_text(app: CockpitApp) -> str:
    screen = next(screen for screen in reversed(app.screen_stack) if isinstance(screen, PolicyScreen))
    canvas = screen.query_one(Canvas)
    return "\n".join(canvas.render_line(y).text for y in range(canvas.size.height))


async def opened(app: CockpitApp, pilot: Any) -> None:
    await until(pilot, lambda: app.snapshot is not None)
    await pilot.press("p")
    await until(pilot, lambda: isinstance(app.screen, PolicyScreen) and "order" in panel_text(app))


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        (["right", "enter"], commands.Policy(order="shortest")),
        (["right", "right", "enter"], commands.Policy(order="shortest", ageing_s=0)),
        (["left", "enter"], commands.Policy(order="fair")),
        (["down", "right", "enter"], commands.Policy(limit="tokens", token_budget=0)),
        (["down", "right", "down", "down", "left", "enter"], commands.Policy(limit="tokens", token_budget=325_500)),
        (["right", "down", "right", "enter"], commands.Policy(order="shortest", ageing_s=60.0)),
        ([*["down"] * 8, "right", "enter"], commands.Policy(hold=False)),
        (["up", "right", "enter", "y"], commands.Knobs(max_num_queued_reqs=512)),
        (["b"], commands.Burst()),
        (["plus"], commands.People(delta=25)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_keys_of_the_policy_panel(keys: list[str], command: object) -> None:
    source = ScriptedSource([samples.LOADED], answer=Answer(True, "So be it."))
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press(*keys)
        await until(pilot, lambda: "So be it." in panel_text(app))
        assert source.sent == [command]


async def test_nothing_is_sent_before_enter_and_escape_forgets() -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press("right")
        await until(pilot, lambda: "takes: shortest first" in panel_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, PolicyScreen))
        await opened(app, pilot)
        assert "Nothing is changed yet" in panel_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "nothing is changed yet: ← → does" in panel_text(app))
        await pilot.press("p")
        await until(pilot, lambda: not isinstance(app.screen, PolicyScreen))
        assert source.sent == []


async def test_a_restart_is_asked_for_once_and_can_be_left() -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press("up", "up", "up", "right", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        assert "--max-num-batched-tokens 16384? 64 replies under way break off" in app.screen._question  # type: ignore[attr-defined]
        assert "held until it is back (10 wait now)" in app.screen._question  # type: ignore[attr-defined]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PolicyScreen))
        assert source.sent == []
        assert "16 384" in panel_text(app), "the draft stays"
        await pilot.press("down", "right", "up", *["left"] * 3, "enter")
        await until(pilot, lambda: "vLLM will not start" in panel_text(app))
        assert source.sent == []


async def test_what_was_taken_stands_until_the_gateway_has_said_so() -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)

    def later(seconds: float, **queue: object) -> Snapshot:
        return samples.change(samples.LOADED, at=samples.AT + seconds, queue=queue)

    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        await pilot.press("left", "enter")
        await until(pilot, lambda: source.sent == [commands.Policy(order="fair")])
        app.snapshot = later(1.0)
        app.redraw()
        assert "fair share" in panel_text(app), "the gateway's word is on its way"
        app.snapshot = later(2.5)
        app.redraw()
        assert "first come first served" in panel_text(app), "it never came"


async def test_the_picture_goes_on_above_the_panel() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        app.snapshot = samples.change(samples.LOADED, queue={"depth": Value(77, src="gateway")})
        app.redraw()
        below = next(canvas for canvas in app.screen_stack[0].query(Canvas) if canvas.id == "stages")
        assert "77 waiting" in "\n".join(below.render_line(y).text for y in range(below.size.height))
        assert "77 waiting" in panel_text(app)


@pytest.mark.parametrize("size", [SIZE, (80, 24)])
async def test_a_watcher_sees_the_policy_and_changes_nothing(size: tuple[int, int]) -> None:
    source = ScriptedSource([samples.READ_ONLY])
    app = CockpitApp(source)
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot)
        assert "read-only: somebody else's engine" in panel_text(app)
        await pilot.press("right", "enter", "b")
        await pilot.pause()
        assert "first come first served" in panel_text(app)
        assert source.sent == []


async def test_rows_can_be_clicked() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=SIZE) as pilot:
        await opened(app, pilot)
        row = next(y for y, text in enumerate(panel_text(app).splitlines()) if "deadline" in text)
        await pilot.click(Canvas, offset=(6, row))
        await until(pilot, lambda: "▸ deadline" in panel_text(app))


@pytest.mark.parametrize(
    ("title", "command"),
    [
        ("Policy: shortest first", commands.Policy(order="shortest")),
        ("Policy: plain shortest", commands.Policy(order="shortest", ageing_s=0)),
        ("Policy: fair share", commands.Policy(order="fair")),
        ("Policy: first come first served", commands.Policy(order="fifo")),
    ],
)
async def test_orders_by_name_in_the_palette(title: str, command: commands.Policy) -> None:
    source = ScriptedSource([samples.LOADED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        listed = {one.title: one for one in app.get_system_commands(app.screen)}
        assert "Policy (p)" in listed
        listed[title].callback()
        await until(pilot, lambda: source.sent == [command])
