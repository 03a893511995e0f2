"""What people feel: time to first token, pace, gaps, and their course over the last minutes."""

from __future__ import annotations

from console import format as fmt
from console import raster
from console.history import CELL_S
from console.ink import Line, Span, fit, frame, line, width
from console.view import View, figure, quantile_note
from console.words import say
from server.telemetry.snapshot import Feel, Quantiles

_ROWS = (
    ("TTFT", "time to the first token, from the moment the person meant to send", "ttft_s"),
    ("TPOT", "time per output token after the first", "tpot_s"),
    ("gap", "raw gaps between token events", "gap_s"),
    ("whole", "the whole reply, end to end", "e2e_s"),
)


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
    """A row of quantiles for each of TTFT, TPOT, gaps and whole replies, as many as `rows`; roomy: with a heading."""
    names = [say(label, max(5, room // 5)) for label, _, _ in _ROWS[:rows]]
    first = max(5, *map(len, names)) + 1
    column = min(14, (room - first) // 4)
    head: Line = line(Span(" " * first))
    for name in ("p50", "p95", "p99", "n"):
        head += line(Span(say(name, column - 1).rjust(column), "faint"))
    lines = [head] if roomy else []
    for name, (_, note, attribute) in zip(names, _ROWS, strict=False):
        quantiles: Quantiles = getattr(shown, attribute)
        lines.append(_quantile_row(f"{name:<{first}}", note, quantiles, column, inline=not roomy))
    return lines


def _quantile_row(label: str, note: str, quantiles: Quantiles, column: int, *, inline: bool) -> Line:
    late = quantiles.age_s > fmt.STALE_AFTER_S
    row: Line = line(Span(label, "label", note))
    hint = quantile_note(quantiles)
    for name, value, needs in (("p50", quantiles.p50, 1), ("p95", quantiles.p95, 100), ("p99", quantiles.p99, 500)):
        absent = fmt.known(value) is None
        text = fmt.seconds(value) if absent or quantiles.exact else "~" + fmt.seconds(value)
        why = f"needs n >= {needs}, has {quantiles.n}" if absent and quantiles.n < needs else hint
        style = "absent" if absent else "stale" if late else "figure"
        if inline:
            row += line(Span(f"{say(name, 3)} ", "faint"), Span(text.ljust(max(0, column - 4)), style, why))
        else:
            row += line(Span(text.rjust(column), style, why))
    n = f"{say('n=')}{fmt.short_count(quantiles.n)}" if inline else fmt.count(quantiles.n)
    dated = fmt.age(quantiles.age_s)
    return row + line(Span((n + dated).rjust(0 if inline else column), "stale" if late else "label", hint))


def chart(view: View, room: int, rows: int) -> list[Line]:
    """Median and p95 of TTFT in one braille chart with a line at the SLO's limit: a heading, the chart, event marks."""
    good_s = (view.snapshot.feel if view.snapshot else Feel()).slo.ttft_s
    axis = 9
    cells = room - axis
    height = rows - 2
    middle, tail = view.history.columns("ttft_p50", cells), view.history.columns("ttft_p95", cells)
    seen = max((column[1] for column in (*middle, *tail) if column), default=0.0)
    top = raster.nice_top(max(seen, good_s * 1.25))
    low, high = raster.braille(middle, height, top), raster.braille(tail, height, top)
    good_row = height - 1 - raster.step_of(good_s, top, height * 4 - 1) // 4
    late = say("  ━ p95 too late") if room >= 60 else " ━ late"
    heading = line(
        Span(" " * axis),
        Span(say("TTFT "), "label"),
        Span(f"━ {say('p50')}", "median"),
        Span(f" ━ {say('p95')}", "tail"),
        Span(late, "late"),
    )
    end = line(Span(say(f"last {fmt.span(cells * CELL_S)}"), "faint"))
    lines = [fit(heading, room - width(end)) + end]
    for y in range(height):
        label = (
            fmt.seconds(top)
            if y == 0
            else "0"
            if y == height - 1
            else "good"
            if y == good_row and 0 < y < height - 1
            else ""
        )
        row: Line = line(Span(label.rjust(axis - 2) + " ", "faint"), Span("┤" if label else "│", "frame"))
        row += _cells(low[y], high[y], above=y < good_row, rule=y == good_row)
        lines.append(row)
    marks = view.history.marks(cells)
    return [*lines, line(Span("events".rjust(axis - 1) + " ", "faint"), Span(marks, "mark"))]


def _cells(low: list[int], high: list[int], *, above: bool, rule: bool) -> Line:
    """One chart row as runs of one style: the tail over the median over the line of what is good."""
    runs: list[tuple[str, str]] = []
    for under, over in zip(low, high, strict=True):
        mask = under | over
        if over and not under:
            style = "late" if above else "tail"
        elif mask:
            style = "median"
        else:
            style = "limit-line" if rule else "text"
        character = chr(0x2800 + mask) if mask else "┈" if rule else " "
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + character, style)
        else:
            runs.append((character, style))
    return line(*(Span(text, style) for text, style in runs))
