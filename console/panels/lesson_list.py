"""The lessons there are, and what came of those that were gone through."""

from __future__ import annotations

from console import format as fmt
from console.classroom import Classroom
from console.ink import Line, Span, beside, between, cut, frame, line, pick, width, wrap
from console.lessons.lesson import Lesson
from console.panels.prose import WIDE, restaurant
from console.view import View


def lesson_list(view: View, cells: int, rows: int) -> list[Line]:
    """As many as fit around the chosen one, and in a wide place what that one goes through."""
    room = view.classroom
    inner, height = cells - 4, rows - 2
    entries = room.shelf()
    intro: list[Line] = wrap(
        "Each lesson asks what you expect, does it on this stack, and shows what happened. People and policy are put back "
        "at its end, and whenever you leave it.",
        min(inner, 90),
        "label",
    )
    roomy = height >= 3 * len(entries) + len(intro) + 2
    body = [*intro, ()] if height >= len(entries) + len(intro) + 3 else []
    chosen = entries[room.at]
    about = [] if isinstance(chosen, str) else [*([] if roomy else [()]), *_about(view, chosen, inner)]
    fits = max(1, height - len(body) - len(about)) // (3 if roomy else 1)
    first = max(0, min(room.at - fits // 2, len(entries) - fits))
    side = min(54, inner * 2 // 5) if inner >= WIDE and not isinstance(chosen, str) else 0
    left = inner - side - (6 if side else 0)
    for place, entry in enumerate(entries[first : first + fits], first):
        body += _entry(room, place, entry, left, roomy=roomy)
    body += about
    if side and not isinstance(chosen, str):
        body = beside([(body, left), ([()] * len([*intro, ()]) + _preview(chosen, side), side)], gap=6)
    return frame(line(Span("lessons: the course's day", "title")), body, cells, rows)


def _preview(entry: Lesson, cells: int) -> list[Line]:
    """What the chosen lesson goes through, and how it begins as a restaurant."""
    lines = [line(Span(cut(fmt.sanitize(entry.title), cells), "bright")), ()]
    for number, step in enumerate(entry.steps, 1):
        asks = Span("  ?" if step.question is not None else "", "mark", "it asks for a prediction")
        lines.append(line(Span(f"{number}  ", "label"), Span(cut(fmt.sanitize(step.title), cells - 6), "text"), asks))
    if entry.steps[0].plain:
        lines += [(), *restaurant(entry.steps[0].plain, cells)]
    return lines


def _entry(room: Classroom, place: int, entry: Lesson | str, cells: int, *, roomy: bool) -> list[Line]:
    here = place == room.at
    action = f"lesson_pick({place})"
    pointer = Span("▸ " if here else "  ", "mark")
    if isinstance(entry, str):
        return [line(pointer, Span(cut(f"{place + 1}  {fmt.sanitize(entry)}", cells - 2), "bad"))]
    came = room.done.get(entry.name, "")
    right = line(Span(f"✓ {came}  " if came else "", "good"), Span(f"{entry.minutes:g} min", "label"))
    title = line(pointer, Span(f"{place + 1}  {fmt.sanitize(entry.title)}", "bright" if here else "text", "", action))
    says = line(Span(f"   {fmt.sanitize(entry.says).replace('`', '')}", "label", "", action))
    if roomy:
        return [between(title, right, cells), line("  ") + says, ()]
    return [between(pick(cells - width(right) - 2, title + says, title), right, cells)]


def _about(view: View, entry: Lesson, cells: int) -> list[Line]:
    predictions = "1 prediction" if entry.predictions == 1 else f"{entry.predictions} predictions"
    steps = f"{len(entry.steps)} steps, {predictions}"
    if entry.acts and (reason := view.greyed):
        return [line(Span(cut(f"{steps}. To read only: {fmt.sanitize(reason)}.", cells), "warn"))]
    return [line(Span("enter", "key"), Span(f" opens it: {steps}", "label"))]
