"""Charts as inline SVG: no script, no style of their own (the page's sheet colours them), readable at any width.

The curves lie in a nested SVG that is stretched to the width there is; what is written stands beside it at percentages, so
that letters keep their size. Every chart has a title, a description, and its figures as a table under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from loadgen.capacity import Progress
from server.report.text import ABSENT, clean, count, offset, seconds, share
from server.report.timeline import Bin, Span, Timeline
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
        f"{drawn}</svg>{rule}{_marks(events, timeline.seconds)}{_times(timeline.seconds)}</svg>"
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


def _times(length_s: float, y: int = TOP + HEIGHT + 15) -> str:
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


# other charts


def verdict_strip(spans: Sequence[Span], length_s: float, events: Sequence[Mark]) -> str:
    """What the verdict was, from left to right."""
    if not spans or length_s <= 0:
        return ""
    drawn = []
    total: dict[str, float] = {}
    for span in spans:
        x, width = 100 * span.begin_s / length_s, 100 * (span.end_s - span.begin_s) / length_s
        total[span.word] = total.get(span.word, 0.0) + span.end_s - span.begin_s
        title = f"{span.word} from {offset(span.begin_s)} for {seconds(round(span.end_s - span.begin_s))}"
        drawn.append(
            f'<rect class="v-{span.word.lower()}" x="{x:.2f}%" y="{TOP}" width="{width:.2f}%" height="26">'
            f"<title>{escape(title)}</title></rect>"
        )
        if width > 2.1 * len(span.word):
            drawn.append(f'<text class="word" x="{x + width / 2:.2f}%" y="{TOP + 17}">{span.word}</text>')
    lines = []
    last = -math.inf
    for mark in events:
        x = 100 * mark.at_s / length_s
        if 0 <= x <= 100 and x - last >= MARK_EVERY:
            title = f"<title>{escape(f'{offset(mark.at_s)} {mark.text}')}</title>"
            lines.append(f'<g class="mark">{title}<text x="{x:.2f}%" y="{TOP - 4}">{escape(mark.letter)}</text></g>')
            last = x
    keys = "".join(
        f'<li><span class="key v-{word.lower()}"></span>{word} {seconds(round(s))}</li>' for word, s in total.items()
    )
    said = ", ".join(f"{span.word} from {offset(span.begin_s)}" for span in spans[:40])
    return (
        '<figure class="chart strip"><figcaption><h3>Verdict</h3><ul class="keys">' + keys + "</ul></figcaption>"
        f'<svg class="plot" role="img" aria-labelledby="verdict-t verdict-d" width="100%" height="{TOP + 26 + FOOT}">'
        f'<title id="verdict-t">Verdict over time</title><desc id="verdict-d">{escape(said)}.</desc>'
        f"{''.join(drawn)}{''.join(lines)}{_times(length_s, TOP + 26 + 15)}</svg></figure>"
    )


def stage_bars(means: dict[str, float], e2e_s: float, n: int, hot: str) -> str:
    """Where a mean request's time went: one bar of all stages, and a row for each."""
    bar, rows, at = [], [], 0.0
    for index, (name, mean_s) in enumerate(means.items()):
        part = max(0.0, mean_s) / e2e_s
        colour = f"c{index % 9}"
        title = escape(f"{name} {seconds(mean_s)}, {share(part)}")
        bar.append(
            f'<rect class="{colour}" x="{100 * at:.2f}%" width="{100 * part:.2f}%" height="34"><title>{title}</title></rect>'
        )
        if part > 0.12:
            bar.append(f'<text class="word" x="{100 * (at + part / 2):.2f}%" y="22">{escape(name)}</text>')
        at += part
        strip = (
            f'<svg class="bar" aria-hidden="true" width="100%" height="12"><rect class="{colour}" '
            f'width="{max(100 * part, 0.3 if mean_s > 0 else 0):.2f}%" height="12"/></svg>'
        )
        mark = " class='hot'" if name == hot else ""
        rows.append(
            f"<tr{mark}><th scope='row'>{escape(name)}</th><td>{escape(seconds(mean_s))}</td>"
            f"<td>{escape(share(part))}</td><td class='bar'>{strip}</td></tr>"
        )
    said = ", ".join(f"{name} {share(max(0.0, s) / e2e_s)}" for name, s in means.items())
    return (
        f'<figure class="chart stages" id="stages"><figcaption><h3>Where a mean request’s {escape(seconds(e2e_s))} went</h3>'
        f"<p class='says'>n={count(n)}, requests that finished</p></figcaption>"
        '<svg class="plot" role="img" aria-labelledby="stages-t stages-d" width="100%" height="34">'
        f'<title id="stages-t">Time by stage</title><desc id="stages-d">{escape(said)}.</desc>{"".join(bar)}</svg>'
        "<table class='stages'><thead><tr><th scope='col'>stage</th><th scope='col'>mean</th><th scope='col'>share</th>"
        f"<th scope='col'></th></tr></thead><tbody>{''.join(rows)}</tbody></table></figure>"
    )


