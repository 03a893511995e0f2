"""What the cockpit looks like in every state. Every figure, clock and age comes from the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests_samples
import samples
from console_waiting import until
from textual.pilot import Pilot

from console.app import CockpitApp
from console.sources.scripted import ScriptedSource
from console.themes import THEMES
from server.telemetry.snapshot import Snapshot

Compare = Callable[..., bool]

WIDE, TALL, OLD = (160, 48), (200, 60), (80, 24)


pytestmark = pytest.mark.usefixtures("one_time_zone")


def look(
    compare: Compare,
    last: Snapshot,
    size: tuple[int, int],
    *,
    past: bool = True,
    keys: tuple[str, ...] = (),
    theme: str = "dark",
    **source: Any,
) -> bool:
    """Compare the picture of this snapshot, with a past that leads to it."""
    app = CockpitApp(
        ScriptedSource(samples.course(last) if past else [last], **{"kind": "live", **source}),
        clock=lambda: 0.0,
        look=THEMES[theme],
    )

    async def shown(pilot: Pilot[Any]) -> None:
        link = "lost" if source.get("lost") else "ended" if source.get("ends") else app.source.kind
        await until(pilot, lambda: app.snapshot is last and app._link == link)
        await pilot.press(*keys)
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=shown)


@pytest.mark.parametrize("size", [WIDE, OLD, TALL], ids=lambda size: f"{size[0]}x{size[1]}")
def test_loaded(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.LOADED, size)


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_starting(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.STARTING, size)


def test_idle(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.IDLE, WIDE)


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_queue_full(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.QUEUE_FULL, size)


def test_engine_down(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.DOWN, WIDE)


def test_engine_crashed_and_comes_back(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.CRASHED, OLD)


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_step_for_a_while(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.NO_STEP, size)


def test_engine_stalled(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.STALLED, WIDE)


def test_no_engine(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.NO_ENGINE, OLD, past=False)


def test_wrong_service(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.WRONG_SERVICE, OLD, past=False)


def test_metrics_stale(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.STALE, WIDE)


@pytest.mark.parametrize("size", [(120, 36), OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_gpu(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.CPU, size)


def test_gb10(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.GB10, WIDE)


def test_read_only_watcher(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.READ_ONLY, WIDE)


def test_replay_at_its_end(snap_compare: Compare) -> None:
    last = samples.change(samples.LOADED, read_only="a replay: nothing to act on", recording_s=None)
    assert look(snap_compare, last, (120, 36), kind="replay", can_send=False, ends=True)


def test_source_lost(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, lost="the stack fell silent")


def test_no_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert look(snap_compare, samples.QUEUE_FULL, OLD)


def test_engine_screen(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, keys=("3",))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_load_screen(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.CROWDED, size, keys=("4", "down", "down"))


def test_load_screen_of_a_preset(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.PICKED, WIDE, keys=("4", "up", "up"))


def test_load_screen_in_open_loop(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.STRANGERS, (120, 36), keys=("4", *["down"] * 5))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_load_screen_void(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.VOID, size, keys=("4",))


def test_flow_of_a_crowd(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.VOID, WIDE)


@pytest.mark.parametrize("state", ["UNSEARCHED", "SEARCHING", "ANSWERED"])
def test_capacity_screen(snap_compare: Compare, state: str) -> None:
    assert look(snap_compare, getattr(samples, state), WIDE, keys=("5",))


@pytest.mark.parametrize("state", ["ANSWERED", "UNRESOLVED"])
def test_capacity_screen_small(snap_compare: Compare, state: str) -> None:
    assert look(snap_compare, getattr(samples, state), OLD, keys=("5",))


def test_capacity_screen_without_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert look(snap_compare, samples.SEARCHING, OLD, keys=("5",))


def test_capacity_question(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.UNSEARCHED, OLD, keys=("5", "g"))


@pytest.mark.parametrize("size", [WIDE, OLD, TALL], ids=lambda size: f"{size[0]}x{size[1]}")
def test_engine_screen_with_every_kind_of_cold(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.COMPARED, size, keys=("3",))


def test_engine_screen_during_a_start(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.STARTING, WIDE, keys=("3",))


@pytest.mark.parametrize("size", [WIDE, OLD, TALL], ids=lambda size: f"{size[0]}x{size[1]}")
def test_requests_screen(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, requests_samples.SERVING, size, keys=("2",), requests=requests_samples.FINISHED)


def test_requests_screen_of_a_chosen_one(snap_compare: Compare) -> None:
    keys = ("2", "down", "down", "down", "down", "down")
    assert look(snap_compare, requests_samples.SERVING, WIDE, keys=keys, requests=requests_samples.FINISHED)


def test_requests_screen_with_the_facts(snap_compare: Compare) -> None:
    keys = ("2", "right", "right", "enter")
    assert look(snap_compare, requests_samples.SERVING, OLD, keys=keys, requests=requests_samples.FINISHED)


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_requests_screen_when_nobody_left(snap_compare: Compare, size: tuple[int, int]) -> None:
    keys = ("2", "left")
    assert look(snap_compare, samples.IDLE, size, keys=keys, requests=requests_samples.GOOD_ONLY)


def test_requests_screen_without_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert look(snap_compare, requests_samples.SERVING, OLD, keys=("2",), requests=requests_samples.FINISHED)


def test_requests_screen_of_a_replay_without_them(snap_compare: Compare) -> None:
    last = samples.change(samples.LOADED, read_only="a replay: nothing to act on", recording_s=None)
    why = "this recording has no requests beside it (h100.sparkrec.requests.jsonl)"
    assert look(snap_compare, last, OLD, keys=("2",), kind="replay", can_send=False, ends=True, no_requests=why)


def test_kinds_of_cold_restart(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, keys=("c",))


def test_help(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, keys=("question_mark",))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["LOADED", "PLAIN", "READ_ONLY"])
def test_policy_panel(snap_compare: Compare, state: str, size: tuple[int, int]) -> None:
    assert look(snap_compare, getattr(samples, state), size, keys=("p",))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_policy_panel_with_a_draft(snap_compare: Compare, size: tuple[int, int]) -> None:
    keys = ("p", "right", "right", "down", "down", "left", "down", "down", "left")
    assert look(snap_compare, samples.BY_TOKENS, size, keys=keys)


def test_policy_panel_asks_for_a_restart(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, keys=("p", "up", "up", "up", "left", "enter"))


def test_policy_panel_without_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert look(snap_compare, samples.PLAIN, OLD, keys=("p", "right"))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["BY_TOKENS", "ADAPTIVE", "HELD"])
def test_queue_stage_with_each_reason(snap_compare: Compare, state: str, size: tuple[int, int]) -> None:
    assert look(snap_compare, getattr(samples, state), size)


def test_engine_screen_with_a_blocked_line(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.BY_TOKENS, WIDE, keys=("3",))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
def test_fault_sheet(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert look(snap_compare, samples.FAULTY, size, keys=("x", "up", "up", "up", "up"))


def test_flow_with_a_fault(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.FAULTY, OLD)


def test_fault_sheet_asks_before_it_kills(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, WIDE, keys=("x", "up", "up", "up", "right", "enter"))


@pytest.mark.parametrize("theme", THEMES)
def test_flow_in_every_theme(snap_compare: Compare, theme: str) -> None:
    assert look(snap_compare, samples.QUEUE_FULL, WIDE, theme=theme)


def test_a_question_on_light(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.LOADED, OLD, theme="light", keys=("c",))


@pytest.mark.parametrize("size", [WIDE, OLD], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["LOADED", "QUEUE_FULL"])
def test_presenter(snap_compare: Compare, state: str, size: tuple[int, int]) -> None:
    assert look(snap_compare, getattr(samples, state), size, keys=("v",))


def test_presenter_on_a_cpu_and_without_colour(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.CPU, (120, 36), keys=("v",), theme="no-colour")


def test_presenter_during_a_start(snap_compare: Compare) -> None:
    assert look(snap_compare, samples.STARTING, WIDE, keys=("v",))
