"""The policy panel: every rule of the queue with what it does, the engine's own knobs below a rule, and what enter takes."""

from __future__ import annotations

from collections.abc import Callable

from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, pick, text_width, width, wrap
from console.panels.queue import blocked, chunked_value, limit_words, policy_value, queued_value, tokens_value
from console.rules import KNOBS, NOT_OURS, RULES, UNKNOWN, drafted, in_play, kv_tokens, tuned, wont_start
from console.view import View
from server.config import EngineKnobs
from server.gateway.policy import Policy, PolicyChange, waits_for_ever
from server.telemetry.snapshot import Engine, Snapshot

LABELS = {
    "order": "order",
    "ageing": "ageing",
    "limit": "limit",
    "max-in-flight": "max in flight",
    "token-budget": "token budget",
    "ttft-target": "TTFT target",
    "tpot-target": "TPOT target",
    "overload": "overload",
    "max-queue": "max queue",
    "max-wait": "max wait",
    "queue-timeout": "queue timeout",
    "deadline": "deadline",
    "hold": "in a restart",
    "keep-alive": "keep-alives",
    "scheduling-policy": "policy",
    "max-num-batched-tokens": "tokens a step",
    "chunked-prefill": "chunked prefill",
    "max-num-queued-reqs": "max requests",
}
LABEL_CELLS = 17
VALUE_CELLS = 30
SENTENCES_FROM = 148
"""Inner width from which each row has its sentence beside it; below it the chosen one's stands at the bottom."""

Said = tuple[str, ...]
"""A value in words, the longest first."""

_ORDERS: dict[str, Said] = {
    "fifo": ("first come first served", "fifo"),
    "shortest": ("shortest prompt first", "shortest"),
    "priority": ("by priority",),
    "fair": ("fair share of users", "fair share"),
}
_LIMITS: dict[str, Said] = {
    "in-flight": ("requests in flight", "in-flight"),
    "tokens": ("and their tokens in the KV", "tokens"),
    "adaptive": ("adaptive: by TTFT and TPOT", "adaptive"),
}
_OVERLOADS: dict[str, Said] = {
    "wait": ("everybody waits",),
    "queue": ("refuse at a queue length", "queue length"),
    "estimate": ("refuse at an estimated wait", "estimated wait"),
    "shed": ("shed the worst priority", "shed"),
}
_ORDER_SAYS = {
    "fifo": "Who came first goes first, so that one long prompt keeps back everybody behind it.",
    "shortest": "Short prompts overtake long ones; ageing sees to it that a long one is not overtaken for ever.",
    "priority": "The lowest number goes first, as vLLM has it: body field priority, or header X-Vllm-Priority.",
    "fair": "Who has had the fewest tokens goes next: a heavy user waits for himself and not the others for him.",
}
_LIMIT_SAYS = {
    "in-flight": "So many are at the engine at once and the rest wait here, where the policy is.",
    "tokens": "Prompts and replies must fit a budget too: the KV cache never overflows, but a long head keeps all back.",
    "adaptive": "It finds itself: misses of the TTFT and TPOT targets shrink it, and while they are met it grows.",
}
_OVERLOAD_SAYS = {
    "wait": "Nobody is refused; what goes wrong: past what the engine can do, the wait grows without end.",
    "queue": "Who comes when max queue wait already gets 429, with a Retry-After from the measured rate.",
    "estimate": "Who would wait over max wait, by the measured rate, gets 429 at once instead of after the wait.",
    "shed": "When max queue wait already, the worst priority gets 429, be it the one who comes or one who waits.",
}


