from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import samples
from console_drawn import text_of, view_of

from console.ink import Line, between, cut, fit, frame, line, plain, text_width, width
from console.once import healthy, render_once
from console.panels.anatomy import agrees, anatomy, felt, kinds_table
from console.panels.asking import asking, preset_list
from console.panels.batch import batch, grid, slots_per_cell
from console.panels.breakdown import breakdown, complete
from console.panels.capacity import answer, blocks, question
from console.panels.crowds import crowds
from console.panels.curve import curve, waits
from console.panels.engine import engine
from console.panels.feel import feel
from console.panels.foot import keys, limit, little, status, trouble
from console.panels.gpu import gpu
from console.panels.header import header
from console.panels.letters import tall
from console.panels.measured import generator, measured
from console.panels.stages import glowing, stages
from console.panels.start import coldness, left_s, start_panel
from console.view import KeyHint, View
from server.compare.progress import CompareProgress
from server.telemetry.snapshot import (
    ColdStart,
    Engine,
    Event,
    Little,
    People,
    Snapshot,
    SourceState,
    StageTime,
    StartStage,
)

STATES = {name: value for name, value in vars(samples).items() if isinstance(value, Snapshot)}
PANELS = {
    "header": header,
    "stages": stages,
    "breakdown": breakdown,
    "feel": feel,
    "batch": batch,
    "gpu": gpu,
    "limit": limit,
    "status": status,
    "keys": keys,
    "start": start_panel,
    "engine": engine,
    "crowds": crowds,
    "asking": asking,
    "presets": preset_list,
    "measured": measured,
    "generator": generator,
    "answer": answer,
    "question": question,
    "curve": curve,
    "waits": waits,
    "blocks": blocks,
}


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
@pytest.mark.parametrize("state", [*STATES.values(), None], ids=[*STATES, "nothing"])
def test_every_panel_draws_every_state_within_its_size(
    panel: Callable[[View, int, int], list[Line]], state: Snapshot | None
) -> None:
    hints = (KeyHint("b", "burst", "burst", "no"), KeyHint("?", "help", "help"))
    view = view_of(state, keys=hints)
    for cells, rows in ((20, 3), (34, 8), (60, 16), (80, 5), (160, 30)):
        lines = panel(view, cells, rows)
        assert len(lines) <= rows
        assert all(width(one) <= cells for one in lines), (cells, rows)
        assert "None" not in text_of(lines)
        assert "nan" not in text_of(lines)


def test_hostile_names_do_not_reach_the_terminal() -> None:
    evil = "\x1b]52;c;aGk=\x07[/red]\u202ename\n"
    snapshot = samples.change(
        samples.LOADED,
        engine={
            "model": evil,
            "device": evil,
            "version": evil,
            "error": evil,
            "argv": [evil],
            "log_tail": [evil],
            "start": ColdStart(
                evil,
                stages=[StartStage(evil, 0.0, 1.0, evil), StartStage("x", 1.0)],
                previous=[StartStage(evil, 0.0, 1.0)],
                previous_kind=evil,
                clears=evil,
                keeps=evil,
                note=evil,
                left_s=3.0,
                kinds={evil: {evil: 1.0}, "b": {evil: 2.0}},
            ),
            "url": evil,
            "phase": "failed",
        },
        queue={"policy": evil},
        verdict={"reason": evil},
        limit=evil,
        read_only=evil,
        events=[msgspec.structs.replace(samples.BURST, text=evil, mark="\x1b")],
        gpu_note=evil,
        people={"void": evil, "preset": evil, "arrivals": evil, "profile": samples.PROFILE},
        feel={"misses": {evil: 3}},
        capacity=msgspec.structs.replace(
            samples.ANSWERED.capacity,
            question=msgspec.structs.replace(samples.QUESTION, mix=evil, cache=evil),
            blocks=[msgspec.structs.replace(samples.BLOCKS[0], evidence=evil, misses={evil: 2})],
            answer=msgspec.structs.replace(samples.FOUND, sentence=evil, limit=evil, evidence=evil),
            message=evil,
            phase="stopped",
        ),
    )
    view = view_of(snapshot, status=evil)
    for panel in PANELS.values():
        text = text_of(panel(view, 120, 20))
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text


def test_stage_that_makes_people_wait_glows() -> None:
    found = glowing(samples.QUEUE_FULL)
    assert found is not None
    assert found[:2] == (2, "queue")
    assert "glow" in {span.style for span in stages(view_of(samples.QUEUE_FULL), 160, 5)[0]}


