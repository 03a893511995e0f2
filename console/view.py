"""What a panel gets to see: a snapshot, its past, and how the console stands to its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from console import format as fmt
from console.baseline import Baseline, Then, change, comparing
from console.classroom import Classroom
from console.history import History
from console.ink import Line, Span
from console.kept import Kept, Listing
from console.panels.progress import Playing
from console.provoking import FaultDraft
from console.rules import Draft
from console.words import Wording, say, speaking
from server.telemetry.snapshot import Quantiles, Snapshot, Value

Link = Literal["connecting", "live", "replay", "scripted", "lost", "ended"]


@dataclass(frozen=True, eq=False)
class KeyHint:
    """One key in the footer."""

    key: str
    label: str
    action: str
    why_not: str = ""
    """Why it does nothing now; empty when it works."""
    rank: int = 2
    """1: left out first where room is short."""


@dataclass(frozen=True, eq=False)
class View:
    """One moment of the screen."""

    snapshot: Snapshot | None = None
    history: History = field(default_factory=History)
    link: Link = "connecting"
    lost_reason: str = ""
    lost_s: float = 0.0
    frozen_s: float | None = None
    """Seconds the display has been standing still; None when it moves."""
    status: str = ""
    status_style: str = "text"
    title_note: str = ""
    keys: tuple[KeyHint, ...] = ()
    chosen: str = ""
    """The row that arrow keys are on, on a screen that has some (`console.editing`)."""
    kept: Kept = field(default_factory=Kept)
    """Single requests, as far as they were asked for."""
    classroom: Classroom = field(default_factory=Classroom)
    """The lesson that is under way, or the list of them."""
    listing: Listing = field(default_factory=Listing)
    """What of them is shown, on the Requests screen."""
    draft: Draft = field(default_factory=Draft)
    """What is changed on the policy panel and not taken yet."""
    faults: FaultDraft = field(default_factory=FaultDraft)
    """What is set on the fault sheet."""
    playing: Playing | None = None
    """Where a replay stands; None for anything else."""
    greyed: str = ""
    """Why nothing of what the load meets can be changed now; empty when it can."""
    words: Wording = "standard"
    """The field's terms, or plain ones (`console.words`)."""
    baseline: Baseline | None = None
    """What is held; every figure shows its change against it."""
    compared: Mapping[int, Then] = field(default_factory=dict)
    """The snapshot's readings with their counterparts in the baseline (`console.baseline.counterparts`)."""


Panel = Callable[[View, int, int], list[Line]]
"""(view, cells, rows) -> at most `rows` lines."""


def draw(panel: Panel, view: View, cells: int, rows: int) -> list[Line]:
    """A panel's lines in the view's words, against its baseline."""
    with speaking(view.words), comparing(view.compared):
        return panel(view, cells, rows)[:rows]


def figure(
    value: Value, text: str, *, style: str = "figure", unit: str = "", note: str = "", unit_style: str = "label"
) -> tuple[Span, ...]:
    """A reading as spans: the text in its style, its unit, and its date when it is stale; `—` with the reason when absent."""
    if fmt.known(value.v) is None:
        return (Span(fmt.ABSENT_TEXT, "absent", fmt.sanitize(value.why) or "not known"), *_unit(unit, "absent"))
    dated = fmt.age(value.age_s)
    where = f"from {value.src}" + (f", {fmt.window(value.n, value.window_s)}" if value.n is not None else "")
    hint = "; ".join(part for part in (note, fmt.sanitize(value.why), where) if part)
    if dated:
        return (Span(text, "stale", hint), *_unit(unit, "stale"), Span(dated, "stale"))
    return (Span(text, style, hint), *_unit(unit, unit_style), *change(value, text))


def _unit(unit: str, style: str) -> tuple[Span, ...]:
    return (Span(f" {say(unit)}", style),) if unit else ()


def quantile_note(quantiles: Quantiles) -> str:
    """What a row of quantiles stands on, for its tooltip."""
    parts = [
        f"from {quantiles.src}, {fmt.window(quantiles.n, quantiles.window_s)}",
        "" if quantiles.exact else "estimated from histogram buckets",
        fmt.sanitize(quantiles.why),
    ]
    return "; ".join(part for part in parts if part)
