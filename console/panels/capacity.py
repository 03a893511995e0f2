"""How many people this setup serves: what was asked, how far the search is, what it came to, and what it measured."""

from __future__ import annotations

from collections.abc import Sequence

from console import format as fmt
from console import raster
from console.editing import shares
from console.ink import Line, Span, between, fit, frame, line, width, wrap
from console.panels.asking import slo
from console.panels.letters import tall
from console.panels.measured import misses
from console.view import View
from console.words import say
from loadgen.capacity import Answer, Block, Progress
from server.telemetry.snapshot import Snapshot

PHASES = {"double": "doubling", "refine": "at the bend", "confirm": "confirming", "recover": "way back"}
BADGES = {True: "badge-good", None: "badge-calm", False: "badge-warn"}
"""Behind the large number: confirmed with a fresh seed, not tried, or not confirmed."""


def searching(progress: Progress | None) -> bool:
    """Whether a search runs."""
    return progress is not None and progress.answer is None and progress.phase not in {"done", "stopped"}


def answer(view: View, cells: int, rows: int) -> list[Line]:
    """The answer with its number in large digits; while there is none, the way to it."""
    snapshot = view.snapshot
    progress = snapshot.capacity if snapshot else None
    if progress is None:
        return [fit(one, cells) for one in _invitation(snapshot, cells)][:rows]
    if progress.answer is None:
        return [fit(one, cells) for one in _progress(progress, cells)][:rows]
    return [fit(one, cells) for one in _answer(progress, progress.answer, cells, rows)][:rows]


def _invitation(snapshot: Snapshot | None, cells: int) -> list[Line]:
    lines = [line(Span(say(" How many people can this setup serve before the experience bends?"), "bright"))]
    how = (
        "g asks once, then searches: people are doubled until it bends, measured again around the bend, confirmed with "
        "new people at the safe level, and taken back down. It takes up to 6 minutes and puts the people back."
    )
    if snapshot is not None and snapshot.people.mode == "open":
        how = "In open loop strangers come and go, and there is nobody to count: go back to people first (4, arrivals)."
    return lines + [line(" ") + one for one in wrap(say(how), cells - 2, "label")]


def _progress(progress: Progress, cells: int) -> list[Line]:
    question = progress.question
    clock = f"{fmt.clock(progress.elapsed_s)[3:]} of {fmt.clock(question.cap_s)[3:]} at most "
    words = (
        fmt.sanitize(progress.message)
        or f"{PHASES.get(progress.phase, progress.phase)}: {fmt.count(progress.people)} people"
    )
    first = between(
        line(" ", Span(say(" SEARCHING "), "badge-busy"), "  ", Span(say(words), "bright")),
        line(Span(say(clock), "label")),
        cells,
    )
    filled, rest = raster.bar(progress.elapsed_s / question.cap_s if question.cap_s else None, max(0, cells - 2))
    return [first, line(" ", Span(filled, "work"), Span(rest, "frame")), line(" ") + _estimate(progress)]


def _estimate(progress: Progress) -> Line:
    """What the search would say now, and how far that is from sure enough."""
    best, low, high = progress.best, progress.low, progress.high
    if best is None or low is None or high is None or best <= 0:
        return line(Span(say("no estimate yet: nothing has bent so far"), "label"))
    half = (high - low) / 2 / best
    style = "good" if half <= progress.question.half_width else "warn"
    return line(
        Span(say("so far "), "label"),
        Span(say(f"{fmt.count(best)} people"), "figure"),
        Span(say(f" ({fmt.count(low)} to {fmt.count(high)}), "), "label", "90 % interval"),
        Span(f"±{fmt.share(half)}", style),
        Span(say(f", to be within ±{fmt.share(progress.question.half_width)}"), "label"),
    )


