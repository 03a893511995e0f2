"""What a person can do here: one table for keys, footer, palette and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.telemetry.snapshot import Snapshot

Touches = Literal["nothing", "stack", "load"]
"""What a deed changes: only this display, the stack's own notes and life, or what the engine is made to do."""


@dataclass(frozen=True)
class Deed:
    """One thing that a key does."""

    action: str
    keys: str
    """As Textual names them, separated by commas."""
    shown: str
    """As the footer shows it."""
    label: str
    explained: str
    touches: Touches = "nothing"
    title: str = ""
    """Its name in the palette, where the footer's label does not stand for itself."""
    rank: int = 2
    """0: not in the footer; 1: only where there is room for it."""


DEEDS: tuple[Deed, ...] = (
    Deed("burst", "b", "b", "burst", "Send 3 x max-num-seqs requests at once and watch the queue", "load"),
    Deed(
        "slow",
        "s",
        "s",
        "slow clients",
        "Add slow readers, a quarter as many as there are people, or send them home",
        "load",
    ),
    Deed("restart", "c", "c", "cold restart", "Restart the engine, in the kind of cold you choose", "load"),
    Deed("people(1)", "plus,equals_sign", "+ -", "people", "More people, or fewer with -", "load", title="more people"),
    Deed("people(-1)", "minus,underscore", "-", "fewer people", "Fewer people", "load", rank=0),
    Deed("freeze", "space", "space", "freeze", "Let the display stand still; collecting goes on"),
    Deed("marker", "m", "m", "mark", "Drop a marker with a note on the charts", "stack", rank=1),
    Deed("record", "r", "r", "record", "Start or stop a recording", "stack", rank=1),
    Deed("show_screen('flow')", "1", "1", "flow", "The picture of the course, alive", rank=1),
    Deed("show_screen('engine')", "3", "3", "engine", "Cold start, versions, limits, arguments", rank=1),
    Deed("detach", "q,ctrl+c", "q", "detach", "Leave; the stack lives on"),
    Deed("stop", "Q", "Q", "stop", "Stop the stack, after asking", "stack"),
    Deed("help", "question_mark", "?", "help", "Keys, and how to read the screen"),
)


def why_not(deed: Deed, snapshot: Snapshot | None, can_send: bool) -> str:
    """Why a deed does nothing now, in one clause; empty when it works.

    Somebody else's engine is not to be loaded or restarted, our stack around it may still be marked, recorded and
    stopped. A watcher or a replay may touch nothing.
    """
    if deed.touches == "nothing":
        return ""
    if not can_send:
        return (
            snapshot.read_only if snapshot and snapshot.read_only else "there is nothing behind this picture to act on"
        )
    if snapshot is None:
        return "no stack has answered yet"
    if snapshot.read_only and (deed.touches == "load" or not snapshot.engine.attached):
        return snapshot.read_only
    return ""


def people_step(count: float | None) -> int:
    """How many people one key press adds: about a tenth, in round numbers."""
    for limit, step in ((10, 1), (50, 5), (200, 10), (500, 25)):
        if count is None or count < limit:
            return step
    return 50
