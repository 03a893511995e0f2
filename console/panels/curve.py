"""People on a logarithmic axis against the share of good requests, and against waiting: what was measured and what was
fitted to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from console import format as fmt
from console import raster
from console.ink import Line, Span, fit, frame, line, pick
from console.view import View
from console.words import say
from loadgen.capacity import Block, Point, Progress
from server.telemetry.snapshot import Snapshot

GLYPHS = {"double": "○", "refine": "●", "confirm": "◆", "recover": "◇"}
AXIS = 8
"""Cells left of a chart."""
BENDING = 0.8
BENDING_AT = 0.4
"""Shares above BENDING get the upper part of the chart, from this height on: that is where the answer is read."""
_SPARSE = 0x95
"""Every other dot: a band that the curve stands out from, with colours and without."""

Cell = tuple[str, str]
"""Character and style."""


@dataclass(frozen=True)
class Axis:
    """Numbers of people along a chart."""

    low: float
    high: float
    cells: int

    def cell(self, people: float) -> int | None:
        """The cell of a number of people; None outside."""
        return raster.along_log(people, self.low, self.high, self.cells)

    def at_dot(self, dot: int) -> float:
        """People at one of the two dot columns a cell."""
        return self.low * math.exp(math.log(self.high / self.low) * dot / (2 * self.cells - 1))


def axis_of(progress: Progress | None, cells: int) -> Axis:
    """From below the fewest measured to above the most."""
    levels = [block.people for block in progress.blocks if block.people > 0] if progress else []
    if progress and progress.people > 0:
        levels.append(progress.people)
    low, high = min(levels, default=1) / 1.15, max(levels, default=64) * 1.15
    return Axis(low, max(high, low * 4), max(2, cells))


def height(share: float) -> float:
    """Where a share stands, 0..1 of the chart's height: two straight parts that meet at BENDING."""
    share = min(1.0, max(0.0, share))
    if share <= BENDING:
        return share / BENDING * BENDING_AT
    return BENDING_AT + (share - BENDING) / (1 - BENDING) * (1 - BENDING_AT)


def curve(view: View, cells: int, rows: int) -> list[Line]:
    """Measured blocks as points, the fitted curve in its band, the target, and where safe, best and break are."""
    progress = view.snapshot.capacity if view.snapshot else None
    axis = axis_of(progress, cells - 4 - AXIS)
    marks = _event_row(view.snapshot, axis)
    chart_rows = max(1, rows - 4 - (1 if marks.strip() else 0))
    target = progress.question.attainment if progress else 0.95
    grid = _share_grid(progress, axis, chart_rows, target)
    labels = {_row(height(share), chart_rows): fmt.share(share) for share in (0.0, BENDING, 1.0, target)}
    body = [_axis_label(labels.get(y, "")) + _runs(row) for y, row in enumerate(grid)]
    body += [_base(progress, axis), _ticks(axis)]
    if marks.strip():
        body.append(line(Span("events ".rjust(AXIS), "faint"), Span(marks, "mark")))
    title = line(Span(say("good requests"), "title"), Span(say(" by number of people"), "label"))
    return frame(title, body, cells, rows, right=_legend(progress, cells - 38))


