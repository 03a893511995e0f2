from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import requests_samples as known
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until

from console import endings
from console.app import CockpitApp
from console.ink import Line, plain, width
from console.kept import ONLY, Choice, Kept, Listing, Only, key_of
from console.panels.inside import in_flight, waiting
from console.panels.requests import list_rows, requests, stage_bar, table, why_empty
from console.panels.waterfall import exactness, facts, stage_rows, waterfall
from console.screens.requests import RequestsScreen
from console.sources.scripted import ScriptedSource
from loadgen.slo import CHAT
from server.telemetry.snapshot import JoinedRequest, Snapshot

SIZE = (160, 48)


def kept_of(found: list[JoinedRequest]) -> Kept:
    kept = Kept()
    kept.take(found)
    return kept


def shown(only: Only = "all", found: list[JoinedRequest] = known.FINISHED) -> Listing:
    return Choice(only).listing(kept_of(found))


def drawn(listing: Listing, cells: int = 160, rows: int = 20, snapshot: Snapshot = known.SERVING) -> str:
    return text_of(requests(view_of(snapshot, listing=listing), cells, rows))


# What is kept


def test_requests_are_kept_newest_first_and_once() -> None:
    kept = kept_of([known.LATE, known.GOOD])
    assert [one.request_id for one in kept.newest()] == [known.GOOD.request_id, known.LATE.request_id]
    better = msgspec.structs.replace(known.LATE, exact=False, sealed_at=known.AT + 5)
    kept.take([better])
    assert kept.newest()[1] is better
    assert len(kept) == 2
    assert kept.since == known.AT + 5


def test_requests_of_one_id_are_told_apart() -> None:
    again = msgspec.structs.replace(known.GOOD, key="w0p17-0004 9.5")
    assert len(kept_of([known.GOOD, again])) == 2


def test_only_so_many_are_kept_the_oldest_go() -> None:
    kept = Kept(most=10)
    kept.take(known.FINISHED)
    assert list(kept.newest()) == known.FINISHED[:10]
    kept.take([known.request("new", known.AT + 1)])
    assert [len(kept), kept.newest()[0].request_id] == [10, "new"]


def test_an_answer_that_brings_nothing_changes_nothing() -> None:
    kept = Kept()
    assert kept.take([])
    assert not kept.take([])
    assert kept.take([], "the stack fell silent")
    assert not kept.take([], "the stack fell silent")
    assert kept.take([known.GOOD])
    assert kept.why == ""


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("all", known.FINISHED),
        ("slow", [known.LATE, known.SLOW]),
        ("failed", [known.REFUSED, known.FAILED]),
        ("abandoned", [known.LEFT]),
    ],
)
def test_filters(only: Only, expected: list[JoinedRequest]) -> None:
    listing = shown(only)
    assert list(listing.shown) == expected
    assert listing.counts == {"all": 68, "slow": 2, "failed": 2, "abandoned": 1}


# The choice


def test_the_newest_is_followed_until_somebody_moves() -> None:
    kept = kept_of(known.FINISHED)
    choice = Choice()
    assert choice.listing(kept).chosen is known.GOOD
    kept.take([known.request("new", known.AT + 1)])
    listing = choice.listing(kept)
    assert listing.following
    assert listing.chosen is not None
    assert listing.chosen.request_id == "new"


def test_a_chosen_request_stays_where_it_is_while_new_ones_come() -> None:
    kept = kept_of(known.FINISHED)
    choice = Choice().moved(Choice().listing(kept), 5, 10)
    before = choice.listing(kept)
    assert before.chosen is known.LEFT
    row = before.index - before.window(10).start
    kept.take([known.request(f"new{n}", known.AT + 1 + n) for n in range(40)])
    after = choice.listing(kept)
    assert after.chosen is known.LEFT
    assert (after.index, after.index - after.window(10).start) == (45, row)


