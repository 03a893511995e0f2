"""What stands in the picture's place while there is no engine: its start, its end, or its absence."""

from __future__ import annotations

from dataclasses import dataclass

from console import format as fmt
from console import raster
from console.ink import Line, Span, fit, frame, line, wrap
from console.view import View
from server.telemetry.snapshot import ColdStart, Engine, StartStage

NOT_READY = frozenset({"no_engine", "preparing", "starting", "stopping", "down", "failed"})

_SENTENCES = {
    "no_engine": "No engine is installed here: `spark-serve engine install` makes one, `spark-serve engine doctor` looks.",
    "preparing": "The model's files are being made. This happens once.",
    "stopping": "The engine is going down.",
    "down": "The engine is down. Requests wait in the gateway's queue or are refused.",
    "failed": "The engine did not come up. Its log says more: `spark-serve logs engine`.",
}
_TITLES = {
    "no_engine": ("no engine", "warn"),
    "preparing": ("preparing the model", "bright"),
    "starting": ("cold start", "bright"),
    "stopping": ("stopping", "bright"),
    "down": ("engine down", "bad"),
    "failed": ("engine failed", "bad"),
}


def total(stages: list[StartStage]) -> float | None:
    """Seconds until the last stage ended; None while one runs or if there is none."""
    if not stages or stages[-1].end_s is None:
        return None
    return stages[-1].end_s


def remaining(start: ColdStart) -> float | None:
    """Seconds still to go if each stage takes as long as last time; None without a last time.

    A running stage that already took longer than last time counts nothing more.
    """
    if not start.previous:
        return None
    took = {stage.name: stage.end_s - stage.begin_s for stage in start.previous if stage.end_s is not None}
    ended = {stage.name for stage in start.stages if stage.end_s is not None}
    running = {stage.name: start.elapsed_s - stage.begin_s for stage in start.stages if stage.end_s is None}
    left = 0.0
    for name, seconds in took.items():
        if name not in ended:
            left += max(0.0, seconds - running.get(name, 0.0))
    return left


def start_panel(view: View, cells: int, rows: int) -> list[Line]:
    """The box in the middle: a sentence, and the stages of a start with last time's behind them."""
    engine = view.snapshot.engine if view.snapshot else Engine(phase="starting")
    title, style = _TITLES.get(engine.phase, (engine.phase, "bright"))
    inner = cells - 4
    body: list[Line] = []
    sentence = fmt.sanitize(engine.error) or _SENTENCES.get(engine.phase, "")
    if sentence:
        body += [*wrap(sentence, inner, "text"), ()]
    if engine.phase == "down" and not engine.attached:
        body += [line(Span(" c ", "key"), Span(" starts it again", "label")), ()]
    heading = line(Span(title, style))
    if engine.phase in {"preparing", "starting"}:
        heading += line(Span(f"  {fmt.sanitize(engine.start.kind)}", "label"))
        body += _progress(engine.start, inner)
    elif engine.start.stages:
        body += [line(Span("its latest start", "label")), ()]
    if engine.start.stages or engine.phase == "starting":
        body += anatomy(engine.start, inner, max(3, rows - 2 - len(body)))
    return frame(heading, body[: rows - 2], cells, rows)


def _progress(start: ColdStart, room: int) -> list[Line]:
    left = remaining(start)
    before = total(start.previous)
    spans = line(Span(fmt.span(start.elapsed_s), "bright"), Span(" so far", "label"))
    if before is not None and left is not None:
        filled, rest = raster.bar(
            start.elapsed_s / max(0.1, start.elapsed_s + left), max(10, room - 52), full="█", empty="░"
        )
        spans += line("  ", Span(filled, "work"), Span(rest, "frame"), "  ")
        spans += line(Span(f"about {fmt.span(left)} to go", "text"), Span(f", last time {fmt.span(before)}", "label"))
    else:
        spans += line(Span("; no earlier start to compare it with, some minutes are usual", "label"))
    return [fit(spans, room), ()]


def anatomy(start: ColdStart, room: int, rows: int) -> list[Line]:
    """A bar a stage on one time axis; where there is room, last time's bar below it."""
    if not start.stages and not start.previous:
        return [line(Span("no stage has been seen yet", "faint"))]
    last = {stage.name: stage for stage in start.previous}
    now = {stage.name: stage for stage in start.stages}
    names = [*now, *(name for name in last if name not in now)]
    ends = (stage.end_s or 0.0 for stage in (*start.previous, *start.stages))
    scale = _Scale(
        label=min(28, max(len(name) for name in names) + 2),
        room=room,
        whole_s=max(start.elapsed_s if not start.finished else 0.0, 1.0, *ends),
    )
    lines = [
        line(
            Span(" " * scale.label),
            Span(f"{'this time':>9}{'last time':>11}", "faint"),
            Span(f"  0 … {fmt.span(scale.whole_s)}", "faint"),
        )
    ]
    each = 3 if rows >= 3 * len(names) + 1 else 2 if rows >= 2 * len(names) + 1 else 1
    for name in names:
        lines.append(_stage(name, now.get(name), last.get(name), start.elapsed_s, scale))
        if each >= 2:
            lines.append(_before(last.get(name), scale))
        if each == 3:
            lines.append(())
    return lines[:rows]


@dataclass(frozen=True)
class _Scale:
    """Where a second stands."""

    label: int
    room: int
    whole_s: float

    @property
    def axis(self) -> int:
        """Cells of the time axis."""
        return max(8, self.room - self.label - 22)

    def place(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """(cells before a bar, its length), never beyond the axis."""
        left = min(self.axis - 1, round(begin_s / self.whole_s * self.axis))
        return left, max(1, min(self.axis - left, round(end_s / self.whole_s * self.axis) - left))


def _took(stage: StartStage | None, now_s: float = 0.0) -> float | None:
    if stage is None:
        return None
    return max(0.0, (now_s if stage.end_s is None else stage.end_s) - stage.begin_s)


def _duration(seconds: float | None) -> str:
    return fmt.ABSENT_TEXT if seconds is None else f"{seconds:.1f} s"


def _stage(name: str, stage: StartStage | None, last: StartStage | None, now_s: float, scale: _Scale) -> Line:
    shown = fmt.sanitize(name, scale.label - 2)
    before = _took(last)
    if stage is None:
        return line(
            Span(f"· {shown}".ljust(scale.label), "faint"), Span(" " * 9), Span(f"{_duration(before):>11}", "faint")
        )
    running = stage.end_s is None
    took = _took(stage, now_s) or 0.0
    slower = before is not None and took > before * 1.2 + 1.0
    left, size = scale.place(stage.begin_s, now_s if stage.end_s is None else stage.end_s)
    detail = f" {fmt.sanitize(stage.detail)}" if stage.detail else ""
    return line(
        Span(
            f"{'▶' if running else '✓'} {shown}".ljust(scale.label),
            "bright" if running else "text",
            fmt.sanitize(stage.detail),
        ),
        Span(f"{_duration(took):>9}", "warn" if slower else "figure" if running else "text"),
        Span(f"{_duration(before):>11}", "faint"),
        Span("  " + " " * left),
        Span("█" * size, "warn" if slower else "work" if running else "over"),
        Span(detail[: scale.axis - left - size], "faint"),
    )


def _before(last: StartStage | None, scale: _Scale) -> Line:
    """Last time's bar."""
    if last is None or last.end_s is None:
        return ()
    left, size = scale.place(last.begin_s, last.end_s)
    return line(Span(" " * (scale.label + 22 + left)), Span("░" * size, "faint"))