def policy_panel(view: View, cells: int, height: int) -> list[Line]:
    """Rules, the engine's knobs, the chosen row's sentence where rows have none of their own, what enter takes, the keys."""
    snapshot, inner = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0), cells - 4
    policy = drafted(snapshot, view.draft)
    beside = inner >= SENTENCES_FROM
    title = line(Span("queue policy", "title"))
    if policy is None:
        body = [line(Span(UNKNOWN, "absent"))]
        return frame(title, body, cells, height, right=_keys(inner))
    knobs = tuned(snapshot.engine, view.draft)
    known = [row for row in RULES if beside or in_play(policy, row)]
    foot = _foot(view, snapshot, policy, knobs, inner, beside=beside)
    lines: list[tuple[str, Line]] = [(row, _rule(view, snapshot, policy, row, inner, beside=beside)) for row in known]
    lines.append(("", _heading(snapshot, inner)))
    lines += [(row, _knob(view, snapshot, knobs, policy, row, inner, beside=beside)) for row in KNOBS]
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
    crowd = line(Span(now, "warn" if waiting else "label"), Span(f", {words[-1]}" if words else "", "label"))
    return pick(room, line(Span(f"   {limit}" if limit else "", "label")) + crowd, crowd, ())


def _keys(room: int) -> Line:
    long = (("↑ ↓", "choose  "), ("← →", "change  "), ("enter", "take  "), ("esc", "leave"))
    return line(
        *(
            part
            for key, label in long
            for part in (Span(key, "bright"), Span(f" {label}" if room >= 100 else " ", "key-label"))
        )
    )


def _rule(view: View, snapshot: Snapshot, policy: Policy, row: str, inner: int, *, beside: bool) -> Line:
    pending = _is_pending(view.draft.policy, row)
    played = in_play(policy, row)
    label = _label(view, row, pending=pending, on=played and not view.greyed)
    if not played:
        return label + line(Span(f"  {fmt.ABSENT_TEXT}", "absent"), Span(f"   {_why_idle(row)}", "faint"))
    value = _value(view, row, rule_said(policy, snapshot.engine, row), pending=pending, on=not view.greyed)
    sentence, style = rule_says(policy, snapshot.engine, row)
    return label + value + (line(Span(sentence, style)) if beside else ())


def _knob(
    view: View, snapshot: Snapshot, knobs: EngineKnobs, policy: Policy, row: str, inner: int, *, beside: bool
) -> Line:
    pending = getattr(view.draft.knobs, row.replace("-", "_")) is not None
    on = not view.greyed and not snapshot.engine.attached
    label = _label(view, row, pending=pending, on=on)
    value = _value(view, row, (knob_said(snapshot.engine, knobs, row),), pending=pending, on=on)
    sentence, style = knob_says(knobs, policy, row)
    return label + value + (line(Span(sentence, style)) if beside else ())


def _label(view: View, row: str, *, pending: bool, on: bool) -> Line:
    chosen = view.chosen == row
    mark = "▸" if chosen else " "
    flag = f"--{row}" if row in KNOBS else ""
    return line(
        Span(mark, "bright"),
        Span("•" if pending else " ", "mark", "changed here and not taken yet"),
        Span(
            f"{LABELS[row]:<{LABEL_CELLS - 2}}",
            ("bright" if chosen else "label") if on else "key-off",
            flag,
            f"screen.point('{row}')",
        ),
    )


def _value(view: View, row: str, said: Said, *, pending: bool, on: bool) -> Line:
    chosen = view.chosen == row and on
    style = "mark" if pending else "figure" if on else "key-off"
    text = next((one for one in said if text_width(one) <= VALUE_CELLS - 6), said[-1])
    left = Span("◂ " if chosen else "  ", "key-label", "", "screen.change(-1)" if chosen else "")
    right = Span(" ▸" if chosen else "", "key-label", "", "screen.change(1)" if chosen else "")
    return fit(line(left, Span(cut(text, VALUE_CELLS - 5), style), right), VALUE_CELLS)


def _is_pending(change: PolicyChange, row: str) -> bool:
    return any(
        getattr(change, name, None) is not None for name in (row.replace("-", "_"), f"{row.replace('-', '_')}_s")
    )


