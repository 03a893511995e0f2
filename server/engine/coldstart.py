"""A cold start read from vLLM's log: which stage it is in, how long each took, what vLLM says of it itself.

Lines are stamped on receipt: the log's own stamps have a resolution of one second. Pure; the caller follows the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.figures import Figures, noted
from server.engine.startfailure import StartFailure, Trouble
from server.telemetry.snapshot import StartStage

PREPARATION = "preparation"
STOP = "old engine leaves"
CLEAR = "clearing"
PAUSE = "pause after a crash"
IMPORTS = "spawn and imports"
INSPECTION = "model inspection"
ENGINE_SPAWN = "engine spawn"
WORKER_SPAWN = "worker spawn"
WEIGHTS = "weights"
SET_UP = "model set-up"
PROFILE_SET_UP = "profile set-up"
COMPILE = "compile"
FIRST_RUN = "first run"
KV_CACHE = "profile and KV"
KERNELS = "kernel warm-up"
GRAPHS = "graph capture"
WARM_UP = "warm-up"
HTTP = "HTTP"
FIRST_TOKEN = "first token"  # noqa: S105 - a stage, not a password


@dataclass(frozen=True)
class _Mark:
    """The lines that end a stage."""

    name: str
    ends: re.Pattern[str]
    sure: bool = True
    """False: not every start has it, so nobody should be told that it runs."""
    after: str = ""
    """Counts only once this stage is over: the line has another meaning before."""
    at_once: bool = False
    """The first such line ends the stage; for the others the last one does, so that the slowest worker counts."""
    floats: bool = False
    """May come later than its place: the CPU backend of some versions compiles after the KV cache is made."""


_MARKS = (
    _Mark(IMPORTS, re.compile(r"non-default args:")),
    _Mark(INSPECTION, re.compile(r"Resolved architecture:")),
    _Mark(ENGINE_SPAWN, re.compile(r"Initializing a V1 LLM engine")),
    _Mark(WORKER_SPAWN, re.compile(r"Loading model from scratch|Starting to load model")),
    _Mark(WEIGHTS, re.compile(r"Loading weights took|Model loading took")),
    _Mark(
        SET_UP,
        re.compile(r"Using \w+ KV cache layout|Warming up model for the compilation"),
        sure=False,
        after=WEIGHTS,
        at_once=True,
    ),
    _Mark(PROFILE_SET_UP, re.compile(r"Starting torch\.compile"), sure=False, after=WEIGHTS, at_once=True),
    _Mark(
        COMPILE,
        re.compile(
            r"torch\.compile (?:and initial profiling/warmup run together )?took"
            r"|saved AOT compiled function|Directly load (?:the compiled graph|AOT compilation)"
        ),
        floats=True,
    ),
    _Mark(FIRST_RUN, re.compile(r"Initial profiling/warmup run took"), sure=False, floats=True),
    _Mark(KV_CACHE, re.compile(r"Available KV cache memory:|KV cache size:")),
    _Mark(KERNELS, re.compile(r"Capturing CUDA graphs"), sure=False, after=KV_CACHE, at_once=True),
    _Mark(GRAPHS, re.compile(r"Graph capturing finished")),
    _Mark(WARM_UP, re.compile(r"init engine \(profile")),
    _Mark(HTTP, re.compile(r"Application startup complete")),
)
"""In the order they come. A stage whose line never comes was not there."""
WITHIN_S = {GRAPHS: 0.5}
"""How far the engine's own figure may be from what it measured: vLLM tells this one in whole seconds."""
_PLACES = {mark.name: place for place, mark in enumerate(_MARKS)}
ORDER = (PREPARATION, STOP, CLEAR, PAUSE, *_PLACES, FIRST_TOKEN)
"""Every stage there can be, in order."""
_ONLY_COMPILED = {COMPILE, GRAPHS}
_EAGER = re.compile(r"Enforce eager set|enforce_eager=True|'enforce_eager': True")

_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s[\d: -]+\[[^\]]*\]\s?)?(?:\[\w+\]\s*)?"
)


