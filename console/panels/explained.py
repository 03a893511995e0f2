"""What there is to say about a panel, beside or below it: from `explained.toml`, with the figures behind it as they are now."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import msgspec

from console import format as fmt
from console.ink import Line, Span, cut, fit, frame, line, wrap
from console.view import View
from console.words import plainly, say
from server.telemetry.snapshot import Quantiles, Snapshot, Value

LABEL_CELLS = 10
WIDEST = 100
"""Cells of a row of prose: longer ones are hard to read."""
FIGURES_FROM = 8
"""Rows that must be left for the list of figures."""


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one panel."""

    title: str
    what: str
    source: str
    good: str
    otherwise: str
    """What to do when it is not good."""
    plain: str
    """All of it in plain words."""
    figures: list[str]
    """Fields of the snapshot, dotted."""


@lru_cache(maxsize=1)
def explanations() -> dict[str, Explanation]:
    """By the panel's name."""
    import tomllib  # noqa: PLC0415 - the console has to paint before anybody asks for this

    text = resources.files("console").joinpath("explained.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Explanation])


def pages(view: View, name: str, cells: int, rows: int) -> int:
    """How many pages of a frame of so many rows the paragraphs take."""
    return max(1, -(-len(explanation_rows(view, name, cells - 4)) // max(1, rows - 2)))


def explanation(view: View, name: str, cells: int, rows: int, page: int = 0) -> list[Line]:
    """Framed: the paragraphs, a page of them where room is short, and where there is room the figures with their source and
    age."""
    known = explanations().get(name)
    if known is None:
        return frame(
            line(Span(name, "title")), [line(Span("nobody has explained this panel yet", "label"))], cells, rows
        )
    inner = cells - 4
    body = explanation_rows(view, name, inner, apart=True)
    if len(body) > rows - 2:
        body = explanation_rows(view, name, inner)
    if rows - 2 - len(body) >= FIGURES_FROM and view.snapshot is not None and not plainly():
        body += [(), *figure_rows(known, view.snapshot, inner, rows - 3 - len(body))]
    title = known.title if not plainly() else say(known.title)
    more = pages(view, name, cells, rows)
    body = body[page * (rows - 2) :] if more > 1 else body
    turn: Line = ()
    if more > 1:
        turn = line(Span("pgdn", "bright"), Span(f" {page + 1} of {more}  ", "key-label"))
    keys = turn + line(
        Span("esc", "bright"), Span(" back  ", "key-label"), Span("tab", "bright"), Span(" next", "key-label")
    )
    return frame(line(Span(title, "bright")), body, cells, rows, right=keys)


def explanation_rows(view: View, name: str, cells: int, *, apart: bool = False) -> list[Line]:
    """The paragraphs alone, each with its label in the margin; in plain words the one that needs no other. `apart`: with a
    blank row between them."""
    cells = min(cells, WIDEST)
    known = explanations().get(name)
    if known is None:
        return []
    if view.words == "plain":
        return wrap(known.plain, cells, "text")
    rows: list[Line] = []
    for label, text in (
        ("what", known.what),
        ("from", known.source),
        ("good", known.good),
        ("if not", known.otherwise),
        ("plainly", known.plain),
    ):
        if rows and apart:
            rows.append(())
        style = "label" if label == "plainly" else "text"
        for y, one in enumerate(wrap(text, cells - LABEL_CELLS + 2, style)):
            rows.append(line(Span(f"{label if y == 0 else '':<{LABEL_CELLS - 2}}", "title")) + one)
    return rows


def figure_rows(known: Explanation, snapshot: Snapshot, cells: int, rows: int) -> list[Line]:
    """Each figure with its value, source, samples, window and age, as far as it is a reading."""
    found: list[Line] = [line(Span("the figures now", "title"))]
    for path in known.figures:
        one = _told(path, field_of(snapshot, path))
        if one:
            found.append(fit(one, cells))
    return found[:rows] if len(found) > 1 else []


def field_of(snapshot: Snapshot, path: str) -> object:
    """The field that a dotted path names. Raises AttributeError where there is none; None is absent."""
    found: object = snapshot
    for part in path.split("."):
        if found is None:
            return None
        found = getattr(found, part)
    return found


def _told(path: str, found: object) -> Line:
    name = path.rpartition(".")[2]
    if isinstance(found, Quantiles):
        value = f"p50 {fmt.seconds(found.p50)}, p95 {fmt.seconds(found.p95)}"
        about = f"{found.src}, {fmt.window(found.n, found.window_s)}"
        age_s = found.age_s
    elif isinstance(found, Value):
        value = _value(name, found.v)
        about = found.src if found.n is None else f"{found.src}, {fmt.window(found.n, found.window_s)}"
        about = about if fmt.known(found.v) is not None else fmt.sanitize(found.why) or "not known"
        age_s = found.age_s
    elif isinstance(found, int | float) and not isinstance(found, bool):
        value, about, age_s = _value(name, found), "", 0.0
    else:
        return ()
    style = "absent" if value == fmt.ABSENT_TEXT else "figure"
    dated = fmt.age(age_s)
    return line(
        Span(f"{cut(name, 18):<19}", "label", path),
        Span(f"{cut(value, 23):<24}", style),
        Span(about, "faint"),
        Span(dated, "stale"),
    )


def _value(name: str, value: float | None) -> str:
    """By the unit in the field's name."""
    if name.endswith("_ms"):
        return fmt.seconds(None if value is None else value / 1000)
    if name.endswith(("_per_s", "_cores")):
        return fmt.rate(value)
    if name.endswith("_s"):
        return fmt.seconds(value)
    if name.endswith(("share", "usage", "attainment", "fluidity")):
        return fmt.share(value)
    return fmt.rate(value) if value is not None and value != round(value) else fmt.count(value)
