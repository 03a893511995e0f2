"""A comparison as it goes on: small enough to ride on every snapshot."""

from __future__ import annotations

from typing import Literal

import msgspec

KEPT = 12
"""Lines that a snapshot carries; `said` counts them all."""


class CompareProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The comparison that runs, or the latest one of this stack."""

    phase: Literal["running", "done", "stopped"] = "running"
    message: str = ""
    """What goes on, what came of it, or why it ended early."""
    said: int = 0
    """Lines said so far."""
    lines: list[str] = []
    """The latest of them, oldest first."""
    elapsed_s: float = 0.0
    runs: int = 0
    """Finished, of `runs_planned`."""
    runs_planned: int = 0
    saved: str = ""
    """Where its result lies; empty while there is none."""
