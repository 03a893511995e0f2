"""Plain words: complete, as true as the terms they stand for, and never wider than there is room for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests_samples
import samples
from console_drawn import view_of
from console_waiting import screen_text, until
from textual.widgets import Static

from console.app import CockpitApp
from console.ink import Line, plain, width
from console.kept import Choice, Kept
from console.once import render_once
from console.panels import (
    asking,
    batch,
    breakdown,
    capacity,
    crowds,
    curve,
    engine,
    feel,
    foot,
    gpu,
    header,
    inside,
    measured,
    queue,
    requests,
    stages,
    start,
    waterfall,
)
from console.sources.scripted import ScriptedSource
from console.view import Panel, View, draw
from console.words import Vocabulary, say, speaking, vocabulary
from server.telemetry.snapshot import Limit, LimitRule, Snapshot

PANELS: tuple[tuple[Panel, tuple[tuple[int, int], ...]], ...] = (
    (header.header, ((160, 3), (80, 2))),
    (stages.stages, ((160, 8), (80, 5))),
    (queue.queue_row, ((160, 1), (160, 12))),
    (breakdown.breakdown, ((160, 3), (80, 2), (100, 30))),
    (feel.feel, ((80, 26), (46, 12))),
    (batch.batch, ((40, 26), (34, 8))),
    (gpu.gpu, ((40, 26), (34, 8))),
    (foot.limit, ((160, 2), (80, 2), (100, 30))),
    (foot.status, ((160, 1),)),
    (inside.waiting, ((80, 6), (80, 1))),
    (inside.in_flight, ((80, 6),)),
    (requests.requests, ((160, 14), (80, 10))),
    (waterfall.waterfall, ((160, 20), (80, 12))),
    (engine.engine, ((160, 42), (80, 19))),
    (crowds.crowds, ((160, 11), (80, 8))),
    (asking.asking, ((54, 11), (40, 9))),
    (asking.preset_list, ((106, 11), (40, 9))),
    (measured.measured, ((160, 16), (80, 6))),
    (measured.generator, ((160, 3), (80, 1))),
    (capacity.answer, ((160, 4), (80, 4))),
    (capacity.question, ((160, 2), (80, 2))),
    (curve.curve, ((160, 20), (80, 10))),
    (curve.waits, ((160, 10),)),
    (capacity.blocks, ((160, 11), (80, 5))),
    (start.start_panel, ((160, 30), (80, 15))),
)
TERMS = re.compile(
    r"(?<![\w-])(TTFT|TPOT|ITL|KV|batch|prefill|decode|tok|tokens?|GPU|NVML|GPM|MFU|MBU|SM|HBM|tensor|gateway|queue|engine|slots?"
    r"|preempt\w*|requests?|people|persons?|server|p50|p95|p99|fifo|prompts?|SLO|policy|burst|steps?|clients?|abandon\w*|retr\w+"
    r"|refus\w+|heartbeat|req|in-flight|in flight)(?![\w-])",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d[\d .]*")
LIMITED = Limit(
    name="sequence cap",
    phrase="SEQUENCE CAP  62 of 64 slots, 10 wait: raise --max-num-seqs: KV is at 29 %",
    because="62 of 64 slots, 10 wait",
    next_step="raise --max-num-seqs: KV is at 29 %",
    rules=[
        LimitRule("KV pressure", False, "KV at 29 %, 0 preempted a minute"),
        LimitRule("token budget", None, "--max-num-batched-tokens is not known"),
        LimitRule("sequence cap", True, "62 of 64 slots, 10 wait"),
    ],
)


def bare(snapshot: Snapshot) -> Snapshot:
    """Without what the stack's software itself wrote: its arguments and its log."""
    return samples.change(snapshot, limit_detail=LIMITED, engine={"argv": [], "log_tail": [], "device": "H100"})


STATES = {
    name: bare(state)
    for name, state in {**vars(samples), **vars(requests_samples)}.items()
    if isinstance(state, Snapshot)
}


def drawn(state: Snapshot, words: str, **more: object) -> Iterator[tuple[str, int, Line]]:
    """Every line of every panel."""
    kept = Kept()
    kept.take(requests_samples.FINISHED)
    view = replace(view_of(state, kept=kept, listing=Choice().listing(kept), words=words), **more)  # type: ignore[arg-type]
    for panel, sizes in PANELS:
        for cells, rows in sizes:
            for one in draw(panel, view, cells, rows):
                yield panel.__name__, cells, one


@pytest.mark.parametrize("state", sorted(STATES))
def test_no_screen_in_plain_words_has_a_term_of_the_field(state: str) -> None:
    names = re.compile(r"person-\d+|--[\w-]+|EngineCore")
    for panel, _, one in drawn(STATES[state], "plain"):
        text = names.sub("", plain(one))
        assert not TERMS.search(text), f"{panel}: {text}"