def test_a_chosen_request_that_is_known_better_is_shown_so() -> None:
    kept = kept_of(known.FINISHED)
    choice = Choice().at(Choice().listing(kept), 4, 10)
    better = msgspec.structs.replace(known.FAILED, exact=True, sealed_at=known.AT + 1)
    kept.take([better])
    assert choice.listing(kept).chosen is better


def test_a_chosen_request_is_shown_though_it_is_kept_no_more() -> None:
    kept = Kept(most=10)
    kept.take(known.FINISHED[:10])
    choice = Choice().at(Choice().listing(kept), 9, 5)
    chosen = choice.chosen
    kept.take([known.request(f"new{n}", known.AT + 1 + n) for n in range(10)])
    listing = choice.listing(kept)
    assert listing.chosen is chosen
    assert listing.index == 9
    assert choice.moved(listing, -1, 5).chosen is listing.shown[8]


def test_beyond_the_newest_it_is_followed_again() -> None:
    kept = kept_of(known.FINISHED)
    first = Choice().at(Choice().listing(kept), 0, 10)
    assert not first.listing(kept).following
    assert first.moved(first.listing(kept), -1, 10).listing(kept).following


@pytest.mark.parametrize("steps", [[1] * 30, [7, 7, 7], [100], [-1], [20, -5, 3]])
def test_moves_keep_the_chosen_one_in_sight(steps: list[int]) -> None:
    kept = kept_of(known.FINISHED)
    choice = Choice()
    for step in steps:
        choice = choice.moved(choice.listing(kept), step, 10)
        listing = choice.listing(kept)
        assert listing.index in listing.window(10)
        assert len(listing.window(10)) == 10


def test_a_filter_keeps_what_it_shows() -> None:
    kept = kept_of(known.FINISHED)
    chosen = Choice().at(Choice().listing(kept), 4, 10)
    assert chosen.filtered("failed").listing(kept).chosen is known.FAILED
    assert chosen.filtered("slow").listing(kept).following
    assert Choice("slow").moved(Listing(), 1, 10) == Choice("slow")


@pytest.mark.parametrize("rows", [0, 1, 3, 100])
def test_a_window_is_never_larger_than_the_list(rows: int) -> None:
    listing = shown("slow")
    assert len(listing.window(rows)) == min(rows, 2)


# The list


def test_a_row_says_who_how_and_how_long() -> None:
    rows = drawn(shown()).splitlines()
    assert "all 68" in rows[0]
    assert "slow 2" in rows[0]
    assert "abandoned 1" in rows[0]
    assert "of 68 kept, the last 50 s" in rows[0]
    assert "following the newest" in rows[0]
    first = rows[2]
    for part in ("▸", "w0p17 patient", "ok", "512/128", "398 ms", "551 ms", "19 ms", "2.94 s", "▒▒▒", "███"):
        assert part in first
    assert "ok, late" in rows[3]
    assert "rejected: HTTP 429: The queue is full" in rows[5]
    assert rows[5].count("—") == 4, "tokens, queue, TTFT and TPOT of a refusal are absent"


def test_the_clock_is_of_the_stacks_wall() -> None:
    snapshot = samples.change(known.SERVING, wall=86_400.0 * 20_000 + 3 * 3600)
    other = samples.change(known.SERVING, wall=86_400.0 * 20_000 + 3 * 3600 + 60)
    (one,) = table(shown(found=[known.GOOD]), snapshot, 120, range(1))[1:]
    (later,) = table(shown(found=[known.GOOD]), other, 120, range(1))[1:]
    assert plain(one) != plain(later)


def test_the_chosen_place_is_said() -> None:
    kept = kept_of(known.FINISHED)
    choice = Choice().at(Choice().listing(kept), 11, 10)
    assert "12 of 68" in drawn(choice.listing(kept))


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("slow", "nobody waited too long in the last 62 requests (TTFT ≤ 1.00 s, TPOT ≤ 200 ms)"),
        ("failed", "nothing failed in the last 62 requests"),
        ("abandoned", "nobody left early in the last 62 requests"),
    ],
)
def test_an_empty_filter_is_one_calm_sentence(only: Only, says: str) -> None:
    good = [one for one in known.GOOD_ONLY if one.behaviour != "slow"]
    assert says in drawn(shown(only, good))


