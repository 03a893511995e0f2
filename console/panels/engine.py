"""The engine in full: anatomy of its start, versions, limits and the arguments it was started with."""

from __future__ import annotations

import shlex

from console import format as fmt
from console.ink import Line, Span, beside, fit, frame, line, wrap
from console.panels.start import anatomy, total
from console.view import View, figure
from server.telemetry.snapshot import Engine, Value


def engine(view: View, cells: int, rows: int) -> list[Line]:
    """The start on top, facts and arguments below it."""
    shown = view.snapshot.engine if view.snapshot else Engine()
    start = shown.start
    stages = len({stage.name for stage in (*start.stages, *start.previous)})
    upper = min(max(5, 2 * stages + 4 if rows >= 2 * stages + 20 else stages + 4), max(5, rows - 8))
    took, before = total(start.stages) if start.finished else None, total(start.previous)
    title = line(Span("cold start", "title"), Span(f"  {fmt.sanitize(start.kind)}", "label"))
    if took is not None:
        title += line(Span(f"  {fmt.seconds(took)}", "bright"))
    right = line(Span(f"last time {fmt.seconds(before)}", "label")) if before is not None else ()
    lines = frame(title, anatomy(start, cells - 4, upper - 2), cells, upper, right=right)
    lower = rows - upper
    left = cells // 2
    facts = frame(line(Span("what runs", "title")), _facts(shown, left - 4), left, lower)
    argv = _arguments(shown.argv, cells - left - 4) or [line(Span(fmt.ABSENT_TEXT, "absent"))]
    lines += beside(
        [(facts, left), (frame(line(Span("started with", "title")), argv, cells - left, lower), cells - left)]
    )
    return [fit(one, cells) for one in lines][:rows]


def _arguments(argv: list[str], room: int) -> list[Line]:
    """An option with its value a line, as they would be typed."""
    groups: list[list[str]] = []
    for part in argv:
        quoted = shlex.quote(fmt.sanitize(part, 2000))
        if not groups or part.startswith("-"):
            groups.append([quoted])
        else:
            groups[-1].append(quoted)
    return [row for group in groups for row in wrap(" ".join(group), room)]


def _facts(engine: Engine, room: int) -> list[Line]:
    health = {True: ("answers", "good"), False: ("does not answer", "bad"), None: (fmt.ABSENT_TEXT, "absent")}[
        engine.healthy
    ]
    beat = fmt.known(engine.heartbeat_age_s)
    alive = (
        ("nothing runs", "label")
        if beat is None
        else (f"last step {fmt.seconds(beat)} ago", "good" if beat <= fmt.STALE_AFTER_S else "bad")
    )
    times = {
        "in-band": "exact, in the engine's own replies",
        "otlp": "exact, from the engine's traces",
        "windowed": "windowed means only",
        "": fmt.ABSENT_TEXT,
    }[engine.stage_times]
    texts = (
        ("engine", f"{engine.name} {engine.version}"),
        ("model", engine.model + (f" ({engine.model_kind})" if engine.model_kind else "")),
        ("device", engine.device),
        ("address", engine.url),
        ("process", "" if engine.pid is None else str(engine.pid)),
        ("stage times", times),
    )
    rows = [_row(label, line(Span(fmt.sanitize(text).strip() or fmt.ABSENT_TEXT, "text"))) for label, text in texts]
    rows[4:4] = [_row("/health", line(Span(*health))), _row("heartbeat", line(Span(*alive)))]
    limits: tuple[tuple[str, Value], ...] = (
        ("max-num-seqs", engine.max_num_seqs),
        ("batched tokens", engine.max_num_batched_tokens),
        ("max-model-len", engine.max_model_len),
        ("KV cache tokens", engine.kv_tokens),
    )
    rows += [_row(label, figure(value, fmt.count(value.v))) for label, value in limits]
    return [fit(row, room) for row in rows]


def _row(label: str, value: Line) -> Line:
    return line(Span(f"{label:<17}", "label")) + value