@pytest.mark.parametrize(
    ("means", "column"),
    [
        ({"queue": 0.03, "prefill": 0.02}, None),
        ({"queue": 0.06, "decode": 2.0}, None),
        ({"front end": 0.3, "queue": 0.1}, 1),
        ({"engine queue": 0.4, "prefill": 0.1}, 3),
        ({"decode": 5.0, "drain": 4.0}, None),
    ],
)
def test_only_a_wait_that_can_be_felt_glows(means: dict[str, float], column: int | None) -> None:
    made = [StageTime(name, mean, 50) for name, mean in means.items()]
    snapshot = samples.change(samples.LOADED, breakdown={"stages": made, "e2e_s": max(0.5, sum(means.values()))})
    found = glowing(snapshot)
    assert (found[0] if found else None) == column


@pytest.mark.parametrize(
    ("state", "cells", "says"),
    [
        ("LOADED", 160, ["273 chatting", "198 thinking", "75 inside 3 slow 1 gone"]),
        ("CROWDED", 160, ["310 chatting", "12 slow 14.2 gone/min", "retry x1.18  3 % wasted"]),
        ("CROWDED", 80, ["310 chatting", "14.2 gone/m", "retry x1.18"]),
        ("LOADED", 120, ["198 thinking", "75 inside 3 slow"]),
        ("LOADED", 80, ["198 thinking", "3 slow"]),
        ("PICKED", 160, ["10 chatting +31 crowd", "4 thinking", "75 inside 1 gone"]),
        ("STRANGERS", 160, ["25.0 sent/s", "12 slow 14.2 gone/min"]),
    ],
)
def test_people_of_the_strip(state: str, cells: int, says: list[str]) -> None:
    text = text_of(stages(view_of(STATES[state]), cells, 5))
    for part in says:
        assert part in text


def test_breakdown_works_out_what_is_left_over() -> None:
    parts = samples.change(
        samples.LOADED, breakdown={"e2e_s": 2.0, "stages": [StageTime("queue", 0.5, 9), StageTime("decode", 1.3, 9)]}
    ).breakdown
    assert [stage.name for stage in complete(parts)] == ["queue", "decode", "unattributed"]
    assert complete(parts)[-1].mean_s == pytest.approx(0.2)


def test_breakdown_that_does_not_add_up_says_so() -> None:
    stretched = [*samples.LOADED.breakdown.stages[:-1], StageTime("unattributed", 0.4, 742)]
    text = text_of(breakdown(view_of(samples.change(samples.LOADED, breakdown={"stages": stretched})), 160, 3))
    assert "does not add up" in text
    assert "does not add up" not in text_of(breakdown(view_of(samples.LOADED), 160, 3))


def test_windowed_means_are_marked() -> None:
    assert "~410 ms" in text_of(breakdown(view_of(samples.READ_ONLY), 160, 3))


@pytest.mark.parametrize(
    ("law", "says"),
    [
        (Little(73.5, 73.1, n=900), "✓"),
        (Little(191.0, 214.0, n=640), "they differ by 11 %"),
        (Little(1.0, 2.0, n=4), "n=4"),
        (Little(44.0, 58.0, n=640, steady=False), "the load is changing"),
        (Little(), "—"),
    ],
)
def test_little(law: Little, says: str) -> None:
    assert says in plain(little(law))


def test_absent_figures_say_why() -> None:
    spans = [span for one in gpu(view_of(samples.GB10), 40, 20) for span in one]
    assert any(span.text == "—" and "GPM" in span.note for span in spans)


def test_stale_figures_are_dated() -> None:
    assert "62/64 ·8s" in text_of(stages(view_of(samples.STALE), 160, 5))


@pytest.mark.parametrize(("cap", "running", "busy"), [(64, 62, 62), (8, 3, 3), (1024, 1024, None), (64, 0, 0)])
def test_grid_has_a_cell_a_slot(cap: int, running: int, busy: int | None) -> None:
    rows, room = 6, 36
    text = text_of(grid(running, cap, room, rows))
    scale = slots_per_cell(cap, room, rows)
    assert len(text.splitlines()) <= rows
    if busy is not None:
        assert scale == 1
        assert len(text.replace("\n", " ").split()) == cap or text.count("▄") + text.count("·") == cap
        tiles = [tile for row in text.splitlines() for tile in row.split()]
        assert sum("▄" in tile for tile in tiles) == busy or text.count("▄") == busy
    else:
        assert scale > 1
        assert "·" not in text


def test_what_is_left_comes_from_the_stack_or_for_an_old_recording_from_the_last_time() -> None:
    before = [StartStage("a", 0.0, 10.0), StartStage("b", 10.0, 40.0), StartStage("c", 40.0, 45.0)]
    now = [StartStage("a", 0.0, 12.0), StartStage("b", 12.0)]
    assert left_s(ColdStart(elapsed_s=22.0, stages=now, previous=before)) == pytest.approx(20.0 + 5.0)
    assert left_s(ColdStart(elapsed_s=22.0, stages=now, previous=before, left_s=7.0)) == 7.0
    assert left_s(ColdStart(elapsed_s=22.0, stages=now)) is None


