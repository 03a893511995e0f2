"""The batch as slots, the KV cache, and what one step of the engine carries."""

from __future__ import annotations

import math

from console import format as fmt
from console import raster
from console.history import CELL_S
from console.ink import Line, Span, fit, frame, line, width
from console.panels.beat import beat_style
from console.panels.replicas import replicas
from console.view import View, figure
from console.words import plainly, say
from server.telemetry.snapshot import Engine

RUNS = "▄"
"""A slot at work; half a row high, so that slots stay apart."""


def batch(view: View, cells: int, rows: int) -> list[Line]:
    """The grid of slots first, then KV and the step, as far as the rows go."""
    if view.snapshot is not None and view.snapshot.replicas is not None:
        return replicas(view, cells, rows)
    engine = view.snapshot.engine if view.snapshot else Engine()
    inner, body_rows = cells - 4, rows - 2
    cap, running = fmt.known(engine.max_num_seqs.v), fmt.known(engine.running.v)
    title = line(Span("at work " if plainly() else "batch ", "title"))  # stoves of stoves would be odd
    title += figure(
        engine.running, fmt.count(running), style="warn" if cap and running and running >= cap else "figure"
    )
    title += line(Span(say(f" of {fmt.count(cap)} slots" if cap is not None else " running"), "title"))
    facts = _facts(engine, inner)
    grid_rows = max(
        1, min(body_rows - min(len(facts), 1 if body_rows < 6 else len(facts)) - (1 if body_rows >= 6 else 0), 12)
    )
    body = grid(running, cap, inner, grid_rows, stale=engine.running.age_s > fmt.STALE_AFTER_S)
    scale = slots_per_cell(cap, inner, grid_rows)
    if body_rows >= 6:
        each = "" if scale == 1 else f"  {scale} slots each"
        if body_rows >= len(body) + len(facts) + 3:
            body.append(())
        body.append(
            line(
                Span(RUNS, "work"),
                Span(say(" runs   "), "label"),
                Span("·", "faint"),
                Span(say(f" free{each}"), "label"),
            )
        )
        if body_rows >= len(body) + len(facts) + 1:
            body.append(())
    body += facts
    body += course(view, "kv", "KV cache", 1.0, inner, body_rows - len(body))
    return frame(title, body[:body_rows], cells, rows)


def course(view: View, series: str, label: str, top: float, room: int, rows: int) -> list[Line]:
    """What is left of a panel shows the last minutes of one figure, if three rows are left for it."""
    rows = min(rows - 2, 10)
    values = view.history.cells(series, room)
    if rows < 2 or all(value is None for value in values):
        return []
    heading = line(
        Span(say(label), "label"), Span(say(f", last {fmt.span(room * CELL_S)}, up to {fmt.share(top)}"), "faint")
    )
    return [(), heading, *(line(Span(row, "spark")) for row in raster.spark(values, top, rows))]


def slots_per_cell(cap: float | None, room: int, rows: int) -> int:
    """How many slots one cell stands for, so that all of them fit."""
    return 1 if not cap else max(1, math.ceil(cap / max(1, (room // 2 or 1) * 2 * rows)))


def grid(running: float | None, cap: float | None, room: int, rows: int, *, stale: bool = False) -> list[Line]:
    """One cell a slot (or several): `▄` runs, `·` is free. Nothing is drawn where either is unknown."""
    if not cap:
        return [line(Span(say("max-num-seqs is not known"), "absent"))]
    if running is None:
        return [line(Span(fmt.ABSENT_TEXT, "absent"))]
    scale = slots_per_cell(cap, room, rows)
    cells = math.ceil(cap / scale)
    used = min(cells, math.ceil(running / scale))
    size, per_row = _tiling(cells, room, rows)
    gap = " " if size > 1 else ""
    lines = []
    for begin in range(0, cells, per_row):
        end = min(cells, begin + per_row)
        busy = max(0, min(used, end) - begin)
        free = end - begin - busy
        on = gap.join([RUNS * size] * busy)
        off = gap.join(["·".center(size)] * free)
        lines.append(
            line(Span(on, "stale" if stale else "work"), Span(gap if busy and free else ""), Span(off, "faint"))
        )
    return lines


def _tiling(cells: int, room: int, rows: int) -> tuple[int, int]:
    """(width of a cell, cells a row): as wide as they can be with 8, 16, 32 or 64 in a row."""
    for size in (3, 2, 1):
        fit_in = (room + 1) // (size + 1) if size > 1 else room
        for per_row in (8, 16, 32, 64):
            if per_row <= fit_in and math.ceil(cells / per_row) <= rows:
                return size, per_row
    return 1, max(1, room)


def _facts(engine: Engine, room: int) -> list[Line]:
    usage = fmt.known(engine.kv_usage.v)
    style = "bad" if usage is not None and usage >= 0.95 else "work"
    label = say("KV cache ")
    value = figure(engine.kv_usage, f"{fmt.share(usage):>6}", style="bad" if style == "bad" else "figure")
    tokens = fmt.known(engine.kv_tokens.v)
    of = say(f" of {fmt.short_count(tokens)} tok") if tokens is not None and room >= 34 else ""
    stale = fmt.age(engine.kv_usage.age_s)
    filled, rest = raster.bar(usage, max(4, room - len(label) - 2 - max(6, width(value)) - len(of)))
    kv = (
        line(Span(label, "label"), Span(filled, "stale" if stale else style), Span(rest, "frame"), " ")
        + value
        + line(Span(of, "faint"))
    )
    budget = fmt.known(engine.max_num_batched_tokens.v)
    step = figure(engine.tokens_per_step, fmt.rate(engine.tokens_per_step.v))
    if engine.tokens_per_step.v is not None and budget is not None:
        step += line(Span(f" / {fmt.short_count(budget)}", "label", "the token budget of one step"))
    preempted = fmt.known(engine.preemptions_per_min.v)
    rows = [
        kv,
        _row("tokens a step", step, room),
        _row("steps /s", figure(engine.steps_per_s, fmt.rate(engine.steps_per_s.v)), room),
        _row(
            "waiting inside",
            figure(engine.waiting, fmt.count(engine.waiting.v), style="warn" if engine.waiting.v else "figure"),
            room,
        ),
        _row(
            "preempted /min",
            figure(engine.preemptions_per_min, fmt.rate(preempted), style="bad" if preempted else "figure"),
            room,
        ),
        _row("prefix hits", figure(engine.prefix_hit_share, fmt.share(engine.prefix_hit_share.v)), room),
        _row(
            "prompt tokens",
            figure(engine.prompt_tokens_per_s, fmt.count(engine.prompt_tokens_per_s.v), unit="/s"),
            room,
        ),
    ]
    beat = fmt.known(engine.heartbeat_age_s)
    if beat is not None and beat > fmt.STALE_AFTER_S:
        rows.insert(
            0,
            line(
                Span(say(f"no step for {fmt.span(beat)}"), beat_style(beat)), Span(say(" though requests run"), "label")
            ),
        )
    return rows


def _row(label: str, value: Line, room: int) -> Line:
    return fit(line(Span(f"{say(label, 15):<16}", "label")) + value, room)
