"""One start against another: how long stages took, and how long it will be until the engine is ready. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.coldstart import FIRST_TOKEN, ORDER, SET_UP, WARM_UP, WEIGHTS
from server.telemetry.snapshot import StartStage


def took(stage: StartStage) -> float | None:
    """Seconds of a stage that is over."""
    return None if stage.end_s is None else stage.end_s - stage.begin_s


def init_measured_s(stages: Sequence[StartStage]) -> float | None:
    """What vLLM's own `init engine` figure covers, as stamped here: from the loaded model to the end of the warm-up."""
    ends = {stage.name: stage.end_s for stage in stages if stage.end_s is not None}
    begin, end = ends.get(SET_UP, ends.get(WEIGHTS)), ends.get(WARM_UP)
    return None if begin is None or end is None else end - begin


def remaining(stages: Sequence[StartStage], previous: Sequence[StartStage], elapsed_s: float) -> float | None:
    """Seconds until the engine is ready if each stage takes as long as in `previous`; None without one.

    A stage that runs longer than it did then counts nothing more; the first token depends on people and counts nothing.
    """
    before = [(stage.name, seconds) for stage in previous if (seconds := took(stage)) is not None]
    before = [(name, seconds) for name, seconds in before if name != FIRST_TOKEN]
    if not before:
        return None
    if not stages:
        return sum(seconds for _, seconds in before)
    at, names = stages[-1], [name for name, _ in before]
    if at.name in names:
        place = names.index(at.name)
        now, rest = before[place][1], before[place + 1 :]
    else:
        now, rest = 0.0, [(name, seconds) for name, seconds in before if _order(name) > _order(at.name)]
    if at.end_s is None:
        now -= elapsed_s - at.begin_s
    else:
        now = 0.0
    return max(0.0, now) + sum(seconds for _, seconds in rest)


def _order(name: str) -> int:
    return ORDER.index(name) if name in ORDER else -1
