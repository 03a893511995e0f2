"""Who runs, how the console stands to it, and the verdict."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, between, fit, line, pick, width
from console.panels.beat import no_step
from console.panels.faults import clause
from console.panels.letters import tall
from console.panels.progress import replaying
from console.view import View
from console.words import say
from server.telemetry.snapshot import Snapshot

FAULT_CELLS = 52
"""What a fault that lasts gets of a line in any case."""
BADGES = {
    "GOOD": "badge-good",
    "BENDING": "badge-warn",
    "BROKEN": "badge-bad",
    "STALLED": "badge-bad",
    "DOWN": "badge-bad",
    "STARTING": "badge-busy",
    "IDLE": "badge-calm",
    "UNKNOWN": "badge-calm",
}


TRUST = "--trust-remote-code"


def header(view: View, cells: int, rows: int) -> list[Line]:
    """One row (80x24), or three with the verdict in tall letters."""
    snapshot = view.snapshot
    word = snapshot.verdict.word if snapshot else ""
    shown = "LOST" if view.link == "lost" else word
    badge = "badge-warn" if view.link == "lost" else BADGES.get(word, "badge-calm")
    if no_step(snapshot) and badge in {"badge-good", "badge-calm"}:
        badge = "badge-warn"
    if rows < 3 or cells < 70:
        right = line(Span(f" {shown} ", badge)) if shown else ()
        left = line(" ") + (_model(snapshot, brand=False) if snapshot else line(Span(say("spark-serve"), "brand")))
        state = _state(view, brief=True)
        return [between(left, (*state, *line("  "), *right), cells), _second(view, cells)][:rows]
    letters = tall(shown)
    block = [line(Span(f"  {row}  ", badge)) for row in letters] if shown else [(), (), ()]
    room = cells - width(block[0]) - 2
    first = between(
        line(" ", Span(say("spark-serve"), "brand"), "  ") + (_model(snapshot, brand=True) if snapshot else ()),
        (),
        room,
    )
    second = fit(line(" ") + _state(view, brief=False), room)
    third = _second(view, room)
    return [fit(part, room) + line("  ") + side for part, side in zip((first, second, third), block, strict=True)]


def _model(snapshot: Snapshot, *, brand: bool) -> Line:
    engine = snapshot.engine
    if not engine.model:
        return line(Span(say("no model yet"), "label"))
    kind = {"shape": " shape · random weights", "attached": " · attached"}.get(engine.model_kind, "")
    if engine.attached and engine.model_kind != "attached":
        kind += " · attached"
    if TRUST in engine.argv:
        kind += " · runs the model's own code"
    device = fmt.sanitize(engine.device).removeprefix("NVIDIA ")
    version = f"{fmt.sanitize(engine.name)} {fmt.sanitize(engine.version)}".strip()
    if not brand:
        device = device.replace(" 80GB HBM3", "").replace("GeForce ", "")
    rest = "".join(f" · {part}" for part in (device, version) if part)
    return line(
        Span(fmt.sanitize(engine.model), "bright"), Span(say(kind), "warn" if kind else "label"), Span(rest, "label")
    )


def _state(view: View, *, brief: bool) -> Line:
    """Link to the source, uptime, recording, freeze."""
    snapshot = view.snapshot
    if view.frozen_s is not None:
        link = line(
            Span(
                say(f" FROZEN {fmt.span(view.frozen_s)} "),
                "frozen",
                "The display stands still, collecting goes on; space goes on.",
                "freeze",
            )
        )
    elif view.playing is not None and view.link != "lost":
        link = replaying(view.playing)
    elif view.link == "lost":
        link = line(Span(say(f"○ lost {fmt.span(view.lost_s)} ago"), "warn", view.lost_reason))
    elif view.link == "live":
        link = line(Span(say("● live"), "live"))
    elif view.link == "connecting":
        link = line(Span(say("◌ connecting"), "label"))
    elif view.link == "ended":
        link = line(Span(say("■ replay, at its end"), "label"))
    else:
        link = line(Span(say("▶ replay" if view.link == "replay" else "SCRIPTED"), "warn"))
    if view.baseline is not None:
        link += line(
            Span(f"  vs {fmt.sanitize(view.baseline.name, 40)}", "change", "the baseline; z lets it go", "baseline")
        )
    if view.words == "plain":
        link += line(
            Span("  plain words", "mark", "n: the field's terms again", "words"), Span(" n", "label", "", "words")
        )
    if snapshot is None:
        return link
    parts = link + line(Span(f"  {fmt.clock(snapshot.uptime_s)}", "label", "how long the stack has been up"))
    if snapshot.people.void:
        parts += line("  ", Span(say(" VOID "), "badge-warn", fmt.sanitize(snapshot.people.void)))
    if snapshot.recording_s is not None:
        parts += line(
            Span(say("  ● REC "), "rec", "a click ends the recording", "record"),
            Span(fmt.clock(snapshot.recording_s), "label"),
        )
    if not brief:
        parts += _viewers(snapshot)
        if snapshot.read_only:
            parts += line(Span(say("   read-only"), "warn", fmt.sanitize(snapshot.read_only)))
        if view.title_note:
            parts += line(Span(f"   {fmt.sanitize(view.title_note)}", "label"))
    elif snapshot.read_only:
        parts += line(Span(say("  read-only"), "warn", fmt.sanitize(snapshot.read_only)))
    return parts


def _viewers(snapshot: Snapshot) -> Line:
    """How many consoles there are, where it is not this one alone."""
    count = len(snapshot.audience.viewers)
    watch = sum(viewer.role == "watcher" for viewer in snapshot.audience.viewers)
    if count < 2:
        return ()
    text = f"{count} consoles" if not watch else f"{watch} watching" if watch < count else f"{count} watch"
    return line(Span(f"   {text}", "label", "w lists who watches and who acts", "audience"))


def reason(view: View) -> Line:
    """The verdict's reason in one clause, with who is out there."""
    snapshot = view.snapshot
    if view.link == "lost":
        return line(Span(say(fmt.sanitize(view.lost_reason)), "warn"))
    if snapshot is None:
        return line(Span(say("waiting for the first figures"), "label"))
    verdict = snapshot.verdict
    parts: Line = line(Span(say(fmt.sanitize(verdict.reason) or _plain_reason(snapshot)), "text"))
    if late := no_step(snapshot):
        parts = line(Span(say(late), "warn", "/health may be green all the same"), "   ") + parts
    if verdict.since_s >= 1:
        parts += line(Span(say(f"   for {fmt.span(verdict.since_s)}"), "label"))
    return parts