def test_nothing_at_all_says_why() -> None:
    idle, lost = samples.IDLE, Kept()
    assert why_empty(Choice().listing(Kept()), idle) == "asking for the latest requests"
    assert why_empty(shown(found=[]), idle) == "no request has finished yet"
    lost.take([], "the stack fell silent")
    assert "the stack fell silent" in why_empty(Choice().listing(lost), idle)
    attached = why_empty(shown(found=[]), samples.READ_ONLY)
    assert "no request has passed our gateway" in attached
    gone = {
        **samples.READ_ONLY.sources,
        "gateway": msgspec.structs.replace(samples.GOOD_SOURCES["gateway"], ok=False, detail="no gateway to ask"),
    }
    silent = samples.change(samples.READ_ONLY, sources=gone)
    assert (
        why_empty(shown(found=[]), silent)
        == "the gateway does not answer (no gateway to ask): nobody tells of requests"
    )


@pytest.mark.parametrize("cells", [62, 80, 100, 120, 160, 200])
@pytest.mark.parametrize("rows", [1, 3, 7, 9, 30])
def test_lines_are_as_wide_as_the_panel(cells: int, rows: int) -> None:
    kept = kept_of([*known.FINISHED, known.HOSTILE])
    for panel in (requests, waterfall, waiting, in_flight):
        for index in (0, 3, 5, 7, 8):
            listing = Choice().at(Choice().listing(kept), index, 5).listing(kept)
            lines = panel(view_of(known.SERVING, listing=listing), cells, rows)
            assert len(lines) <= rows
            assert all(width(one) <= cells for one in lines)


def test_the_small_bar_is_in_shares_and_says_its_stages() -> None:
    bar = stage_bar(known.STAGES, 40)
    assert width(bar) == 40
    decode = next(span for span in bar if span.style == "work")
    assert len(decode.text) == pytest.approx(40 * 2.382 / 2.94, abs=3), "small stages have a cell each"
    assert decode.note == "decode 2.38 s"
    assert stage_bar({}, 10) == ()
    assert width(stage_bar({"front end": -1.0, "decode": 2.0}, 10)) == 10


def test_who_waits_now_the_next_first() -> None:
    view = view_of(known.SERVING)
    rows = text_of(waiting(view, 160, 5)).splitlines()
    assert "waiting now  10  fifo, for a free slot" in rows[0]
    assert "1.10 s w0p0" in rows[1]
    assert "prio -1" in rows[1]
    assert "aged" in rows[1]
    assert "1.00 s w0p1" in rows[2]
    brief = text_of(waiting(view, 80, 1))
    assert brief.startswith(" waiting now  10  1.10 s w0p0 prio -1")
    assert "nobody waits" in text_of(waiting(view_of(samples.IDLE), 160, 5))
    served = samples.change(samples.IDLE, queue={"flying": known.FLYING[-2:], "in_flight": samples.V(2)})
    assert "in flight  2  oldest first  1 s w1p5 decode 700 ms  200 ms w1p7 no token yet" in text_of(
        waiting(view_of(served), 120, 1)
    )
    assert "—" in text_of(waiting(view_of(Snapshot(seq=0, at=0.0, wall=0.0)), 160, 5))


def test_who_is_in_flight_who_came_first_first() -> None:
    rows = text_of(in_flight(view_of(known.SERVING), 120, 6)).splitlines()
    assert "in flight  64  oldest first" in rows[0]
    assert "34 s w0p90         drain 31 s" in rows[1]
    assert "3 s w1p0          decode 3 s" in rows[2]
    assert "no token yet" in rows[4]
    assert "w1p7-0007" in rows[4] or "w1p7" in rows[4]
    gone = msgspec.structs.replace(samples.GOOD_SOURCES["gateway"], ok=False)
    silent = samples.change(known.SERVING, sources={**samples.GOOD_SOURCES, "gateway": gone})
    assert "w0p90" not in text_of(in_flight(view_of(silent), 120, 6))
    assert "nothing is in flight" in text_of(in_flight(view_of(samples.IDLE), 120, 6))


