"""Charts as inline SVG: no script, no style of their own (the page's sheet colours them), readable at any width.

The curves lie in a nested SVG that is stretched to the width there is; what is written stands beside it at percentages, so
that letters keep their size. Every chart has a title, a description, and its figures as a table under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from server.report.text import ABSENT, clean, offset, seconds
from server.report.timeline import Bin, Timeline
from server.telemetry.snapshot import Event

HEIGHT = 150
TOP = 16
"""Room above the curves for the letters of events."""
FOOT = 20
"""Room under them for the times."""
WIDE = 1000
TABLE_ROWS = 24
MOST_MARKS = 80
MARK_EVERY = 1.6
"""Letters of events closer than this, in percent of the width, would lie on each other."""
LOG_FROM = 30.0
"""Most over least from which a scale of seconds is logarithmic."""

Text = Callable[[float | None], str]


@dataclass(frozen=True)
class Line:
    """One curve: a column of `server.report.columns`, its name, and which of the sheet's colours it has."""

    column: str
    label: str
    colour: int
    band: bool = True


@dataclass(frozen=True)
class Chart:
    """What a chart over time shows."""

    slug: str
    title: str
    says: str
    """What it is and over which window, a sentence or two."""
    lines: tuple[Line, ...]
    text: Text
    top: float | None = None
    """The scale's end, where it has a natural one."""
    logarithmic: bool = False
    """If the figures span far enough."""
    rule: tuple[float, str] | None = None
    """A level to compare with, and its name."""


@dataclass(frozen=True)
class Mark:
    """An event on the charts."""

    at_s: float
    letter: str
    text: str


def marks(events: Iterable[Event], begin: float) -> list[Mark]:
    """Events as marks, those of before the run left out."""
    found = [
        Mark(event.at - begin, clean(event.mark)[:1], clean(event.text)[:200]) for event in events if event.at > begin
    ]
    return found[:MOST_MARKS]


def over_time(chart: Chart, timeline: Timeline, events: Sequence[Mark]) -> str:
    """One chart as HTML; empty when none of its figures was ever read."""
    series = [(line, bins) for line in chart.lines if any(bins := timeline.bins(line.column))]
    if not series:
        return ""
    scale = _Scale.of(chart, timeline)
    drawn = "".join(_curve(line, bins, scale, timeline) for line, bins in series)
    rule = ""
    if chart.rule is not None and 0 < (y := scale.y(chart.rule[0])) < HEIGHT:
        rule = (
            f'<line class="rule" x1="0" x2="100%" y1="{y + TOP:.1f}" y2="{y + TOP:.1f}"/>'
            f'<text class="rule-name" x="4" y="{y + TOP + (13 if y < 12 else -4):.1f}">{escape(chart.rule[1])}</text>'
        )
    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>' for _, y in scale.ticks(chart.text)
    )
    keys = "".join(f'<li><span class="key c{line.colour}"></span>{escape(line.label)}</li>' for line, _ in series)
    plot = (
        f'<svg class="plot" role="img" aria-labelledby="{chart.slug}-t {chart.slug}-d" width="100%" '
        f'height="{TOP + HEIGHT + FOOT}"><title id="{chart.slug}-t">{escape(chart.title)}</title>'
        f'<desc id="{chart.slug}-d">{escape(_describe(chart, series))}</desc>{grid}'
        f'<svg y="{TOP}" width="100%" height="{HEIGHT}" viewBox="0 0 {WIDE} {HEIGHT}" preserveAspectRatio="none">'
        f"{drawn}</svg>{rule}{_marks(events, timeline.seconds)}{times(timeline.seconds)}</svg>"
    )
    levels = "".join(f'<text x="100%" y="{y + 4:.1f}">{escape(label)}</text>' for label, y in scale.ticks(chart.text))
    axis = f'<svg class="axis" aria-hidden="true" width="100%" height="{TOP + HEIGHT + FOOT}">{levels}</svg>'
    return (
        f'<figure id="{chart.slug}" class="chart"><figcaption><h3>{escape(chart.title)}</h3><ul class="keys">{keys}</ul>'
        f'</figcaption><div class="frame">{axis}{plot}</div>'
        f"<p class='says'>{escape(chart.says)}{' Logarithmic scale.' if scale.logarithmic else ''}</p>"
        f"{_table(chart, series, timeline)}</figure>"
    )


