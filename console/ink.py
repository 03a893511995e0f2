"""Lines of styled text, laid out in cells. Pure: what a panel draws and what a canvas or plain text shows.

Styles are names (see `console.palette`), so that a panel says what a thing means and never which colour it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

_SIMPLE = re.compile(
    r"[\x20-\x7e\xa0-\xac\xae-\u02ff\u2010-\u2027\u2030-\u205e\u2190-\u22ff\u2500-\u25fc\u2800-\u28ff✓]*"
)
"""Characters that all take one cell; anything else is measured."""


class Span(NamedTuple):
    """A run of text in one style."""

    text: str
    style: str = "text"
    note: str = ""
    """Shown when the pointer rests on it: why a figure is absent, where it comes from."""
    action: str = ""
    """Run when it is clicked."""
    spare: bool = False
    """Left out first where room is short."""


Line = tuple[Span, ...]


def line(*parts: Span | str) -> Line:
    """A line from spans and plain strings; empty parts are left out."""
    return tuple(
        Span(part) if isinstance(part, str) else part
        for part in parts
        if (part if isinstance(part, str) else part.text)
    )


def is_simple(text: str) -> bool:
    """Whether each character takes exactly one cell."""
    return _SIMPLE.fullmatch(text) is not None


def text_width(text: str) -> int:
    """Cells that `text` takes in a terminal."""
    return len(text) if is_simple(text) else cell_len(text)


def width(spans: Iterable[Span]) -> int:
    """Cells that a line takes."""
    return sum(text_width(span.text) for span in spans)


def cut(text: str, cells: int) -> str:
    """`text` in at most `cells` cells, with an ellipsis where something is lost."""
    if text_width(text) <= cells:
        return text
    if cells <= 1:
        return "…"[:cells]
    if is_simple(text):
        return text[: cells - 1] + "…"
    return set_cell_size(text, cells - 1).rstrip() + "…"


def fit(spans: Line, cells: int, fill: str = "text") -> Line:
    """The line in exactly `cells` cells: padded, or cut with an ellipsis."""
    if cells <= 0:
        return ()
    room = cells - width(spans)
    if room == 0:
        return spans
    if room > 0:
        return (*spans, Span(" " * room, fill))
    spare = max((x for x, span in enumerate(spans) if span.spare), default=None)
    if spare is not None:
        return fit(spans[:spare] + spans[spare + 1 :], cells, fill)
    kept: list[Span] = []
    left = cells
    for span in spans:
        size = text_width(span.text)
        if size < left:
            kept.append(span)
            left -= size
            continue
        kept.append(span._replace(text=cut(span.text + "…", left) if size == left else cut(span.text, left)))
        left -= text_width(kept[-1].text)
        break
    return fit(tuple(kept), cells, fill) if left else tuple(kept)


def between(left: Line, right: Line, cells: int) -> Line:
    """`left` at the left edge and `right` at the right one; `left` is cut where they would meet."""
    right = fit(right, min(width(right), cells))
    return (
        fit(left, max(0, cells - width(right) - (1 if right else 0)))
        + (line(" ") if right and width(right) < cells else ())
        + right
    )


def beside(blocks: Sequence[tuple[Sequence[Line], int]], gap: int = 0) -> list[Line]:
    """Blocks of lines side by side, each fitted to its width, `gap` cells apart."""
    height = max((len(block) for block, _ in blocks), default=0)
    rows: list[Line] = []
    for y in range(height):
        row: Line = ()
        for index, (block, cells) in enumerate(blocks):
            if index and gap:
                row += (Span(" " * gap),)
            row += fit(block[y] if y < len(block) else (), cells)
        rows.append(row)
    return rows


def frame(
    title: Line, body: Sequence[Line], cells: int, height: int, *, right: Line = (), style: str = "frame"
) -> list[Line]:
    """`body` in a box of `cells` x `height` with `title` in its upper edge and `right` at that edge's end."""
    if cells < 4 or height < 2:
        return []
    inner = cells - 4
    head = fit(title, min(width(title), cells - 6))
    tail = fit(right, width(right)) if right and width(head) + width(right) + 9 <= cells else ()
    rule = cells - 5 - width(head) - (width(tail) + 3 if tail else 0)
    top: Line = (Span("╭─ ", style), *head, Span(" " + "─" * max(0, rule), style))
    top += (Span(" ", style), *tail, Span(" ─╮", style)) if tail else (Span("╮", style),)
    rows = [fit(top, cells)]
    for y in range(height - 2):
        content = fit(body[y] if y < len(body) else (), inner)
        rows.append((Span("│ ", style), *content, Span(" │", style)))
    rows.append((Span("╰" + "─" * (cells - 2) + "╯", style),))
    return rows


def pick(cells: int, *candidates: Line) -> Line:
    """The first candidate that fits into `cells`, be it without what is spare; the last one if none does."""
    for candidate in candidates[:-1]:
        if sum(text_width(span.text) for span in candidate if not span.spare) <= cells:
            return candidate
    return candidates[-1]


def wrap(text: str, cells: int, style: str = "text") -> list[Line]:
    """Words of `text` in lines of at most `cells`."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(lines[-1]) + 1 + text_width(word) <= cells:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return [(Span(cut(one, cells), style),) for one in lines]


def plain(spans: Iterable[Span]) -> str:
    """The text alone, without trailing blanks."""
    return "".join(span.text for span in spans).rstrip()