class ColdStartLog:
    """One start. Feed it each line with the monotonic second of its receipt.

    `began` is what stages count from; `spawned` is when the process was started, if later; `expected` are the stages of
    an earlier start, for naming the one that runs.
    """

    def __init__(self, began: float, spawned: float | None = None, expected: Sequence[str] = ()) -> None:
        self._began = began
        self._spawned = began if spawned is None else spawned
        self._expected = [name for name in expected if name in _PLACES]
        self._stages: list[tuple[str, float, float]] = []
        self._eager = False
        self._first_token_at: float | None = None
        self._figures = Figures()
        self._trouble = Trouble()

    @property
    def figures(self) -> Figures:
        return self._figures

    @property
    def finished(self) -> bool:
        """The HTTP server answers."""
        return bool(self._stages) and self._stages[-1][0] == HTTP

    @property
    def eager(self) -> bool:
        """It compiles nothing and captures no graphs."""
        return self._eager

    def feed(self, line: str, at: float) -> bool:
        """Take one line; a progress bar's `\\r` is a line's end. True if a stage ended with it."""
        ended = False
        for piece in line.replace("\r", "\n").split("\n"):
            if piece.strip():
                ended |= self._take(piece, at)
        return ended

    def first_token(self, at: float) -> bool:
        """Somebody got a first token, the earliest one counts. True if this is the earliest so far.

        Tokens of the process before this one are none of it.
        """
        if not self.finished or at < self._stages[-1][1]:
            return False
        if self._first_token_at is not None and at >= self._first_token_at:
            return False
        self._first_token_at = at
        return True

    def stages(self, now: float) -> list[StartStage]:
        """What was done and, unless it is over, what runs; seconds since the start began. `now` bounds nothing that is done."""
        out = [
            StartStage(
                name=name,
                begin_s=begin - self._began,
                end_s=end - self._began,
                detail=self._detail(name),
                engine_s=self._own(name),
            )
            for name, begin, end in self._stages
        ]
        last = self._last_end
        if not self.finished:
            out.append(StartStage(name=self._running, begin_s=min(last, now) - self._began))
        elif self._first_token_at is not None:
            token = max(last, self._first_token_at)  # /health and a token can be quicker than the log's last line
            out.append(StartStage(name=FIRST_TOKEN, begin_s=last - self._began, end_s=token - self._began))
        return out

    def failure(self) -> StartFailure:
        """What to tell a person after the process has gone that should not have; of a start that succeeded, only what
        was logged since."""
        return self._trouble.failure("serving" if self.finished else self._running)

    @property
    def _last_end(self) -> float:
        return self._stages[-1][2] if self._stages else self._spawned

    @property
    def _running(self) -> str:
        done = [name for name, _, _ in self._stages]
        if self.finished:
            return HTTP
        if done and done[-1] in self._expected:
            rest = self._expected[self._expected.index(done[-1]) + 1 :]
        else:
            furthest = max((_PLACES[name] for name in done), default=-1)
            rest = [mark.name for mark in _MARKS[furthest + 1 :] if mark.sure]
        skipped = {*done, *(_ONLY_COMPILED if self._eager else ())}
        return next((name for name in rest if name not in skipped), HTTP)

    def _take(self, line: str, at: float) -> bool:
        text = bare(line)
        self._trouble.feed(line, text)
        if self.finished:
            return False
        if _EAGER.search(text):
            self._eager = True
        self._figures = noted(self._figures, text)
        ended = any(mark.ends.search(text) is not None and self._end(mark, at) for mark in _MARKS)
        if self.finished:
            self._trouble = Trouble()
        return ended

    def _end(self, mark: _Mark, at: float) -> bool:
        """End a stage here, if this line does; another worker's line on the stage that ended last moves its end."""
        done = [name for name, _, _ in self._stages]
        if done and done[-1] == mark.name:
            if not mark.at_once:
                self._stages[-1] = (mark.name, self._stages[-1][1], at)
            return False
        late = any(_PLACES[name] > _PLACES[mark.name] for name in done) and not (mark.floats and WARM_UP not in done)
        if mark.name in done or late or (mark.after and mark.after not in done):
            return False
        self._stages.append((mark.name, self._last_end, at))
        return True

    def _own(self, name: str) -> float | None:
        """vLLM's own figure for a stage, in seconds."""
        figures = self._figures
        own = {
            WEIGHTS: figures.model_s,
            COMPILE: figures.compile_s,
            FIRST_RUN: figures.first_run_s,
            GRAPHS: figures.graphs_s,
        }
        return own.get(name)

    def _detail(self, name: str) -> str:
        """What vLLM says of a stage that is done."""
        figures = self._figures
        parts: list[str] = []
        if name == WEIGHTS:
            parts = [_said(figures.weights_gib, "GiB")]
        elif name == COMPILE:
            parts = [
                "from its cache" if figures.compile_cached else "",
                "its cache could not be loaded" if figures.compile_refused else "",
            ]
        elif name == KV_CACHE:
            tokens = f"{figures.kv_tokens:,} tokens".replace(",", " ") if figures.kv_tokens is not None else ""
            parts = [_said(figures.kv_gib, "GiB"), tokens]
        elif name == GRAPHS:
            parts = [_said(figures.graphs_gib, "GiB")]
        return " · ".join(part for part in parts if part)


def bare(line: str) -> str:
    """A line of vLLM's log without process, level, time and place."""
    return _PREFIX.sub("", line, count=1)


def _said(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}"