def test_a_starts_stages_stand_beside_the_engines_own_figures() -> None:
    start = ColdStart(
        finished=True,
        elapsed_s=20.0,
        stages=[
            StartStage("weights", 0.0, 5.0, "", 4.2),
            StartStage("compile", 5.0, 17.0, "", 9.0),
            StartStage("warm-up", 17.0, 18.0),
        ],
        previous=[StartStage("weights", 0.0, 3.0), StartStage("graph capture", 3.0, 4.0)],
        init_s=13.1,
    )
    text = text_of(anatomy(start, 120, 20))
    assert "4.2 s ✓" in text
    assert "9.0 s ≠" in text
    assert "of it, engine init" in text
    assert "13.0 s" in text
    assert "13.1 s ✓" in text
    order = [text.index(name) for name in ("weights", "graph capture", "compile", "warm-up")]
    assert order == sorted(order), "a stage that only the earlier start had stands in its place"
    assert "4.2 s" not in text_of(anatomy(start, 76, 20)), "no column where there is no room"


@pytest.mark.parametrize(
    ("ours", "own", "good"),
    [(1.0, 1.9, True), (1.0, 2.1, False), (33.9, 33.3, True), (91, 100, True), (89, 100, False)],
)
def test_figures_agree_within_a_tenth_or_a_second(ours: float, own: float, good: bool) -> None:
    assert agrees(ours, own) is good


def test_a_figure_told_in_whole_seconds_may_be_rounded() -> None:
    assert agrees(1.72, 3.0, "graph capture")  # 2.5 s or more
    assert not agrees(1.72, 3.0, "compile")
    assert not agrees(1.4, 3.0, "graph capture")


def test_what_people_felt_of_a_start() -> None:
    text = plain(felt(samples.STARTING.engine.start.meanwhile))
    assert text == "people  16 wait, the first for 60 s   2 refused   7 cut off   25 missed"
    assert felt(ColdStart().meanwhile) == ()
    once = render_once(samples.STARTING)
    assert "16 wait, the first for 60 s" in once
    assert "about 47 s to go, last process-cold" in once


def test_kinds_of_cold_are_compared_stage_by_stage() -> None:
    lines = text_of(kinds_table(samples.COMPARED.engine.start.kinds, 58)).splitlines()
    assert lines[0].split() == ["first", "process", "compile", "disk"]
    rows = {row[:20].strip(): row[20:].split() for row in lines[1:]}
    assert rows["weights"] == ["2.1", "2.0", "2.0", "17.5"]
    assert rows["clearing"] == ["—", "—", "0.1", "0.4"]
    assert rows["served after"][1] == "120.6"
    spans = {
        span.text.strip(): span.style for one in kinds_table(samples.COMPARED.engine.start.kinds, 58) for span in one
    }
    assert spans["17.5"] == "warn", "what a kind makes longest stands out"


def test_the_engine_screen_has_the_end_of_the_log_and_the_policys_knobs() -> None:
    text = text_of(engine(view_of(samples.COMPARED), 160, 44))
    for part in (
        "Application startup complete",
        "queue  fifo",
        "the engine's own scheduling",
        "kinds of cold compared",
        "warm",
    ):
        assert part in text
    assert "15.26 GiB evicted" in text_of(coldness(samples.COMPARED.engine.start, 150))
    styles = {span.text: span.style for one in engine(view_of(samples.DOWN), 160, 44) for span in one}
    assert next(style for text, style in styles.items() if "illegal memory access" in text and "ERROR" in text) == "bad"


def test_keys_are_dropped_by_rank_and_never_cut() -> None:
    hints = tuple(KeyHint(k, f"label {k}", k, rank=1 if k in "cd" else 2) for k in "abcdefgh")
    for cells, shown in ((100, "abcdefgh"), (60, "abcefgh"), (50, "abefgh")):
        text = text_of(keys(View(keys=hints), cells, 1))
        assert "…" not in text
        assert text.split()[::2] == list(shown)


def test_the_last_of_the_lowest_rank_goes_first() -> None:
    hints = tuple(KeyHint(k, f"word {k}", k, rank=2 if k in "cf" else 3) for k in "abcdef")
    assert text_of(keys(View(keys=hints), 40, 1)).split()[::2] == list("abcde")
    assert text_of(keys(View(keys=hints), 22, 1)).split()[::2] == list("abd")


