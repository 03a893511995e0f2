from __future__ import annotations

import itertools

import msgspec
import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until

from console.app import CockpitApp
from console.ink import plain
from console.panels.capacity import answer, blocks, facts, question, searching
from console.panels.curve import GLYPHS, axis_of, between_points, curve, height, level_at, waits
from console.screens.ask import AskKey
from console.sources.scripted import ScriptedSource
from loadgen.capacity import Answer, Point, Progress
from server import commands
from server.telemetry.snapshot import Event

SIZE = (160, 48)


def test_before_a_search_the_question_is_said_as_it_would_be_frozen() -> None:
    view = view_of(samples.UNSEARCHED)
    assert "How many people can this setup serve" in text_of(answer(view, 80, 4))
    told = text_of(question(view, 160, 2))
    assert "95 % good (chat: TTFT ≤ 1 s, TPOT ≤ 200 ms)" in told
    assert "512/128 tokens, 3 turns; patient 70 %, abandoner 20 %, retrier 10 %" in told


def test_in_open_loop_it_is_said_that_there_is_nobody_to_count() -> None:
    assert "nobody to count" in text_of(answer(view_of(samples.STRANGERS), 80, 4))


def test_a_running_search_says_how_far_and_how_sure_it_is() -> None:
    text = text_of(answer(view_of(samples.SEARCHING), 100, 4))
    for part in (
        "SEARCHING",
        "refine: 288 people",
        "02:52 of 06:00",
        "280 people (201 to 355), ±28 %, to be within ±15 %",
    ):
        assert part in text


def test_an_estimate_that_is_not_there_yet_is_not_made_up() -> None:
    assert samples.SEARCHING.capacity is not None
    early = msgspec.structs.replace(samples.SEARCHING.capacity, best=None, low=None, high=None, curve=[], blocks=[])
    assert "no estimate yet" in text_of(answer(view_of(samples.change(samples.SEARCHING, capacity=early)), 100, 4))


def test_the_answer_is_a_sentence_with_its_evidence() -> None:
    text = text_of(answer(view_of(samples.ANSWERED), 160, 4))
    for part in (
        "271 people (90 % interval 254 to 288) before",
        "safe 254",
        "clear break 288",
        "TTFT broke first",
        "confirmed ✓",
        "recovers ✓",
    ):
        assert part in text
    assert "▀" in text or "█" in text, "the number is large"


@pytest.mark.parametrize(
    ("parts", "says", "never"),
    [
        ({"confirmed": False}, "NOT confirmed", "confirmed ✓"),
        ({"confirmed": None}, "safe 254", "onfirmed"),
        ({"recovered": False}, "did NOT recover", "recovers"),
        ({"limit": ""}, "safe 254", "broke first"),
    ],
)
def test_what_was_not_seen_is_not_claimed(parts: dict[str, object], says: str, never: str) -> None:
    text = plain(facts(msgspec.structs.replace(samples.FOUND, **parts), 150))
    assert says in text
    assert never not in text


@pytest.mark.parametrize("cells", range(60, 200, 7))
def test_a_long_sentence_ends_at_a_clause(cells: int) -> None:
    said = " ".join(text_of(answer(view_of(samples.ANSWERED), cells, 4)).splitlines()[:3])
    assert said.rstrip(" ▀▄█").endswith(".")
    assert "…" not in said


def test_unresolved_shows_no_large_number() -> None:
    text = text_of(answer(view_of(samples.UNRESOLVED), 80, 4))
    assert "STOPPED" in text
    assert "Stopped by hand. About 13 people" in text
    assert "best guess 13" in text
    assert "▀" not in text
    timed_out = msgspec.structs.replace(samples.UNRESOLVED.capacity, phase="done", message="")
    assert "UNRESOLVED" in text_of(answer(view_of(samples.change(samples.CPU, capacity=timed_out)), 80, 4))


def test_blocks_have_their_n_and_the_newest_is_on_top() -> None:
    rows = text_of(blocks(view_of(samples.ANSWERED), 160, 20)).splitlines()
    assert "way back" in rows[2]
    assert "176/176" in rows[2]
    assert "confirming" in rows[3]
    assert "18" in rows[3], "misses"
    few = [row for row in rows if "11/11" in row]
    assert few[0].count("—") == 2, "a p95 of eleven is none"
    small = text_of(blocks(view_of(samples.ANSWERED), 80, 5)).splitlines()
    assert len(small) == 5
    assert all(len(row) <= 80 for row in small)


def test_the_chart_shows_every_block_at_its_level() -> None:
    assert samples.ANSWERED.capacity is not None
    rows = text_of(curve(view_of(samples.ANSWERED), 160, 20)).splitlines()
    chart = "\n".join(rows[1:])
    axis = axis_of(samples.ANSWERED.capacity, 160 - 4 - 8)
    assert chart.count(GLYPHS["confirm"]) == 1
    assert chart.count(GLYPHS["double"]) == 6, "128 and 256 lie under later blocks"
    assert chart.count(GLYPHS["recover"]) == 1
    worst = next(row for row in reversed(rows) if GLYPHS["double"] in row)
    # frame and axis label lie left of the chart
    assert worst.rindex(GLYPHS["double"]) == 2 + 8 + (axis.cell(512) or 0)


