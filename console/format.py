"""Numbers and units -> short text. Pure. Absent is `—`; nothing here ever raises on odd data."""

from __future__ import annotations

import math
import re
import time
import unicodedata

ABSENT_TEXT = "—"
STALE_AFTER_S = 3.0
"""A reading older than this is dimmed and dated."""

_ESCAPE = re.compile(
    r"\x1b\][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: window titles, the clipboard
    r"|\x1b[PX^_][^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI
    r"|\x1b[ -/]*[0-~]?"
)
_PLAIN = re.compile(r"[\x20-\x7e]*")

UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e0fff]"
)
"""What must not reach a terminal from data: C0 and C1 controls, bidi and other invisible format characters, line and paragraph
separators, surrogates, tags. `sanitize` takes out more and makes it look well; this is what the last gates stop."""


def sanitize(text: str, limit: int = 400) -> str:
    """Text that is safe to write to a terminal: escape sequences, C0, C1 and bidi controls are gone.

    Line breaks and tabs become spaces; what is longer than `limit` characters is cut with an ellipsis.
    """
    if not _PLAIN.fullmatch(text):
        text = re.sub(r"[\t\r\n\v\f\u2028\u2029]+", " ", _ESCAPE.sub("", text))
        text = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) not in _BANNED)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_BANNED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Controls, format characters (bidi overrides among them), surrogates, private use, unassigned, separators."""


def known(value: float | None) -> float | None:
    """The value, or None where it is absent, not finite, or beyond what a float holds."""
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def seconds(value: float | None) -> str:
    """`0.4 ms`, `16 ms`, `310 ms`, `1.20 s`, `31.2 s`, `134 s`, `12 min`: three digits from 100 ms on, so that what is read off
    is within half a percent."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    size = abs(value)
    if size == 0:
        return "0 s"
    if size < 0.00995:
        return f"{value * 1000:.1f} ms"
    if size < 0.9995:
        return f"{value * 1000:.0f} ms"
    if size < 9.995:
        return f"{value:.2f} s"
    if size < 99.95:
        return f"{value:.1f} s"
    if size < 600:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min"


def share(value: float | None) -> str:
    """A share 0..1 as `0.3 %` or `58 %`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    percent = value * 100
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 0 < percent < 0.95 or (98.95 < percent < 100 and f"{percent:.1f}" != "100.0"):
        return f"{percent:.1f} %"
    return f"{percent:.0f} %".replace("-0 ", "0 ")


def count(value: float | None) -> str:
    """A whole number with thin groups: `3 750`."""
    value = known(value)
    return ABSENT_TEXT if value is None else f"{value:,.0f}".replace(",", " ")


def short_count(value: float | None) -> str:
    """At most five characters: `8192`, `48.1k`, `1.2M`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    if abs(value) < 9_999.5:
        return f"{value:.0f}"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.1f}{unit}" if abs(scaled) < 99.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def rate(value: float | None) -> str:
    """Per second, without the unit: `0.31`, `4.2`, `25.0`, `134`, `3 750`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    if value == 0:
        return "0"
    if abs(value) < 0.995:
        return f"{value:.2f}"
    if abs(value) < 99.95:
        return f"{value:.1f}"
    return count(value)


def size(value: float | None) -> str:
    """Bytes as `512 B`, `16 KiB`, `71.3 GiB`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1023.5 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.1f} {unit}"
        value /= 1024
    return ABSENT_TEXT


def clock(value: float | None) -> str:
    """A duration as `00:12:03`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    whole = max(0, int(value))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def span(value: float | None) -> str:
    """A rough duration for sentences: `42 s`, `3 min`, `2 h`."""
    value = known(value)
    if value is None:
        return ABSENT_TEXT
    if value < 90:
        return f"{max(0.0, value):.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.0f} h"


def age(age_s: float) -> str:
    """The date of a stale figure: ` ·8s`; empty for a fresh one."""
    if age_s <= STALE_AFTER_S:
        return ""
    return f" ·{age_s:.0f}s" if age_s < 120 else f" ·{age_s / 60:.0f}m"


def window(n: int, window_s: float | None) -> str:
    """What a statistic stands on: `n=750, 30 s`."""
    return f"n={short_count(n)}" if window_s is None else f"n={short_count(n)}, {window_s:.0f} s"


def time_of_day(wall: float) -> str:
    """Local `12:03:20` of a Unix time; a label only."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(wall))
    except (OverflowError, ValueError, OSError):
        return ABSENT_TEXT
