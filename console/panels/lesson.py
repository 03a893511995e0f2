"""A lesson as it is read, predicted, done and revealed; and the list of lessons."""

from __future__ import annotations

import math

from console import format as fmt
from console import raster
from console.classroom import summary
from console.ink import Line, Span, beside, between, cut, fit, frame, line, text_width, width, wrap
from console.lessons.lesson import Lesson, Question, Shown, Step
from console.lessons.run import Checked, Guess, Row, Run, Told
from console.panels.feel import chart
from console.panels.lesson_list import lesson_list
from console.panels.prose import WIDE, prose, restaurant
from console.view import View

CHART_ROWS = 10
SIGNS = {True: ("✓ seen     ", "good"), False: ("· not seen ", "warn"), None: ("· not here ", "label")}


def lesson(view: View, cells: int, rows: int) -> list[Line]:
    """The list, or the lesson that is under way."""
    room = view.classroom
    if room.run is None:
        return lesson_list(view, cells, rows)
    run, inner = room.run, cells - 4
    shown = _scrolled(_body(view, run, inner, rows - 2), room.scroll, rows - 2, inner)
    title = line(Span(run.lesson.title, "title"))
    right = line(Span("over", "label")) if run.phase == "over" else _progress(run)
    return frame(title, shown, cells, rows, right=right)


def hidden(view: View, cells: int, rows: int) -> int:
    """How many lines of the lesson are still below what is shown."""
    run = view.classroom.run
    if run is None:
        return 0
    size = len(_body(view, run, cells - 4, rows - 2))
    return max(0, size - view.classroom.scroll - (rows - 3)) if size > rows - 2 else 0


def _body(view: View, run: Run, cells: int, rows: int) -> list[Line]:
    return _over(run, cells) if run.phase == "over" else _step(view, run, cells, rows)


def _progress(run: Run) -> Line:
    count = len(run.lesson.steps)
    done = run.place + (run.phase == "told")
    return line(
        Span("●" * done, "good"),
        Span("○" * (count - done), "faint"),
        Span(f" step {run.place + 1} of {count}", "label"),
    )


def _scrolled(body: list[Line], scroll: int, rows: int, cells: int) -> list[Line]:
    """As much as fits from there; the last row says that there is more."""
    if len(body) <= rows or rows < 2:
        return body
    top = min(scroll, len(body) - rows + 1)
    shown = body[top : top + rows - 1]
    left = len(body) - top - len(shown)
    hint = f"{left} more lines: enter" if left else "page up goes back"
    return [
        *shown,
        between((), line(Span(f"▾ {hint}" if left else f"▴ {hint}", "mark", "", "lesson_scroll(6)")), cells),
    ]


# a step


