"""Several engines as rows: what each runs, what waits in it, its KV cache and its pace, and whether the load is even."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from console import format as fmt
from console import raster
from console.ink import Line, Span, cut, fit, frame, line, pick, text_width, width
from console.panels.beat import beat_style
from console.view import View, figure
from server.telemetry.snapshot import Engine, Replica, Replicas, Value

NAME_CELLS = 20
BAR_CELLS = 16
SLOW_BEAT_S = 5.0


class _Column:
    """One figure of every row: heading, width, and how a row and the sum show it."""

    def __init__(
        self, head: str, cells: int, of: Callable[[Replica], Line], total: Callable[[Engine], Line], rank: int
    ) -> None:
        self.head, self.cells, self.of, self.total, self.rank = head, cells, of, total, rank


def _count(value: Value, style: str = "figure") -> Line:
    return figure(value, fmt.count(value.v), style=style)


def _wait(value: Value) -> Line:
    return _count(value, "warn" if fmt.known(value.v) else "figure")


def _share(value: Value, hot: float = 2.0) -> Line:
    usage = fmt.known(value.v)
    return figure(value, fmt.share(usage), style="bad" if usage is not None and usage >= hot else "figure")


def _preempted(value: Value) -> Line:
    return figure(value, fmt.rate(value.v), style="bad" if fmt.known(value.v) else "figure")


def _ttft(p50: float | None) -> Line:
    if fmt.known(p50) is None:
        return line(Span(fmt.ABSENT_TEXT, "absent", "from the engine's own histogram"))
    return line(Span(f"~{fmt.seconds(p50)}", "figure", "p50 of the engine's own histogram, 30 s"))


_COLUMNS = (
    _Column("run", 5, lambda r: _count(r.running), lambda e: _count(e.running), 9),
    _Column("wait", 5, lambda r: _wait(r.waiting), lambda e: _wait(e.waiting), 8),
    _Column("KV", 7, lambda r: _share(r.kv_usage, 0.95), lambda e: _share(e.kv_usage, 0.95), 7),
    _Column(
        "tok/s",
        7,
        lambda r: _count(r.generation_tokens_per_s),
        lambda e: _count(e.generation_tokens_per_s),
        6,
    ),
    _Column("prompt/s", 9, lambda r: _count(r.prompt_tokens_per_s), lambda e: _count(e.prompt_tokens_per_s), 2),
    _Column("hits", 7, lambda r: _share(r.prefix_hit_share), lambda e: _share(e.prefix_hit_share), 4),
    _Column(
        "preempt/m", 10, lambda r: _preempted(r.preemptions_per_min), lambda e: _preempted(e.preemptions_per_min), 3
    ),
    _Column("TTFT", 9, lambda r: _ttft(r.ttft_s.p50), lambda e: _ttft(e.ttft_s.p50), 1),
)


def replicas(view: View, cells: int, rows: int) -> list[Line]:
    """A row each, those that are ill marked; the sum below them, and how even the load is."""
    snapshot = view.snapshot
    if snapshot is None or snapshot.replicas is None:
        return [fit((), cells)] * rows
    found, inner, body_rows = snapshot.replicas, cells - 4, rows - 2
    names = min(NAME_CELLS, max(7, *(text_width(member.name) + 3 for member in found.members)))
    columns, bar = _chosen(inner, names, found)
    evenness = _even(found, inner)
    room = body_rows - 2
    body = [_head(columns, names, bar)] if room > len(found.members) else []
    shown = _shown(found, room - len(body))
    body += [_row(member, columns, names, bar, found.busiest, inner) for member in shown]
    if (left := len(found.members) - len(shown)) and room > len(body):
        body.append(line(Span(f"  and {left} more", "label")))
    body.append(_sum(snapshot.engine, found, columns, names, bar))
    if body_rows > len(body) + 1:
        body.append(())
    body.append(evenness)
    if not bar:
        body += _bars(found, names, inner, body_rows - len(body))
    return frame(_title(found), body[:body_rows], cells, rows, right=_balance(found))


def _title(found: Replicas) -> Line:
    many = len(found.members)
    if found.answering == many:
        return line(Span("replicas ", "title"), Span(fmt.count(many), "figure"))
    return line(Span("replicas ", "title"), Span(f"{found.answering} of {many} answer", "bad"))


def _balance(found: Replicas) -> Line:
    words = {"least": "least under way first", "round-robin": "each in turn"}
    return line(Span(words.get(found.balance, ""), "label", "how the gateway chooses"))


def _chosen(inner: int, names: int, found: Replicas) -> tuple[list[_Column], int]:
    """As many columns as fit, the least telling left out first; then the bar of slots, if there is room and they are known."""
    columns = list(_COLUMNS)
    while len(columns) > 1 and names + sum(column.cells for column in columns) > inner:
        columns.remove(min(columns, key=lambda column: column.rank))
    known = any(member.max_num_seqs.v for member in found.members)
    left = inner - names - sum(column.cells for column in columns) - 1
    return columns, min(BAR_CELLS, left) if known and left >= 8 else 0


def _head(columns: Sequence[_Column], names: int, bar: int) -> Line:
    spans = line(Span(" " * (names + (bar + 1 if bar else 0))))
    for column in columns:
        spans += line(Span(column.head.rjust(column.cells), "faint"))
    return spans


def _shown(found: Replicas, most: int) -> list[Replica]:
    """All, or, where there is no room, those that are ill first and a row less, which says how many others there are."""
    if len(found.members) <= most:
        return list(found.members)
    first = sorted(found.members, key=lambda member: (not _ill(member), member.name != found.busiest))
    first = first[: max(1, most - 1)]
    return [member for member in found.members if member in first]


def _ill(member: Replica) -> bool:
    return not member.answers or member.out or member.healthy is False


def _row(member: Replica, columns: Sequence[_Column], names: int, bar: int, busiest: str, inner: int) -> Line:
    beat = fmt.known(member.heartbeat_age_s)
    late = beat is not None and beat > SLOW_BEAT_S
    sign, style = ("●", "good")
    if not member.answers:
        sign, style = "✕", "bad"
    elif member.out or member.healthy is False:
        sign, style = "○", "warn"
    elif late:
        sign, style = "●", beat_style(beat or 0.0)
    note = "\n".join(part for part in (fmt.sanitize(member.url, 120), _said(member), _sent(member)) if part)
    name = cut(fmt.sanitize(member.name), names - 3)
    spans = line(
        Span(f"{sign} ", style, note),
        Span(f"{name:<{names - 2}}", "warn" if member.name == busiest else "text", note),
    )
    if not member.answers:
        why = fmt.sanitize(member.why) or "does not answer"
        return fit(spans + line(Span(cut(why, inner - width(spans)), "bad", note)), inner)
    if bar:
        filled, rest = raster.bar(_slots(member), bar)
        hint = f"{fmt.count(member.running.v)} of {fmt.count(member.max_num_seqs.v)} slots"
        spans += line(Span(filled, "work", hint), Span(rest, "frame", hint), " ")
    for column in columns:
        spans += _right(column.of(member), column.cells)
    return spans


def _said(member: Replica) -> str:
    beat = fmt.known(member.heartbeat_age_s)
    parts = [fmt.sanitize(member.why), "the gateway sends it nothing until it answers" if member.out else ""]
    if beat is not None and beat > SLOW_BEAT_S:
        parts.append(f"no step for {fmt.span(beat)}")
    return "; ".join(part for part in parts if part)


def _sent(member: Replica) -> str:
    return "" if member.sent.v is None else f"{fmt.count(member.sent.v)} of the gateway's requests are there"


def _right(spans: Line, cells: int) -> Line:
    room = cells - width(spans)
    return line(Span(" " * room)) + spans if room > 0 else fit(spans, cells)


def _sum(engine: Engine, found: Replicas, columns: Sequence[_Column], names: int, bar: int) -> Line:
    note = "counters and gauges summed, KV of the fullest, TTFT read off the merged histograms"
    spans = line(Span(f"{'  sum':<{names}}", "label", note))
    if bar:
        running, slots = fmt.known(engine.running.v), fmt.known(engine.max_num_seqs.v)
        of = "" if running is None or slots is None else f"{fmt.count(running)} of {fmt.count(slots)} slots"
        of = of if len(of) <= bar else of.replace(" of ", "/").removesuffix(" slots")
        spans += fit(line(Span(cut(of, bar), "label", "of those that answer")), bar + 1)
    for column in columns:
        spans += _right(column.total(engine), column.cells)
    return spans


def _bars(found: Replicas, names: int, inner: int, rows: int) -> list[Line]:
    """Where the table has no room for it: how full each one's slots are, and its KV cache, as long as all of them fit."""
    kinds: tuple[tuple[str, Callable[[Replica], float | None]], ...] = (("slots", _slots), ("KV cache", _kv))
    made: list[Line] = []
    for head, of in kinds:
        shares = [(member, of(member)) for member in found.members if member.answers]
        if all(share is None for _, share in shares) or rows < len(made) + len(shares) + 2:
            continue
        made += [(), line(Span(head, "faint"))]
        for member, share in shares:
            filled, rest = raster.bar(share, max(4, inner - names - 6))
            style = "warn" if share is not None and share >= 0.95 else "work"
            made.append(
                line(
                    Span(f"  {cut(fmt.sanitize(member.name), names - 3):<{names - 2}}", "text"),
                    Span(filled, style),
                    Span(rest, "frame"),
                    Span(fmt.share(share).rjust(6), "figure" if share is not None else "absent"),
                )
            )
    return made


