"""Below the picture: what holds the setup back, whether the numbers agree, what happened, and the keys."""

from __future__ import annotations

from collections.abc import Callable

from console import format as fmt
from console.ink import Line, Span, between, fit, line, pick, width
from console.panels.progress import progress
from console.view import KeyHint, View
from console.words import say
from server.telemetry.snapshot import Event, Limit, Little, Snapshot

AGREES_WITHIN = 0.05
ALL_FROM = 8
"""Rows from which every rule and every event has its own."""
LITTLE_NEEDS_N = 20


def little(law: Little) -> Line:
    """Little's check: rate x mean time against the people counted inside."""
    error = law.error
    if law.expected is None or law.counted is None:
        return line(
            Span(say("Little "), "label", "rate x mean time should be the people inside"),
            Span(fmt.ABSENT_TEXT, "absent", "too little has finished"),
        )
    note = f"rate x mean time = people inside, over {law.window_s:.0f} s, n={law.n}"
    spans = line(
        Span(say("Little "), "label", note),
        Span(fmt.rate(law.expected), "figure"),
        Span(say(", counted "), "label"),
        Span(fmt.rate(law.counted), "figure"),
    )
    if error is None:
        return spans
    if abs(error) <= AGREES_WITHIN:
        return spans + line(Span(" ✓", "good", note))
    if not law.steady:
        return spans + line(Span(say("  the load is changing"), "faint", note))
    if law.n < LITTLE_NEEDS_N:
        return spans + line(Span(f"  n={law.n}", "faint", note))
    return spans + line(Span(say(f"  they differ by {abs(error) * 100:.0f} %"), "warn", note))


def limit(view: View, cells: int, rows: int) -> list[Line]:
    """The limit and Little's check; below them the latest events. Where there is room, each rule with its evidence, and each
    event in a row of its own."""
    snapshot = view.snapshot
    if snapshot is None:
        return [fit((), cells)] * rows
    right = little(snapshot.little) + line(" ")
    room = cells - width(right) - 1
    head = between(limit_line(snapshot, room), right, cells)
    if rows >= ALL_FROM:
        rules = rule_rows(snapshot.limit_detail, cells)[: rows - 6]
        return [head, (), *rules, *[()][: len(rules)], *event_rows(snapshot, cells, rows - len(rules) - 3)]
    return [head, ticker(snapshot, cells)][:rows]


def rule_rows(found: Limit, cells: int) -> list[Line]:
    """All that was asked, in the order in which the first that holds is named."""
    signs = {True: ("holds", "warn"), False: ("no", "label"), None: ("not evaluated", "faint")}
    return [
        fit(
            line(
                Span(f"   {say(rule.name, 24):<25}", "bright" if rule.holds else "label"),
                Span(f"{signs[rule.holds][0]:<15}", signs[rule.holds][1]),
                Span(say(fmt.sanitize(rule.evidence)), "text" if rule.holds else "label"),
            ),
            cells,
        )
        for rule in found.rules
    ]


def event_rows(snapshot: Snapshot, cells: int, rows: int) -> list[Line]:
    """The latest events, newest first."""
    head = line(Span(say(" events "), "title"), Span("" if snapshot.events else say("none yet"), "faint"))
    return [head, *(fit(line("   ") + _event(event), cells) for event in reversed(snapshot.events))][: max(0, rows)]


def limit_line(snapshot: Snapshot, room: int) -> Line:
    """The phrase, as much of it as fits; all that was asked stands in its note."""
    found = snapshot.limit_detail
    head = line(Span(say(" limit  "), "title"))
    note = limit_note(found)
    if not found.name:
        return head + line(Span(say(fmt.sanitize(snapshot.limit)), "label", note))
    name = line(Span(say(fmt.sanitize(found.name)).upper(), "bright", note))
    because = line("  ", Span(say(fmt.sanitize(found.because)), "text", note))
    step = line(Span(": ", "label"), Span(say(fmt.sanitize(found.next_step)), "label", note))
    return pick(room, head + name + because + step, head + name + because, head + name)


def limit_note(found: Limit) -> str:
    """Every rule with its evidence, a line each."""
    signs = {True: "holds", False: "no", None: "not evaluated"}
    rows = [f"{rule.name}: {signs[rule.holds]}, {rule.evidence}" for rule in found.rules]
    head = f"over {found.window_s:.0f} s, so for {fmt.span(found.since_s)}; next: {found.next_step or 'nothing to try'}"
    return "\n".join(fmt.sanitize(row) for row in (head, *rows)) if rows else ""


