"""The queue in words: what admits, who waits and for what; as one row, and as a panel with the line and the policy."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, pick, width
from console.rules import effective
from console.view import View, figure
from console.words import say
from server.config import EngineKnobs
from server.gateway.records import QueuedRequest
from server.telemetry.snapshot import Engine, Queue, Snapshot

USER_CELLS = 18
PANEL_FROM = 6
KNOB_LABELS = {
    "scheduling-policy": "policy",
    "max-num-batched-tokens": "tokens a step",
    "chunked-prefill": "chunked prefill",
    "max-num-queued-reqs": "max requests",
}


def limit_words(queue: Queue) -> tuple[str, str]:
    """The limit in force and how much of it is taken, with its kind and without: `in-flight 62/64` and `62/64`, `tokens
    12.0k/40.0k`, `adaptive 18 of 64`. Empty where the gateway tells no limit."""
    flying, limit = fmt.known(queue.in_flight.v), fmt.known(queue.limit.v)
    if queue.rules is None or flying is None or limit is None:
        return "", ""
    if queue.rules.limit == "adaptive":
        taken = f"{fmt.count(limit)} of {fmt.count(queue.rules.max_in_flight)}"
        return f"adaptive {taken}", taken
    used, budget = fmt.known(queue.tokens_in_flight.v), fmt.known(queue.token_budget.v)
    if queue.rules.limit == "tokens" and used is not None and budget is not None:
        taken = f"{fmt.short_count(used)}/{fmt.short_count(budget)}"
        return f"tokens {taken}", taken
    return f"in-flight {fmt.count(flying)}/{fmt.count(limit)}", f"{fmt.count(flying)}/{fmt.count(limit)}"


def limit_note(queue: Queue) -> str:
    """What the limit is, for a tooltip."""
    if queue.rules is None:
        return "what admits"
    return {
        "in-flight": "requests at the engine, of those that may be there at once",
        "tokens": "prompt and reply tokens of all in flight, of those that may be in the KV cache at once",
        "adaptive": "how many may be in flight now, of those that may ever: it follows TTFT and TPOT",
    }[queue.rules.limit]


def blocked(queue: Queue) -> tuple[str, ...]:
    """What the next one waits for, the longest wording first; empty when nobody waits."""
    if not queue.depth.v:
        return ()  # the line and the gauges are told at different moments
    if queue.why == "tokens":
        return _blocked_by_tokens(queue)
    if queue.why == "engine":
        return "waits for the engine to be back", "waits for the engine", "for engine"
    limit = fmt.known(queue.limit.v)
    if queue.why == "slots":
        full = f": all {fmt.count(limit)} are taken" if limit is not None else ""
        return f"waits for a place in flight{full}", "waits for a place", "for a place"
    if queue.why == "adaptive":
        now = f": {fmt.count(limit)} at once for now" if limit is not None else ""
        return f"waits for the adaptive limit{now}", "waits for the limit", "for limit"
    return (f"waits for {fmt.sanitize(queue.why, 20)}",) if queue.why else ()


def _blocked_by_tokens(queue: Queue) -> tuple[str, ...]:
    """That a long one at the head keeps back whoever is behind it, though a place is free."""
    used, budget = fmt.known(queue.tokens_in_flight.v), fmt.known(queue.token_budget.v)
    if not queue.first or used is None or budget is None:
        return "head needs more tokens than are free", "head too long"
    head = queue.first[0]
    need, free = head.prompt_tokens + head.output_tokens, max(0.0, budget - used)
    behind = (fmt.known(queue.depth.v) or 1) - 1
    kept = f", and keeps {fmt.count(behind)} back" if behind >= 1 else ""
    brief = f"head needs {fmt.count(need)} tokens, {fmt.count(free)} free"
    short = f"needs {fmt.short_count(need)}, {fmt.short_count(free)} free"
    return brief + kept, brief, f"head {short}", short, f"needs {fmt.short_count(need)}"


def queue_row(view: View, cells: int, rows: int) -> list[Line]:
    """Order, limit, what the next one waits for, how long it will take, and who is next, in one row; the panel where there
    is room for it."""
    if rows >= PANEL_FROM:
        return queue_panel(view, cells, rows)
    if view.snapshot is None or view.snapshot.queue.rules is None:
        return [fit((), cells)]
    queue = view.snapshot.queue
    head = line(Span(say(" queue  "), "title")) + _policy(queue)
    words = blocked(queue)
    if not words:
        return [fit(head + line(Span(say("   nobody waits" if queue.depth.v == 0 else ""), "label")), cells)]
    why = line("   ", Span(say(words[0]), "warn" if queue.why in {"tokens", "engine"} else "text"))
    full = head + why + line("   ") + pace(queue)
    return [fit(_with_next(full, queue, cells - 1) if width(full) < cells else pick(cells, full, head + why), cells)]


def _policy(queue: Queue) -> Line:
    limit = limit_words(queue)[0]
    ageing = queue.rules.ageing_s if queue.rules is not None else None
    aged = f", ageing {ageing:g} s" if ageing is not None and queue.policy != "fifo" else ""
    return line(
        Span(say(fmt.sanitize(queue.policy, 20)), "bright", "who of those who wait goes next"),
        Span(say(aged), "label"),
        Span(say(f"  {limit}") if limit else "", "text", limit_note(queue)),
    )


def pace(queue: Queue) -> Line:
    """The estimated wait, the rate behind it and how many different users wait."""
    users = fmt.known(queue.users_waiting.v)
    if fmt.known(queue.estimated_wait_s.v) is None:
        return line(Span(say("how long is not known yet"), "absent", fmt.sanitize(queue.drain_per_s.why)))
    spans = line(Span(say("about "), "label")) + figure(
        queue.estimated_wait_s, fmt.seconds(queue.estimated_wait_s.v), note="what waits over the drain rate"
    )
    spans += line(Span(say(" at "), "label")) + figure(queue.drain_per_s, fmt.rate(queue.drain_per_s.v), unit="done/s")
    if users and users > 1:
        spans += line(Span(", ", "label")) + figure(queue.users_waiting, fmt.count(users), unit="users")
    return spans


def _with_next(spans: Line, queue: Queue, cells: int) -> Line:
    """As many of those who wait as there is room for."""
    label = line(Span(say("   next "), "label"))
    for request in queue.first:
        one = line(
            Span(cut(fmt.sanitize(request.user) or fmt.ABSENT_TEXT, USER_CELLS), "text"),
            Span(say(f" {fmt.short_count(request.prompt_tokens + request.output_tokens)} tok  "), "label"),
        )
        if width(spans) + width(label) + width(one) > cells:
            break
        spans += label + one
        label = ()
    return spans


def queue_panel(view: View, cells: int, rows: int) -> list[Line]:
    """The policy on the edge; limit, reason and pace; the line of those who wait; the engine's own knobs."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    queue, inner = snapshot.queue, cells - 4
    title = line(Span(say("queue  "), "title")) + _policy(queue)
    title = pick(cells - 6, title, title[:-1], title[:1])
    knobs = knob_rows(snapshot.engine, inner) if rows >= 9 else []
    body = _standing(queue, inner)
    room = rows - 2 - len(body) - (len(knobs) + 1 if knobs else 0)
    body += _line(queue, inner, room)
    body += [()] * (rows - 2 - len(body) - (len(knobs) + 1 if knobs else 0))
    if knobs:
        label = say("the engine's own scheduling ")
        body.append(line(Span(label, "label"), Span("─" * max(0, inner - len(label)), "frame")))
    return frame(title, (body + knobs)[: rows - 2], cells, rows)