def _step(view: View, run: Run, cells: int, rows: int) -> list[Line]:
    step = run.step
    told = run.last
    plain = step.reveal_plain if told is not None else step.plain
    head = [line(Span(fmt.sanitize(step.title), "bright")), ()]
    if cells < WIDE:
        body = [*head, *_main(view, run, cells, rows - 2)]
        if plain:
            body += [(), *restaurant(plain, cells)]
        return body
    side = min(54, cells * 2 // 5)
    left = cells - side - 4
    right = restaurant(plain, side) if plain else []
    if step.figures and run.phase in {"act", "wait"}:
        right += [*([()] if right else []), line(Span("now", "title"))]
        right += [_live(run, shown, side) for shown in step.figures]
    if run.phase != "ask" and rows - len(head) - len(right) > CHART_ROWS:
        right += [(), *chart(view, side, CHART_ROWS)]
    return head + beside([(_main(view, run, left, rows - 2), left), (right, side)], gap=4)


def _main(view: View, run: Run, cells: int, rows: int) -> list[Line]:
    step = run.step
    if run.last is not None:
        reveal = _revealed(run.lesson, step, run.last, cells)
        text = [*prose(step.text, cells, "label"), ()]
        return (
            text + reveal
            if step.reveal and len(text) + len(reveal) <= rows
            else reveal
            if step.reveal
            else text + reveal
        )
    asking = run.phase == "ask"
    text = prose(step.text, cells, "text" if asking else "label")
    question = [] if step.question is None else [(), *_question(step.question, run, cells)]
    rest = [(), *_next(view, run, cells)]
    if run.refusal:
        rest += [(), *wrap(fmt.sanitize(run.refusal), cells, "warn")]
    if asking or len(text) + len(question) + len(rest) <= rows:
        return text + question + rest
    return [*rest[1:], *question]  # no room for all: what goes on comes first


def _live(run: Run, shown: Shown, cells: int) -> Line:
    found = run.watch.measured(shown.measure)
    value = Span(shown.measure.written(found.v), "absent" if found.v is None else "figure", fmt.sanitize(found.why))
    return between(line(Span(fmt.sanitize(shown.label), "label")), line(value), cells)


def _question(question: Question, run: Run, cells: int) -> list[Line]:
    asking = run.phase == "ask"
    lines = wrap(fmt.sanitize(question.ask), cells, "title" if asking else "label")
    if question.stops:
        return lines + _scale(question, run.chosen, None, cells)
    for place, choice in enumerate(question.choices):
        here = place == run.chosen
        mark = Span("  ● " if here else "  ○ ", "mark" if here else "faint")
        style = "bright" if here else "text" if asking else "faint"
        lines.append(line(mark, Span(cut(fmt.sanitize(choice.says), cells - 4), style, "", f"lesson_pick({place})")))
    return lines


def _scale(question: Question, chosen: int | None, happened: float | None, cells: int) -> list[Line]:
    """The stops as a scale, what was predicted on it, and what happened between them."""
    texts = [f"{stop:g}" for stop in question.stops]
    gap = max(3, min(8, (cells - len(question.unit) - 4 - sum(map(len, texts))) // max(1, len(texts) - 1)))
    centres, x = [], 2
    for text in texts:
        centres.append(x + (len(text) - 1) // 2)
        x += len(text) + gap
    labels: Line = line("  ")
    for place, text in enumerate(texts):
        style = "key" if place == chosen else "label"
        labels += line(Span(text, style, "", f"lesson_pick({place})"), Span(" " * gap))
    labels += line(Span(question.unit, "label"))
    rule = ["─" if centres[0] <= at <= centres[-1] else " " for at in range(centres[-1] + 2)]
    for centre in centres:
        rule[centre] = "┴"
    marks: dict[int, tuple[str, str]] = {}
    if chosen is not None:
        marks[centres[chosen]] = ("●", "mark")
    if happened is not None:
        marks[_position(question.stops, centres, happened)] = ("◆", "good")
    spans: Line = ()
    for at, character in enumerate(rule):
        spans += (Span(*marks[at]) if at in marks else Span(character, "faint"),)
    return [spans, labels]


def _position(stops: tuple[float, ...], centres: list[int], value: float) -> int:
    """Where a value lies on the scale, between its stops as the logarithm goes."""
    if value <= stops[0]:
        return centres[0]
    for place in range(1, len(stops)):
        low, high = stops[place - 1], stops[place]
        if value <= high:
            part = math.log(value / low) / math.log(high / low) if low > 0 else value / high
            return centres[place - 1] + round(part * (centres[place] - centres[place - 1]))
    return centres[-1]


def _next(view: View, run: Run, cells: int) -> list[Line]:
    """What enter does now, or what is waited for."""
    step = run.step
    if run.phase == "act":
        return [line(Span("doing it ...", "label"))]
    if run.phase == "wait" and step.wait is not None:
        return _waiting(run, cells)
    enter = Span("enter", "key", "", "lesson_go")
    if step.acts and (reason := view.greyed):
        return [
            line(Span("not done here: ", "warn"), Span(cut(fmt.sanitize(reason), cells - 16), "label")),
            line(enter, Span(" reads on", "label")),
        ]
    if step.question is not None and run.chosen is None:
        return [line(Span("↑ ↓", "key"), Span(" say what you expect, then ", "label"), enter)]
    deeds = f" does it: {'; '.join(act.in_words for act in step.acts)}" if step.acts else " goes on"
    return [fit(line(enter, Span(cut(fmt.sanitize(deeds), cells - 5), "label")), cells)]


def _waiting(run: Run, cells: int) -> list[Line]:
    wait = run.step.wait
    assert wait is not None
    elapsed = run.watch.elapsed_s
    lines = wrap(f"waiting: {fmt.sanitize(wait.says)}", cells, "text")
    filled, rest = raster.bar(elapsed / wait.seconds, max(4, min(40, cells - 30)))
    clock = f" {elapsed:.0f} s of {wait.seconds:.0f} s at most"
    lines.append(line(Span(filled, "work"), Span(rest, "frame"), Span(clock, "label")))
    for condition in wait.until:
        seen = condition.judge(run.watch)
        sign, style = ("✓ ", "good") if seen.holds else ("· ", "label")
        lines.append(line(Span(sign, style), Span(cut(fmt.sanitize(seen.because), cells - 2), "label")))
    lines.append(
        line(Span("enter", "key", "", "lesson_go"), Span(" does not wait; 1 shows the picture meanwhile", "label"))
    )
    return lines


# the reveal


def _revealed(entry: Lesson, step: Step, told: Told, cells: int) -> list[Line]:
    lines: list[Line] = []
    if told.cut_short:
        lines += [*wrap(fmt.sanitize(told.cut_short), cells, "warn"), ()]
    if told.guess is not None:
        lines += [*_guessed(step, told.guess, cells), ()]
    if told.rows:
        lines += [_row(row, cells) for row in told.rows]
        if any(row.recorded for row in told.rows):
            lines += wrap(f"recorded: {fmt.sanitize(entry.origin)}", cells, "stale")
        lines.append(())
    if step.reveal:
        lines += [*prose(step.reveal, cells), ()]
    for check in told.checks:
        lines += _check(check, cells)
    if told.checks:
        lines.append(())
    last = entry.steps[-1].name == step.name
    goes = " ends the lesson and puts people and policy back" if last and entry.acts else " goes on"
    return [*lines, line(Span("enter", "key", "", "lesson_go"), Span(goes, "label"))]


def _guessed(step: Step, guess: Guess, cells: int) -> list[Line]:
    style = {True: "good", False: "warn", None: "label"}[guess.right]
    lines = wrap(fmt.sanitize(guess.ask), cells, "label")
    you = fmt.sanitize(guess.predicted) or "nothing"
    it = f"{fmt.sanitize(guess.happened)}{' (recorded)' if guess.recorded else ''}"
    note = fmt.sanitize(guess.note)
    lines.append(line(Span("you said  ", "label"), Span(cut(you, cells - 10), "mark" if guess.predicted else "absent")))
    lines.append(line(Span("it was    ", "label"), Span(cut(it, cells - 10), style)))
    if note:
        room = cells - 10
        if width(lines[-1]) + len(note) + 3 <= cells:
            lines[-1] += line(Span(f"   {note}", "label"))
        else:
            lines += [line(Span(" " * 10)) + one for one in wrap(note, room, "label")]
    question = step.question
    if question is not None and question.stops and guess.value is not None:
        chosen = next((at for at in range(question.size) if question.answer(at) == guess.predicted), None)
        lines += _scale(question, chosen, guess.value, cells)
    return lines


def _row(row: Row, cells: int) -> Line:
    room = min(46, max(20, cells // 2))
    label = line(Span(fit(line(cut(fmt.sanitize(row.label), room)), room)[0].text.ljust(room), "label"))
    if not row.why:
        was = line(Span("  was ", "label"), Span(row.was, "text")) if row.was else ()
        return label + line(Span(row.text, "figure")) + was
    absent = label + line(Span(row.text, "absent", fmt.sanitize(row.why)))
    if row.recorded:
        return absent + line(Span(f"  recorded {fmt.sanitize(row.recorded)}", "stale", fmt.sanitize(row.why)))
    return absent + line(Span(cut(f"  {fmt.sanitize(row.why)}", max(0, cells - width(absent))), "faint"))


def _check(check: Checked, cells: int) -> list[Line]:
    sign, style = SIGNS[check.seen]
    room = cells - text_width(sign)
    indent = line(Span(" " * text_width(sign)))
    first, *rest = wrap(fmt.sanitize(check.says), room)
    lines = [line(Span(sign, style)) + first, *(indent + one for one in rest)]
    if check.because and check.seen is not True:
        lines += [indent + one for one in wrap(f"because {fmt.sanitize(check.because)}", room, "label")]
    return lines


def _over(run: Run, cells: int) -> list[Line]:
    """What came of all of it."""
    lines = [line(Span("That was it: ", "text"), Span(summary(run), "bright")), ()]
    for told in run.told:
        lines.append(line(Span(fmt.sanitize(told.title), "bright")))
        if told.guess is not None:
            style = {True: "good", False: "warn", None: "label"}[told.guess.right]
            words = f"{told.guess.predicted or 'no prediction'} → {told.guess.happened}"
            words += " (recorded)" if told.guess.recorded else ""
            lines.append(line(Span("  you said ", "label"), Span(cut(fmt.sanitize(words), cells - 12), style)))
        for check in told.checks:
            lines += [line("  ") + one for one in _check(check, cells - 2)]
    return [*lines, (), line(Span("enter", "key", "", "lesson_go"), Span(" goes back to the list", "label"))]
