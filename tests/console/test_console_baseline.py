"""Figures against those that are held: arithmetic, direction, what is stable, and the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import samples
from console_drawn import text_of, view_of
from console_waiting import screen_text, until

from console.app import CockpitApp
from console.baseline import Baseline, change, comparing, counterparts, difference, stable_minute
from console.cli import main
from console.ink import Span, fit, line, plain
from console.panels.batch import batch
from console.panels.feel import feel
from console.panels.stages import stages
from console.sources.scripted import ScriptedSource
from console.view import View, draw
from server.telemetry.recording import Recorder
from server.telemetry.snapshot import Quantiles, Snapshot, Value

CALM = samples.change(
    samples.LOADED,
    queue={"depth": Value(2, src="gateway"), "refused_share": Value(0.02, src="gateway")},
    engine={"running": Value(48, src="engine"), "kv_usage": Value(0.20, src="engine")},
    feel={"ttft_s": Quantiles(n=700, p50=0.20, p95=0.62, p99=0.90, mean=0.3)},
    gpus=[msgspec.structs.replace(samples.GPU, tensor=Value(0.41, src="gpm"), power_w=Value(560, src="nvml"))],
)
HELD = Baseline(CALM, "14:40:00")


def against(snapshot: Snapshot, held: Baseline = HELD, **more: Any) -> View:
    return view_of(snapshot, baseline=held, compared=counterparts(snapshot, held.snapshot), **more)


@pytest.mark.parametrize(
    ("now", "held", "text", "told"),
    [
        (62, 48, "62", "+14"),
        (48, 62, "48", "−14"),
        (0.84, 0.62, "840 ms", "+220"),
        (0.84, 0.62, "~840 ms", "+220"),
        (0.016, 2.3, "16 ms", "−2284"),
        (0.58, 0.41, "  58 %", "+17"),
        (0.003, 0.02, "0.3 %", "−1.7"),
        (3752, 3600, "3 752", "+152"),
        (48_100, 40_000, "48.1k", "+8.1"),
        (71.3 * 2**30, 70.0 * 2**30, "71.3 GiB of 79.6 GiB", "+1.3"),
        (1755, 1980, "1 755 MHz, 64 °C", "−225"),
        (0.19, 0.33, "0.19 J/token, 5.3 tokens/J", "−0.14"),
        (0.031, 0.045, "31 mJ/token", "−14"),
        (1.18, 1.0, "x1.18", "+0.18"),
        (720, 600, "12 min", "+2"),
        (62, 62.3, "62", ""),
        (5, 3, "—", ""),
        (5, 3, "", ""),
        (5e7, 1, "50000000", "+50000k"),
    ],
)
def test_a_change_has_the_unit_and_the_decimals_of_its_figure(now: float, held: float, text: str, told: str) -> None:
    assert difference(now, held, text) == told


def test_better_and_worse_are_told_only_where_a_direction_has_a_meaning() -> None:
    with comparing(counterparts(samples.LOADED, CALM)):
        (waiting,) = change(samples.LOADED.queue.depth, "10")
        (running,) = change(samples.LOADED.engine.running, "62")
        (refused,) = change(samples.LOADED.queue.refused_share, "0.3 %")
        assert (waiting.text, waiting.style) == (" ▲8", "bad")
        assert (running.text, running.style) == (" +14", "change")
        assert (refused.text, refused.style) == (" ▼1.7", "good")
        assert waiting.spare


def test_a_small_change_is_not_coloured() -> None:
    near = samples.change(CALM, queue={"oldest_s": Value(1.08, src="gateway")})
    with comparing(counterparts(samples.LOADED, near)):
        (span,) = change(samples.LOADED.queue.oldest_s, "1.10 s")
    assert (span.text, span.style) == (" +0.02", "change")


def test_what_is_absent_on_either_side_has_no_change() -> None:
    without = samples.change(CALM, engine={"running": Value(why="not known")})
    with comparing(counterparts(samples.LOADED, without)):
        assert change(samples.LOADED.engine.running, "62") == ()
    with comparing(counterparts(without, samples.LOADED)):
        assert change(without.engine.running, "—") == ()
    assert change(samples.LOADED.engine.running, "62") == ()


def test_the_default_of_all_absent_figures_is_nobodys_counterpart() -> None:
    empty = Snapshot(seq=0, at=0.0, wall=0.0)
    assert counterparts(empty, CALM) == {}


def test_a_change_is_left_out_first_where_room_is_short() -> None:
    spans = line(Span("10", "figure"), Span(" waiting", "label"), Span(" ▲8", "bad", spare=True))
    assert plain(fit(spans, 13)) == "10 waiting ▲8"
    assert plain(fit(spans, 12)) == "10 waiting"
    assert plain(fit(spans, 6)) == "10 wa…"


def test_panels_show_their_changes() -> None:
    view = against(samples.LOADED)
    strip = text_of(draw(stages, view, 160, 4))
    assert "10 waiting ▲8" in strip
    assert "batch 62/64 +14" in strip
    assert "tensor 58 % +17" in strip
    assert "62 +14 of 64 slots" in text_of(draw(batch, view, 40, 26))
    table = text_of(draw(feel, view, 80, 26))
    assert "310 ms ▲110" in table
    assert "840 ms ▲220" in table
    assert "then" in table  # the p95 that was held, as a line through the chart


def test_small_panels_keep_the_change_and_leave_out_what_can_be_missed() -> None:
    view = against(samples.LOADED)
    strip = text_of(draw(stages, view, 80, 5))
    assert "10 ▲8 " in strip
    table = text_of(draw(feel, view, 46, 12))
    assert "840 ms ▲220" in table
    assert "p99" not in table


def test_figures_themselves_are_the_same_with_a_baseline() -> None:
    for panel, cells, rows in ((stages, 160, 4), (feel, 80, 26), (batch, 40, 26)):
        plainly = [
            s.text for one in draw(panel, view_of(samples.LOADED), cells, rows) for s in one if s.style == "figure"
        ]
        told = [s.text for one in draw(panel, against(samples.LOADED), cells, rows) for s in one if s.style == "figure"]
        assert [text.strip() for text in told] == [text.strip() for text in plainly]


def at(seconds: float, people: float, running: float, phase: str = "ready") -> Snapshot:
    return samples.change(
        samples.LOADED,
        at=samples.AT + seconds,
        people={"people": Value(people, src="load")},
        engine={"running": Value(running, src="engine"), "phase": phase},
    )


def test_the_last_stable_minute_is_found_and_averaged() -> None:
    calm = [at(second, 20, 8 + second % 2) for second in range(100)]
    rising = [at(100 + second, 20 + 4 * second, 30) for second in range(50)]
    found = stable_minute([*calm, *rising])
    assert found is not None
    assert found.at <= samples.AT + 103  # the first of those who came are within a tenth
    assert found.engine.running.v == pytest.approx(8.5, abs=0.8)
    assert found.feel.ttft_s.p95 == samples.LOADED.feel.ttft_s.p95


def test_without_a_stable_minute_it_is_the_last_moment_that_served() -> None:
    rising = [at(second, 1 + 10 * second, 30) for second in range(90)]
    down = [at(100, 5, 0, "down")]
    found = stable_minute([*rising, *down])
    assert found is not None
    assert found.at == samples.AT + 89
    assert stable_minute(down) is None
    assert stable_minute([]) is None


def test_a_restart_in_between_makes_no_stable_minute() -> None:
    parts = [at(second, 20, 8, "ready" if second % 40 else "starting") for second in range(121)]
    found = stable_minute(parts)
    assert found is not None
    assert found.at == samples.AT + 119


async def test_z_holds_what_is_shown_and_lets_it_go() -> None:
    app = CockpitApp(ScriptedSource([samples.LOADED]))
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("z")
        await until(pilot, lambda: "vs " in screen_text(app))
        assert app.baseline is not None
        assert app.baseline.snapshot is samples.LOADED
        app.baseline = HELD
        app.redraw()
        await until(pilot, lambda: "10 waiting ▲8" in screen_text(app))
        await pilot.press("z")
        await until(pilot, lambda: "▲8" not in screen_text(app) and "vs " not in screen_text(app))


async def test_without_figures_there_is_nothing_to_hold() -> None:
    app = CockpitApp(ScriptedSource([]))
    async with app.run_test(size=(160, 48)) as pilot:
        await pilot.press("z")
        await until(pilot, lambda: "no figures to hold yet" in screen_text(app))
        assert app.baseline is None


async def test_a_recording_can_be_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "before.sparkrec"
    recorder = Recorder(path)
    for second in range(70):
        recorder.write(samples.change(CALM, at=samples.AT - 500 + second))
    recorder.close()
    app = CockpitApp(ScriptedSource([samples.LOADED]), baseline=path)
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: "vs before.sparkrec" in screen_text(app) and "10 waiting ▲8" in screen_text(app))


def test_a_baseline_that_is_no_recording_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.sparkrec"
    path.write_text("nothing")
    assert main(["console", "--baseline", str(path)]) == 2
    assert "not a recording" in capsys.readouterr().err


def test_no_figure_loses_its_unit_to_the_change_of_another() -> None:
    busier = samples.change(CALM, people={"in_flight": Value(68, src="load")})
    strip = text_of(draw(stages, against(samples.LOADED, Baseline(busier, "14:40:00")), 160, 4))
    assert "75 inside" in strip
    assert "1 gone" in strip
