"""What people feel: time to first token, pace, gaps, and their course over the last minutes."""

from __future__ import annotations

from collections.abc import Sequence

from console import format as fmt
from console import raster
from console.baseline import change, held_of
from console.history import CELL_S
from console.ink import Line, Span, cut, fit, frame, line, width
from console.view import View, figure, quantile_note
from console.words import say
from server.telemetry.snapshot import Feel, Quantiles

_ROWS = (
    ("TTFT", "time to the first token, from the moment the person meant to send", "ttft_s"),
    ("TPOT", "time per output token after the first", "tpot_s"),
    ("gap", "raw gaps between token events", "gap_s"),
    ("whole", "the whole reply, end to end", "e2e_s"),
)

NEEDS = {"p50": 1, "p95": 100, "p99": 500}
"""Samples for a quantile."""
NOTE_CELLS = 4
"""Of a marker's note, at least."""
CHANGED_CELLS = 14
"""Of a column that has room for a figure and its change."""
N_CELLS = 8


def feel(view: View, cells: int, rows: int) -> list[Line]:
    """The table of quantiles, and below it the chart if there is room for one."""
    shown = view.snapshot.feel if view.snapshot else Feel()
    inner, body_rows = cells - 4, rows - 2
    table_rows = 4 if body_rows >= 12 else 3
    body = table(shown, inner, table_rows, roomy=body_rows >= 8)
    left = body_rows - len(body)
    if left >= 4:
        body += chart(view, inner, left)
    title = line(
        Span(say("what people feel"), "title"), Span(say(f", last {fmt.span(shown.ttft_s.window_s)}"), "label")
    )
    source = shown.ttft_s.src
    elsewhere = {"gateway": "seen at the gateway", "engine": "as the engine itself counts"}
    right = line(Span(say(elsewhere[source]), "label")) if source in elsewhere else ()
    return frame(title, body[:body_rows], cells, rows, right=right or goodput(shown))


def goodput(shown: Feel) -> Line:
    """The share of good requests, and how many a second."""
    if fmt.known(shown.attainment.v) is None:
        return ()
    good = shown.attainment.v or 0.0
    style = "good" if good >= 0.95 else "warn" if good >= 0.8 else "bad"
    spans = figure(shown.attainment, fmt.share(good), style=style) + line(Span(say(" good"), "label"))
    if fmt.known(shown.goodput_per_s.v) is not None:
        spans += line(Span(", ", "label")) + figure(shown.goodput_per_s, fmt.rate(shown.goodput_per_s.v), unit="good/s")
    return spans