def _standing(queue: Queue, room: int) -> list[Line]:
    words = blocked(queue)
    waiting = figure(queue.depth, fmt.count(queue.depth.v), unit="waiting", style="warn" if queue.depth.v else "figure")
    of = f" of at most {fmt.count(queue.max_queue.v)}" if fmt.known(queue.max_queue.v) is not None else ""
    first = waiting + line(Span(say(of), "label"))
    if not words:
        return [fit(first, room)]
    oldest = line(Span(say(", oldest "), "label")) + figure(queue.oldest_s, fmt.seconds(queue.oldest_s.v))
    style = "warn" if queue.why in {"tokens", "engine"} else "text"
    return [
        pick(room, first + oldest, first),
        pick(
            room, *(line(Span(say(f"the next one {one}" if one.startswith("waits") else one), style)) for one in words)
        ),
        pace(queue),
    ]


def _line(queue: Queue, room: int, rows: int) -> list[Line]:
    """A heading and a row for each who waits, in the order in which they would go."""
    if rows < 2 or not queue.first:
        return []
    age = queue.first_age_s or 0.0
    name = max(6, min(USER_CELLS, room - 40))
    body: list[Line] = [
        line(Span(f"{'':>2}  {say('user'):<{name}}{say('priority'):>10}{say('tokens'):>9}{'waited':>10}", "faint")),
    ]
    shown = queue.first[: rows - 1]
    waiting = round(fmt.known(queue.depth.v) or len(queue.first))
    if waiting > len(shown):
        shown = shown[: max(0, rows - 2)]
    body += [_waiter(place, request, name, age) for place, request in enumerate(shown, 1)]
    if waiting > len(shown):
        body.append(line(Span(say(f"    and {fmt.count(waiting - len(shown))} more"), "faint")))
    return body