# The waterfall


def names(lines: list[Line]) -> list[str]:
    return [plain(one)[:14].strip() for one in lines]


def test_a_row_a_stage_on_one_axis() -> None:
    lines = stage_rows(known.GOOD, 156, 30)
    assert names(lines)[1:-2] == list(known.STAGES)
    text = text_of(lines)
    assert "▼ first token 551 ms" in text
    assert "dispatch 1.3 ms" in text
    assert "2.931 s + 0.009 s unattributed = 2.940 s end to end ✓" in text
    assert "exact: measured for this very request" in text
    cells = 156 - 14 - 48
    begin = 0.0
    for name, row in zip(known.STAGES, lines[1:], strict=False):
        bar = plain(row)[14 : 14 + cells]
        if known.STAGES[name] > 0.05:
            fill = {"queue": "▒", "prefill": "▓", "decode": "█"}[name]
            assert bar.index(fill) == round(begin / 2.94 * cells)
            assert bar.count(fill) == pytest.approx(known.STAGES[name] / 2.94 * cells, abs=1)
        begin += known.STAGES[name]


def test_the_first_tokens_line_runs_through_what_is_empty() -> None:
    lines = [plain(one) for one in stage_rows(known.GOOD, 156, 30)]
    at = lines[0].index("▼")
    ruled = [row for row in lines[1:10] if row[at : at + 1] == "┊"]
    assert len(ruled) == 8
    assert lines[7][at] == "█", "decode lies under it"


@pytest.mark.parametrize("rows", range(2, 14))
def test_where_room_is_short_the_smallest_stages_go_and_are_counted(rows: int) -> None:
    lines = stage_rows(known.GOOD, 78, rows)
    assert len(lines) <= max(rows, 4)
    text = text_of(lines)
    assert "decode" in text or rows < 4
    assert "end to end" in text


def test_stages_that_do_not_add_up_are_said_to() -> None:
    wrong = msgspec.structs.replace(known.GOOD, e2e_s=3.5)
    assert "2.940 s of 3.500 s: it does not add up" in text_of(stage_rows(wrong, 156, 20))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (known.GOOD, "exact: measured for this very request"),
        (known.FOREIGN, "the engine's own times of it are not known"),
        (
            msgspec.structs.replace(known.GOOD, stages={"connect": 0.1, "unattributed": 2.0}),
            "the gateway's part is not known",
        ),
    ],
)
def test_how_the_stages_are_known(request_: JoinedRequest, says: str) -> None:
    assert exactness(request_) == says


def test_windowed_means_are_named_as_such() -> None:
    text = text_of(facts(known.FOREIGN, known.SERVING, 156, 20))
    assert "engine queue ~2.0 ms, prefill ~100 ms, decode ~2.40 s" in text
    assert "not this request's own" in " ".join(text.split())
    assert "windowed" not in text_of(facts(known.GOOD, known.SERVING, 156, 20))


def test_a_negative_stage_has_no_bar_and_says_why() -> None:
    row = plain(stage_rows(known.HELD, 156, 20)[4])
    assert "-2.1 ms" in row
    assert "░" not in row
    gone = msgspec.structs.replace(known.HELD, dispatch_s=None)
    assert "clocks overlap" in plain(stage_rows(gone, 156, 20)[4])


@pytest.mark.parametrize("e2e_s", [None, 0.0, math.nan])
def test_odd_requests_are_drawn(e2e_s: float | None) -> None:
    odd = msgspec.structs.replace(known.GOOD, e2e_s=e2e_s, ttft_s=None, stages={"unattributed": 0.0})
    listing = Listing(shown=[odd], chosen=odd, kept=1, span=(0.0, 0.0))
    assert waterfall(view_of(known.SERVING, listing=listing), 160, 20)
    assert requests(view_of(known.SERVING, listing=listing), 160, 20)


