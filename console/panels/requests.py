"""Single requests that finished, newest first: who asked, how it ended, and where its time went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from console import endings
from console import format as fmt
from console.ink import Line, Span, between, cut, fit, frame, line, pick, text_width, width, wrap
from console.kept import ONLY, ONLY_EXPLAINED, Listing, ended_at
from console.panels.breakdown import SHOWN_FROM, look
from console.raster import apportion
from console.view import View
from console.words import Wording, say, wording
from loadgen.slo import Slo
from server.telemetry.snapshot import JoinedRequest, Queue, Snapshot

FRAMED_FROM = 9
"""Rows from which on the list has a frame."""
WIDE_FROM = 110
"""Cells inside the frame from which on reasons and TPOT have room."""


@dataclass(frozen=True)
class Column:
    """One column of the list."""

    name: str
    cells: int
    draw: Callable[[JoinedRequest], Span]
    left: bool = False


def _who(request: JoinedRequest) -> Span:
    name = endings.asker(request)
    behaviour = fmt.sanitize(request.behaviour, 20)
    if behaviour and name.endswith(f" {behaviour}"):
        name = f"{name.removesuffix(behaviour)}{say(behaviour)}"
    return Span(name or fmt.ABSENT_TEXT, "text" if request.who else "label", behaviour)


def _who_briefly(request: JoinedRequest) -> Span:
    """A name that begins with the behaviour, as our people have it, keeps its number."""
    name, behaviour = endings.who(request), fmt.sanitize(request.behaviour, 20)
    if behaviour and name.startswith(behaviour):
        name = behaviour[:4] + name.removeprefix(behaviour)
    return _who(request)._replace(text=name or fmt.ABSENT_TEXT)


def _outcome(request: JoinedRequest) -> Span:
    word, style = endings.brief(request)
    why = endings.reason(request, 120)
    return Span(say(f"{word}: {why}" if why else word), style, endings.outcome(request))


def _outcome_briefly(request: JoinedRequest) -> Span:
    word, style = endings.brief(request)
    return Span(say(word, 9), style, endings.outcome(request))


def _tokens(request: JoinedRequest) -> Span:
    prompt, reply = (fmt.short_count(count) for count in (request.prompt_tokens, request.completion_tokens))
    known = request.prompt_tokens is not None or request.completion_tokens is not None
    return Span(f"{prompt}/{reply}" if known else fmt.ABSENT_TEXT, "text" if known else "absent", "prompt/reply")


def _seconds(value: float | None, *, loud: bool = False) -> Span:
    known = fmt.known(value) is not None
    return Span(fmt.seconds(value), "absent" if not known else "warn" if loud else "text")


ENDED_CELLS = 10
"""When it ended, before all columns."""
COLUMNS = (
    Column("who", 16, _who, left=True),
    Column("outcome", 34, _outcome, left=True),
    Column("tokens", 10, _tokens),
    Column("queue", 9, lambda request: _seconds(request.stages.get("queue"))),
    Column("TTFT", 9, lambda request: _seconds(request.ttft_s, loud=request.missed == "ttft")),
    Column("TPOT", 9, lambda request: _seconds(request.tpot_s, loud=request.missed == "tpot")),
    Column("E2E", 9, lambda request: _seconds(request.e2e_s)),
)
NARROW = (
    Column("who", 9, _who_briefly, left=True),
    Column("outcome", 10, _outcome_briefly, left=True),
    Column("tokens", 9, _tokens),
    *(Column(column.name, 7, column.draw) for column in COLUMNS[3:]),
)


def list_rows(rows: int) -> int:
    """How many requests stand on a list of so many rows."""
    return max(0, rows - (3 if rows >= FRAMED_FROM else 2))


def requests(view: View, cells: int, rows: int) -> list[Line]:
    """A heading and a row a request; framed where there is room."""
    listing, snapshot = view.listing, view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    framed = rows >= FRAMED_FROM
    inner = cells - 4 if framed else cells - 2
    if listing.shown:
        body = table(listing, snapshot, inner, listing.window(list_rows(rows)), marked=True)
    else:
        body = wrap(say(why_empty(listing, snapshot)), inner - 2, "label")
        body = [line("  ") + one for one in body]
    place = _place(listing)
    title = _title(listing, snapshot, cells - width(place) - 10)
    if framed:
        return frame(title, body, cells, rows, right=place)
    head = between(line(" ") + title, place + line(" "), cells)
    return [head, *(fit(line(" ") + one, cells) for one in body)][:rows]


def table(listing: Listing, snapshot: Snapshot, cells: int, which: range, *, marked: bool = False) -> list[Line]:
    """A heading, and those rows of what a filter shows; `marked`: with a sign at the chosen one."""
    columns = _columns(cells)
    rows = [_heading(columns, cells)]
    for index in which:
        request = listing.shown[index]
        rows.append(_row(request, snapshot, columns, cells, index, chosen=marked and request is listing.chosen))
    return rows


@lru_cache(maxsize=8)
def _columns(inner: int) -> tuple[Column, ...]:
    if inner < WIDE_FROM:
        return NARROW
    more = max(0, inner - WIDE_FROM - 10) // 3
    return tuple(
        replace(column, cells=column.cells + more) if column.name == "outcome" else column for column in COLUMNS
    )


def _heading(columns: tuple[Column, ...], inner: int) -> Line:
    said = ((say(column.name, column.cells - 1), column) for column in columns)
    names = (name.ljust(column.cells) if column.left else name.rjust(column.cells) for name, column in said)
    told = f"  {'ended':<{ENDED_CELLS}}{''.join(names)}  "
    return line(Span(told + ("where its time went" if inner - len(told) >= 19 else "its time"), "faint"))


def _row(
    request: JoinedRequest, snapshot: Snapshot, columns: tuple[Column, ...], inner: int, index: int, *, chosen: bool
) -> Line:
    action = f"screen.point({index})"
    ended = fmt.time_of_day(snapshot.wall - snapshot.at + ended_at(request))
    spans = [
        Span("▸ " if chosen else "  ", "bright", action=action),
        Span(f"{ended:<{ENDED_CELLS}}", "bright" if chosen else "faint", action=action),
    ]
    for text, style, note, *_ in _told(request, columns, inner, wording()):
        spans.append(Span(text, "bright" if chosen and style in {"text", "label"} else style, note, action))
    return tuple(spans)


@lru_cache(maxsize=128)
def _told(request: JoinedRequest, columns: tuple[Column, ...], inner: int, words: Wording) -> Line:
    """What of a row does not change while the request is what it is: all but its clock time."""
    del words  # those that answer now: what was kept in others is not for them
    spans: list[Span] = []
    room = inner - 2 - ENDED_CELLS
    for column in columns:
        span = column.draw(request)
        text = cut(span.text, column.cells - 1)
        blank = " " * (column.cells - text_width(text))
        spans.append(span._replace(text=text + blank if column.left else blank + text))
        room -= column.cells
    return line(*spans, "  ", *stage_bar(request.stages, room - 2))


def stage_bar(stages: dict[str, float], cells: int) -> Line:
    """The stages of one request side by side, in shares of its time."""
    total = sum(seconds for seconds in stages.values() if seconds > 0)
    sizes = apportion([seconds if seconds >= SHOWN_FROM * total else 0.0 for seconds in stages.values()], cells)
    spans = []
    for (name, seconds), size in zip(stages.items(), sizes, strict=True):
        fill, style = look(name)
        spans.append(Span(fill * size, style, f"{fmt.sanitize(name, 20)} {fmt.seconds(seconds)}"))
    return line(*spans)


def _title(listing: Listing, snapshot: Snapshot, room: int) -> Line:
    """The filters with how many each shows, and what they are of."""
    spans = line(Span(say("requests"), "title"))
    if listing.span is None:
        return spans
    for only in ONLY:
        count = fmt.count(listing.counts.get(only, 0))
        style = "key" if only == listing.only else "label"
        spans += line("  ", Span(say(f" {only} {count} "), style, ONLY_EXPLAINED[only], f"screen.filter('{only}')"))
    lasted = line(Span(say(f" the last {fmt.span(max(0.0, snapshot.at - listing.span[0]))}"), "label"))
    kept = line(Span(say(f"  of {fmt.count(listing.kept)} kept,"), "label", "the stack keeps the last 4 000"))
    return pick(room, spans + kept + lasted, spans + lasted, spans)


def of_how_many(listing: Listing, snapshot: Snapshot, limit: int) -> str:
    """What a list of at most `limit` requests is of, for a place without colours."""
    shown = len(listing.shown)
    which = f"{fmt.count(min(limit, shown))} of {fmt.count(shown)}" if limit < shown else fmt.count(shown)
    name = "requests" if listing.only == "all" else f"{listing.only} requests"
    ago_s = snapshot.at - listing.span[0] if listing.span else 0.0
    kept = f" of {fmt.count(listing.kept)}" if shown < listing.kept else ""
    return f"{which} {name}{kept}, newest first, the last {fmt.span(ago_s)}"


def _place(listing: Listing) -> Line:
    if not listing.shown:
        return ()
    if listing.following:
        return line(Span(say("following the newest"), "live"))
    return line(Span(say(f"{fmt.count(listing.index + 1)} of {fmt.count(len(listing.shown))}"), "figure"))


def why_empty(listing: Listing, snapshot: Snapshot) -> str:
    """One calm sentence on why no request is shown."""
    if listing.why:
        return f"no requests to show: {fmt.sanitize(listing.why)}"
    if not listing.kept:
        return _why_none(listing, snapshot)
    last = "the last request" if listing.kept == 1 else f"the last {fmt.count(listing.kept)} requests"
    if listing.only == "slow":
        return f"nobody waited too long in {last} ({promise(snapshot.feel.slo)})"
    return f"{'nobody left early' if listing.only == 'abandoned' else 'nothing failed'} in {last}"


def _why_none(listing: Listing, snapshot: Snapshot) -> str:
    gateway = snapshot.sources.get("gateway")
    if gateway is not None and not gateway.ok:
        detail = f" ({fmt.sanitize(gateway.detail)})" if gateway.detail else ""
        return f"the gateway does not answer{detail}: nobody tells of requests"
    if snapshot.engine.attached:
        return (
            f"no request has passed our gateway{_at(snapshot.queue)}: what goes to the engine directly is not seen here"
        )
    return "no request has finished yet" if listing.asked else "asking for the latest requests"


def _at(queue: Queue) -> str:
    return f" at {fmt.sanitize(queue.url, 60)}" if queue.url else ""


def promise(slo: Slo) -> str:
    """The limits that a good request keeps."""
    return f"TTFT ≤ {fmt.seconds(slo.ttft_s)}, TPOT ≤ {fmt.seconds(slo.tpot_s)}"
