"""What people ask and when they come, as it can be changed here; and the loads that have a name."""

from __future__ import annotations

from console import format as fmt
from console.deeds import PRESET_KEYS, PRESETS
from console.editing import rows as choices
from console.ink import Line, Span, cut, fit, frame, line, pick, width
from console.panels.crowds import EXPLAINED
from console.view import View
from console.words import say
from loadgen.slo import Slo
from server.telemetry.snapshot import People, Snapshot

LABELS = {
    "arrivals": "arrivals",
    "rate": "rate",
    "think": "think time",
    "turns": "turns",
    "lengths": "lengths",
    "retries": "retries",
    "retry-after": "Retry-After",
}


def asking(view: View, cells: int, rows: int) -> list[Line]:
    """A row a setting; the edge says what good means."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    inner = cells - 4
    body = [
        _row(snapshot.people, name, view.chosen == name, inner) for name in choices(snapshot.people) if name in LABELS
    ]
    if rows - 2 > len(body):
        limits = snapshot.feel.slo
        label = line(Span(say("  good").ljust(15), "label", "what makes a request good"))
        good = pick(
            inner - width(label),
            line(Span(say(f"{limits.name}: "), "label")) + slo(limits),
            slo(limits),
            slo(limits, brief=True),
        )
        body += [()] * (rows - 2 - len(body) > 1) + [label + good]
    return frame(line(Span(say("what they ask"), "title")), body[: rows - 2], cells, rows)


def slo(limits: Slo, *, brief: bool = False) -> Line:
    """The limits of a good request."""
    ttft, tpot = (f"{s:g} s" if s >= 1 else f"{s * 1000:g} ms" for s in (limits.ttft_s, limits.tpot_s))
    sign, cells = ("", 4) if brief else ("≤ ", 14)
    text = f"{say('TTFT', cells)} {sign}{ttft}, {say('TPOT', cells)} {sign}{tpot}"
    return line(Span(text, "label", "what makes a request good"))


def _row(people: People, name: str, chosen: bool, inner: int) -> Line:
    head = line(
        Span("▸ " if chosen else "  ", "bright"),
        Span(
            f"{say(LABELS[name], 11):<11}", "bright" if chosen else "label", EXPLAINED[name], f"screen.point('{name}')"
        ),
    )
    texts = _said(people, name)
    known = texts[0] != fmt.ABSENT_TEXT
    room = inner - width(head) - 4
    arrows = ("◂ ", " ▸") if chosen and known else ("  ", "")
    text = pick(
        room,
        *(line(Span(say(fmt.sanitize(one)), "figure" if known else "absent", fmt.sanitize(texts[0]))) for one in texts),
    )
    note = line(Span(say(_note(people, name)), "warn")) if name == "lengths" else ()
    value = line(Span(arrows[0], "key-label")) + fit(text, min(room, width(text))) + line(Span(arrows[1], "key-label"))
    return pick(inner, head + value + line("  ") + note, head + value) if note else head + value


def _said(people: People, name: str) -> tuple[str, ...]:
    """The setting in words, the longest first."""
    profile = people.profile
    if name == "arrivals":
        if people.mode == "none" and profile is None:
            return (fmt.ABSENT_TEXT,)
        if not people.arrivals:
            return "closed loop: people who come back", "closed loop"
        return f"open loop: {people.arrivals}", people.arrivals
    if name == "rate":
        rate = people.rate_asked_per_s.v
        return (fmt.ABSENT_TEXT if rate is None else f"{rate:g} requests/s",)
    if profile is None:
        return (fmt.ABSENT_TEXT,)
    retry = profile.manners.retry
    return {
        "think": (f"{profile.think_s:g} s",),
        "turns": ("single turns" if profile.turns <= 1 else f"{profile.turns:g} a conversation", f"{profile.turns:g}"),
        "lengths": (
            profile.mix.label if profile.mix.name != "even" else f"even {profile.mix.label}",
            profile.mix.label,
        ),
        "retries": (
            {"naive": "naive", "jitter": "with jitter", "budget": f"within {retry.budget_share:.0%}"}[retry.kind],
        ),
        "retry-after": ("honoured" if retry.honours_retry_after else "ignored",),
    }[name]


def _note(people: People, name: str) -> str:
    clipped = fmt.known(people.clipped_share.v)
    return f"{fmt.share(clipped)} clipped" if name == "lengths" and clipped and clipped >= 0.0005 else ""


def preset_list(view: View, cells: int, rows: int) -> list[Line]:
    """The loads with a name: their key, and what they show where there is room for it."""
    people = view.snapshot.people if view.snapshot else People()
    inner = cells - 4
    name_cells = min(22, inner - 8)
    body = []
    for preset in PRESETS:
        chosen, on = view.chosen == preset.name, people.preset == preset.name
        head = line(
            Span("▸ " if chosen else "  ", "bright"),
            Span(f" {PRESET_KEYS[preset.name]} ", "key", "", f"preset('{preset.name}')"),
            Span(
                f" {cut(say(preset.title), name_cells):<{name_cells}}",
                "bright" if chosen or on else "text",
                preset.says,
                f"screen.point('{preset.name}')",
            ),
            Span("●" if on else " ", "good", "the load is as it was picked"),
        )
        room = inner - width(head) - 1
        body.append(head + line(" ") + fit(line(Span(say(preset.says), "label")), room) if room >= 20 else head)
    return frame(line(Span(say("loads with a name"), "title")), body[: rows - 2], cells, rows)