def test_keys_that_do_nothing_now_go_before_others() -> None:
    hints = tuple(KeyHint(k, f"word {k}", k, why_not="no" if k in "ab" else "", rank=4) for k in "abcde")
    assert text_of(keys(View(keys=hints), 24, 1)).split()[::2] == list("cde")


def test_void_is_said_on_every_screen() -> None:
    view = view_of(samples.VOID)
    assert "VOID" in text_of(header(view, 80, 2))
    assert "VOID" in text_of(header(view, 160, 3))
    assert "VOID  the generator's clock was 240 ms late" in text_of(status(view, 80, 1))
    assert "VOID" not in text_of(header(view_of(samples.CROWDED), 160, 3))


@pytest.mark.parametrize(
    ("state", "cells", "says"),
    [
        ("ANSWERED", 160, "serves 271 people (254 to 288)"),
        ("ANSWERED", 80, "serves 271 people"),
        ("SEARCHING", 160, "searching for the capacity"),
    ],
)
def test_the_header_tells_the_capacity(state: str, cells: int, says: str) -> None:
    assert says in text_of(header(view_of(STATES[state]), cells, 3 if cells > 80 else 2))


def test_the_header_claims_no_capacity_that_was_not_found() -> None:
    for state in (samples.UNRESOLVED, samples.LOADED):
        assert "serves" not in text_of(header(view_of(state), 160, 3))


def test_letters_for_every_verdict() -> None:
    for word in ("0123456789", "IDLE", "GOOD", "BENDING", "BROKEN", "STALLED", "STARTING", "DOWN", "UNKNOWN", "LOST"):
        rows = tall(word)
        assert len({len(row) for row in rows}) == 1
        assert len(rows[0]) >= 3 * len(word)


def test_once_is_plain_text_with_all_groups() -> None:
    text = render_once(samples.LOADED)
    assert "\x1b" not in text
    for part in ("queue", "62/64", "KV cache", "SM active", "TTFT", "Little", "limit", "verdict GOOD"):
        assert part in text
    assert all(len(one) <= 110 for one in text.splitlines())


def test_once_while_starting_shows_the_stages() -> None:
    assert "▶ compile" in render_once(samples.STARTING)


@pytest.mark.parametrize(
    ("state", "is_healthy"),
    [
        ("LOADED", True),
        ("QUEUE_FULL", True),
        ("IDLE", True),
        ("DOWN", False),
        ("STALLED", False),
        ("STARTING", False),
        ("NO_ENGINE", False),
    ],
)
def test_healthy(state: str, is_healthy: bool) -> None:
    assert healthy(STATES[state]) is is_healthy


def test_fit_cuts_and_pads_to_the_cell() -> None:
    for cells in range(1, 20):
        assert width(fit(line("abc", "defgh", "ij"), cells)) == cells
        assert width(fit(line("名前名前", "x"), cells)) == cells
    assert plain(fit(line("abcdef"), 4)) == "abc…"
    assert text_width(cut("名前名前", 4)) <= 4


def test_between_and_frame_keep_their_width() -> None:
    assert width(between(line("left " * 9), line("right"), 30)) == 30
    assert all(
        width(one) == 24 for one in frame(line("a title that is long"), [line("x" * 50)], 24, 4, right=line("r"))
    )


def test_the_newest_event_is_shown_however_long_it_is() -> None:
    long = Event(at=1.0, wall=0.0, kind="died", text="gateway ended " * 9, mark="x")
    text = text_of(limit(view_of(msgspec.structs.replace(samples.IDLE, events=[long])), 80, 2))
    assert "gateway ended" in text
    assert all(len(row) <= 80 for row in text.split("\n"))


def test_only_sources_that_should_answer_are_in_trouble() -> None:
    silent = {name: SourceState(ok=False, detail="gone") for name in ("engine", "health", "nvml", "load", "gateway")}
    quiet = msgspec.structs.replace(
        samples.IDLE, engine=Engine(phase="starting"), people=People(), gpus=[], gpu_note="no GPU", sources=silent
    )
    assert plain(trouble(quiet)).strip() == "gateway does not answer (gone)"
    loud = msgspec.structs.replace(quiet, engine=Engine(phase="ready"))
    assert "engine does not answer" in plain(trouble(loud))


def test_a_comparison_under_way_stands_beside_the_verdict() -> None:
    running = CompareProgress(message="run 2 of 4: shortest", runs=1, runs_planned=4)
    view = view_of(samples.change(samples.LOADED, comparison=running))
    assert "comparing policies 1 of 4 runs" in text_of(header(view, 160, 3))
    over = msgspec.structs.replace(running, phase="done")
    assert "comparing" not in text_of(header(view_of(samples.change(samples.LOADED, comparison=over)), 160, 3))
