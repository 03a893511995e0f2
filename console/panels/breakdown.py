"""Where a request's seconds go: one bar that adds up, and what is left over."""

from __future__ import annotations

from console import format as fmt
from console.baseline import change, stage_mean
from console.ink import Line, Span, fit, line, width
from console.raster import apportion, step_of
from console.view import View
from console.words import say
from server.telemetry.snapshot import Breakdown, StageTime

UNATTRIBUTED = "unattributed"
_LOOKS = {
    "queue": ("▒", "wait"),
    "engine queue": ("▒", "wait"),
    "prefill": ("▓", "prefill"),
    "decode": ("█", "work"),
    UNATTRIBUTED: ("·", "faint"),
}
"""Waiting, reading the prompt, writing tokens; everything else is overhead, `░`."""
ADDS_UP_WITHIN = 0.02
EACH_FROM = 8
"""Rows from which each stage has one."""
SHOWN_FROM = 0.002
"""Share of the whole below which a stage has no cell in the bar: a dozen of them would bend its proportions."""


def look(stage: str) -> tuple[str, str]:
    """What a stage is drawn with, here and wherever one request is: a character and its style."""
    return _LOOKS.get(stage, ("░", "over"))


def complete(breakdown: Breakdown) -> list[StageTime]:
    """The stages with a time, the last one `unattributed`, worked out if the source left it out."""
    stages = [stage for stage in breakdown.stages if fmt.known(stage.mean_s) is not None]
    whole = fmt.known(breakdown.e2e_s)
    if stages and whole is not None and stages[-1].name != UNATTRIBUTED:
        stages.append(StageTime(UNATTRIBUTED, whole - sum(stage.mean_s or 0.0 for stage in stages), breakdown.n))
    return stages


def breakdown(view: View, cells: int, rows: int) -> list[Line]:
    """Heading, bar and legend in three rows; in two the heading goes before the legend, and in many each stage has its own."""
    parts = view.snapshot.breakdown if view.snapshot else Breakdown()
    stages = complete(parts)
    whole = fmt.known(parts.e2e_s)
    if not stages or whole is None:
        why = fmt.sanitize(parts.why) or "no request has finished in the window yet"
        return [
            fit(
                line(
                    Span(say(" where a request's time goes  "), "title"),
                    Span(fmt.ABSENT_TEXT + "  " + say(why), "label"),
                ),
                cells,
            )
        ]
    heading = line(
        Span(say(" where a request's "), "title"),
        Span(fmt.seconds(whole), "bright"),
        Span(say(" goes"), "title"),
        Span(say(f"   mean of {fmt.count(parts.n)} finished in {fmt.span(parts.window_s)}"), "label"),
    )
    total = sum(stage.mean_s or 0.0 for stage in stages)
    if abs(total - whole) > ADDS_UP_WITHIN * whole:
        heading += line(Span(say(f"   does not add up: the stages make {fmt.seconds(total)}"), "warn"))
    elif any(not stage.exact for stage in stages):
        heading += line(Span(say("   ~ is a windowed mean, not joined request by request"), "label"))
    bar = _bar(stages, cells - 2)
    legend = _legend(stages, cells - 2)
    if rows >= EACH_FROM:
        return [fit(heading, cells), (), fit(line(" ") + bar, cells), (), *_each(stages, cells, rows - 4)]
    if rows >= 3:
        return [fit(heading, cells), fit(line(" ") + bar, cells), fit(line(" ") + legend, cells)]
    short = line(" ", Span(fmt.seconds(whole), "bright"), Span(" = ", "label"))
    return [fit(short + _legend(stages, cells - width(short) - 1), cells), fit(line(" ") + bar, cells)][:rows]


def _each(stages: list[StageTime], cells: int, rows: int) -> list[Line]:
    """A row a stage: where it begins and ends in the mean request, its seconds and its share."""
    total = sum(max(0.0, stage.mean_s or 0.0) for stage in stages)
    names = [say(fmt.sanitize(stage.name, 20)) for stage in stages]
    label = max(map(len, names)) + 4
    room = max(10, cells - label - 34)
    lines: list[Line] = []
    begin = 0.0
    for name, stage in zip(names, stages, strict=True):
        mean = max(0.0, stage.mean_s or 0.0)
        fill, style = look(stage.name)
        left = min(room - 1, step_of(begin, total, room))
        size = max(1 if mean else 0, step_of(begin + mean, total, room) - left)
        text = ("" if stage.exact else "~") + fmt.seconds(stage.mean_s)
        drawn = fill * min(size, room - left)
        lines.append(
            line(
                Span(f"   {name:<{label - 3}}", "label"),
                Span(" " * left),
                Span(drawn, style),
                Span(" " * (room - left - len(drawn))),
                Span(f"{text:>10}", "figure", f"mean of {stage.n} requests"),
                Span(f"{fmt.share(mean / total if total else None):>8}", "label"),
            )
            + change(stage, text, stage_mean)
        )
        begin += mean
    gap = rows >= 2 * len(lines)
    return [fit(one, cells) for row in lines for one in ((row, ()) if gap else (row,))][:rows]


def _bar(stages: list[StageTime], room: int) -> Line:
    total = sum(stage.mean_s or 0.0 for stage in stages)
    shown = (stage.mean_s or 0.0 for stage in stages)
    sizes = apportion([mean if mean >= SHOWN_FROM * total else 0.0 for mean in shown], room)
    spans = []
    for stage, size in zip(stages, sizes, strict=True):
        fill, style = look(stage.name)
        spans.append(Span(fill * size, style, f"{stage.name} {fmt.seconds(stage.mean_s)}"))
    return line(*spans)


def _legend(stages: list[StageTime], room: int) -> Line:
    """All stages if they fit; else the smallest go first, and are counted."""
    shown = list(stages)
    while True:
        spans: list[Span] = []
        for stage in shown:
            fill, style = look(stage.name)
            roomy = room >= 120
            name = "rest" if stage.name == UNATTRIBUTED and not roomy else fmt.sanitize(stage.name, 20)
            name = say(name, None if roomy else 10)
            value = ("" if stage.exact else "~") + fmt.seconds(stage.mean_s)
            note = f"mean of {stage.n} requests" if stage.n else ""
            spans += [
                Span(fill, style),
                Span(f" {name} " if roomy else f"{name} ", "label"),
                Span(value, "figure", note),
                *change(stage, value, stage_mean),
                Span("   " if roomy else " "),
            ]
        hidden = [stage for stage in stages if stage not in shown]
        if hidden:
            spans.append(Span(f"+{len(hidden)}: {fmt.seconds(sum(stage.mean_s or 0.0 for stage in hidden))}", "label"))
        done = tuple(spans)
        if width(done) <= room or len(shown) == 1:
            return done
        named = [stage for stage in shown if stage.name != UNATTRIBUTED] or shown
        shown.remove(min(named, key=lambda stage: abs(stage.mean_s or 0.0)))
