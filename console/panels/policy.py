"""The policy panel: every rule of the queue with what it does, the engine's own knobs below a rule, and what enter takes."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, pick, text_width, width, wrap
from console.panels.queue import blocked, limit_words
from console.panels.rules import LABELS, Said, knob_said, knob_says, rule_said, rule_says, why_idle
from console.rules import KNOBS, NOT_OURS, RULES, UNKNOWN, drafted, in_play, tuned, wont_start
from console.view import View
from console.words import say
from server.config import EngineKnobs
from server.gateway.policy import Policy, PolicyChange
from server.telemetry.snapshot import Snapshot

LABEL_CELLS = 17
VALUE_CELLS = 30
SENTENCES_FROM = 148
"""Inner width from which each row has its sentence beside it; below it the chosen one's stands at the bottom."""


def policy_panel(view: View, cells: int, height: int) -> list[Line]:
    """Rules, the engine's knobs, the chosen row's sentence where rows have none of their own, what enter takes, the keys."""
    snapshot, inner = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0), cells - 4
    policy = drafted(snapshot, view.draft)
    beside = inner >= SENTENCES_FROM
    title = line(Span(say("queue policy"), "title"))
    if policy is None:
        body = [line(Span(say(UNKNOWN), "absent"))]
        return frame(title, body, cells, height, right=_keys(inner))
    knobs = tuned(snapshot.engine, view.draft)
    known = [row for row in RULES if beside or in_play(policy, row)]
    foot = _foot(view, snapshot, policy, knobs, inner, beside=beside)
    lines: list[tuple[str, Line]] = [(row, _rule(view, snapshot, policy, row, beside=beside)) for row in known]
    lines.append(("", _heading(snapshot, inner)))
    lines += [(row, _knob(view, snapshot, knobs, policy, row, beside=beside)) for row in KNOBS]
    body = _window(lines, view.chosen, height - 2 - len(foot))
    body += [()] * (height - 2 - len(foot) - len(body))
    keys = _keys(inner)
    return frame(title + _standing(snapshot, inner - width(title + keys) - 6), body + foot, cells, height, right=keys)


