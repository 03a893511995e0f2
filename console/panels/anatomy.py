"""A cold start taken apart: a bar a stage on one time axis, an earlier start behind it, and the engine's own figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from console import format as fmt
from console import raster
from console.ink import Line, Span, cut, line
from console.words import say
from server.engine.coldstart import FIRST_TOKEN, WITHIN_S
from server.engine.comparison import init_measured_s
from server.telemetry.snapshot import ColdStart, Meanwhile, StartStage

NUMBERS = 22
"""Cells of `this time` and `last time`."""
OWN = 11
KIND = 10
OWN_FROM = 84
"""Cells of room from which the engine's own figure has a column."""
AGREES_S, AGREES_SHARE = 1.0, 0.1
"""How far a figure of the engine may be from ours before it is marked."""


def total(stages: list[StartStage]) -> float | None:
    """Seconds until the last stage ended; None while one runs or if there is none."""
    if not stages or stages[-1].end_s is None:
        return None
    return stages[-1].end_s


def agrees(ours_s: float, own_s: float, name: str = "") -> bool:
    """Within 10 % or 1 s of what the engine measured, which it may have rounded when it told stage `name`."""
    return abs(ours_s - own_s) <= max(AGREES_S, AGREES_SHARE * own_s) + WITHIN_S.get(name, 0.0)


