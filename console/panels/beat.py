"""The engine's heartbeat: does it make steps while requests run? /health may be green all the same."""

from __future__ import annotations

from console import format as fmt
from server.telemetry.snapshot import Snapshot
from server.telemetry.verdict import NO_STEP_S, STALLED_S

_JUDGING = frozenset({"GOOD", "BENDING", "BROKEN", "UNKNOWN", "IDLE"})


def beat_style(age_s: float) -> str:
    """Of the latest step: calm, amber from 10 s on, red from the minute that makes it STALLED."""
    if age_s >= STALLED_S:
        return "bad"
    return "warn" if age_s >= NO_STEP_S else "good" if age_s <= fmt.STALE_AFTER_S else "text"


def no_step(snapshot: Snapshot | None) -> str:
    """That requests run and none gets on, for longer than a step takes; empty where the verdict says as much itself."""
    beat = fmt.known(snapshot.engine.heartbeat_age_s) if snapshot else None
    if snapshot is None or beat is None or beat < NO_STEP_S or snapshot.verdict.word not in _JUDGING:
        return ""
    return f"no step for {fmt.span(beat)}"
