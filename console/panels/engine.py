"""The engine in full: anatomy of its start, kinds of cold compared, versions, limits, arguments and the end of its log."""

from __future__ import annotations

import shlex

from console import format as fmt
from console.ink import Line, Span, beside, cut, fit, frame, line, wrap
from console.panels.anatomy import anatomy, felt, kinds_line, kinds_table, total
from console.panels.beat import beat_style
from console.panels.queue import queue_panel
from console.panels.replicas import replicas
from console.panels.start import coldness, left_s
from console.view import View, figure
from console.words import say
from server.telemetry.snapshot import ColdStart, Engine, Queue, Value

TABLE_CELLS = 64
"""Width of the table of kinds."""
TABLE_FROM = 158
FACTS_ROWS = 15
FACTS_CELLS, QUEUE_CELLS = 55, 60
QUEUE_FROM = 150
"""Width from which the queue and its policy stand between the facts and the arguments; else three of the facts tell."""
LOG_ROWS = 8


def engine(view: View, cells: int, rows: int) -> list[Line]:
    """The start on top, facts and arguments below it, the log at the bottom."""
    shown = view.snapshot.engine if view.snapshot else Engine()
    queue = view.snapshot.queue if view.snapshot else Queue()
    log = LOG_ROWS if rows >= 48 else 6 if rows >= 34 else 0
    found = view.snapshot.replicas if view.snapshot else None
    most = max(5, rows - log - (FACTS_ROWS if rows >= 36 else 7))
    if found is None:
        lines = _start(shown, cells, most)
    elif shown.attached:  # whose start nobody here has seen
        lines = replicas(view, cells, min(most, len(found.members) + 6))
    else:
        several = min(most // 2, len(found.members) + 6)
        lines = replicas(view, cells, several) + _start(shown, cells, most - several)
    upper = len(lines)
    lower = rows - upper - log
    line_of = QUEUE_CELLS if cells >= QUEUE_FROM and queue.rules is not None else 0
    left = FACTS_CELLS if line_of else cells // 2
    right = cells - left - line_of
    facts = frame(
        line(Span(say("what runs"), "title")), _facts(shown, queue, left - 4, policy=not line_of), left, lower
    )
    head, argv = "started with", _arguments(shown.argv, right - 4)
    if found is not None and shown.attached:
        head, argv = "endpoints", [line(Span(fmt.sanitize(url, right - 4), "text")) for url in shown.url.split()]
    argv = argv or [line(Span(fmt.ABSENT_TEXT, "absent"))]
    blocks = [(facts, left), (frame(line(Span(say(head), "title")), argv, right, lower), right)]
    if line_of:
        blocks.insert(1, (queue_panel(view, line_of, lower), line_of))
    lines += beside(blocks)
    if log:
        lines += _log(shown, cells, log)
    return [fit(one, cells) for one in lines][:rows]


def _start(shown: Engine, cells: int, most: int) -> list[Line]:
    """At most `most` rows: stages, and beside them the kinds compared where there is room."""
    start = shown.start
    table = TABLE_CELLS if cells >= TABLE_FROM and len(start.kinds) > 1 else 0
    room = cells - table - 4
    took, before, left = total(start.stages) if start.finished else None, total(start.previous), left_s(start)
    title = line(Span(say("cold start"), "title"), Span(say(f"  {fmt.sanitize(start.kind)}"), "label"))
    if took is not None:
        title += line(Span(f"  {fmt.seconds(took)}", "bright"))
    elif left is not None and not start.finished:
        title += line(Span(say(f"  {fmt.span(start.elapsed_s)}, about {fmt.span(left)} to go"), "bright"))
    kind = f" ({fmt.sanitize(start.previous_kind)})" if start.previous_kind not in {"", start.kind} else ""
    right = line(Span(say(f"last time{kind} {fmt.seconds(before)}"), "label")) if before is not None else ()
    body = [*anatomy(start, room, most - 2), *_said(start, room, kinds=not table)]
    other = kinds_table(start.kinds, table - 4) if table else []
    rows = min(most, max(len(body), len(other)) + 2)
    box = frame(title, body, cells - table, rows, right=right)
    if not table:
        return box
    head = line(Span(say("kinds of cold compared"), "title"), Span(say("  seconds"), "label"))
    return beside([(box, cells - table), (frame(head, other, table, rows), table)])


def _said(start: ColdStart, room: int, *, kinds: bool) -> list[Line]:
    """What people felt, what was made cold, how other kinds did."""
    lines = [people] if (people := felt(start.meanwhile)) else []
    lines += coldness(start, room)
    if kinds and len(start.kinds) > 1:
        lines.append(line(Span(say("kinds   "), "faint")) + kinds_line(start.kinds))
    return lines


def _log(shown: Engine, cells: int, rows: int) -> list[Line]:
    kept = shown.log_tail[-(rows - 2) :]
    body = [line(Span(cut(fmt.sanitize(row), cells - 4), _level(row))) for row in kept]
    body = body or [line(Span(fmt.ABSENT_TEXT, "absent", "`spark-serve logs engine` shows a file, if there is one"))]
    return frame(line(Span(say("end of its log"), "title")), body, cells, rows)


def _level(row: str) -> str:
    if " ERROR " in row[:60] or row.startswith(("ERROR", "CRITICAL")):
        return "bad"
    return "warn" if " WARNING " in row[:60] or row.startswith("WARNING") else "label"


def _arguments(argv: list[str], room: int) -> list[Line]:
    """An option with its value a line, as they would be typed."""
    groups: list[list[str]] = []
    for part in argv:
        quoted = shlex.quote(fmt.sanitize(part, 2000))
        if not groups or part.startswith("-"):
            groups.append([quoted])
        else:
            groups[-1].append(quoted)
    said = [" ".join(group) for group in groups]
    return [tuple(span._replace(note=one) for span in row) for one in said for row in wrap(one, room)]


def _facts(engine: Engine, queue: Queue, room: int, *, policy: bool) -> list[Line]:
    health = {True: ("answers", "good"), False: ("does not answer", "bad"), None: (fmt.ABSENT_TEXT, "absent")}[
        engine.healthy
    ]
    beat = fmt.known(engine.heartbeat_age_s)
    alive = (
        (say("nothing runs"), "label")
        if beat is None
        else (say(f"last step {fmt.seconds(beat)} ago"), beat_style(beat))
    )
    times = {
        "in-band": "exact, in the engine's own replies",
        "otlp": "exact, from the engine's traces",
        "windowed": "windowed means only",
        "": fmt.ABSENT_TEXT,
    }[engine.stage_times]
    origin: list[str] = [engine.model_kind] if engine.model_kind else []
    if engine.model_kind == "hub":
        origin.append(engine.revision[:12] if engine.revision else "revision not pinned")
    texts = (
        ("engine", f"{engine.name} {engine.version}"),
        ("model", engine.model + (f" ({', '.join(origin)})" if origin else "")),
        ("device", engine.device),
        ("address", engine.url if " " not in engine.url else f"{len(engine.url.split())} endpoints"),
        ("process", "" if engine.pid is None else str(engine.pid)),
        ("stage times", say(times)),
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
    if policy:
        rows.append(_row("queue's policy", line(Span(say(fmt.sanitize(queue.policy, 40)) or fmt.ABSENT_TEXT, "text"))))
        for label, value in (("max in flight", queue.max_in_flight), ("max queue", queue.max_queue)):
            rows.append(_row(label, figure(value, fmt.count(value.v))))
    return [fit(row, room) for row in rows]


def _row(label: str, value: Line) -> Line:
    return line(Span(f"{say(label, 16):<17}", "label")) + value