@pytest.mark.parametrize("row", ["patient", "slow", "abandoner", "retrier", "long", "arrivals", "think", "lengths"])
def test_every_explained_row_of_the_load_is_plain_too(row: str) -> None:
    for panel, _, one in drawn(STATES["CROWDED"], "plain", chosen=row):
        if panel in {"crowds", "asking", "preset_list"}:
            assert not TERMS.search(plain(one)), panel


@pytest.mark.parametrize("state", sorted(STATES))
def test_lines_are_as_wide_as_the_panel_in_either_wording(state: str) -> None:
    for words in ("standard", "plain"):
        for panel, cells, one in drawn(STATES[state], words):
            assert width(one) <= cells, (panel, plain(one))


def figures(lines: list[Line]) -> list[str]:
    """The numbers that are shown as figures, in order."""
    return [
        found.strip() for one in lines for span in one if span.style == "figure" for found in NUMBER.findall(span.text)
    ]


@pytest.mark.parametrize("state", ["LOADED", "QUEUE_FULL", "CPU", "CROWDED", "ANSWERED"])
def test_figures_are_the_same_in_both_wordings(state: str) -> None:
    wide = {(panel.__name__, size): panel for panel, sizes in PANELS for size in sizes[:1]}
    wide["breakdown", (300, 3)] = wide.pop(("breakdown", (160, 3)))  # where there is room for every stage's name
    kept = Kept()
    kept.take(requests_samples.FINISHED)
    for (name, (cells, rows)), panel in wide.items():
        view = view_of(STATES[state], kept=kept, listing=Choice().listing(kept))
        told = [figures(draw(panel, replace(view, words=words), cells, rows)) for words in ("standard", "plain")]
        assert told[0] == told[1], name


def test_phrases_are_answered_whole_and_by_the_room_there_is() -> None:
    known = Vocabulary({"TTFT": ("first plate after", "first")}, {"queue": "waiting list", "kv": "counter"})
    assert known.phrase("TTFT") == "first plate after"
    assert known.phrase("TTFT", 6) == "first"
    assert known.phrase("TTFT", 3) == "fi…"
    assert known.phrase("TPOT") is None
    assert (
        known.sentence("Queue: KV at 12 %, queued-up queue") == "Waiting list: counter at 12 %, queued-up waiting list"
    )


def test_blanks_around_a_text_stay_and_without_a_view_nothing_is_translated() -> None:
    assert say("  KV ") == "  KV "
    with speaking("plain"):
        assert say("  KV ") == "  counter "
        assert say("   ") == "   "
        assert say("") == ""
    assert say("KV") == "KV"


def test_every_word_of_the_vocabulary_is_said_somewhere() -> None:
    root = Path(__file__).parents[2]
    source = " ".join(
        path.read_text() for room in ("console", "server", "loadgen") for path in (root / room).rglob("*.py")
    )
    built = {"bound by memory bandwidth", "bound by arithmetic"}
    dead = [text for text in vocabulary().phrases if text.partition(": ")[0] not in {*built} and text not in source]
    assert dead == []
    assert [term for term in vocabulary().terms if term not in source.lower()] == []


def test_the_limit_is_said_in_plain_words_with_its_figures() -> None:
    view = View(snapshot=STATES["LOADED"], words="plain")
    said = plain(draw(foot.limit, view, 160, 2)[0])
    assert "TOO FEW STOVES  62 of 64 stoves, 10 wait: light more stoves: counter is at 29 %" in said


def test_a_markers_note_is_nobodys_to_translate() -> None:
    event = samples.change(samples.LOADED, events=[samples.BURST, *[replace_event("marker", "queue the tokens")]])
    text = plain(draw(foot.limit, View(snapshot=event, words="plain"), 160, 2)[1])
    assert "busload +200" in text
    assert "queue the tokens" in text


def replace_event(kind: str, text: str) -> object:
    return type(samples.BURST)(samples.BURST.at + 1, samples.BURST.wall + 1, kind, text, "m")


async def test_n_says_it_plainly_and_says_how_to_go_back() -> None:
    app = CockpitApp(ScriptedSource(samples.course(samples.LOADED)))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "273 chatting" in screen_text(app))
        assert "waiting list" not in screen_text(app)
        await pilot.press("n")
        await until(pilot, lambda: "stoves 62/64" in screen_text(app))
        assert "plain words n" in screen_text(app)
        await pilot.press("3")
        await until(pilot, lambda: "opening the kitchen" in screen_text(app))
        await pilot.press("1", "n")
        await until(pilot, lambda: "batch 62/64" in screen_text(app))
        assert "plain words n" not in screen_text(app)


async def test_the_app_can_begin_in_plain_words() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]), words="plain")
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: "host stand" in screen_text(app))
        assert not app.screen.query(Static)


def test_one_frame_without_a_terminal_can_be_plain() -> None:
    assert "kitchen" in render_once(samples.LOADED, "plain")
    assert "kitchen" not in render_once(samples.LOADED)