def _slots(member: Replica) -> float | None:
    running, slots = fmt.known(member.running.v), fmt.known(member.max_num_seqs.v)
    return None if running is None or not slots else running / slots


def _kv(member: Replica) -> float | None:
    return fmt.known(member.kv_usage.v)


def _even(found: Replicas, inner: int) -> Line:
    """The largest load over the mean, in a word too where it is much."""
    value = found.imbalance
    if fmt.known(value.v) is None:
        return line(Span("imbalance ", "label"), Span(fmt.ABSENT_TEXT, "absent", fmt.sanitize(value.why)))
    note = "the largest mean of running + waiting over the mean of all; 1.0 is even"
    stands = fmt.window(value.n or 0, value.window_s)
    spans = line(
        Span("max / mean ", "label", note), Span(f"{value.v:.2f}", "warn" if found.busiest else "figure", note)
    )
    if found.busiest:
        name = fmt.sanitize(found.busiest, 40)
        words = [f"  uneven: most at {name}", f"  most at {name}", f" {name}"]
        word = pick(inner - width(spans), *(line(Span(one, "warn")) for one in words))
    else:
        word = line(Span("  even" if (value.v or 0.0) < 1.2 else "  nearly even", "label"))
    spans += word
    tail = line(Span(f"  {stands}", "faint"))
    return spans + tail if width(spans) + width(tail) <= inner else spans
