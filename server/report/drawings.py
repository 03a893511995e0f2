"""Drawings of a run that are no curves over time: the verdict, stages, cold starts, the curve of a capacity search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from loadgen.capacity import Progress
from server.report.charts import FOOT, HEIGHT, MARK_EVERY, TOP, WIDE, Mark, times
from server.report.text import clean, count, offset, seconds, share
from server.report.timeline import Span
from server.telemetry.snapshot import ColdStart


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
    lines = _letters(events, length_s)
    keys = "".join(
        f'<li><span class="key v-{word.lower()}"></span>{word} {seconds(round(s))}</li>' for word, s in total.items()
    )
    said = ", ".join(f"{span.word} from {offset(span.begin_s)}" for span in spans[:40])
    return (
        '<figure class="chart strip"><figcaption><h3>Verdict</h3><ul class="keys">' + keys + "</ul></figcaption>"
        f'<svg class="plot" role="img" aria-labelledby="verdict-t verdict-d" width="100%" height="{TOP + 26 + FOOT}">'
        f'<title id="verdict-t">Verdict over time</title><desc id="verdict-d">{escape(said)}.</desc>'
        f"{''.join(drawn)}{''.join(lines)}{times(length_s, TOP + 26 + 15)}</svg></figure>"
    )


def _letters(events: Sequence[Mark], length_s: float) -> list[str]:
    lines = []
    last = -math.inf
    for mark in events:
        x = 100 * mark.at_s / length_s
        if 0 <= x <= 100 and x - last >= MARK_EVERY:
            title = f"<title>{escape(f'{offset(mark.at_s)} {mark.text}')}</title>"
            lines.append(f'<g class="mark">{title}<text x="{x:.2f}%" y="{TOP - 4}">{escape(mark.letter)}</text></g>')
            last = x
    return lines


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


def cold_start(start: ColdStart, ready: str, number: int, length_s: float) -> str:
    """One start of the engine, a bar for each stage where it lay in `length_s`. Empty where its stages are not known."""
    stages = [(stage, stage.end_s) for stage in start.stages if stage.end_s is not None and stage.end_s > stage.begin_s]
    if not stages or length_s <= 0:
        return ""
    rows = []
    for index, (stage, end_s) in enumerate(stages):
        left, width = 100 * max(0.0, stage.begin_s) / length_s, 100 * (end_s - stage.begin_s) / length_s
        strip = (
            f'<svg class="bar" aria-hidden="true" width="100%" height="12"><rect class="c{index % 9}" x="{left:.2f}%" '
            f'width="{min(max(0.3, width), max(0.0, 100 - left)):.2f}%" height="12"/></svg>'
        )
        rows.append(
            f"<tr><th scope='row'>{escape(clean(stage.name))}</th><td>{escape(seconds(end_s - stage.begin_s))}</td>"
            f"<td class='bar'>{strip}</td></tr>"
        )
    kind = escape(clean(start.kind))
    return (
        f"<figure class='chart' id='start-{number}'><figcaption><h3>Cold start: {escape(seconds(start.elapsed_s))}</h3>"
        f"<p class='says'>{kind}, ready at {escape(ready)}</p></figcaption><table class='stages'><thead><tr>"
        "<th scope='col'>stage</th><th scope='col'>took</th><th scope='col'></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></figure>"
    )
