"""Who is inside now: those who wait, the next to go first, and those in flight, who came first first."""

from __future__ import annotations

from collections.abc import Sequence

from console import endings
from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, width
from console.view import View
from console.words import say
from server.gateway.records import FlyingRequest, QueuedRequest
from server.telemetry.snapshot import Queue, Snapshot

FRAMED_FROM = 3
WIDE_FROM = 110
ONE_CELLS = 38
"""One of them in a frame; with its id it takes `WITH_ID`."""
WITH_ID = 52


def waiting(view: View, cells: int, rows: int) -> list[Line]:
    """Those who wait now: framed with as many as fit, or in one row, which tells of those in flight when nobody waits."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    queue = snapshot.queue
    if rows >= FRAMED_FROM:
        inner = cells - 4
        each = _each(inner)
        body = _columns([_queued(queued, each) for queued in queue.first], inner, rows - 2)
        if not queue.first:
            body = [line(Span(say(_nobody(queue)), "label"))]
        return frame(_depth(queue, brief=False), body, cells, rows)
    spans = line(" ") + _depth(queue, brief=cells < WIDE_FROM)
    told = [_queued_briefly(queued) for queued in queue.first]
    if not told:
        spans += line("   ") + _flights(queue)
        told = [_flying_briefly(flying, snapshot.at) for flying in _flying(snapshot)]
    for one in told:
        if width(spans) + width(one) + 2 > cells - 1:
            break
        spans += line("  ") + one
    return [fit(spans, cells)]


def in_flight(view: View, cells: int, rows: int) -> list[Line]:
    """Those in flight: before their first token, while tokens come, or while only their client still reads."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    inner = cells - 4
    flying = _flying(snapshot)
    body = _columns([_flight(one, snapshot.at, _each(inner)) for one in flying], inner, rows - 2)
    if not flying:
        body = [line(Span(say("nothing is in flight" if snapshot.queue.in_flight.v == 0 else "not told yet"), "label"))]
    return frame(_flights(snapshot.queue), body, cells, rows)


def _each(inner: int) -> int:
    return inner // max(1, inner // ONE_CELLS)


def _columns(told: Sequence[Line], inner: int, rows: int) -> list[Line]:
    """From the top down, then on in the next column."""
    each = _each(inner)
    body: list[Line] = [()] * max(0, rows)
    for place, one in enumerate(told[: inner // each * len(body)]):
        x, y = divmod(place, len(body))
        body[y] = fit(body[y], x * each) + fit(one, each - 2)
    return body


def _depth(queue: Queue, *, brief: bool) -> Line:
    spans = line(Span(say("waiting now"), "title"))
    depth = fmt.known(queue.depth.v)
    if depth is None:
        return spans + line(Span(f"  {fmt.ABSENT_TEXT}", "absent", fmt.sanitize(queue.depth.why) or "not known"))
    spans += line(Span(f"  {fmt.count(depth)}", "figure"))
    if depth and not brief:
        what = say(endings.WAITED_FOR.get(queue.why, fmt.sanitize(queue.why, 30)))
        spans += line(Span(say(f"  {fmt.sanitize(queue.policy, 30)}"), "label"))
        spans += line(Span(say(f", for {what}" if what else ""), "label"))
    stale = fmt.age(queue.first_age_s or 0.0)
    return spans + line(Span(stale if queue.first else "", "stale"))


def _nobody(queue: Queue) -> str:
    if fmt.known(queue.depth.v) is None:
        return fmt.sanitize(queue.depth.why) or "the gateway has not told"
    return "who waits is not known" if queue.depth.v else "nobody waits: who comes goes at once"


def _queued(queued: QueuedRequest, cells: int) -> Line:
    note = _asked(queued)
    told = line(
        Span(f"{fmt.seconds(queued.waited_s):>7}", "wait", note),
        Span(f" {cut(_user(queued.user), 13):<13}", "text", note),
        Span(f" {f'prio {queued.priority}':<7}", "label"),
        Span(f" {'aged' if queued.aged else '':<4}", "warn", "it goes before all who have not waited so long"),
    )
    return told + _id(queued.request_id, cells - width(told) - 2)


def _queued_briefly(queued: QueuedRequest) -> Line:
    note = _asked(queued)
    priority = f" prio {queued.priority}" if queued.priority else ""
    return line(
        Span(fmt.seconds(queued.waited_s), "wait", note),
        Span(f" {cut(_user(queued.user), 12)}", "text", note),
        Span(priority, "label"),
    )


def _asked(queued: QueuedRequest) -> str:
    name = fmt.sanitize(queued.request_id, 80)
    return f"{name}: prompt about {queued.prompt_tokens} tokens, reply at most {queued.output_tokens}"


def _flights(queue: Queue) -> Line:
    spans = line(Span(say("in flight"), "title"))
    flying = fmt.known(queue.in_flight.v)
    if flying is None:
        return spans + line(Span(f"  {fmt.ABSENT_TEXT}", "absent", fmt.sanitize(queue.in_flight.why) or "not known"))
    return spans + line(
        Span(f"  {fmt.count(flying)}", "figure"), Span(say("  oldest first" if queue.flying else ""), "label")
    )


def _flying(snapshot: Snapshot) -> list[FlyingRequest]:
    """None of a gateway that answers no more."""
    gateway = snapshot.sources.get("gateway")
    return [] if gateway is not None and not gateway.ok else snapshot.queue.flying


def _flight(flying: FlyingRequest, at: float, cells: int) -> Line:
    what, style = _doing(flying, at)
    told = line(
        Span(f"{_for(at - flying.admitted):>7}", "text", "since it was admitted"),
        Span(f" {cut(_user(flying.user), 13):<13}", "text", fmt.sanitize(flying.request_id, 80)),
        Span(f" {say(what, 14):<14}", style),
    )
    return told + _id(flying.request_id, cells - width(told) - 2)


def _flying_briefly(flying: FlyingRequest, at: float) -> Line:
    what, style = _doing(flying, at)
    who = f"{_for(at - flying.admitted)} {cut(_user(flying.user), 12)}"
    return line(Span(who, "text", fmt.sanitize(flying.request_id, 80)), Span(f" {say(what)}", style))


def _doing(flying: FlyingRequest, at: float) -> tuple[str, str]:
    """What is going on with it, and the style of that stage."""
    if flying.upstream_done is not None:
        return f"drain {_for(at - flying.upstream_done)}", "over"
    if flying.first_token is not None:
        return f"decode {_for(at - flying.first_token)}", "work"
    return "no token yet", "prefill"


def _for(seconds: float) -> str:
    """In whole seconds from the first one on: so little of it changes from one frame to the next."""
    return fmt.seconds(max(0.0, seconds)) if seconds < 0.95 else fmt.span(seconds)


def _user(user: str) -> str:
    return fmt.sanitize(user, 40) or fmt.ABSENT_TEXT


def _id(request_id: str, cells: int) -> Line:
    """As much of it as there is room for; nothing where it would be a stump."""
    return line(Span(f" {cut(fmt.sanitize(request_id, 80), cells - 1)}", "faint")) if cells >= 10 else ()