def capacity_curve(progress: Progress, slug: str) -> str:
    """Share of good requests over people (log scale): blocks, the fitted curve, its band, the answer's band."""
    blocks = [block for block in progress.blocks if block.share is not None and block.people > 0]
    people = [*(block.people for block in blocks), *(p.people for p in progress.curve if p.people > 0)]
    if len(set(people)) < 2:
        return ""
    low, high = math.log(min(people)), math.log(max(people))
    asked = progress.question.attainment
    floor = next(f for f in (0.8, 0.5, 0.0) if f < min([*(b.share or 0.0 for b in blocks), asked]) or not f)

    def x(v: float) -> float:
        return 3 + 94 * (math.log(min(max(v, min(people)), max(people))) - low) / (high - low)

    def y(v: float) -> float:
        return TOP + HEIGHT * (1 - (min(1.0, max(floor, v)) - floor) / (1 - floor))

    curve = sorted(progress.curve, key=lambda point: point.people)
    inner = ""
    if curve:
        over = [f"{10 * x(p.people):.1f},{y(p.high):.1f}" for p in curve]
        under = [f"{10 * x(p.people):.1f},{y(p.low):.1f}" for p in reversed(curve)]
        line = [f"{10 * x(p.people):.1f},{y(p.share):.1f}" for p in curve]
        inner = (
            f'<path class="band c0" d="M{"L".join([*over, *under])}Z"/><path class="line c0" d="M{"L".join(line)}"/>'
        )
    answer = progress.answer
    best = progress.best if answer is None else answer.best
    band = (progress.low, progress.high) if answer is None else (answer.low, answer.high)
    zone = ""
    if band[0] is not None and band[1] is not None:
        left, right = x(band[0]), x(band[1])
        zone = f'<rect class="zone" x="{left:.2f}%" width="{right - left:.2f}%" y="{TOP}" height="{HEIGHT}"/>'
    if best is not None:
        zone += f'<line class="best" x1="{x(best):.2f}%" x2="{x(best):.2f}%" y1="{TOP}" y2="{TOP + HEIGHT}"/>'
        edge = "last" if x(best) > 80 else "mid"
        zone += f'<text class="best {edge}" x="{x(best):.2f}%" y="{TOP - 4}">{count(best)} people</text>'
    dots = "".join(
        f'<circle class="{"confirm" if b.phase == "confirm" else "dot"}" cx="{x(b.people):.2f}%" cy="{y(b.share or 0):.1f}" '
        f'r="4.5"><title>{b.people} people: {share(b.share)} of {b.due} good</title></circle>'
        for b in blocks
    )
    levels = [floor + (1 - floor) * step / 4 for step in range(5)]
    grid = "".join(f'<line class="grid" x1="0" x2="100%" y1="{y(v):.1f}" y2="{y(v):.1f}"/>' for v in levels)
    grid += f'<line class="rule" x1="0" x2="100%" y1="{y(asked):.1f}" y2="{y(asked):.1f}"/>'
    axis = "".join(f'<text x="100%" y="{y(v) + 4:.1f}">{share(v)}</text>' for v in levels)
    foot, last = [], -math.inf
    for level in sorted({min(people), max(people), *(block.people for block in blocks)}):
        if x(level) - last > 9:
            foot.append(f'<text class="time mid" x="{x(level):.2f}%" y="{TOP + HEIGHT + 15}">{count(level)}</text>')
            last = x(level)
    title = "Good requests over people"
    says = clean(answer.sentence) if answer is not None else "The search had not answered yet."
    confirmed = any(b.phase == "confirm" for b in blocks)
    keys = [
        '<li><span class="key c0"></span>fitted, with its 90 % band</li>' if curve else "",
        '<li><span class="key dot"></span>measured</li>',
        '<li><span class="key confirm"></span>confirmed with a fresh seed</li>' if confirmed else "",
        '<li><span class="key zone"></span>90 % band of the answer</li>' if zone else "",
        f'<li><span class="key rule"></span>{share(asked)} asked for</li>',
    ]
    height = TOP + HEIGHT + FOOT
    return (
        f'<figure class="chart" id="{slug}-curve"><figcaption><h3>{title}</h3><ul class="keys">{"".join(keys)}</ul></figcaption>'
        f'<div class="frame"><svg class="axis" aria-hidden="true" width="100%" height="{height}">{axis}</svg>'
        f'<svg class="plot" role="img" aria-labelledby="{slug}-t {slug}-d" width="100%" height="{height}">'
        f'<title id="{slug}-t">{title}</title><desc id="{slug}-d">{escape(says)}</desc>{grid}{zone}'
        f'<svg width="100%" height="{height}" viewBox="0 0 {WIDE} {height}" preserveAspectRatio="none">{inner}</svg>'
        f"{dots}{''.join(foot)}</svg></div>"
        '<p class="says">People on a logarithmic scale; figures in the table below.</p></figure>'
    )
