"""One frame as plain text, for `--once`: the same panels as on the screen, without a terminal and without Textual."""

from __future__ import annotations

from console.history import History
from console.ink import Line, plain
from console.panels.batch import batch
from console.panels.breakdown import breakdown
from console.panels.feel import feel
from console.panels.foot import limit, trouble
from console.panels.gpu import gpu
from console.panels.header import header
from console.panels.stages import stages
from console.panels.start import NOT_READY, start_panel
from console.view import View
from console.words import Wording, speaking
from server.telemetry.snapshot import Snapshot

CELLS = 110


def healthy(snapshot: Snapshot) -> bool:
    """Whether the engine serves: ready, answering, making steps."""
    return (
        snapshot.engine.phase == "ready"
        and snapshot.engine.healthy is not False
        and snapshot.verdict.word not in {"DOWN", "STALLED", "STARTING"}
    )


def render_once(snapshot: Snapshot, words: Wording = "standard") -> str:
    """All groups of one snapshot, 110 cells wide, ending with a line break. No escape sequences."""
    history = History()
    history.append(snapshot)
    view = View(snapshot=snapshot, history=history, link="live", words=words)
    with speaking(words):
        return _rendered(view, snapshot)


def _rendered(view: View, snapshot: Snapshot) -> str:
    verdict = snapshot.verdict.word
    head = header(view, CELLS, 2)
    lines: list[Line] = [*head, (), *stages(view, CELLS, 4), ()]
    if snapshot.engine.phase in NOT_READY:
        rows = 8 + len({stage.name for stage in (*snapshot.engine.start.stages, *snapshot.engine.start.previous)})
        lines += start_panel(view, CELLS, rows)
    else:
        lines += breakdown(view, CELLS, 3)
        lines += feel(view, CELLS, 7)
        lines += batch(view, CELLS, 16)
        lines += gpu(view, CELLS, 12 if not snapshot.gpus else 14 + len(snapshot.gpus) - 1)
    lines += limit(view, CELLS, 2)
    if any(not state.ok for state in snapshot.sources.values()):
        lines.append(trouble(snapshot))
    return "".join(f"{plain(one)}\n" for one in lines) + f" verdict {verdict}\n"