def waits(view: View, cells: int, rows: int) -> list[Line]:
    """TTFT p95 and TPOT p95 of each block on the same axis of people, with the limits of a good request."""
    progress = view.snapshot.capacity if view.snapshot else None
    axis = axis_of(progress, cells - 4 - AXIS)
    chart_rows = max(1, rows - 3)
    measured = [
        (block, value, glyph, style)
        for block in (progress.blocks if progress else [])
        for value, glyph, style in ((block.ttft_p95_s, "●", "tail"), (block.tpot_p95_s, "○", "median"))
        if fmt.known(value) is not None and value and value > 0
    ]
    limits = progress.question.slo if progress else (view.snapshot or Snapshot(seq=0, at=0, wall=0)).feel.slo
    seen = [value for _, value, _, _ in measured if value is not None] + [limits.ttft_s, limits.tpot_s]
    low, high = min(seen) / 1.6, max(seen) * 1.6
    grid: list[list[Cell]] = [[(" ", "text")] * axis.cells for _ in range(chart_rows)]
    labels: dict[int, str] = {0: fmt.seconds(high), chart_rows - 1: fmt.seconds(low)}
    for limit in (limits.tpot_s, limits.ttft_s):
        place = raster.along_log(limit, low, high, chart_rows)
        if place is not None:
            grid[chart_rows - 1 - place] = [("┈", "limit-line")] * axis.cells
            labels[chart_rows - 1 - place] = fmt.seconds(limit)
    for block, value, glyph, style in measured:
        x, place = axis.cell(block.people), raster.along_log(value or 0.0, low, high, chart_rows)
        if x is not None and place is not None:
            grid[chart_rows - 1 - place][x] = (glyph, style)
    body = [_axis_label(labels.get(y, "")) + _runs(row) for y, row in enumerate(grid)]
    if progress and progress.blocks and not measured:
        body[chart_rows // 2] = fit(
            line(" " * AXIS, Span(say("a p95 needs 100 requests in a block"), "absent")), cells - 4
        )
    title = line(Span(say("waiting"), "title"), Span(say(", p95 of each block"), "label"))
    legend = line(
        Span(say("● TTFT"), "tail"),
        "  ",
        Span(say("○ TPOT"), "median"),
        Span(say("  ┈ limits of a good request"), "label"),
    )
    return frame(title, [*body, _ticks(axis)], cells, rows, right=legend)


def _row(at: float, rows: int) -> int:
    """The chart row, from the top, of a height 0..1."""
    return rows - 1 - min(rows * 4 - 1, max(0, round(at * (rows * 4 - 1)))) // 4


def _share_grid(progress: Progress | None, axis: Axis, rows: int, target: float) -> list[list[Cell]]:
    band: list[raster.Column] = []
    fitted: list[raster.Column] = []
    points = progress.curve if progress else []
    for dot in range(axis.cells * 2):
        found = between_points(points, axis.at_dot(dot))
        band.append(None if found is None else (height(found.low), height(found.high)))
        fitted.append(None if found is None else (height(found.share), height(found.share)))
    under, over = raster.braille(band, rows, 1.0), raster.braille(fitted, rows, 1.0)
    rule = _row(height(target), rows)
    grid: list[list[Cell]] = []
    for y in range(rows):
        row: list[Cell] = []
        for wide, thin in zip(under[y], over[y], strict=True):
            if thin:
                row.append((chr(0x2800 + thin), "tail"))
            elif wide & _SPARSE:
                row.append((chr(0x2800 + (wide & _SPARSE)), "spark"))
            else:
                row.append(("┈", "limit-line") if y == rule else (" ", "text"))
        grid.append(row)
    for block in progress.blocks if progress else []:
        x, share = axis.cell(block.people), block.share
        if x is not None and share is not None:
            style = "good" if share >= target else "warn" if share >= BENDING else "bad"
            grid[_row(height(share), rows)][x] = (GLYPHS[block.phase], style)
    return grid


def between_points(points: Sequence[Point], people: float) -> Point | None:
    """The fitted curve at a number of people, straight in log people between its points; None outside them."""
    for left, right in itertools.pairwise(points):
        if left.people <= people <= right.people and 0 < left.people < right.people:
            part = math.log(people / left.people) / math.log(right.people / left.people)

            def mixed(a: float, b: float, part: float = part) -> float:
                return a + (b - a) * part

            return Point(
                people=people,
                share=mixed(left.share, right.share),
                low=mixed(left.low, right.low),
                high=mixed(left.high, right.high),
            )
    return None


