"""What people feel in full, and whether the load generator that measured it can be believed."""

from __future__ import annotations

from console import format as fmt
from console.baseline import change
from console.ink import Line, Span, beside, between, fit, frame, line, pick, width
from console.panels.feel import chart, goodput, table
from console.view import View, figure, quantile_note
from console.words import say
from server.telemetry.snapshot import Feel, People, Quantiles

MISSES = {"ttft": "TTFT", "tpot": "TPOT", "refused": "refused", "error": "errors", "left": "left"}


def measured(view: View, cells: int, rows: int) -> list[Line]:
    """Quantiles, and beside them fluidity, misses and the server's own TTFT. Two rows get the gist of it."""
    shown = view.snapshot.feel if view.snapshot else Feel()
    if rows < 6:
        return _brief(shown, cells)[:rows]
    title = line(
        Span(say("what people feel"), "title"), Span(say(f", last {fmt.span(shown.ttft_s.window_s)}"), "label")
    )
    inner = cells - 4
    facts = _facts(shown)
    if inner >= 100:
        left = inner * 55 // 100
        body = beside([(table(shown, left - 4, 4, roomy=True), left), (facts, inner - left)])
    else:
        body = [*table(shown, inner, 4, roomy=rows >= 12), (), *facts]
    if (left_rows := rows - 3 - len(body)) >= 6:
        body += [(), *chart(view, inner, left_rows)]
    return frame(title, body[: rows - 2], cells, rows, right=goodput(shown))


def _facts(shown: Feel) -> list[Line]:
    fluid = figure(shown.fluidity, fmt.share(shown.fluidity.v))
    rows = [
        ("fluidity", fluid + line(Span(say(" of token deadlines met"), "label"))),
        ("misses", misses(shown.misses) or line(Span(say("none" if shown.ttft_s.n else fmt.ABSENT_TEXT), "label"))),
        ("TTFT here", _mean(shown.ttft_s) + line(Span(say(" mean, seen by people"), "label"))),
        ("at the server", _server(shown) + line(Span(say(" mean, as the engine counts"), "label"))),
        ("the gap", _gap(shown) + line(Span(say(" before the engine has it"), "label"))),
    ]
    return [line(Span(f"{say(label, 13):<14}", "label")) + value for label, value in rows]


def _brief(shown: Feel, cells: int) -> list[Line]:
    first: Line = line(" ")
    for label, quantiles in (("TTFT", shown.ttft_s), ("TPOT", shown.tpot_s)):
        note = quantile_note(quantiles)
        first += line(Span(f"{say(label, 6)} ", "label", note))
        for name, value in (("p50", quantiles.p50), ("p95", quantiles.p95)):
            style = "absent" if fmt.known(value) is None else "figure"
            first += line(Span(f"{say(name, 3)} ", "faint"), Span(fmt.seconds(value) + "  ", style, note))
    first += line(Span(f"{say('n=')}{fmt.short_count(shown.ttft_s.n)}", "label"))
    second = (
        line(Span(say(" server's TTFT "), "label")) + _server(shown) + line(Span(say(" + gap "), "label")) + _gap(shown)
    )
    second += line(Span(say("  fluid "), "label")) + figure(shown.fluidity, fmt.share(shown.fluidity.v))
    if shown.misses:
        second += line(Span(say("  misses "), "label"))
        second += misses(shown.misses, cells - width(second))
    return [between(first, goodput(shown)[:2] + line(" "), cells), fit(second, cells)]


def misses(counts: dict[str, int], cells: int = 80) -> Line:
    """Why requests were not good, the commonest first and as many as fit whole; nothing when all were."""
    spans: Line = ()
    for kind, count in sorted(counts.items(), key=lambda entry: -entry[1]):
        name = say(MISSES.get(kind, fmt.sanitize(kind, 20)), 9)
        one = line(Span("  " if spans else ""), Span(f"{name} ", "label"), Span(fmt.count(count), "warn"))
        if count and width(spans) + width(one) <= cells:
            spans += one
    return spans


def _mean(quantiles: Quantiles) -> Line:
    style = "absent" if fmt.known(quantiles.mean) is None else "figure"
    text = fmt.seconds(quantiles.mean)
    return line(Span(text, style, quantile_note(quantiles)), *change(quantiles, text, lambda found: found.mean))


def _server(shown: Feel) -> Line:
    return figure(shown.server_ttft_s, fmt.seconds(shown.server_ttft_s.v))


def _gap(shown: Feel) -> Line:
    return figure(shown.ttft_gap_s, fmt.seconds(shown.ttft_gap_s.v), note="connect, accept, queue and front end")


def generator(view: View, cells: int, rows: int) -> list[Line]:
    """The load generator's check of itself, in one row; framed where there are three."""
    people = view.snapshot.people if view.snapshot else People()
    framed = rows >= 3
    why = fmt.sanitize(people.void)
    inner = cells - 4 if framed else cells - 2
    if people.mode == "none" and not people.workers:
        check: Line = line(Span(say("no load generator runs"), "label"))
        brief = check
        end: Line = ()
    else:
        brief = _checks(people, wide=False)
        check = pick(inner - 10, _checks(people, wide=True), brief)
        end = line(Span(say("figures hold ✓"), "good", "in the latest intervals"))
    if why:
        badge = line(Span(say(" VOID "), "badge-warn", why), "  ")
        reason = line(Span(say(why), "warn"), "  ")
        body = [pick(inner, badge + reason + check, badge + reason + brief, badge + check)]
    else:
        end = pick(inner - width(check) - 1, end, end[-1:] and line(Span("✓", "good", "figures hold")), ())
        body = [between(check, end, inner)]
    if not framed:
        return [fit(line(" ") + body[0], cells)]
    return frame(line(Span(say("the load generator, which measures this"), "title")), body, cells, rows)


def _checks(people: People, *, wide: bool) -> Line:
    """Each figure that would give the generator away."""
    workers = f"{people.workers} worker" + ("" if people.workers == 1 else "s")
    spans = line(Span(say(workers), "label"))
    readings = (
        ("clock", "its clock late by", people.loop_lag_ms, "the event loop woke so much later than it meant to"),
        ("start", "requests begun late by", people.start_lag_ms, "from meaning to begin a request to having begun it"),
        ("send", "sent after", people.send_lag_ms, "connecting, and the first byte out"),
    )
    for brief, full, value, note in readings:
        spans += line(Span(say(f"  {full if wide else brief} "), "label", note))
        spans += figure(value, fmt.seconds(None if value.v is None else value.v / 1000), note=note)
    spans += line(Span(say("  CPU "), "label", "of one core, the busiest worker")) + figure(
        people.cpu_share, fmt.share(people.cpu_share.v)
    )
    sent, asked = people.sent_per_s, people.rate_asked_per_s
    spans += line(Span(say("  began " if wide else "  "), "label")) + figure(sent, fmt.rate(sent.v))
    if people.mode == "open":
        spans += line(Span(say(" of "), "label")) + figure(asked, fmt.rate(asked.v))
    return spans + line(Span(say("/s asked" if people.mode == "open" else "/s"), "label"))