@dataclass(frozen=True)
class _Scale:
    """Where a second stands."""

    label: int
    room: int
    whole_s: float

    @property
    def own(self) -> bool:
        """Is there room for the engine's own figure?"""
        return self.room >= OWN_FROM

    @property
    def before(self) -> int:
        """Cells before the time axis."""
        return self.label + NUMBERS + (OWN if self.own else 0)

    @property
    def axis(self) -> int:
        """Cells of the time axis."""
        return max(8, self.room - self.before)

    def place(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """(cells before a bar, its length), never beyond the axis."""
        left = min(self.axis - 1, raster.step_of(begin_s, self.whole_s, self.axis))
        return left, max(1, raster.step_of(end_s, self.whole_s, self.axis) - left)


def anatomy(start: ColdStart, room: int, rows: int) -> list[Line]:
    """A row a stage, the earlier start's bar behind this one's. Where rows are short the first stages are left out, so
    that the one that runs is there; where there are many, a blank row stands between them."""
    if not start.stages and not start.previous:
        return [line(Span(say("no stage has been seen yet"), "faint"))]
    last = {stage.name: stage for stage in start.previous}
    now = {stage.name: stage for stage in start.stages}
    names = _joined(list(now), list(last))
    ends = (stage.end_s or 0.0 for stage in (*start.previous, *start.stages))
    scale = _Scale(
        label=min(28, max(len(say(name)) for name in names) + 3),
        room=room,
        whole_s=max(start.elapsed_s if not start.finished else 0.0, 1.0, *ends),
    )
    lines = [
        line(
            Span(" " * scale.label),
            Span(f"{say('this time', 9):>9}{say('last time', 11):>11}  ", "faint"),
            Span(f"{say('engine’s', 9):>9}  " if scale.own else "", "faint", "the engine's own figure for the stage"),
            Span(f"0 … {fmt.seconds(scale.whole_s)}", "faint"),
        )
    ]
    roomy = rows >= 2 * len(names) + 2 and not start.finished
    at = names.index(start.stages[-1].name) if start.stages else 0
    for name in names[max(0, min(at + 3, len(names)) - (rows - 1)) :]:
        lines.append(_stage(name, now.get(name), last.get(name), start.elapsed_s, scale))
        if roomy:
            lines.append(())
    if scale.own and (both := _init(start, scale)):
        lines.append(both)
    return lines[:rows]


def _joined(now: list[str], last: list[str]) -> list[str]:
    """Both starts' stages in order: what only the earlier one had stands where it was in it."""
    names = list(now)
    for place, name in enumerate(last):
        if name not in names:
            before = next((one for one in reversed(last[:place]) if one in names), None)
            names.insert(names.index(before) + 1 if before is not None else 0, name)
    return names


def _so_far(stage: StartStage | None, now_s: float = 0.0) -> float | None:
    if stage is None:
        return None
    return max(0.0, (now_s if stage.end_s is None else stage.end_s) - stage.begin_s)


def _duration(seconds: float | None) -> str:
    return fmt.ABSENT_TEXT if seconds is None else f"{seconds:.1f} s"


def _stage(name: str, stage: StartStage | None, last: StartStage | None, now_s: float, scale: _Scale) -> Line:
    shown = cut(say(fmt.sanitize(name)), scale.label - 2)
    before = _so_far(last)
    if stage is None:
        return line(
            Span(f"· {shown}".ljust(scale.label), "faint"),
            Span(" " * 9),
            Span(f"{_duration(before):>11}  ", "faint"),
            Span(" " * OWN if scale.own else ""),
            *_bars(None, last, now_s, "", scale),
        )
    running = stage.end_s is None
    seconds = _so_far(stage, now_s) or 0.0
    slower = before is not None and seconds > before * 1.2 + 1.0
    return line(
        Span(
            f"{'▶' if running else '✓'} {shown}".ljust(scale.label),
            "bright" if running else "text",
            fmt.sanitize(stage.detail),
        ),
        Span(f"{_duration(seconds):>9}", "warn" if slower else "figure" if running else "text"),
        Span(f"{_duration(before):>11}  ", "faint"),
        *_own(seconds, fmt.known(stage.engine_s), running=running, scale=scale, name=name),
        *_bars(stage, last, now_s, "warn" if slower else "work" if running else "over", scale),
    )


def _bars(stage: StartStage | None, last: StartStage | None, now_s: float, style: str, scale: _Scale) -> Line:
    """This start's bar in front of the earlier one's, and what the engine said of the stage where room is left."""
    cells = [" "] * scale.axis
    for one, full in ((last, "░"), (stage, "█")):
        if one is None or (one.end_s is None and one is last):
            continue
        left, size = scale.place(one.begin_s, now_s if one.end_s is None else one.end_s)
        cells[left : left + size] = full * size
    text = "".join(cells).rstrip()
    spans: Line = tuple(Span(run, style if run[0] == "█" else "faint") for run in re.findall(r"█+|░+|\s+", text))
    detail = fmt.sanitize(stage.detail) if stage is not None else ""
    room = scale.axis - len(text) - 1
    return spans + line(Span(f" {say(detail)[:room]}" if detail and room > 4 else "", "faint"))


def _own(ours_s: float, own_s: float | None, *, running: bool, scale: _Scale, name: str = "") -> Line:
    """The engine's own figure: marked where it does not agree with ours, blank where it gives none."""
    if not scale.own:
        return ()
    if own_s is None or running:
        return (Span(" " * OWN),)
    good = agrees(ours_s, own_s, name)
    text = f"{own_s:.1f} s {'✓' if good else '≠'}"
    return (
        Span(f"{text:>9}  ", "faint" if good else "warn", "within 10 % or 1 s" if good else "it differs from ours"),
    )


def _init(start: ColdStart, scale: _Scale) -> Line:
    """What the engine sums up itself, against our sum of the same stages."""
    ours, own = init_measured_s(start.stages), fmt.known(start.init_s)
    if ours is None or own is None:
        return ()
    label = say("  of it, engine init", scale.label).ljust(scale.label)
    shown = line(Span(label, "faint"), Span(f"{_duration(ours):>9}", "faint"))
    return shown + line(Span(" " * 13)) + _own(ours, own, running=False, scale=scale)


def felt(meanwhile: Meanwhile) -> Line:
    """What people felt of a start, in one line; empty if nobody was there."""
    if not (meanwhile.waiting or meanwhile.finished or meanwhile.missed):
        return ()
    note = f"from {meanwhile.src}: requests under way when the engine left, or sent before it was back"
    spans = line(Span(say("people  "), "label", note))
    if meanwhile.waiting:
        oldest = f", the first for {fmt.span(meanwhile.oldest_s)}" if meanwhile.oldest_s is not None else ""
        spans += line(Span(say(f"{meanwhile.waiting} wait{oldest}"), "wait"), Span("   ", "label"))
    for count, word in ((meanwhile.refused, "refused"), (meanwhile.cut, "cut off"), (meanwhile.missed, "missed")):
        spans += line(Span(f"{fmt.count(count)} {say(word)}   ", "bad" if count else "label", note))
    return spans


def kinds_line(kinds: Mapping[str, Mapping[str, float]]) -> Line:
    """How long the latest start of each kind took until it served."""
    spans: Line = ()
    for kind, stages in kinds.items():
        spans += line(
            Span(f"{say(fmt.sanitize(kind, 20))} ", "label"), Span(fmt.seconds(_served(stages)), "text"), "   "
        )
    return spans


def kinds_table(kinds: Mapping[str, Mapping[str, float]], room: int) -> list[Line]:
    """A column a kind, a row a stage: seconds of the latest start of each."""
    names: list[str] = []
    for stages in kinds.values():
        names = _joined(names, list(stages)) if names else list(stages)
    label = min(20, max((len(say(name)) for name in names), default=0) + 1)
    shown = list(kinds.items())[: max(1, (room - label) // KIND)]
    heads = (fmt.sanitize(kind, 20).partition("-")[0].partition(" ")[0][: KIND - 1] for kind, _ in shown)
    lines = [line(Span(" " * label), *(Span(f"{head:>{KIND}}", "label") for head in heads))]
    for name in names:
        figures = [stages.get(name) for _, stages in shown]
        most = max((value for value in figures if value is not None), default=0.0)
        spread = most - min((value for value in figures if value is not None), default=0.0)
        styles = (
            "absent" if value is None else "warn" if value == most and spread > 1.5 else "text" for value in figures
        )
        lines.append(
            line(
                Span(cut(say(fmt.sanitize(name)), label).ljust(label), "text"),
                *(Span(f"{_bare(value):>{KIND}}", style) for value, style in zip(figures, styles, strict=True)),
            )
        )
    served = [_served(stages) for _, stages in shown]
    lines.append(
        line(
            Span(say("served after", label).ljust(label), "label"),
            *(Span(f"{_bare(v):>{KIND}}", "bright") for v in served),
        )
    )
    return lines


def _bare(value: float | None) -> str:
    return fmt.ABSENT_TEXT if value is None else f"{value:.1f}"


def _served(stages: Mapping[str, float]) -> float:
    return sum(seconds for name, seconds in stages.items() if name != FIRST_TOKEN)
