"""Where a replay stands: one line with a bar to click on, and the few words in the header."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from console import format as fmt
from console.ink import Line, Span, fit, line, width

LEAST_BAR = 16
"""Cells; where the bar would be shorter the words after it go."""


@dataclass(frozen=True)
class Tick:
    """An event on the bar."""

    position_s: float
    mark: str
    text: str


@dataclass(frozen=True, eq=False)
class Playing:
    """One moment of a replay, seconds from its first snapshot."""

    position_s: float
    length_s: float
    speed: float = 1.0
    paused: bool = False
    ended: bool = False
    seeking: bool = False
    """The place that is wanted is still being looked for."""
    loops: bool = False
    ticks: tuple[Tick, ...] = ()
    note: str = ""
    """What was recorded, and when."""


def recorded_on(wall: float) -> str:
    """`recorded 2026-11-23`, by the local calendar; empty where the clock says nothing."""
    try:
        return f"recorded {time.strftime('%Y-%m-%d', time.localtime(wall))}" if math.isfinite(wall) and wall > 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""


def replaying(playing: Playing) -> Line:
    """In the header, in place of `live`."""
    if playing.ended:
        return line(Span("■ replay, at its end", "label"))
    if playing.paused:
        return line(Span("▮▮ replay, paused", "warn", "space plays on", "freeze"))
    fast = "" if playing.speed == 1 else f" {times(playing.speed)}"
    return line(Span(f"▶ replay{fast}", "warn", "space pauses", "freeze"))


def times(speed: float) -> str:
    """`0.25x`."""
    return f"{speed:g}x"


def progress(playing: Playing, ill: Line, cells: int) -> Line:
    """Sign, position, bar with the events, length, speed, and what was recorded; `ill`, what is wrong with a source, in
    place of the bar."""
    sign = "■" if playing.ended else "▮▮" if playing.paused else "▶"
    long = playing.length_s >= 3600
    where, whole = _clock(playing.position_s, long), _clock(playing.length_s, long)
    head = line(" ", Span(f"{sign} ", "warn", "space pauses and plays on", "freeze"), Span(f"{where} ", "figure"))
    tail = line(Span(f" {whole}", "label"), Span(f"  {times(playing.speed)}", "figure", "( slower, ) faster"))
    if ill:
        left = head + line(Span(f"of {whole}", "label"), tail[1], " ")
        return left + fit(ill, cells - width(left))
    says = line(*(Span(f"  {part}", style) for part, style in _words(playing) if part))
    while True:
        room = cells - width(head) - width(tail) - width(says) - 1
        if room >= LEAST_BAR or not says:
            return fit(head + _bar(playing, max(0, room)) + tail + says, cells)
        says = says[:-1]


def _words(playing: Playing) -> list[tuple[str, str]]:
    if playing.seeking:
        state = "looking for that place"
    elif playing.ended:
        state = "the end: it begins again" if playing.loops and not playing.paused else "the end: space plays it again"
    else:
        state = ""
    return [(fmt.sanitize(playing.note, 60), "label"), (state, "warn")]


def _bar(playing: Playing, cells: int) -> Line:
    """A cell is a place to click on; a letter is an event, the later one where two meet."""
    if cells <= 0:
        return ()
    length_s = max(playing.length_s, 1e-9)
    ticks = {min(cells - 1, int(tick.position_s / length_s * cells)): tick for tick in playing.ticks}
    head = min(cells - 1, int(playing.position_s / length_s * cells))
    spans = []
    for cell in range(cells):
        at = cell / cells * length_s
        tick = ticks.get(cell)
        text, style = ("━", "work") if cell < head else ("─", "faint")
        note = f"go to {_clock(at, length_s >= 3600)}"
        if tick is not None and tick.mark[:1].isalnum() and tick.mark.isascii():
            text, style, at = tick.mark[0], "mark", tick.position_s
            note = f"{_clock(at, length_s >= 3600)} {fmt.sanitize(tick.text, 60)}"
        if cell == head:
            text, style = "●", "figure"
        spans.append(Span(text, style, note, f"seek({at:.3f})"))
    return tuple(spans)


def _clock(seconds: float, long: bool) -> str:
    text = fmt.clock(seconds)
    return text if long or not text.startswith("00:") else text[3:]