class _Scale:
    """Figures to pixels from the top."""

    def __init__(self, low: float, high: float, *, logarithmic: bool) -> None:
        self.low, self.high, self.logarithmic = low, high, logarithmic

    @classmethod
    def of(cls, chart: Chart, timeline: Timeline) -> _Scale:
        names = [line.column for line in chart.lines]
        most, least = timeline.most(names) or 0.0, timeline.least(names)
        if chart.rule is not None and chart.logarithmic:
            most = max(most, chart.rule[0])
        if chart.logarithmic and least is not None and most / least > LOG_FROM:
            return cls(_step_down(least), _step_up(most), logarithmic=True)
        step = _nice(most)
        top = chart.top if chart.top is not None else step * math.ceil(most / step - 1e-9) or 1.0
        return cls(0.0, top, logarithmic=False)

    def y(self, v: float) -> float:
        if self.logarithmic:
            part = math.log(max(v, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (v - self.low) / (self.high - self.low)
        return HEIGHT * (1 - min(1.0, max(0.0, part)))

    def ticks(self, text: Text) -> list[tuple[str, float]]:
        """Label and pixel of each level."""
        if self.logarithmic:
            levels = [self.low]
            while levels[-1] < self.high * 0.999:
                levels.append(_next(levels[-1]))
            tens = [v for v in levels if math.isclose(math.log10(v), round(math.log10(v)))]
            levels = tens if len(tens) >= 3 else levels
        else:
            step = _nice(self.high)
            levels = [step * index for index in range(round(self.high / step) + 1)]
        return [(text(v), self.y(v) + TOP) for v in levels]


def _nice(most: float) -> float:
    """A round step that divides a scale up to `most` into about four."""
    if most <= 0:
        return 0.25
    raw = most / 4
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(float(step) for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)


def _step_down(v: float) -> float:
    power = 10.0 ** math.floor(math.log10(v))
    return power * max(step for step in (1, 2, 5) if step * power <= v * 1.001)


def _step_up(v: float) -> float:
    low = _step_down(v)
    return low if low >= v * 0.999 else _next(low)


def _next(v: float) -> float:
    """The next of 1, 2, 5, 10, .."""
    power = 10.0 ** math.floor(math.log10(v * 1.001))
    lead = round(v / power)
    return power * {1: 2, 2: 5}.get(lead, 10)


def _curve(line: Line, bins: Sequence[Bin | None], scale: _Scale, timeline: Timeline) -> str:
    """The means as a line, with everything between least and most behind them."""
    x = WIDE / max(timeline.seconds, 1e-9)
    means: list[str] = []
    bands: list[str] = []
    for run in _unbroken(bins):
        middle = [f"{b.at_s * x:.1f},{scale.y(b.mean):.1f}" for b in run]
        if len(run) == 1:
            at = run[0].at_s * x
            middle = [f"{at - 1:.1f},{scale.y(run[0].mean):.1f}", f"{at + 1:.1f},{scale.y(run[0].mean):.1f}"]
        means.append("M" + "L".join(middle))
        if line.band and len(run) > 1:
            over = [f"{b.at_s * x:.1f},{scale.y(b.high):.1f}" for b in run]
            under = [f"{b.at_s * x:.1f},{scale.y(b.low):.1f}" for b in reversed(run)]
            bands.append("M" + "L".join([*over, *under]) + "Z")
    band = f'<path class="band c{line.colour}" d="{"".join(bands)}"/>' if bands else ""
    return f'{band}<path class="line c{line.colour}" d="{"".join(means)}"/>'


def _unbroken(bins: Sequence[Bin | None]) -> Iterable[list[Bin]]:
    """A gap of one bin is none: not every figure is read every second."""
    run: list[Bin] = []
    missed = 0
    for found in bins:
        if found is None:
            missed += 1
            continue
        if missed > 1 and run:
            yield run
            run = []
        missed = 0
        run.append(found)
    if run:
        yield run


def _marks(events: Sequence[Mark], length_s: float) -> str:
    drawn: list[str] = []
    last = -math.inf
    for mark in events:
        x = 100 * mark.at_s / max(length_s, 1e-9)
        if not 0 <= x <= 100:
            continue
        text = f"{offset(mark.at_s)} {mark.text}"
        drawn.append(f'<g class="mark"><title>{escape(text)}</title>')
        drawn.append(f'<line x1="{x:.2f}%" x2="{x:.2f}%" y1="{TOP}" y2="{TOP + HEIGHT}"/>')
        if x - last >= MARK_EVERY:
            drawn.append(f'<text x="{x:.2f}%" y="{TOP - 4}">{escape(mark.letter)}</text>')
            last = x
        drawn.append("</g>")
    return "".join(drawn)


def times(length_s: float, y: int = TOP + HEIGHT + 15) -> str:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)
    step = next((step for step in steps if length_s / step <= 8), 86_400 * 7)
    drawn = []
    for index in range(int(length_s / step) + 1):
        x = 100 * index * step / max(length_s, 1e-9)
        edge = "first" if index == 0 else "last" if x > 97 else "mid" if index % 2 == 0 else "mid odd"
        drawn.append(f'<text class="time {edge}" x="{x:.2f}%" y="{y}">{offset(index * step)}</text>')
    return "".join(drawn)


def _describe(chart: Chart, series: Sequence[tuple[Line, list[Bin | None]]]) -> str:
    """The chart in a sentence for those who cannot see it."""
    said = []
    for line, bins in series:
        known = [b for b in bins if b is not None]
        top = max(known, key=lambda b: b.high)
        low = min(b.low for b in known)
        said.append(f"{line.label} between {chart.text(low)} and {chart.text(top.high)}, most at {offset(top.at_s)}")
    return f"{chart.says} {'; '.join(said)}."


def _table(chart: Chart, series: Sequence[tuple[Line, list[Bin | None]]], timeline: Timeline) -> str:
    each = max(1, math.ceil(max(len(bins) for _, bins in series) / TABLE_ROWS))
    rows = []
    for first in range(0, max(len(bins) for _, bins in series), each):
        cells = [f"<th scope='row'>{offset(first * timeline.bin_s)}</th>"]
        for _, bins in series:
            found = [b for b in bins[first : first + each] if b is not None]
            cells.append(f"<td>{escape(_between(found, chart.text))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th scope='col'>{escape(line.label)}</th>" for line, _ in series)
    return (
        f"<details><summary>Figures, {seconds(each * timeline.bin_s)} a row</summary><div class='scroll' tabindex='0'>"
        f"<table><thead><tr><th scope='col'>from</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "</details>"
    )


def _between(found: Sequence[Bin], text: Text) -> str:
    if not found:
        return ABSENT
    low, high = text(min(b.low for b in found)), text(max(b.high for b in found))
    mean = text(sum(b.mean for b in found) / len(found))
    return mean if low == high else f"{mean} ({low}–{high})"