def _marks(progress: Progress | None) -> list[tuple[str, str, float, str]]:
    """(letter, name, people, style) of what was found so far."""
    if progress is None:
        return []
    found = progress.answer
    best = found.best if found is not None else progress.best
    safe = found.safe if found is not None else progress.low
    broke = found.clear_break if found is not None else None
    marks = (("S", "safe", safe, "good"), ("B", "best", best, "bright"), ("X", "break", broke, "bad"))
    return [(letter, name, float(people), style) for letter, name, people, style in marks if people]


def _legend(progress: Progress | None, room: int) -> Line:
    spans: Line = ()
    for letter, name, people, style in _marks(progress):
        spans += line("  " if spans else "", Span(letter, style), Span(say(f" {name} {fmt.count(people)}"), "label"))
    shapes = line(Span(say("○ doubling  ● at the bend  ◆ confirmed  ◇ way back"), "label"))
    return pick(room, spans + line("   ") + shapes if spans else shapes, spans or shapes)


def _base(progress: Progress | None, axis: Axis) -> Line:
    """The axis, with the letters of what was found where they belong; letters that would meet stand side by side."""
    row: list[Cell] = [("─", "frame")] * axis.cells
    for letter, _, people, style in _marks(progress):
        x = axis.cell(people)
        while x is not None and x < axis.cells and row[x][0] != "─":
            x += 1
        if x is not None and x < axis.cells:
            row[x] = (letter, style)
    return line(Span("└".rjust(AXIS), "frame")) + _runs(row)


def _ticks(axis: Axis) -> Line:
    """Powers of two along the axis, as many as leave room between them."""
    row = [" "] * axis.cells
    last = -2
    for power in range(20):
        people = 2**power
        x = axis.cell(people)
        text = fmt.count(people)
        if x is None or x <= last + 1 or x + len(text) > axis.cells:
            continue
        row[x : x + len(text)] = text
        last = x + len(text)
    return line(Span(say("people ").rjust(AXIS), "faint"), Span("".join(row), "label"))


def _event_row(snapshot: Snapshot | None, axis: Axis) -> str:
    """The marks of events during the search, each at the number of people of that moment."""
    row = [" "] * axis.cells
    begin = _began(snapshot)
    if snapshot is None or snapshot.capacity is None or begin is None:
        return "".join(row)
    for event in snapshot.events:
        level = level_at(snapshot.capacity, event.at - begin)
        x = None if level is None else axis.cell(level)
        if event.kind != "capacity" and x is not None and event.mark[:1].isalnum():
            row[x] = event.mark[0]
    return "".join(row)


def _began(snapshot: Snapshot | None) -> float | None:
    """When the search began, monotonic seconds. Of one that is over, the event of its end tells."""
    if snapshot is None or snapshot.capacity is None:
        return None
    elapsed = snapshot.capacity.elapsed_s
    if snapshot.capacity.answer is None:
        return snapshot.at - elapsed
    ends = [event.at for event in snapshot.events if event.kind == "capacity"]
    return ends[-1] - elapsed if ends else None


def level_at(progress: Progress, at_s: float) -> int | None:
    """How many people there were `at_s` seconds into the search: those of the block that was measured or settled for."""
    if not 0 <= at_s <= progress.elapsed_s:
        return None
    ahead: Block | None = next((block for block in progress.blocks if at_s <= block.begin_s + block.seconds), None)
    return ahead.people if ahead is not None else progress.people


def _axis_label(text: str) -> Line:
    return line(Span(text.rjust(AXIS - 2) + " ", "faint"), Span("┤" if text else "│", "frame"))


def _runs(row: Sequence[Cell]) -> Line:
    """Cells as runs of one style."""
    runs: list[list[str]] = []
    for character, style in row:
        if runs and runs[-1][1] == style:
            runs[-1][0] += character
        else:
            runs.append([character, style])
    return line(*(Span(text, style) for text, style in runs))