def _why_idle(row: str) -> str:
    return {
        "ageing": "first come first served has no use for it",
        "token-budget": "for the limit by tokens",
        "ttft-target": "for the adaptive limit",
        "tpot-target": "for the adaptive limit",
        "max-queue": "everybody waits, however many they are",
        "max-wait": "for refusing at an estimated wait",
    }[row]


def _heading(snapshot: Snapshot, inner: int) -> Line:
    long = "the engine's own scheduling: it restarts for a change "
    text = pick(inner - 8, line(Span(long, "label")), line(Span("the engine's own: it restarts ", "label")))
    why = f"  {NOT_OURS}" if snapshot.engine.attached else ""
    note = pick(inner - width(text) - 4, line(Span(why, "faint")), ())
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
        said = wrap(text, inner, style)[:2]
        said = [*[()] * (2 - len(said)), *said]
    return [*said, _last(view, snapshot, knobs, inner)]


def _last(view: View, snapshot: Snapshot, knobs: EngineKnobs, inner: int) -> Line:
    if view.greyed:
        return line(Span("read-only: ", "warn"), Span(fmt.sanitize(view.greyed), "label"))
    if view.status:
        return line(Span(cut(fmt.sanitize(view.status), inner), view.status_style))
    change, turned = view.draft.policy.in_words(), view.draft.knobs.in_words()
    if view.chosen in KNOBS and turned:
        if ill := wont_start(snapshot.engine, knobs):
            return line(Span(ill, "bad"))
        return line(
            Span(" enter ", "key"), Span(" restarts the engine, after asking, with ", "label"), Span(turned, "mark")
        )
    if change:
        return line(Span(" enter ", "key"), Span(" takes: ", "label"), Span(change, "mark"))
    if turned:
        return line(Span("enter on one of the engine's rows restarts it with ", "label"), Span(turned, "mark"))
    return line(Span("Nothing is changed yet. A change loses nobody who waits, and marks the charts.", "faint"))


