"""One start as it goes: what happens before the process is there, its log, and the earlier start it is compared with."""

from __future__ import annotations

import re
from collections import deque

from server.engine.cold import Kind
from server.engine.coldstart import ColdStartLog, bare
from server.engine.comparison import remaining
from server.engine.figures import Figures
from server.engine.starts import Starts
from server.telemetry.snapshot import ColdStart, StartStage

TAIL_LINES = 8
TAIL_CHARACTERS = 180
_NOISE = re.compile(r"Route: /|Available routes are|% Completed|\d+%\||^[^A-Za-z]*$")
"""Routes, progress bars, and the lines of the banner that hold no word."""
EAGER = "this engine runs eagerly: nothing is compiled, only the model's inspection is cold"


class Start:
    """All times are monotonic seconds. `began` is the moment from which people wait: the command, or the stack's start."""

    def __init__(self, kind: Kind, began: float) -> None:
        self.kind = kind
        self.began = began
        self.note = ""
        """What came of the clearing."""
        self.ended: float | None = None
        """Ready, or given up."""
        self.log: ColdStartLog | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """The end of the log, for a screen."""
        self._lead: list[StartStage] = []
        self._starts: Starts | None = None
        self._previous: tuple[str, list[StartStage]] = ("", [])

    @property
    def figures(self) -> Figures:
        """What vLLM has said of itself so far."""
        return self.log.figures if self.log is not None else Figures()

    def lead(self, name: str, now: float, detail: str = "") -> None:
        """A stage before the process is there begins, or has something new to say; the one before it is over."""
        at = now - self.began
        begin = self._lead[-1].begin_s if self._lead and self._lead[-1].name == name else at
        done = [stage for stage in self._ended_lead(now) if stage.name != name]
        self._lead = [*done, StartStage(name=name, begin_s=begin, detail=detail)]

    def compare(self, starts: Starts) -> None:
        """With the earlier start that is most like this one."""
        self._starts = starts
        self._previous = starts.like(self.kind.label)

    def spawned(self, now: float) -> ColdStartLog:
        """The process is started: from here on its log tells."""
        self._lead = self._ended_lead(now)
        self.log = ColdStartLog(self.began, now, [stage.name for stage in self._previous[1]])
        return self.log

    def feed(self, line: str, at: float) -> None:
        """A line of the process's log, with the moment of its receipt."""
        if self.log is not None:
            self.log.feed(line, at)
        if _NOISE.search(bare(line)) is None:
            self.tail.append(line.strip()[:TAIL_CHARACTERS])

    def first_token(self, at: float) -> None:
        """The gateway saw a first token."""
        if self.log is not None and self.log.first_token(at):
            self.keep(at)

    def keep(self, now: float) -> None:
        """It succeeded: remember it for the next one."""
        if self._starts is not None:
            self._starts.keep(self.kind.label, self.stages(now))

    def stages(self, now: float) -> list[StartStage]:
        """Done and running, without a gap between them."""
        return [*self._lead, *(self.log.stages(now) if self.log is not None else ())]

    def seen(self, now: float, *, ready: bool) -> ColdStart:
        """For the snapshot."""
        stages = self.stages(now)
        elapsed_s = (now if self.ended is None else self.ended) - self.began
        kind, previous = self._previous
        note = EAGER if self.kind.name == "compile" and self.log is not None and self.log.eager else self.note
        return ColdStart(
            kind=self.kind.label,
            elapsed_s=elapsed_s,
            finished=ready,
            stages=stages,
            previous=previous,
            previous_kind=kind,
            clears=self.kind.clears,
            keeps=self.kind.keeps,
            note=note,
            left_s=remaining(stages, previous, elapsed_s) if self.ended is None else None,
            init_s=self.figures.init_s,
            kinds=self._starts.seconds() if self._starts is not None else {},
        )

    def _ended_lead(self, now: float) -> list[StartStage]:
        """The lead with its last stage over."""
        if not self._lead or self._lead[-1].end_s is not None:
            return self._lead
        last = self._lead[-1]
        return [*self._lead[:-1], StartStage(last.name, last.begin_s, now - self.began, last.detail)]