def _answer(progress: Progress, found: Answer, cells: int, rows: int) -> list[Line]:
    side: list[Line] = [()] * 3
    if found.resolved and found.best is not None:
        badge = BADGES[found.confirmed]
        side = [line(" ", Span(f"  {row}  ", badge), "  ") for row in tall(f"{found.best:.0f}")]
    room = cells - width(side[0]) - 1
    head: Line = ()
    if not found.resolved:
        word = " STOPPED " if progress.phase == "stopped" else " UNRESOLVED "
        head = line(" ", Span(say(word), "badge-warn"), "  ")
    why = fmt.sanitize(progress.message).rstrip(".") if progress.phase == "stopped" else ""
    told = _told(say(why), say(fmt.sanitize(found.sentence, 1000)), room - width(head), min(3, max(1, rows - 1)))
    indent = line(Span(" " * width(head)))
    lines = [
        side[y] + (head if y == 0 else indent) + (told[y] if y < len(told) else ())
        for y in range(min(3, max(1, rows - 1)))
    ]
    return [*lines, fit(line(" ") + facts(found, cells - 2), cells)]


def _told(why: str, sentence: str, cells: int, rows: int) -> list[Line]:
    """The sentence without the word that the badge says, and as many of its clauses as fit: facts say the rest."""
    for word in ("Stopped: ", "Unresolved: "):
        sentence = sentence.removeprefix(word)
    begin = f"{why[:1].upper()}{why[1:]}. " if why else ""
    clauses = f"{sentence[:1].upper()}{sentence[1:]}".split("; ")
    for count in range(len(clauses), 0, -1):
        text = "; ".join(clauses[:count])
        lines = wrap(f"{begin}{text}" if text.endswith(".") else f"{begin}{text}.", cells, "bright")
        if len(lines) <= rows:
            return lines
    return lines[:rows]


def facts(found: Answer, cells: int) -> Line:
    """What else there is to say, as much as fits whole."""
    parts: list[Line] = []
    if found.safe is not None:
        parts.append(
            line(Span(say("safe "), "label", "the interval's lower end"), Span(fmt.count(found.safe), "figure"))
        )
    if found.best is not None and not found.resolved:
        parts.append(line(Span(say("best guess "), "label"), Span(fmt.count(found.best), "figure")))
    if found.clear_break is not None:
        note = "the fewest people measured with clearly too few good requests"
        parts.append(line(Span(say("clear break "), "label", note), Span(fmt.count(found.clear_break), "figure")))
    if found.limit:
        parts.append(line(Span(say(fmt.sanitize(found.limit, 40), 14), "warn"), Span(say(" broke first"), "label")))
    if found.confirmed is not None:
        parts.append(line(Span(say("confirmed ✓"), "good") if found.confirmed else Span(say("NOT confirmed"), "bad")))
    if found.recovered is not None:
        parts.append(line(Span(say("recovers ✓"), "good") if found.recovered else Span(say("did NOT recover"), "bad")))
    if found.evidence:
        parts.append(line(Span(say(fmt.sanitize(found.evidence, 100)), "text", "seen of the engine where it broke")))
    spans: Line = ()
    for part in parts:
        longer = spans + line(Span("   ")) + part if spans else part
        if width(longer) <= cells:
            spans = longer
    return spans


