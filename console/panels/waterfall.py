"""One request from the person's click to the last byte read: a row a stage on one time axis, and what else is known of it."""

from __future__ import annotations

import math

from console import endings
from console import format as fmt
from console.ink import Line, Span, beside, between, cut, fit, frame, line, pick, text_width, wrap
from console.panels.breakdown import UNATTRIBUTED, look
from console.raster import nice_top
from console.view import View
from console.words import say
from server.telemetry.join import UPSTREAM
from server.telemetry.snapshot import JoinedRequest, Snapshot

FRAMED_FROM = 14
"""Rows from which on there is a frame, and facts below the stages."""
STAGES_AT_LEAST = 8
"""Rows that are the stages' own, be there ever so many facts."""
WIDE_FROM = 110
NAME_CELLS = 14
ADDS_UP_WITHIN_S = 0.0005
SHOWN_FROM_S = 1e-6
CLOCKS = {
    "connect": "client",
    "accept": "gateway",
    "queue": "gateway",
    "front end": "gateway less engine",
    UPSTREAM: "gateway",
    "engine queue": "engine",
    "prefill": "engine",
    "decode": "engine",
    "drain": "client",
    UNATTRIBUTED: "what is left",
}
"""Whose clock a stage was read from."""
SAYS = {
    "connect": "meant to send -> sent: connecting, and the client's own delay",
    "accept": "the gateway reads and checks it",
    "queue": "it waits for admission, where the policy is",
    "front end": "dispatch, then the engine's own: chat template, tokenising, passing it on",
    UPSTREAM: "from admission to the engine's last byte, in one piece: its own times of this request are not known",
    "engine queue": "it waits in the engine for a place in the batch",
    "prefill": "the engine reads the prompt",
    "decode": "the engine writes tokens",
    "drain": "the engine is done, the client still reads",
    UNATTRIBUTED: "what nobody could account for",
}


def waterfall(view: View, cells: int, rows: int) -> list[Line]:
    """The chosen request: its stages, their sum against the whole, and facts as far as there is room."""
    request = view.listing.chosen
    framed = rows >= FRAMED_FROM
    inner = cells - 4 if framed else cells - 2
    if request is None:
        body = [line(Span(say("no request is chosen"), "absent"))]
        if framed:
            return frame(line(Span(say("one request"), "title")), body, cells, rows)
        return [fit(line(" ") + body[0], cells)]
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    title, right = _title(request, cells - 12), line(Span(fmt.seconds(request.e2e_s), "bright"))
    room = rows - (2 if framed else 1)
    if framed:
        told = facts(request, snapshot, inner, room)
        body = stage_rows(request, inner, max(STAGES_AT_LEAST, room - len(told) - 1))
        body += [(), *told]
        return frame(title, body, cells, rows, right=right)
    body = stage_rows(request, inner, room)
    head = between(line(" ") + title, right + line(" "), cells)
    return [head, *(fit(line(" ") + one, cells) for one in body)][:rows]


def _title(request: JoinedRequest, cells: int) -> Line:
    word, style = endings.brief(request)
    spans = line(Span(say("one request  "), "title"), Span(say(word), style))
    if request.judged in {"good", "miss"}:
        spans += line(Span(f", {'good' if request.judged == 'good' else 'a miss'}", "label"))
    who = endings.asker(request)
    asked = line(Span(f"  {who}" if who else "", "text"))
    name = line(Span(f"  {cut(fmt.sanitize(request.request_id, 80), 40)}", "faint"))
    return pick(cells, spans + asked + name, spans + asked, spans)


def stage_rows(request: JoinedRequest, cells: int, rows: int) -> list[Line]:
    """First token, stages, axis and sum in at most `rows` lines; where there is less room the smallest stages go, and are
    counted."""
    whole = fmt.known(request.e2e_s)
    if whole is None or not request.stages:
        return [line(Span(say("where its time went is not known"), "absent"))]
    wide = cells >= WIDE_FROM
    bar_cells = max(4, cells - NAME_CELLS - (48 if wide else 16))
    length = max(whole, math.fsum(seconds for seconds in request.stages.values() if seconds > 0), 1e-9)
    first = None if request.ttft_s is None else min(bar_cells - 1, max(0, round(request.ttft_s / length * bar_cells)))
    shown = dict(request.stages)
    hidden: list[float] = []
    while len(shown) > max(1, rows - 2 - (len(hidden) > 0)):
        named = [name for name in shown if name != UNATTRIBUTED] if len(shown) > 2 else list(shown)
        hidden.append(shown.pop(min(named, key=lambda name: abs(shown[name]))))
    lines: list[Line] = []
    begin = 0.0
    for name, seconds in request.stages.items():
        if name in shown:
            bar = _bar(name, begin, seconds, length, bar_cells, first)
            lines.append(_stage(request, name, begin, seconds, whole, bar, wide=wide))
        begin += max(0.0, seconds)
    if hidden:
        more = f"+{len(hidden)} stages"
        lines.append(line(Span(f"{more:<{NAME_CELLS}}", "label"), Span(fmt.seconds(math.fsum(hidden)), "label")))
    told = first is not None
    if first is not None and rows > len(lines) + 2:
        lines.insert(0, _first(request, first, bar_cells))
        told = False
    if rows > len(lines) + 1:
        lines.append(_axis(length, bar_cells))
    lines.append(_sum(request, whole, cells, told=told))
    return lines