def table(shown: Feel, room: int, rows: int, *, roomy: bool) -> list[Line]:
    """A row of quantiles for each of TTFT, TPOT, gaps and whole replies, as many as `rows`; roomy: with a heading. Changes
    against a baseline take the place of p99 where there is none for both."""
    names = [say(label, max(5, room // 5)) for label, _, _ in _ROWS[:rows]]
    first = max(5, *map(len, names)) + 1
    column = min(14, (room - first) // 4)
    known: tuple[str, ...] = ("p50", "p95", "p99")
    if column < CHANGED_CELLS and any(held_of(getattr(shown, attribute)) for _, _, attribute in _ROWS):
        known, column = known[:2], max(column, (room - first - N_CELLS) // 2)
    head: Line = line(Span(" " * first))
    for name in known:
        head += line(Span(say(name, column - 1).rjust(column), "faint"))
    last = min(column, N_CELLS) if len(known) < 3 else column
    lines = [head + line(Span(say("n", last - 1).rjust(last), "faint"))] if roomy else []
    for name, (_, note, attribute) in zip(names, _ROWS, strict=False):
        quantiles: Quantiles = getattr(shown, attribute)
        lines.append(
            line(Span(f"{name:<{first}}", "label", note)) + _quantiles(quantiles, known, column, last, inline=not roomy)
        )
    return lines


def _quantiles(quantiles: Quantiles, known: Sequence[str], column: int, last: int, *, inline: bool) -> Line:
    late = quantiles.age_s > fmt.STALE_AFTER_S
    row: Line = ()
    hint = quantile_note(quantiles)
    for name in known:
        value, needs = getattr(quantiles, name), NEEDS[name]
        absent = fmt.known(value) is None
        text = fmt.seconds(value) if absent or quantiles.exact else "~" + fmt.seconds(value)
        why = f"needs n >= {needs}, has {quantiles.n}" if absent and quantiles.n < needs else hint
        style = "absent" if absent else "stale" if late else "figure"
        changed = change(quantiles, text, lambda found, name=name: getattr(found, name))  # type: ignore[misc]
        if inline:
            lead = line(Span(f"{say(name, 3)} ", "faint"))
            blank = max(0, column - 4 - len(text) - width(changed))
            row += lead + line(Span(text, style, why)) + changed + line(" " * blank)
        else:
            blank = max(0, column - len(text) - width(changed))
            row += line(" " * blank, Span(text, style, why)) + changed
    n = f"{say('n=')}{fmt.short_count(quantiles.n)}" if inline else fmt.count(quantiles.n)
    dated = fmt.age(quantiles.age_s)
    return row + line(Span((n + dated).rjust(0 if inline else last), "stale" if late else "label", hint))


def chart(view: View, room: int, rows: int) -> list[Line]:
    """Median and p95 of TTFT in one braille chart with a line at the SLO's limit: a heading, the chart, event marks."""
    good_s = (view.snapshot.feel if view.snapshot else Feel()).slo.ttft_s
    held_s = _held_s(view)
    axis = 9
    cells = room - axis
    height = rows - 2
    middle, tail = view.history.columns("ttft_p50", cells), view.history.columns("ttft_p95", cells)
    seen = max((column[1] for column in (*middle, *tail) if column), default=0.0)
    top = raster.nice_top(max(seen, held_s or 0.0, good_s * 1.25))
    low, high = raster.braille(middle, height, top), raster.braille(tail, height, top)
    good_row = height - 1 - raster.step_of(good_s, top, height * 4 - 1) // 4
    held_row = None if held_s is None else height - 1 - raster.step_of(held_s, top, height * 4 - 1) // 4
    short = None if room >= 60 else 3
    late = say("  ━ p95 too late") if room >= 60 else " ━ late"
    heading = line(
        Span(" " * axis),
        Span(say("TTFT ", None if room >= 60 else 6), "label"),
        Span(f"━ {say('p50', short)}", "median"),
        Span(f" ━ {say('p95', short)}", "tail"),
        Span(late, "late"),
    )
    end = line(Span(say(f"last {fmt.span(cells * CELL_S)}"), "faint"))
    lines = [fit(heading, room - width(end) - 1) + line(" ") + end]
    for y in range(height):
        label = (
            fmt.seconds(top)
            if y == 0
            else "0"
            if y == height - 1
            else "good"
            if y == good_row and 0 < y < height - 1
            else "then"
            if y == held_row and 0 < y < height - 1
            else ""
        )
        row: Line = line(Span(label.rjust(axis - 2) + " ", "faint"), Span("┤" if label else "│", "frame"))
        row += _cells(low[y], high[y], above=y < good_row, rule="┈" if y == good_row else "╌" if y == held_row else "")
        lines.append(row)
    return [*lines, line(Span("events".rjust(axis - 1) + " ", "faint")) + event_marks(view, cells)]


def event_marks(view: View, cells: int) -> Line:
    """The letters of events, each with what it was for a tooltip, and behind a marker's as much of its note as there is room
    for before the next."""
    marked = sorted(view.history.marked(cells).items())
    spans: Line = ()
    for index, (cell, event) in enumerate(marked):
        end = marked[index + 1][0] if index + 1 < len(marked) else cells
        told = f"{fmt.time_of_day(event.wall)} {fmt.sanitize(event.text, 60)}"
        room = end - cell - 3
        note = cut(fmt.sanitize(event.text, 60), room) if event.kind == "marker" and room >= NOTE_CELLS else ""
        spans += line(
            Span(" " * (cell - width(spans))),
            Span(event.mark[0], "mark", told),
            Span(f" {note}" if note else "", "label", told),
        )
    return fit(spans, cells)


def _held_s(view: View) -> float | None:
    """The p95 of TTFT in the baseline, or its median where that needs fewer requests."""
    if view.baseline is None:
        return None
    held = view.baseline.snapshot.feel.ttft_s
    return fmt.known(held.p95 if held.p95 is not None else held.p50)


def _cells(low: list[int], high: list[int], *, above: bool, rule: str) -> Line:
    """One chart row as runs of one style: the tail over the median over the line of what is good, or of what was held."""
    runs: list[tuple[str, str]] = []
    for under, over in zip(low, high, strict=True):
        mask = under | over
        if over and not under:
            style = "late" if above else "tail"
        elif mask:
            style = "median"
        else:
            style = {"┈": "limit-line", "╌": "spark"}.get(rule, "text")
        character = chr(0x2800 + mask) if mask else rule or " "
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + character, style)
        else:
            runs.append((character, style))
    return line(*(Span(text, style) for text, style in runs))