def rule_said(policy: Policy, engine: Engine, row: str) -> Said:
    """A rule's value in words."""
    match row:
        case "order":
            if waits_for_ever(policy):
                return (f"plain {policy.order}: no ageing", f"plain {policy.order}")
            return _ORDERS[policy.order]
        case "limit":
            return _LIMITS[policy.limit]
        case "overload":
            return _OVERLOADS[policy.overload]
        case "hold":
            return ("everybody waits",) if policy.hold else ("everybody gets 503",)
        case "max-in-flight":
            return (fmt.count(policy.max_in_flight),)
        case "max-queue":
            return (fmt.count(policy.max_queue),)
        case "token-budget":
            return _budget(policy, engine)
    seconds = getattr(policy, f"{row.replace('-', '_')}_s")
    return ("off" if seconds is None else f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s",)


def _budget(policy: Policy, engine: Engine) -> Said:
    size = kv_tokens(engine)
    budget = policy.token_budget or size
    if budget is None:
        return (fmt.ABSENT_TEXT,)
    if size is None:
        return (fmt.count(budget),)
    return (
        fmt.count(budget) + (", all of the KV" if budget == size else f", {budget / size:.0%} of the KV"),
        fmt.count(budget),
    )


def rule_says(policy: Policy, engine: Engine, row: str) -> tuple[str, str]:
    """One sentence on what a rule does with this value, and its style: `warn` where it goes wrong."""
    if row in {"order", "ageing"} and (ill := waits_for_ever(policy)):
        return f"What goes wrong: {ill[:1].lower()}{ill[1:]}", "warn"
    if row == "order":
        return _ORDER_SAYS[policy.order], "label"
    if row == "limit":
        return _LIMIT_SAYS[policy.limit], "label"
    if row == "overload":
        return _OVERLOAD_SAYS[policy.overload], "warn" if policy.overload == "wait" else "label"
    if row == "max-in-flight":
        return _in_flight_says(policy, engine)
    return _RULES_SAY[row](policy), "label"


def _in_flight_says(policy: Policy, engine: Engine) -> tuple[str, str]:
    slots = fmt.known(engine.max_num_seqs.v)
    if slots is not None and policy.max_in_flight > slots:
        return (
            f"Over max-num-seqs, {fmt.count(slots)}: who is let through waits in the engine, where no policy sees him.",
            "warn",
        )
    if slots is not None and policy.max_in_flight < slots:
        return (
            f"Never exceeded, whatever the limit; the engine has {fmt.count(slots)} slots, so that some stay empty.",
            "label",
        )
    return (
        "Never exceeded, whatever the limit; as many as the engine has slots, so that all waiting is done here.",
        "label",
    )


_RULES_SAY: dict[str, Callable[[Policy], str]] = {
    "ageing": lambda policy: (
        "Off: nobody is moved up for having waited long."
        if policy.ageing_s is None
        else "Who has waited so long goes before all who have not, the oldest first: nobody waits for ever."
    ),
    "token-budget": lambda _: (
        "What all in flight may need together, prompt and reply; one that alone needs more goes alone."
    ),
    "ttft-target": lambda _: "Nine of ten shall have their first token so soon after dispatch, or the limit shrinks.",
    "tpot-target": lambda _: "Nine of ten shall have each further token so soon, or the limit shrinks.",
    "max-queue": lambda policy: (
        "Stands in while no rate has been measured; a change drops nobody who waits already."
        if policy.overload == "estimate"
        else "So many may wait; a change drops nobody who waits already."
    ),
    "max-wait": lambda _: (
        "The estimate is what waits over what the engine finishes a second, of its busy period's last 30 s."
    ),
    "queue-timeout": lambda _: "Who has waited so long gets 429; it holds for those who wait now, too.",
    "deadline": lambda _: (
        "For requests that bring no time limit of their own: they end with 504, wherever they are then."
    ),
    "hold": lambda policy: (
        "While the engine restarts people wait in the line, and their streams begin when it is back."
        if policy.hold
        else "While the engine restarts whoever waits or comes gets 503 and is to come again."
    ),
    "keep-alive": lambda _: (
        "A stream that waits gets an SSE comment so often, so that no proxy on the way hangs up on it."
    ),
}


def knob_said(engine: Engine, knobs: EngineKnobs, row: str) -> str:
    """A knob's value in words; vLLM's own default is called that."""
    value, told = {
        "scheduling-policy": lambda: policy_value(knobs),
        "max-num-batched-tokens": lambda: tokens_value(engine, knobs),
        "chunked-prefill": lambda: chunked_value(knobs),
        "max-num-queued-reqs": lambda: queued_value(knobs),
    }[row]()
    return value if told else f"{value} (default)"


def knob_says(knobs: EngineKnobs, policy: Policy, row: str) -> tuple[str, str]:
    """One sentence on what a knob does, and its style: `warn` where it goes wrong."""
    bound = knobs.max_num_queued_reqs
    if row == "max-num-queued-reqs" and bound is not None and bound < policy.max_in_flight:
        return (
            f"Under max in flight, {policy.max_in_flight}: the engine answers 503 to some that were let through.",
            "warn",
        )
    if row == "chunked-prefill" and knobs.chunked_prefill is False:
        return "What goes wrong: a long prompt is read in one step, and everybody's tokens wait for it.", "warn"
    return _KNOBS_SAY[row], "label"


_KNOBS_SAY = {
    "scheduling-policy": "Of the engine's own queue; by priority it also preempts the worst when the KV cache is full.",
    "max-num-batched-tokens": "Few keep the tokens of running replies smooth, many get prompts through sooner.",
    "chunked-prefill": "Long prompts are read in pieces, so that running replies go on between them.",
    "max-num-queued-reqs": "vLLM's own bound on who runs and waits in it together; 503 beyond it (0.32 and newer).",
}
