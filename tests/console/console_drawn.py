"""Panels without a terminal: a view of a snapshot, and lines as text."""

from __future__ import annotations

import samples

from console.history import History
from console.ink import Line, plain
from console.view import View
from server.telemetry.snapshot import Snapshot


def view_of(snapshot: Snapshot | None, **more: object) -> View:
    """The snapshot with a past that leads to it."""
    history = History()
    if snapshot is not None:
        for one in samples.course(snapshot):
            history.append(one)
    return View(snapshot=snapshot, history=history, link="live", **more)


def text_of(lines: list[Line]) -> str:
    """Without styles."""
    return "\n".join(plain(one) for one in lines)
