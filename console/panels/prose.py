"""A lesson's prose as lines, with its restaurant."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, line, width

WIDE = 110
"""Cells from which the restaurant stands beside the text."""
RESTAURANT = "in the restaurant"


def prose(text: str, cells: int, style: str = "text") -> list[Line]:
    """Paragraphs; `what stands in backticks` is bright."""
    lines: list[Line] = []
    for paragraph in text.split("\n\n"):
        if lines:
            lines.append(())
        row: Line = ()
        bright = False
        for word in fmt.sanitize(paragraph, 4000).split():
            spans, bright = _word(word, style, bright=bright)
            size = width(spans)
            if row and width(row) + 1 + size > cells:
                lines.append(row)
                row = ()
            row += (line(Span(" ", style)) if row else ()) + spans
        lines.append(row)
    return lines


def _word(word: str, style: str, *, bright: bool) -> tuple[Line, bool]:
    spans: Line = ()
    for place, part in enumerate(word.split("`")):
        if place:
            bright = not bright
        spans += line(Span(part, "bright" if bright else style))
    return spans, bright


def restaurant(text: str, cells: int) -> list[Line]:
    """The same for somebody who has never seen a batch."""
    return [line(Span(RESTAURANT, "brand")), *prose(text, cells)]
