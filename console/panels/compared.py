"""A comparison of policies as a chart: how long the short and the long requests of each arm waited for a first token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from console import format as fmt
from console import raster
from console.ink import Line, Span, cut, line
from server.compare.figures import ArmFigures, Waits, figures
from server.compare.result import Comparison
from server.report.text import seconds

ROWS = 2
"""Of one histogram."""
NAMES = 22, 32
"""Cells left of the axis, at least and at most."""
TICKS = 4


def compared(comparison: Comparison, cells: int) -> list[Line]:
    """Histograms of the time to first token on one linear axis for short requests and one for long ones, an arm each; the
    median and the tail stand below as marks. Nothing where no run counts."""
    arms = figures(comparison)
    names = min(NAMES[1], max(NAMES[0], *(len(arm.name) + 2 for arm in arms)))
    rows: list[Line] = []
    for kind, long in (("short", False), ("long", True)):
        samples = [
            [
                request.ttft_s
                for run in comparison.runs
                if run.arm == index
                for request in run.requests
                if request.long == long and request.ttft_s is not None
            ]
            for index in range(len(arms))
        ]
        longest = max((value for values in samples for value in values), default=0.0)
        if longest <= 0:
            continue
        rows += [(), line(Span(f"{kind} requests", "title"), Span(": time to first token, share of each arm", "label"))]
        top = raster.nice_top(longest)
        width = max(8, cells - names - 6)
        for arm, values in zip(arms, samples, strict=True):
            rows += _histogram(arm.name, values, _waits(arm, long=long), top, names, width)
        rows.append(_axis(top, names, width))
    return rows


def _waits(arm: ArmFigures, *, long: bool) -> Waits:
    return arm.long.ttft_s if long else arm.short.ttft_s


def _histogram(name: str, values: Sequence[float], waits: Waits, top: float, names: int, width: int) -> list[Line]:
    """Bars as high as the share of the requests in each bin; below them `|` at the median and `:` at the tail. What they
    say stands to the left."""
    bins = [0] * width
    for value in values:
        bins[_place(value, top, width)] += 1
    bars = raster.spark([float(size) if size else None for size in bins], float(max(1, *bins)), ROWS)
    tail, word = (waits.p95, "p95") if waits.p95 is not None else (waits.p90, "p90")
    marks = [" "] * width
    for at, glyph in ((tail, ":"), (waits.p50, "|")):
        if at is not None:
            marks[_place(at, top, width)] = glyph
    left = (
        (cut(fmt.sanitize(name), names - 2), "text"),
        (f"| p50 {seconds(waits.p50)}  n={waits.n}", "label"),
        ("" if tail is None else f": {word} {seconds(tail)}", "label"),
    )
    right = ((bars[0], "median"), (bars[1], "median"), ("".join(marks), "tail"))
    return [
        line(Span(words.ljust(names), style), Span(drawn.rstrip(), drawn_style))
        for (words, style), (drawn, drawn_style) in zip(left, right, strict=True)
    ]


def _place(value: float, top: float, width: int) -> int:
    return min(width - 1, max(0, math.floor(value / top * width)))


def _axis(top: float, names: int, width: int) -> Line:
    row = [" "] * (width + 8)
    for tick in range(TICKS + 1):
        at = min(width - 1, round(tick / TICKS * width))
        word = seconds(top * tick / TICKS) if tick else "0"
        row[at : at + len(word)] = word
    return line(Span(" " * names, "label"), Span("".join(row).rstrip(), "faint"))