def test_the_target_stands_where_its_label_is() -> None:
    rows = text_of(curve(view_of(samples.UNSEARCHED), 100, 20)).splitlines()
    ruled = [row for row in rows if "┈" in row]
    assert len(ruled) == 1
    assert "95 %" in ruled[0]


def test_safe_best_and_break_are_on_the_axis_side_by_side() -> None:
    base = next(row for row in text_of(curve(view_of(samples.ANSWERED), 80, 9)).splitlines() if "└" in row)
    assert "SBX" in base


def test_heights_rise_with_shares_and_leave_most_room_for_the_good() -> None:
    shares = [n / 100 for n in range(101)]
    assert all(height(a) < height(b) for a, b in itertools.pairwise(shares))
    assert (height(0.0), height(1.0)) == (0.0, 1.0)
    assert height(1.0) - height(0.8) > 0.5


def test_the_curve_between_its_points_is_straight_in_log_people() -> None:
    points = [Point(people=10, share=1.0, low=0.9, high=1.0), Point(people=1000, share=0.0, low=0.0, high=0.2)]
    middle = between_points(points, 100.0)
    assert middle is not None
    assert middle.share == pytest.approx(0.5)
    assert middle.high == pytest.approx(0.6)
    assert between_points(points, 9.0) is None
    assert between_points([], 9.0) is None


def test_waits_draw_only_what_has_a_p95() -> None:
    text = text_of(waits(view_of(samples.SEARCHING), 120, 10))
    body = "\n".join(text.splitlines()[1:])
    assert body.count("●") == 2
    assert body.count("○") == 2
    assert "a p95 needs 100 requests in a block" in text_of(waits(view_of(samples.UNRESOLVED), 120, 10))


def test_an_event_is_marked_at_the_people_of_its_moment() -> None:
    assert samples.SEARCHING.capacity is not None
    progress = samples.SEARCHING.capacity
    assert level_at(progress, 12.0) == 4
    assert level_at(progress, 50.0) == 16
    assert level_at(progress, 171.0) == 288
    assert level_at(progress, -1.0) is None
    assert level_at(progress, 400.0) is None
    died = Event(samples.AT - 172 + 120, 0.0, "died", "the engine died", "x")
    snapshot = samples.change(samples.SEARCHING, events=[died])
    row = next(row for row in text_of(curve(view_of(snapshot), 100, 14)).splitlines() if "events" in row)
    assert row.index("x") == 2 + 8 + (axis_of(progress, 100 - 4 - 8).cell(256) or 0)


@pytest.mark.parametrize(
    ("progress", "runs"),
    [
        (None, False),
        (samples.SEARCHING.capacity, True),
        (samples.ANSWERED.capacity, False),
        (samples.UNRESOLVED.capacity, False),
    ],
    ids=["never", "searching", "answered", "stopped"],
)
def test_searching(progress: Progress | None, runs: bool) -> None:
    assert searching(progress) is runs


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        (["g", "y"], commands.Capacity()),
        (["enter", "y"], commands.Capacity()),
        (["g", "c"], commands.Capacity(careful=True)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_a_search_is_asked_for_once(keys: list[str], command: object) -> None:
    source = ScriptedSource([samples.UNSEARCHED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("5")
        await until(pilot, lambda: "How many people" in screen_text(app))
        await pilot.press(keys[0])
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        assert source.sent == []
        await pilot.press(keys[1])
        await until(pilot, lambda: source.sent == [command])


async def test_the_question_can_be_left() -> None:
    source = ScriptedSource([samples.UNSEARCHED])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("5", "g")
        await until(pilot, lambda: isinstance(app.screen, AskKey))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, AskKey))
        assert source.sent == []


async def test_a_running_search_is_stopped_by_the_same_key() -> None:
    source = ScriptedSource([samples.SEARCHING])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("5")
        await until(pilot, lambda: "SEARCHING" in screen_text(app))
        await pilot.press("g")
        await until(pilot, lambda: source.sent == [commands.Capacity(on=False)])


def test_an_answer_of_nobody_is_drawn() -> None:
    nobody = Answer(resolved=True, best=0.6, low=0.5, high=0.9, safe=0, sentence="Not even one person is served.")
    assert samples.ANSWERED.capacity is not None
    progress = msgspec.structs.replace(samples.ANSWERED.capacity, answer=nobody, best=0.6)
    view = view_of(samples.change(samples.ANSWERED, capacity=progress))
    assert "Not even one person" in text_of(answer(view, 80, 4))
    assert text_of(curve(view, 80, 9))
