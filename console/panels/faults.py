"""The fault sheet: every fault by its edge with what it does, what is set of it, and those that last with their seconds."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, pick, text_width, width, wrap
from console.provoking import FOR, lasting, shown
from console.view import View
from console.words import say
from server.faults.catalogue import CATALOGUE, NAMES, Edge, FaultKind
from server.telemetry.snapshot import ActiveFault, Snapshot

NAME_CELLS = 15
SETTINGS_CELLS = 48
SENTENCES_FROM = 120
"""Inner width from which each row has its sentence beside it; below it the chosen one's stands at the bottom."""
EDGE_SAYS: dict[Edge, str] = {
    "client": "what people do",
    "network": "on the way between two of us, through a proxy that is there only while it lasts",
    "process": "what becomes of a process",
    "host": "what the machine gives",
}


def clause(snapshot: Snapshot | None, room: int) -> Line:
    """The faults that last, for every screen: the one that ends first, and how many others; nothing without one."""
    faults = snapshot.faults if snapshot is not None else []
    if not faults:
        return ()
    first = min(faults, key=lambda one: float("inf") if one.left_s is None else one.left_s)
    note = "\n".join(fmt.sanitize(_lasting(one)) for one in faults) + "\nx lists and undoes them"
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    left = "" if first.left_s is None else f", {_seconds(first.left_s)} left"
    text = say(fmt.sanitize(first.text))
    tail = line(Span(f"{left}{more}", "warn", note, "faults"))
    head = line(Span(say("fault: "), "warn", note, "faults"))
    cells = max(8, room - width(head) - width(tail))
    return head + line(Span(cut(text, cells), "warn", note, "faults")) + tail


def _lasting(fault: ActiveFault) -> str:
    left = "" if fault.left_s is None else f", {_seconds(fault.left_s)} left"
    return f"{fault.text}{left}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s"


def fault_sheet(view: View, cells: int, height: int) -> list[Line]:
    """A row a fault under a heading an edge, as many as there is room for around the chosen one."""
    inner = cells - 4
    beside = inner >= SENTENCES_FROM
    foot = _foot(view, inner, beside=beside)
    lines: list[tuple[str, Line]] = []
    edge = ""
    for kind in CATALOGUE:
        if kind.edge != edge:
            edge = kind.edge
            lines.append(("", _heading(kind.edge, inner)))
        lines.append((kind.name, _row(view, kind, inner, beside=beside)))
    body = _window(lines, view.chosen, height - 2 - len(foot))
    body += [()] * (height - 2 - len(foot) - len(body))
    return frame(line(Span(say("faults"), "title")), body + foot, cells, height, right=_keys(inner))


def _window(lines: list[tuple[str, Line]], chosen: str, rows: int) -> list[Line]:
    place = next((index for index, (name, _) in enumerate(lines) if name == chosen), 0)
    begin = max(0, min(place - rows // 2, len(lines) - rows))
    return [one for _, one in lines[begin : begin + rows]]


def _keys(room: int) -> Line:
    long = (("↑ ↓", "choose"), ("← →", "change"), ("tab", "next setting"), ("enter", "provoke, undo"), ("esc", "leave"))
    spans: Line = ()
    for key, label in long:
        said = label if room >= 100 else label.split()[-1] if key == "tab" else label.split(",")[0]
        spans += line(Span(key, "bright"), Span(f" {say(said)}  ", "key-label"))
    return spans


def _heading(edge: Edge, inner: int) -> Line:
    text = line(Span(say(f"{edge} edge"), "label"))
    text += pick(inner - width(text) - 6, line(Span(say(f"  {EDGE_SAYS[edge]} "), "faint")), line(" "))
    return line(Span("── ", "frame")) + text + line(Span("─" * max(0, inner - width(text) - 3), "frame"))


def _row(view: View, kind: FaultKind, inner: int, *, beside: bool) -> Line:
    chosen, on = view.chosen == kind.name, not view.greyed
    active = lasting(view.snapshot, kind.name)
    style = "key-off" if not on else "warn" if active else "bright" if chosen else "text"
    head = line(
        Span("▸ " if chosen else "  ", "bright"),
        Span(f"{kind.name:<{NAME_CELLS - 2}}", style, kind.says, f"screen.point('{kind.name}')"),
    )
    room = SETTINGS_CELLS if beside else inner - NAME_CELLS
    if active is not None:
        left = "" if active.left_s is None else f", {_seconds(active.left_s)} left"
        said = line(
            Span("● ", "warn"),
            Span(cut(fmt.sanitize(active.text), room - 4 - text_width(left)), "warn"),
            Span(left, "warn"),
        )
    else:
        said = _settings(view, kind, room, chosen=chosen and on)
    return head + fit(said, room) + (line(Span(say(f" {kind.says}"), "label" if on else "key-off")) if beside else ())


def _settings(view: View, kind: FaultKind, room: int, *, chosen: bool) -> Line:
    settings = view.faults.of(kind)
    place = view.faults.place_in(kind) if chosen else -1
    parts: list[Line] = []
    for index, (name, value) in enumerate(settings.items()):
        text = shown(kind, name, value)
        changed = name in view.faults.settings.get(kind.name, {})
        if not (chosen or changed or index == 0 or name in {"on", FOR}):
            continue
        style = "mark" if changed else "figure" if chosen else "label"
        if index == place:
            parts.append(
                line(
                    Span("◂ ", "key-label", "", "screen.change(-1)"),
                    Span(text, style, name),
                    Span(" ▸", "key-label", "", "screen.change(1)"),
                )
            )
        else:
            parts.append(line(Span(text, style, name)))
    # around the one that the arrow keys are on, as many as there is room for
    here = max(place, 0)
    first = next(
        (start for start in range(here) if sum(width(part) + 3 for part in parts[start : here + 1]) <= room), here
    )
    spans: Line = ()
    for part in parts[first:]:
        spans += (line(Span(" · ", "faint")) if spans else ()) + part
    return spans


def _foot(view: View, inner: int, *, beside: bool) -> list[Line]:
    """The chosen fault's sentence unless it stands beside it; then why nothing can be done, the last answer, or what enter
    does."""
    said: list[Line] = []
    if not beside and view.chosen in NAMES:
        said = wrap(say(NAMES[view.chosen].says), inner, "text")[:2]
        said = [*[()] * (2 - len(said)), *said]
    return [*said, _last(view, inner)]


def _last(view: View, inner: int) -> Line:
    if view.greyed:
        return line(Span(say("not now: "), "warn"), Span(say(fmt.sanitize(view.greyed)), "label"))
    if view.status:
        return line(Span(cut(say(fmt.sanitize(view.status)), inner), view.status_style))
    kind = NAMES.get(view.chosen)
    if kind is None:
        return ()
    if (active := lasting(view.snapshot, kind.name)) is not None:
        return line(
            Span(say(" enter "), "key"), Span(say(" undoes: "), "label"), Span(fmt.sanitize(active.text), "mark")
        )
    settings = view.faults.of(kind)
    seconds = settings.get("for")
    lasts = f" for {seconds:g} s, then it is undone" if isinstance(seconds, float) else ""
    asks = ", after asking" if kind.asks else ""
    return line(
        Span(say(" enter "), "key"),
        Span(say(f" provokes{asks}: "), "label"),
        Span(kind.words(settings), "mark"),
        Span(lasts, "label"),
    )
