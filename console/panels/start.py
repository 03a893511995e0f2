"""What stands in the picture's place while there is no engine: its start, its end, or its absence."""

from __future__ import annotations

from console import format as fmt
from console import raster
from console.ink import Line, Span, fit, frame, line, wrap
from console.panels.anatomy import anatomy, felt, total
from console.view import View
from console.words import say
from server.engine.comparison import remaining
from server.telemetry.snapshot import ColdStart, Engine

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


def start_panel(view: View, cells: int, rows: int) -> list[Line]:
    """The box in the middle: a sentence, and the stages of a start with last time's behind them."""
    engine = view.snapshot.engine if view.snapshot else Engine(phase="starting")
    title, style = _TITLES.get(engine.phase, (engine.phase, "bright"))
    inner = cells - 4
    body: list[Line] = []
    sentence = fmt.sanitize(engine.error) or _SENTENCES.get(engine.phase, "")
    if sentence:
        body += [*wrap(say(sentence), inner, "text"), ()]
    if engine.phase in {"down", "failed"} and not engine.attached:
        body += [_again(engine), ()]
    heading = line(Span(say(title), style))
    if engine.phase in {"preparing", "starting", "stopping"}:
        heading += line(Span(say(f"  {fmt.sanitize(engine.start.kind)}"), "label"))
        body += _progress(engine.start, inner, roomy=rows >= 24)
    elif engine.start.stages:
        body += [line(Span(say("its latest start"), "label")), ()]
    if engine.start.stages or engine.phase == "starting":
        body += anatomy(engine.start, inner, max(3, rows - 2 - len(body)))
    return frame(heading, body[: rows - 2], cells, rows)


def _again(engine: Engine) -> Line:
    """How it comes back."""
    if engine.again_in_s is None:
        return line(Span(say(" c "), "key"), Span(say(" starts it again"), "label"))
    soon = line(Span(say("starts again by itself in "), "label"), Span(fmt.seconds(engine.again_in_s), "bright"))
    return soon + line(Span("; ", "label"), Span(say(" c "), "key"), Span(say(" does it at once"), "label"))


def left_s(start: ColdStart) -> float | None:
    """The stack's estimate of what is left; for a recording of an older version, made here."""
    if start.left_s is not None:
        return start.left_s
    return remaining(start.stages, start.previous, start.elapsed_s) if not start.previous_kind else None


def _progress(start: ColdStart, room: int, *, roomy: bool) -> list[Line]:
    left, before = left_s(start), total(start.previous)
    spans = line(Span(fmt.span(start.elapsed_s), "bright"), Span(say(" so far"), "label"))
    if left is not None:
        filled, rest = raster.bar(
            start.elapsed_s / max(0.1, start.elapsed_s + left), max(10, room - 66), full="█", empty="░"
        )
        spans += line("  ", Span(filled, "work"), Span(rest, "frame"), "  ")
        last = f"last {fmt.sanitize(start.previous_kind, 20)}" if start.previous_kind else "last time"
        spans += line(
            Span(say(f"about {fmt.span(left)} to go"), "text"), Span(f", {last} {fmt.seconds(before)}", "label")
        )
    else:
        spans += line(Span(say("; no earlier start to compare it with, some minutes are usual"), "label"))
    lines = [fit(spans, room)]
    if people := felt(start.meanwhile):
        lines.append(fit(people, room))
    if roomy:
        lines += coldness(start, room)
    return [*lines, ()]


def coldness(start: ColdStart, room: int) -> list[Line]:
    """What this kind makes cold, what stays warm, and what came of it."""
    cold = "; ".join(part for part in (start.clears, start.note) if part)
    lines: list[Line] = []
    for label, text in (("cold", cold), ("warm", start.keeps)):
        for number, row in enumerate(wrap(say(fmt.sanitize(text)), room - 8, "label")):
            lines.append(line(Span(f"{label if number == 0 else '':<8}", "faint")) + row)
    return lines