def test_facts_hold_all_that_is_known() -> None:
    text = text_of(facts(known.GOOD, known.SERVING, 156, 20))
    for part in (
        "w0p17-0004",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "counted to user w0p17, priority 0",
        "behind 9 others, for a free slot, order fifo",
        "prompt 512, reply 128; together 640; reckoned at most 768",
        "good: first token after 551 ms, within 1.00 s",
        "when its person meant to send it",
    ):
        assert part in text
    assert "its client is not ours" in text_of(facts(known.FOREIGN, known.SERVING, 156, 20))
    assert facts(known.GOOD, known.SERVING, 156, 0) == []


# In words


@pytest.mark.parametrize(
    ("request_", "outcome", "judged"),
    [
        (known.GOOD, "finished", "good: first token after 551 ms, within 1.00 s; 19 ms a token, within 200 ms"),
        (known.LATE, "finished", "a miss: first token after 2.05 s, over 1.00 s"),
        (known.SLOW, "finished", "a miss: 231 ms a token, over 200 ms"),
        (known.REFUSED, "rejected: HTTP 429: The queue is full; try again later.", "a miss: refused"),
        (known.FAILED, "failed: error event: EngineCore encountered an issue", "a miss: failed"),
        (known.LEFT, "abandoned: out of patience: no token in about 4 s", "a miss: its person had enough and left"),
        (known.HELD, "finished", "good: first token after 551 ms, within 1.00 s; a slow reader's pace is his own"),
    ],
    ids=lambda value: value.request_id if isinstance(value, JoinedRequest) else "",
)
def test_endings_in_words(request_: JoinedRequest, outcome: str, judged: str) -> None:
    assert endings.outcome(request_) == outcome
    assert endings.judgement(request_, CHAT)[0] == judged


def test_what_an_attempt_before_cost_is_said() -> None:
    late = msgspec.structs.replace(known.LATE, attempt=2, prior_s=3.0, ttft_s=0.2)
    assert (
        endings.judgement(late, CHAT)[0]
        == "a miss: first token after 3.20 s, 3.00 s of it in attempts before, over 1.00 s"
    )
    assert "attempt 2" in text_of(facts(late, known.SERVING, 156, 20))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"behind": 0, "waited_for": ""}, "went at once, order fifo"),
        ({"behind": 1, "waited_for": "tokens", "order": ""}, "behind 1 other, for room in the token budget"),
        ({"behind": 0, "waited_for": "engine"}, "behind nobody, for an engine that serves, order fifo"),
        (
            {"stages": {"accept": 0.1, "queue": 2.0, "unattributed": 0.0}},
            "behind 9 others, and never got its turn, order fifo",
        ),
        ({"stages": {"accept": 0.1, "unattributed": 0.0}}, "it never came to the queue"),
        ({"stages": {"connect": 0.1, "unattributed": 0.0}}, ""),
    ],
)
def test_what_it_waited_for(parts: dict[str, Any], says: str) -> None:
    assert endings.waited(msgspec.structs.replace(known.GOOD, **parts)) == says


def test_words_from_outside_are_safe_for_a_terminal() -> None:
    kept = kept_of([known.HOSTILE])
    view = view_of(known.SERVING, listing=Choice().listing(kept))
    text = "".join(text_of(panel(view, cells, 30)) for panel in (requests, waterfall) for cells in (80, 160))
    notes = [span.note for panel in (requests, waterfall) for one in panel(view, 160, 30) for span in one]
    for character in ("\x1b", "\x07", "\x9b", "\u202e"):
        assert character not in text
        assert not any(character in note for note in notes)
    assert "evilid" in text
    assert "[/red]bob" in text


# In the application


def app_of(**more: Any) -> tuple[CockpitApp, ScriptedSource]:
    source = ScriptedSource([known.SERVING], **{"requests": known.FINISHED, **more})
    return CockpitApp(source), source


def listing_of(app: CockpitApp) -> Listing:
    assert isinstance(app.screen, RequestsScreen)
    return app.screen._listing


