"""Figures and foreign words as text for a report: units, three significant digits, `—` for what is absent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

from server.engine import logfile

ABSENT = "—"
TEXT_LIMIT = 400


def clean(text: str) -> str:
    """One line without escape sequences and control characters."""
    return logfile.clean(" ".join(text.splitlines()).encode("utf-8", "replace"))


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*[]|"} | {"<": "&lt;", "\t": " "})


def md(text: str) -> str:
    """Foreign words as Markdown that shows them as they are: nothing in them marks up, links or ends a table cell."""
    text = clean(text)
    if len(text) > TEXT_LIMIT:
        text = text[: TEXT_LIMIT - 2] + " …"
    return text.translate(_SPECIAL)


def fenced(lines: Iterable[str]) -> list[str]:
    """Lines as they are, in a block of their own."""
    return ["```text", *(clean(line).replace("```", "'''") for line in lines), "```"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False, left: int = 1) -> list[str]:
    """A Markdown table, its first `left` columns to the left and the others to the right (`words`: all to the left); nothing
    without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    if not body:
        return []
    left = len(head) if words else left
    return [f"| {' | '.join(head)} |", "|" + "---|" * left + "---:|" * (len(head) - left), *body, ""]


def digits(v: float | None, most: int = 3) -> str:
    """`most` significant digits, and whole numbers from 1000 on in groups: `0.31`, `25.0`, `3 750`."""
    if v is None or not math.isfinite(v):
        return ABSENT
    if v == 0:
        return "0"
    rounded = float(f"{v:.{most - 1}e}")
    places = most - 1 - math.floor(math.log10(abs(rounded)))
    return count(rounded) if abs(rounded) >= 1000 else f"{rounded:.{max(0, places)}f}"


def count(v: float | None) -> str:
    """A whole number in groups: `4 818`."""
    return ABSENT if v is None or not math.isfinite(v) else f"{v:,.0f}".replace(",", " ")


def whole(v: float | None) -> str:
    """A number of things that may be an average: `64`, `6.2`."""
    return digits(v, 2) if v is not None and abs(v) < 10 and v != round(v) else count(v)


def seconds(v: float | None) -> str:
    """`24 µs`, `73 ms`, `3.87 s`, `6 min 56 s`, `2 h 5 min`."""
    if v is None or not math.isfinite(v):
        return ABSENT
    size = abs(v)
    if size == 0:
        return "0 s"
    if size < 0.9995e-3:
        return f"{digits(v * 1e6, 2)} µs"
    if size < 0.9995:
        return f"{digits(v * 1e3, 2 if size < 0.0995 else 3)} ms"
    if size < 89.95:
        return f"{digits(v)} s" if v != round(v) else f"{v:.0f} s"
    if size < 3599.5:
        return f"{round(v) // 60} min" + (f" {round(v) % 60} s" if round(v) % 60 else "")
    minutes = round(v / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def share(v: float | None) -> str:
    """0..1 as a percentage: `0.1 %`, `61 %`, `99.9 %`; all and nothing only where it is so."""
    if v is None or not math.isfinite(v):
        return ABSENT
    percent = v * 100
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 <= percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %" if 0 < percent < 9.95 or 98.95 <= percent < 100 else f"{percent:.0f} %"


def size(v: float | None) -> str:
    """Bytes: `512 B`, `16.0 KiB`, `71.3 GiB`."""
    if v is None or not math.isfinite(v):
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if abs(v) < 1023.5:
            return f"{v:.0f} {unit}" if unit == "B" else f"{digits(v)} {unit}"
        v /= 1024
    return f"{digits(v)} GiB"


def offset(s: float) -> str:
    """Seconds since the beginning: `+3:58`, `+1:02:03`."""
    total = max(0, int(s))
    hours = f"{total // 3600}:{total // 60 % 60:02d}" if total >= 3600 else f"{total // 60}"
    return f"+{hours}:{total % 60:02d}"


def wall(unix_s: float, shape: str = "%H:%M:%S") -> str:
    """Local time of a Unix time; a label only."""
    try:
        return time.strftime(shape, time.localtime(unix_s))
    except (OverflowError, ValueError, OSError):
        return ABSENT


def plural(n: int, thing: str) -> str:
    """`1 request`, `5 requests`."""
    return f"{count(n)} {thing}{'' if n == 1 else 's'}"