def _stage(
    request: JoinedRequest, name: str, begin: float, seconds: float, whole: float, bar: Line, *, wide: bool
) -> Line:
    note = SAYS.get(name, "")
    label = cut(say(fmt.sanitize(name, 40), NAME_CELLS - 1), NAME_CELLS - 1)
    style = "label" if seconds >= -ADDS_UP_WITHIN_S else "warn"
    share = fmt.share(seconds / whole) if whole > 0 else fmt.ABSENT_TEXT
    spans = line(Span(f"{label:<{NAME_CELLS}}", style, note)) + bar
    spans += line(Span(f"{fmt.seconds(seconds):>9}", "figure" if seconds > 0 else "label", note))
    spans += line(Span(f"{share:>7}", "label"))
    if not wide:
        return spans
    spans += line(Span(say(f"  at {fmt.seconds(begin):<8}"), "faint", "since the person meant to send it"))
    return spans + line(Span(say(_aside(request, name, seconds)), "faint", note))


def _aside(request: JoinedRequest, name: str, seconds: float) -> str:
    if name in {"front end", UPSTREAM} and request.dispatch_s is not None:
        return f"dispatch {fmt.seconds(request.dispatch_s)}"
    if seconds < -ADDS_UP_WITHIN_S:
        return "clocks overlap"
    return CLOCKS.get(name, "") if name != "drain" or "connect" in request.stages else "gateway"


def _bar(name: str, begin: float, seconds: float, length: float, cells: int, first: int | None) -> Line:
    """The stage at its place on the axis; the first token's moment runs through what is empty."""
    fill, style = look(name)
    start = round(begin / length * cells)
    end = min(cells, round((begin + max(0.0, seconds)) / length * cells))
    drawn = fill * (end - start) if end > start else "▏" if seconds > SHOWN_FROM_S else ""
    start = min(start, cells - len(drawn))
    rest = cells - start - len(drawn)
    stage = Span(drawn, style, f"{fmt.sanitize(name, 20)} {fmt.seconds(seconds)}")
    return line(*_blank(start, first), stage, *_blank(rest, None if first is None else first - start - len(drawn)))


def _blank(cells: int, first: int | None) -> tuple[Span, ...]:
    """Empty cells, with the first token's line where it runs through them."""
    if first is None or not 0 <= first < cells:
        return (Span(" " * cells),)
    return Span(" " * first), Span("┊", "limit-line", "the first token"), Span(" " * (cells - first - 1))


def _first(request: JoinedRequest, at: int, cells: int) -> Line:
    text = say(f"first token {fmt.seconds(request.ttft_s)}")
    if at + 2 + text_width(text) <= cells:
        return line(Span(" " * (NAME_CELLS + at)), Span("▼ ", "median"), Span(text, "text"))
    before = NAME_CELLS + at - text_width(text) - 1
    return line(Span(" " * max(0, before)), Span(text, "text"), Span(" ▼", "median"))