def _window(lines: list[tuple[str, Line]], chosen: str, rows: int) -> list[Line]:
    """As many rows as there is room for, the chosen one among them."""
    place = next((index for index, (row, _) in enumerate(lines) if row == chosen), 0)
    begin = max(0, min(place - rows // 2, len(lines) - rows))
    return [one for _, one in lines[begin : begin + rows]]


def _standing(snapshot: Snapshot, room: int) -> Line:
    """What holds now, beside the title."""
    queue = snapshot.queue
    waiting, words = fmt.known(queue.depth.v), blocked(queue)
    now = f"   {fmt.count(waiting)} waiting" if waiting is not None else ""
    limit = limit_words(queue)[0]
    crowd = line(Span(now, "warn" if waiting else "label"))
    said = [line(Span(say(now), "warn" if waiting else "label"), Span(say(f", {word}"), "label")) for word in words]
    return pick(room, *(line(Span(say(f"   {limit}"), "label")) + one for one in said if limit), *said, crowd, ())


def _keys(room: int) -> Line:
    long = (("↑ ↓", "choose  "), ("← →", "change  "), ("enter", "take  "), ("esc", "leave"))
    return line(
        *(
            part
            for key, label in long
            for part in (Span(key, "bright"), Span(f" {label}" if room >= 100 else " ", "key-label"))
        )
    )


def _rule(view: View, snapshot: Snapshot, policy: Policy, row: str, *, beside: bool) -> Line:
    pending = _is_pending(view.draft.policy, row)
    played = in_play(policy, row)
    label = _label(view, row, pending=pending, on=played and not view.greyed)
    if not played:
        return label + line(Span(f"  {fmt.ABSENT_TEXT}", "absent"), Span(say(f"   {why_idle(row)}"), "faint"))
    value = _value(view, row, rule_said(policy, snapshot.engine, row), pending=pending, on=not view.greyed)
    sentence, style = rule_says(policy, snapshot.engine, row)
    return label + value + (line(Span(say(sentence), style)) if beside else ())


def _knob(view: View, snapshot: Snapshot, knobs: EngineKnobs, policy: Policy, row: str, *, beside: bool) -> Line:
    pending = getattr(view.draft.knobs, row.replace("-", "_")) is not None
    on = not view.greyed and not snapshot.engine.attached
    label = _label(view, row, pending=pending, on=on)
    value = _value(view, row, (knob_said(snapshot.engine, knobs, row),), pending=pending, on=on)
    sentence, style = knob_says(knobs, policy, row)
    return label + value + (line(Span(say(sentence), style)) if beside else ())


def _label(view: View, row: str, *, pending: bool, on: bool) -> Line:
    chosen = view.chosen == row
    mark = "▸" if chosen else " "
    flag = f"--{row}" if row in KNOBS else ""
    return line(
        Span(mark, "bright"),
        Span("•" if pending else " ", "mark", "changed here and not taken yet"),
        Span(
            f"{say(LABELS[row], LABEL_CELLS - 3):<{LABEL_CELLS - 2}}",
            ("bright" if chosen else "label") if on else "key-off",
            flag,
            f"screen.point('{row}')",
        ),
    )


def _value(view: View, row: str, said: Said, *, pending: bool, on: bool) -> Line:
    chosen = view.chosen == row and on
    style = "mark" if pending else "figure" if on else "key-off"
    said = tuple(map(say, said))
    text = next((one for one in said if text_width(one) <= VALUE_CELLS - 6), said[-1])
    left = Span("◂ " if chosen else "  ", "key-label", "", "screen.change(-1)" if chosen else "")
    right = Span(" ▸" if chosen else "", "key-label", "", "screen.change(1)" if chosen else "")
    return fit(line(left, Span(cut(text, VALUE_CELLS - 5), style), right), VALUE_CELLS)


def _is_pending(change: PolicyChange, row: str) -> bool:
    return any(
        getattr(change, name, None) is not None for name in (row.replace("-", "_"), f"{row.replace('-', '_')}_s")
    )


def _heading(snapshot: Snapshot, inner: int) -> Line:
    long = say("the engine's own scheduling: it restarts for a change ")
    text = pick(inner - 8, line(Span(long, "label")), line(Span(say("the engine's own: it restarts "), "label")))
    why = f"  {NOT_OURS}" if snapshot.engine.attached else ""
    note = pick(inner - width(text) - 4, line(Span(say(why), "faint")), ())
    return (
        line(Span("── ", "frame"))
        + text
        + line(Span("─" * max(0, inner - width(text) - width(note) - 3), "frame"))
        + note
    )


def _foot(
    view: View, snapshot: Snapshot, policy: Policy, knobs: EngineKnobs, inner: int, *, beside: bool
) -> list[Line]:
    """The chosen row's sentence unless it stands beside it; then why nothing can be changed, the last answer, or what enter
    takes."""
    said: list[Line] = [()] if beside else []
    if not beside and view.chosen in LABELS:
        text, style = (
            knob_says(knobs, policy, view.chosen)
            if view.chosen in KNOBS
            else rule_says(policy, snapshot.engine, view.chosen)
        )
        said = wrap(say(text), inner, style)[:2]
        said = [*[()] * (2 - len(said)), *said]
    return [*said, _last(view, snapshot, knobs, inner)]


def _last(view: View, snapshot: Snapshot, knobs: EngineKnobs, inner: int) -> Line:
    if view.greyed:
        return line(Span(say("read-only: "), "warn"), Span(say(fmt.sanitize(view.greyed)), "label"))
    if view.status:
        return line(Span(cut(say(fmt.sanitize(view.status)), inner), view.status_style))
    change, turned = view.draft.policy.in_words(), view.draft.knobs.in_words()
    if view.chosen in KNOBS and turned:
        if ill := wont_start(snapshot.engine, knobs):
            return line(Span(say(ill), "bad"))
        return line(
            Span(say(" enter "), "key"),
            Span(say(" restarts the engine, after asking, with "), "label"),
            Span(say(turned), "mark"),
        )
    if change:
        return line(Span(say(" enter "), "key"), Span(say(" takes: "), "label"), Span(say(change), "mark"))
    if turned:
        return line(
            Span(say("enter on one of the engine's rows restarts it with "), "label"), Span(say(turned), "mark")
        )
    return line(
        Span(
            say("Nothing is changed yet. A change holds at once, begins nobody's wait anew, and marks the charts."),
            "faint",
        )
    )
