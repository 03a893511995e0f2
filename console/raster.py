"""Numbers -> braille and block rows. Pure.

A dot column is a (low, high) pair, so that a spike of one sample survives; None is a gap and stays empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Column = tuple[float, float] | None

BLOCKS = " ▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of U+2800 by column of the cell, from the top row down."""


def nice_top(value: float) -> float:
    """The smallest round number (1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten) not below `value`; 1 for nothing."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0):
        if value <= step * power * (1 + 1e-9):
            return step * power
    return 10.0 * power


def braille(columns: Sequence[Column], rows: int, top: float) -> list[list[int]]:
    """Dot masks, `rows` lists of one mask a cell (two columns a cell), the first row on top.

    0 stands on the lowest dot, `top` and all beyond it on the highest. Neighbouring columns are joined, across a
    gap they are not.
    """
    cells = (len(columns) + 1) // 2
    grid = [[0] * cells for _ in range(rows)]
    dots = rows * 4
    before: tuple[int, int] | None = None
    for x, column in enumerate(columns):
        if column is None or not (math.isfinite(column[0]) and math.isfinite(column[1])):
            before = None
            continue
        low, high = (step_of(v, top, dots - 1) for v in column)
        here = (low, high)
        if before is not None:
            if before[1] < low:
                low = before[1] + 1
            elif before[0] > high:
                high = before[0] - 1
        before = here
        for dot in range(low, high + 1):
            from_top = dots - 1 - dot
            grid[from_top // 4][x // 2] |= _DOTS[x % 2][from_top % 4]
    return grid


def step_of(value: float, top: float, steps: int) -> int:
    """Which of the steps 0..`steps` from zero to `top` a value stands on; the nearest end for one beyond, 0 for no number."""
    part = value / top if top > 0 else 0.0
    return 0 if math.isnan(part) else round(min(1.0, max(0.0, part)) * steps)


def along_log(value: float, low: float, high: float, steps: int) -> int | None:
    """Which of `steps` places from `low` to `high` on a logarithmic axis a value falls on; None outside (or not above 0)."""
    if not (0 < low < high < math.inf and steps > 1 and 0 < value / low < math.inf):
        return None
    place = math.log(value / low) / math.log(high / low) * (steps - 1)
    return round(place) if -0.5 <= place <= steps - 0.5 else None


def characters(masks: Sequence[int]) -> str:
    """One row of masks as braille; an empty cell is a plain space."""
    return "".join(chr(0x2800 + mask) if mask else " " for mask in masks)


def spark(values: Sequence[float | None], top: float, rows: int = 1) -> list[str]:
    """Bars of block characters, one cell a value, `rows` high, the first row on top.

    A gap is blank, zero is the lowest block, and whatever is more than zero stands above it.
    """
    lines = [""] * rows
    steps = rows * 8
    for value in values:
        if value is None or not math.isfinite(value):
            height = 0
        elif value <= 0 or top <= 0:
            height = 1
        else:
            height = max(2, step_of(value, top, steps))
        for row in range(rows):
            lines[row] += BLOCKS[min(8, max(0, height - (rows - 1 - row) * 8))]
    return lines


def bar(fraction: float | None, width: int, full: str = "━", empty: str = "─") -> tuple[str, str]:
    """A horizontal bar as (filled, rest), together `width` cells; more than nothing shows at least one cell."""
    if fraction is None or not math.isfinite(fraction):
        return "", empty * width
    cells = round(min(1.0, max(0.0, fraction)) * width)
    if fraction > 0:
        cells = max(1, cells)
    return full * cells, empty * (width - cells)


def apportion(parts: Sequence[float], width: int) -> list[int]:
    """Whole cells for parts of a whole, summing to `width` (largest remainder); a part above 0 gets a cell if there is room."""
    total = sum(parts)
    if total <= 0 or width <= 0:
        return [0] * len(parts)
    exact = [part / total * width for part in parts]
    cells = [int(e) for e in exact]
    for index in sorted(range(len(parts)), key=lambda i: exact[i] - cells[i], reverse=True)[: width - sum(cells)]:
        cells[index] += 1
    for index, part in enumerate(parts):
        largest = max(range(len(parts)), key=cells.__getitem__)
        if part > 0 and cells[index] == 0 and cells[largest] > 1:
            cells[index], cells[largest] = 1, cells[largest] - 1
    return cells
