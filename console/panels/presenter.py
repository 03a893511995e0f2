"""Figures that are read from the back of the room: the verdict as a band of colour, six numbers in big digits.

They are Flow's own, from the same fields in the same format, with one line of plain words each.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from console import format as fmt
from console.ink import Line, Span, beside, fit, line, pick
from console.panels.gpu import has_gpm
from console.panels.header import BADGES, header, reason
from console.panels.letters import big, big_size, tall
from console.panels.stages import batch_style, queue_style, tokens_out
from console.panels.start import NOT_READY, start_panel
from console.view import View
from console.words import say
from server.telemetry.snapshot import Snapshot, Value

SCALES = (6, 5, 4, 3, 2, 1)
COLUMNS = 3
BAND_SHARE = 0.28
GRAND_ROWS = 13
"""From so many rows on a tile has its label in tall letters."""
LETTER_CELLS = 5
"""That a tall letter takes at most, with the gap after it."""
DIGITS = {"warn": "digits-warn", "bad": "digits-bad"}
"""What is underlined or reversed in text cannot be read in blocks; the label says it."""
THIN = "\u2009"


class Headline(NamedTuple):
    """One number and what it is."""

    label: str
    value: Value
    text: str
    unit: str
    says: str
    brief: str
    style: str = "figure"


def headlines(snapshot: Snapshot) -> tuple[Headline, ...]:
    """The six of them, in the order in which a request goes."""
    return (
        _people(snapshot),
        _waiting(snapshot),
        _batch(snapshot),
        _first_token(snapshot),
        _tokens(snapshot),
        _work(snapshot),
    )


def _people(snapshot: Snapshot) -> Headline:
    people = snapshot.people
    if people.mode == "none" and people.people.v is None:
        inside = snapshot.queue.in_flight
        return Headline("inside", inside, fmt.count(inside.v), "", "requests are inside now", "requests inside")
    if people.mode == "open":
        sent = people.sent_per_s
        return Headline("sent", sent, fmt.rate(sent.v), "/s", "questions are asked every second", "questions a second")
    return Headline(
        "people", people.people, fmt.count(people.people.v), "", "people are chatting with it", "people chat with it"
    )


def _waiting(snapshot: Snapshot) -> Headline:
    depth = snapshot.queue.depth
    style = queue_style(snapshot.queue)
    full = style == "bad"
    return Headline(
        "queue full" if full else "waiting",
        depth,
        fmt.count(depth.v),
        "",
        "wait, and who comes now is turned away" if full else "wait outside until there is room for them",
        "more are turned away" if full else "wait for a place",
        style,
    )


def _batch(snapshot: Snapshot) -> Headline:
    engine = snapshot.engine
    cap = fmt.known(engine.max_num_seqs.v)
    return Headline(
        "batch",
        engine.running,
        fmt.count(engine.running.v),
        "" if cap is None else f"/{fmt.count(cap)}",
        "are answered at the same time" + ("" if cap is None else f", {fmt.count(cap)} at most"),
        "are answered at once",
        batch_style(engine),
    )


def _first_token(snapshot: Snapshot) -> Headline:
    """p95; while there are too few requests for one, the median."""
    ttft = snapshot.feel.ttft_s
    found, name = (ttft.p50, "p50") if fmt.known(ttft.p95) is None else (ttft.p95, "p95")
    text = fmt.seconds(found)
    number, _, unit = text.partition(" ")
    share = "half of them" if name == "p50" else "95 of 100"
    return Headline(
        f"TTFT {name}",
        Value(found, age_s=ttft.age_s, src=ttft.src),
        ("" if ttft.exact or number == fmt.ABSENT_TEXT else "~") + number,
        unit,
        f"{share} see their first word within this time",
        "half wait no longer" if name == "p50" else "95 % wait no longer",
    )


def _tokens(snapshot: Snapshot) -> Headline:
    out = tokens_out(snapshot)
    says = "pieces of words a second, for all of them together"
    return Headline("tokens/s", out, fmt.count(out.v), "", says, "for all together")


def _work(snapshot: Snapshot) -> Headline:
    gpu = snapshot.device
    if gpu is None:
        share = snapshot.host.cpu_share
        value, label, says, brief = share, "CPU", "of this machine's processors are at work", "of the CPU works"
    elif has_gpm(gpu):
        busy = fmt.known(gpu.busy.v)
        nvml = "" if busy is None else f"; NVML says {fmt.share(busy)} busy"
        value, label = gpu.tensor, "GPU tensor"
        says, brief = f"of the time it computes{nvml}", "of the time it computes"
    else:
        value, label, says = gpu.mfu, "GPU MFU", "of the sums that it could do at most"
        brief = "of what it could do"
    number, _, unit = fmt.share(value.v).partition(" ")
    return Headline(label, value, number, unit, says, brief)


def presenter(view: View, cells: int, rows: int) -> list[Line]:
    """Who runs, the verdict, why, and the numbers; while the engine starts, its start."""
    top = header(view, cells, 1)
    verdict = band(view, cells, rows)
    why = fit(line(" ") + reason(view), cells)
    head = [*top, *verdict, why]
    left = rows - len(head)
    snapshot = view.snapshot
    if snapshot is None:
        return head
    if snapshot.engine.phase in NOT_READY:
        return [*head, (), *start_panel(view, cells, left - 1)]
    edges = [1 + (cells - 1) * i // COLUMNS for i in range(COLUMNS + 1)]
    rooms = [after - before for before, after in pairwise(edges)]
    found = headlines(snapshot)
    lines = list(head)
    for begin in range(0, len(found), COLUMNS):
        tiles = [(tile(one, room - 2, left // 2), room) for one, room in zip(found[begin:], rooms, strict=False)]
        lines += beside([([], 1), *tiles])
    return [fit(one, cells) for one in lines]


def band(view: View, cells: int, rows: int) -> list[Line]:
    """The verdict across the whole screen, a quarter of it high, and the share of good requests where both fit."""
    snapshot = view.snapshot
    lost = view.link == "lost"
    word = "LOST" if lost else snapshot.verdict.word if snapshot else ""
    style = "badge-warn" if lost else BADGES.get(word, "badge-calm")
    most = int(rows * BAND_SHARE)
    scale = _scale(word, cells - 4, most)
    letters = big(word, scale)
    good = snapshot.verdict.attainment if snapshot and not lost else Value()
    share = _beside(good, cells - len(letters[0]) - 4, scale)
    share = [""] * (len(letters) - len(share)) + share
    pad = [" " * cells] if len(letters) + 2 <= most else []
    both = [f"  {one}".ljust(cells - len(other) - 2) + f"{other}  " for one, other in zip(letters, share, strict=True)]
    return [(Span(row, style),) for row in (*pad, *both, *pad)]


def _beside(good: Value, cells: int, scale: int) -> list[str]:
    """The share of good requests where there is room for it, well apart from the word."""
    if fmt.known(good.v) is None:
        return []
    text = fmt.share(good.v).replace(" ", THIN)
    fitting = (one for one in range(scale, 0, -1) if big_size(text, one)[0] + 6 * one <= cells)
    return next((big(text, one) for one in fitting), [])


def tile(shown: Headline, cells: int, rows: int) -> list[Line]:
    """A label, the number with its foot on the same row in all of them, what it is."""
    dated = fmt.age(shown.value.age_s)
    absent = fmt.known(shown.value.v) is None
    style = "absent" if absent else "stale" if dated else DIGITS.get(shown.style, shown.style)
    text = fmt.ABSENT_TEXT if absent else shown.text.replace(" ", THIN)
    unit = "" if absent else shown.unit
    note = fmt.sanitize(shown.value.why) if absent else f"{shown.label}: {shown.text} {shown.unit}".strip()
    head: list[Line] = [line(Span(say(shown.label, cells), "title"))]
    if rows >= GRAND_ROWS:
        head = [*(line(Span(row, "label")) for row in tall(say(shown.label, cells // LETTER_CELLS).upper())), ()]
    if dated:
        head[0] += line(Span(f" {dated.strip()} old", "stale"))
    for_digits = rows - len(head) - (2 if rows >= GRAND_ROWS else 1)
    high = max((tall for tall in map(_height, SCALES) if tall <= for_digits), default=_height(1))
    scale, unit_scale = _fitting(text, unit, cells, high)
    digits = [line(Span(row, style, note)) for row in big(text, scale)]
    foot = big(unit, unit_scale) if unit_scale else [unit]
    for row, part in zip(range(len(digits) - len(foot), len(digits)), foot, strict=True):
        digits[row] += line(" " * max(1, scale), Span(part, "stale" if dated else "label", note))
    body = [*head, *[()] * (high - len(digits)), *digits]
    body.append(pick(cells, line(Span(shown.says, "text")), line(Span(shown.brief, "text"))))
    return body + [()] * (rows - len(body))


def _height(scale: int) -> int:
    return big_size("0", scale)[1]


def _fitting(text: str, unit: str, cells: int, rows: int) -> tuple[int, int]:
    """The largest scale of a number that fits with its unit, half as tall at most: an S is no 5 of the number.

    0 is plain text, where no size lets the unit be tall too: milliseconds are not to be taken for seconds. 1 and 0 where
    nothing fits.
    """
    for least in (1, 0):
        for scale in SCALES:
            for small in range(scale // 2, least - 1, -1):
                beside_it = 0 if not unit else scale + (big_size(unit, small)[0] if small else len(unit))
                if big_size(text, scale)[0] + beside_it <= cells and _height(scale) <= rows:
                    return scale, small
    return 1, 0


def _scale(word: str, cells: int, rows: int) -> int:
    return _fitting(word, "", cells, rows)[0]