def _waiter(place: int, request: QueuedRequest, name: int, age_s: float) -> Line:
    note = f"{fmt.count(request.prompt_tokens)} tokens of prompt, at most {fmt.count(request.output_tokens)} of reply"
    return line(
        Span(f"{place:>2}  ", "faint"),
        Span(fit_name(request.user, name), "text", f"request {fmt.sanitize(request.request_id, 60)}"),
        Span(f"{request.priority:>10}", "text"),
        Span(f"{fmt.count(request.prompt_tokens + request.output_tokens):>9}", "figure", note),
        Span(f"{fmt.seconds(request.waited_s + age_s):>10}", "figure"),
        Span(say("  aged" if request.aged else ""), "warn", "it goes before all who have not waited so long"),
    )


def fit_name(user: str, cells: int) -> str:
    """A user's name in exactly so many cells, whatever it holds."""
    return "".join(span.text for span in fit(line(Span(cut(fmt.sanitize(user) or fmt.ABSENT_TEXT, cells - 1))), cells))


def knob_rows(engine: Engine, room: int) -> list[Line]:
    """How the engine schedules by itself, as far as it is known."""
    said = {row: knob_value(engine, engine.knobs, row) for row in KNOB_LABELS}
    cells = (room - 2) // 2
    one = [(KNOB_LABELS[row], *value) for row, value in said.items()]
    if room < 56:
        return [_knob(*row, room) for row in one]
    return [fit(_knob(*a, cells), cells + 2) + _knob(*b, cells) for a, b in (one[:2], one[2:])]


def knob_value(engine: Engine, knobs: EngineKnobs, row: str) -> tuple[str, bool]:
    """A knob's value in words, and whether anybody set it: else it is vLLM's default, and on an engine that somebody else
    started it is not known."""
    told = effective(engine, knobs)
    known = not engine.attached
    if row == "max-num-batched-tokens":
        tokens = told.max_num_batched_tokens
        return fmt.count(tokens if tokens is not None else engine.max_num_batched_tokens.v), tokens is not None
    if row == "scheduling-policy":
        return told.scheduling_policy or ("fcfs" if known else fmt.ABSENT_TEXT), told.scheduling_policy is not None
    if row == "chunked-prefill":
        on = told.chunked_prefill
        return ("on" if on or (on is None and known) else "off" if on is False else fmt.ABSENT_TEXT), on is not None
    bound = told.max_num_queued_reqs
    return (fmt.count(bound) if bound is not None or not known else "unbounded"), bound is not None


def _knob(label: str, value: str, told: bool, room: int) -> Line:
    text = cut(say(value), max(1, room - 17))
    return line(Span(f"{say(label, 16):<17}", "label"), Span(text, "figure" if told else "text", value))