def ticker(snapshot: Snapshot, cells: int) -> Line:
    """The latest events, newest first, as many as fit."""
    spans: Line = line(Span(say(" events "), "title"))
    if not snapshot.events:
        return fit(spans + line(Span(say("none yet"), "faint")), cells)
    for event in reversed(snapshot.events):
        one = _event(event)
        if width(spans) + width(one) > cells - 1 and len(spans) > 1:
            break
        spans += one
    return fit(spans, cells)


def _event(event: Event) -> Line:
    mark, text = fmt.sanitize(event.mark, 1), fmt.sanitize(event.text, 60)
    text = text if event.kind == "marker" else say(text)
    head = line(Span(fmt.time_of_day(event.wall), "faint"), Span(f" {mark} ", "mark"))
    if not event.who:
        return head + line(Span(f"{text}   ", "text"))
    return head + line(Span(text, "text"), Span(f" {fmt.sanitize(event.who, 30)}   ", "label", "who did it"))


def status(view: View, cells: int, rows: int) -> list[Line]:
    """The last answer, or else where a replay stands, that the figures are void, a source that does not answer well, or
    why nothing can be done."""
    del rows
    if view.status:
        return [fit(line(" ", Span(say(fmt.sanitize(view.status)), view.status_style)), cells)]
    ill = (void(view.snapshot) or trouble(view.snapshot)) if view.snapshot is not None else ()
    if view.playing is not None:
        return [progress(view.playing, ill, cells)]
    if view.snapshot is None:
        return [fit((), cells)]
    if not ill and view.snapshot.read_only:
        ill = line(Span(say(" read-only: "), "warn"), Span(say(fmt.sanitize(view.snapshot.read_only)), "label"))
    return [fit(ill, cells)]


def void(snapshot: Snapshot) -> Line:
    """That the load generator is the limit, and why; nothing when its figures hold."""
    why = fmt.sanitize(snapshot.people.void)
    if not why:
        return ()
    return line(
        " ",
        Span(say(" VOID "), "badge-warn"),
        Span(f" {say(why)}", "warn"),
        Span(say(": trust no figures of people"), "label"),
    )


def trouble(snapshot: Snapshot) -> Line:
    """The sources that should answer and do not, dated, and what is not believed of those that do."""
    parts: Line = ()
    expected = {
        "engine": snapshot.engine.phase == "ready",
        "health": snapshot.engine.phase == "ready",
        "nvml": bool(snapshot.gpus) or not snapshot.gpu_note,
        "load": snapshot.people.mode != "none",
    }
    for name, state in snapshot.sources.items():
        if state.ok and state.detail:
            parts += line(
                Span(say(f" {fmt.sanitize(name, 30)}"), "warn"),
                Span(f" ({say(fmt.sanitize(state.detail))})  ", "label"),
            )
        if state.ok or not expected.get(name, True):
            continue
        age = f", last read {fmt.span(state.age_s)} ago" if state.age_s is not None else ""
        detail = f" ({fmt.sanitize(state.detail)})" if state.detail else ""
        parts += line(
            Span(say(f" {fmt.sanitize(name, 30)} does not answer"), "warn"), Span(say(f"{age}{detail}  "), "label")
        )
    return parts


def keys(view: View, cells: int, rows: int) -> list[Line]:
    """What can be pressed; greyed with its reason where it cannot. Where room is short labels become one word, then the
    lowest ranks go, from the end; what cannot be done now ranks lower."""
    del rows
    hints = list(view.keys)
    for style in (_roomy, _close, _compact):
        spans = _keys(hints, style)
        if width(spans) <= cells:
            return [fit(spans, cells)]
    while hints and width(spans) > cells:
        lowest = min(map(_rank, hints))
        hints.remove(next(hint for hint in reversed(hints) if _rank(hint) == lowest))
        spans = _keys(hints, _compact)
    return [fit(spans, cells)]


def _keys(hints: list[KeyHint], style: Callable[[KeyHint], tuple[str, str, str]]) -> Line:
    spans: Line = line(" ")
    for hint in hints:
        key, label, gap = style(hint)
        on = not hint.why_not
        spans += line(
            Span(key, "key" if on else "key-off", hint.why_not, hint.action),
            Span(f" {label}", "key-label" if on else "key-off", hint.why_not, hint.action),
            Span(gap),
        )
    # the last gap needs no room
    return spans[:-1] if hints else spans


def _rank(hint: KeyHint) -> int:
    return hint.rank - 2 if hint.why_not else hint.rank


def _roomy(hint: KeyHint) -> tuple[str, str, str]:
    return f" {hint.key} ", say(hint.label), "  "


def _close(hint: KeyHint) -> tuple[str, str, str]:
    return f" {hint.key} ", say(hint.label).split()[0], " "


def _compact(hint: KeyHint) -> tuple[str, str, str]:
    return hint.key, say(hint.label).split()[0], " "