def _axis(length: float, cells: int) -> Line:
    step = nice_top(length / max(1, cells // 14))
    text = ""
    for tick in range(math.floor(length / step) + 1):
        place, label = round(tick * step / length * cells), f"╵{fmt.seconds(tick * step) if tick else '0'}"
        if place >= len(text) + bool(text) and place + text_width(label) <= cells:
            text = text.ljust(place) + label
    return line(Span(" " * NAME_CELLS), Span(text, "faint"))


def _sum(request: JoinedRequest, whole: float, cells: int, *, told: bool) -> Line:
    """What the stages make together against the whole, and what is left over."""
    total = math.fsum(request.stages.values())
    left = request.stages.get(UNATTRIBUTED, 0.0)
    head = line(Span(f"{'sum':<{NAME_CELLS}}", "label"))
    if abs(total - whole) > ADDS_UP_WITHIN_S:
        return head + line(
            Span(say(f"{_exactly(total, whole)} of {_exactly(whole, whole)}"), "warn"),
            Span(say(": it does not add up"), "warn"),
        )
    spans = line(Span(_exactly(total - left, whole), "figure"))
    sign = " − " if left < 0 else " + "
    spans += line(Span(sign, "label"), Span(_exactly(abs(left), whole), "figure"), Span(say(" unattributed"), "label"))
    spans += line(
        Span(" = ", "label"),
        Span(_exactly(whole, whole), "figure"),
        Span(say(" end to end"), "label"),
        Span(" ✓", "good"),
    )
    first = line(Span(say(f"   ┊ first token {fmt.seconds(request.ttft_s)}"), "label")) if told else ()
    exact = line(Span(say(f"   {exactness(request)}"), "label"))
    return pick(cells, head + spans + first + exact, head + spans + exact, head + spans + first, head + spans)


def _exactly(seconds: float, whole: float) -> str:
    """In the unit that the whole is read in."""
    return f"{seconds:.3f} s" if whole >= 0.1 else f"{seconds * 1000:.1f} ms"


def exactness(request: JoinedRequest) -> str:
    """How the stages are known."""
    if request.stages.keys() <= {"connect", UNATTRIBUTED}:
        return "the gateway's part is not known"
    if UPSTREAM in request.stages:
        return "the engine's own times of it are not known"
    return "exact: measured for this very request" if request.exact else "not all of it was measured for this request"


def facts(request: JoinedRequest, snapshot: Snapshot, cells: int, rows: int) -> list[Line]:
    """What else is known, in two columns where there is room; the most telling first."""
    if rows < 1:
        return []
    judged, style = endings.judgement(request, snapshot.feel.slo)
    ended = Span(endings.outcome(request), endings.brief(request)[1])
    told = [
        ("outcome", ended),
        ("judged", Span(judged, style)),
        ("queue", Span(endings.waited(request) or fmt.ABSENT_TEXT)),
        ("tokens", Span(endings.tokens(request))),
    ]
    attempt = f", attempt {request.attempt}" if request.attempt > 1 else ""
    user = fmt.sanitize(request.user, 60) or fmt.ABSENT_TEXT
    who = f"{endings.asker(request) or fmt.ABSENT_TEXT}{attempt}; counted to user {user}"
    known = [
        ("request", Span(fmt.sanitize(request.request_id, 80))),
        ("trace", Span(fmt.sanitize(request.trace_id, 40) or fmt.ABSENT_TEXT)),
        ("who", Span(say(f"{who}, priority {request.priority}"))),
        ("began", Span(_began(request, snapshot))),
    ]
    if request.replica:
        told.append(("replica", Span(fmt.sanitize(request.replica, 80))))
    windowed = _windowed(request, snapshot)
    if windowed:
        known.append(("windowed", Span(windowed, "stale")))
    if cells >= WIDE_FROM:
        half = cells // 2
        left = [one for name, span in told for one in _fact(name, span, half - 2)]
        right = [one for name, span in known for one in _fact(name, span, cells - half)]
        return beside([(left, half), (right, cells - half)])[:rows]
    return [one for name, span in (*told, *known) for one in _fact(name, span, cells)][:rows]


def _fact(name: str, span: Span, cells: int) -> list[Line]:
    lines = wrap(span.text if name in {"request", "trace"} else say(span.text), cells - 9, span.style) or [
        line(Span(fmt.ABSENT_TEXT, "absent"))
    ]
    return [line(Span(f"{say(name, 8) if y == 0 else '':<9}", "label")) + one for y, one in enumerate(lines[:3])]


def _began(request: JoinedRequest, snapshot: Snapshot) -> str:
    clock = fmt.time_of_day(snapshot.wall - snapshot.at + request.at)
    ours = "when its person meant to send it" if request.who else "when the gateway had it: its client is not ours"
    return f"{clock}, {ours}"


def _windowed(request: JoinedRequest, snapshot: Snapshot) -> str:
    """The engine's means of the window, for a request whose own times are not known."""
    engine = snapshot.engine
    means = (("engine queue", engine.queue_s), ("prefill", engine.prefill_s), ("decode", engine.decode_s))
    known = [(name, found) for name, found in means if fmt.known(found.mean) is not None]
    if UPSTREAM not in request.stages or not known:
        return ""
    parts = ", ".join(f"{name} ~{fmt.seconds(found.mean)}" for name, found in known)
    return f"{parts}: means of {fmt.span(known[0][1].window_s)}, not this request's own"