def _second(view: View, cells: int) -> Line:
    """The reason, and at the right edge a fault that lasts; without one what was found of the capacity, if both fit whole."""
    if faulty := clause(view.snapshot, max(FAULT_CELLS, cells - width(reason(view)) - 4)):
        return between(line(" ") + reason(view), faulty + line(" "), cells)
    left, right = line(" ") + reason(view), comparing(view) or capacity(view)
    right = pick(cells - width(left) - 3, right, right[:2], ())
    return between(left, right + line(" "), cells)


def comparing(view: View) -> Line:
    """That policies are being compared, and how far that is."""
    progress = view.snapshot.comparison if view.snapshot else None
    if progress is None or progress.phase != "running":
        return ()
    run = f" {progress.runs} of {progress.runs_planned} runs" if progress.runs_planned else ""
    return line(
        Span(say("comparing policies"), "text", fmt.sanitize(progress.message)),
        Span(run, "label", "`spark-serve compare --list` has the earlier ones"),
    )


def capacity(view: View) -> Line:
    """How many people can be served, once that was searched; while it is, that it is."""
    progress = view.snapshot.capacity if view.snapshot else None
    if progress is None:
        return ()
    answer = progress.answer
    if answer is None:
        return line(Span(say("searching for the capacity"), "label", "5 shows how far it is"))
    if not answer.resolved or answer.best is None:
        return ()
    band = "" if answer.low is None or answer.high is None else f" ({answer.low:.0f} to {answer.high:.0f})"
    note = f"{fmt.share(progress.question.attainment)} of requests good; {progress.question.mix}"
    return line(
        Span(say("serves "), "label"),
        Span(say(f"{answer.best:.0f} people"), "bright", fmt.sanitize(note)),
        Span(band, "label", "90 % interval"),
    )


def _plain_reason(snapshot: Snapshot) -> str:
    good = fmt.known(snapshot.verdict.attainment.v)
    if good is not None:
        return f"{fmt.share(good)} of requests good"
    return {
        "IDLE": "nobody is asking",
        "UNKNOWN": "too few requests to judge yet",
        "STARTING": "the engine starts",
        "DOWN": "the engine is down",
        "STALLED": "the engine answers, but makes no steps",
    }.get(snapshot.verdict.word, "")


def small(view: View, cells: int, rows: int) -> list[Line]:
    """All that a terminal gets that is too small for the picture."""
    del view
    text = f"{cells} x {rows} is too small: the cockpit needs 60 x 16."
    return [fit(pick(cells, line(Span(text, "warn")), line(Span(say("too small: 60 x 16"), "warn"))), cells)]