async def test_requests_are_asked_for_only_while_they_are_shown() -> None:
    app, source = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.pause()
        assert source.asked == []
        await pilot.press("2")
        await until(pilot, lambda: "all 68" in screen_text(app))
        assert source.asked == [(-math.inf, known.AT)]
        assert app.kept.since == known.AT


async def test_what_is_new_is_asked_for_once_a_second() -> None:
    ticks = [samples.change(known.SERVING, at=known.AT + n / 2, seq=9000 + n) for n in range(5)]
    later = known.request("later", known.AT + 1.2)
    source = ScriptedSource(ticks[:1], requests=[*known.FINISHED, later])
    app = CockpitApp(source)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: len(app.kept) == 68)
        for tick in ticks[1:]:
            app.snapshot = tick
            app.redraw()
            await until(pilot, lambda: not app._asking)
            await pilot.pause()
        assert source.asked == [(-math.inf, known.AT), (known.AT, known.AT + 1), (known.AT, known.AT + 2)]
        await until(pilot, lambda: len(app.kept) == 69)
        assert listing_of(app).chosen is later


async def test_a_frozen_display_asks_for_nothing() -> None:
    app, source = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: len(app.kept) == 68)
        await pilot.press("space")
        app.snapshot = samples.change(known.SERVING, at=known.AT + 5)
        app.redraw()
        await pilot.press("down")
        await pilot.pause()
        assert len(source.asked) == 1
        await pilot.press("space")
        await until(pilot, lambda: len(source.asked) == 2)


async def test_keys_choose_and_filter() -> None:
    app, _ = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: len(app.kept) == 68)
        page = list_rows(app.screen.query_one("#requests").size.height)
        for key, index in (
            ("down", 1),
            ("j", 2),
            ("k", 1),
            ("pagedown", 1 + page),
            ("pageup", 1),
            ("up", 0),
            ("end", 67),
        ):
            await pilot.press(key)
            assert listing_of(app).index == index
            assert not listing_of(app).following
        await pilot.press("home")
        assert listing_of(app).following
        for key, only in (
            ("right", "slow"),
            ("o", "failed"),
            ("right", "abandoned"),
            ("right", "all"),
            ("left", "abandoned"),
        ):
            await pilot.press(key)
            assert listing_of(app).only == only
        await pilot.press("O")
        assert "EngineCore" in screen_text(app)


async def test_enter_shows_the_facts_alone_and_escape_the_list() -> None:
    app, _ = app_of()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: "all 68" in screen_text(app))
        assert "reckoned" not in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "reckoned at most 768" in screen_text(app))
        assert "all 68" not in screen_text(app)
        await pilot.press("down")
        await until(pilot, lambda: "behind 31 others" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "all 68" in screen_text(app))


async def test_a_click_chooses_and_a_tab_filters() -> None:
    app, _ = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: len(app.kept) == 68)
        await pilot.click("#requests", offset=(30, 6))
        assert listing_of(app).chosen is known.FAILED
        heading = app.screen.query_one("#requests").render_line(0).text
        await pilot.click("#requests", offset=(heading.index("abandoned") + 2, 0))
        assert listing_of(app).only == "abandoned"


async def test_the_palette_goes_to_a_filter() -> None:
    app, _ = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        titles = {one.title for one in app.get_system_commands(app.screen)}
        assert {f"Requests: {only} (2)" for only in ONLY} <= titles
        await app.run_action("only('failed')")
        await until(pilot, lambda: isinstance(app.screen, RequestsScreen) and listing_of(app).only == "failed")
        await until(pilot, lambda: "rejected: HTTP 429" in screen_text(app))


async def test_why_there_are_none_is_said() -> None:
    app, _ = app_of(no_requests="this recording has no requests beside it (x.sparkrec.requests.jsonl)", kind="replay")
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("2")
        await until(pilot, lambda: "no requests to show: this recording has no requests beside it" in screen_text(app))


def test_keys_are_those_of_the_chosen_request() -> None:
    assert key_of(known.GOOD) == "w0p17-0004"
    assert key_of(msgspec.structs.replace(known.GOOD, key="a b")) == "a b"