def question(view: View, cells: int, rows: int) -> list[Line]:
    """What is asked, frozen when the search begins; before that, what it would be."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    progress = snapshot.capacity
    if progress is not None:
        asked = progress.question
        limits, target, think, mix, seed = asked.slo, asked.attainment, f"{asked.think_s:g} s", asked.mix, asked.seed
        rest = ["careful" if asked.careful else "", f"seed {seed}", asked.cache]
        title = "asked"
    else:
        profile = snapshot.people.profile
        limits, target, title = snapshot.feel.slo, 0.95, "would ask"
        think = fmt.ABSENT_TEXT if profile is None else f"{profile.think_s:g} s"
        split = shares(snapshot.people)
        odd = (
            ", ".join(f"{name} {fmt.share(share)}" for name, share in split.items())
            if set(split) != {"patient"}
            else ""
        )
        mix = "; ".join(part for part in ("" if profile is None else profile.label, odd) if part) or fmt.ABSENT_TEXT
        rest = ["fresh cache salt"]
    good = "".join(span.text for span in slo(limits))
    parts = [f"{fmt.share(target)} good ({limits.name}: {good})", f"think {think}", mix, *rest]
    text = " · ".join(say(fmt.sanitize(part, 120)) for part in parts if part)
    title = say(title)
    told = wrap(text, cells - len(title) - 4, "label")
    return [
        fit(line(Span(f" {title} " if y == 0 else " " * (len(title) + 2), "title"), " ") + one, cells)
        for y, one in enumerate(told)
    ][:rows]


def blocks(view: View, cells: int, rows: int) -> list[Line]:
    """A row a block of measuring, the newest on top; framed where there is room."""
    progress = view.snapshot.capacity if view.snapshot else None
    framed = rows >= 9
    inner = cells - 4 if framed else cells - 2
    target = progress.question.attainment if progress else 0.95
    found = list(reversed(progress.blocks)) if progress else []
    body = [_heading(inner), *(_block(block, inner, target) for block in found)]
    if not found:
        body.append(line(Span(say("nothing measured yet"), "absent")))
    if not framed:
        return [fit(line(" ") + one, cells) for one in body[:rows]]
    title = line(
        Span(say("blocks of measuring"), "title"), Span(say(f"  {len(found)}, newest first" if found else ""), "label")
    )
    return frame(title, body[: rows - 2], cells, rows)


WIDTHS = (("phase", 12), ("people", 7), ("good", 7), ("of", 9), ("TTFT p95", 10), ("TPOT p95", 10), ("good/s", 8))
"""Columns that are always there; the first one is flush left, the others right."""


def _heading(inner: int) -> Line:
    if inner < 70:
        return line(Span(_names(WIDTHS[:6]), "faint"))
    names = _names(WIDTHS)
    misses_head, seen = say("misses"), say("seen of the engine")
    rest = f"{say('tok/s', 7):>8}   {misses_head:<26}{seen}" if inner >= 120 else f"   {misses_head}"
    return line(Span(names + rest, "faint"))


def _names(columns: Sequence[tuple[str, int]]) -> str:
    said = ((say(name, cells - 1), cells) for name, cells in columns)
    return "".join(name.rjust(cells) if x else name.ljust(cells) for x, (name, cells) in enumerate(said))


def _block(block: Block, inner: int, target: float) -> Line:
    share = block.share
    style = "absent" if share is None else "good" if share >= target else "warn" if share >= 0.8 else "bad"
    spans = line(
        Span(f"{say(PHASES[block.phase], 11):<12}", "label"),
        Span(f"{fmt.count(block.people):>7}", "figure"),
        Span(f"{fmt.share(share):>7}", style),
        Span(f"{f'{block.good}/{block.due}':>9}", "label", "good / due"),
    )
    for value, n in ((block.ttft_p95_s, block.ttft_n), (block.tpot_p95_s, block.tpot_n)):
        known = fmt.known(value) is not None
        note = f"n={n}" if known else f"p95 needs n >= 100, has {n}"
        spans += line(Span(f"{fmt.seconds(value):>10}", "figure" if known else "absent", note))
    if inner < 70:
        return spans
    spans += line(Span(f"{fmt.rate(block.goodput_per_s):>8}", "text"))
    if inner < 120:
        return spans + line("   ") + misses(block.misses, inner - width(spans) - 3)
    spans += line(Span(f"{fmt.rate(block.tokens_per_s):>8}", "text"), "   ") + fit(misses(block.misses, 25), 26)
    return spans + line(Span(say(fmt.sanitize(block.evidence, 120)), "label"))
