"""A cold start read from vLLM's log: which stage it is in, how long each took, what vLLM said of it.

Lines are stamped on receipt: the log's own stamps have a resolution of one second. Pure; the caller follows the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from server.telemetry.snapshot import StartStage

IMPORTS = "imports"
INSPECTION = "model inspection"
ENGINE_SPAWN = "engine spawn"
WORKER_SPAWN = "worker spawn"
WEIGHTS = "weights"
COMPILE = "compile"
KV_CACHE = "profile and KV"
GRAPHS = "graph capture"
WARM_UP = "warm-up"
HTTP = "HTTP"
FIRST_TOKEN = "first token"  # noqa: S105 - a stage, not a password

_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (IMPORTS, re.compile(r"non-default args:")),
    (INSPECTION, re.compile(r"Resolved architecture:")),
    (ENGINE_SPAWN, re.compile(r"Initializing a V1 LLM engine")),
    (WORKER_SPAWN, re.compile(r"Loading model from scratch|Starting to load model")),
    (WEIGHTS, re.compile(r"Loading weights took|Model loading took")),
    (COMPILE, re.compile(r"torch\.compile took .* in total|Directly load (?:the compiled graph|AOT compilation)")),
    (KV_CACHE, re.compile(r"Available KV cache memory:|KV cache size:")),
    (GRAPHS, re.compile(r"Graph capturing finished")),
    (WARM_UP, re.compile(r"init engine \(profile")),
    (HTTP, re.compile(r"Application startup complete")),
)
"""The line that ends each stage, in the order they come. A stage whose line never comes was not there."""
_NAMES = tuple(name for name, _ in _MARKS)
_ONLY_COMPILED = {COMPILE, GRAPHS}
_EAGER = re.compile(r"Enforce eager set|enforce_eager=True|'enforce_eager': True")

_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s[\d: -]+\[[^\]]*\]\s?)?(?:\[\w+\]\s*)?"
)
_LEVEL = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:ERROR|CRITICAL)\s")
_EXCEPTION = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?::\s*(.*))?$")
_ARGUMENTS = re.compile(r"^\S+: error: (.+)$")
_WRAPPER = re.compile(r"initialization failed|See root cause above|during engine core initialization")
_INDENTED = re.compile(r"^\s")


@dataclass(frozen=True)
class Figures:
    """What vLLM itself states about its start; None where it did not say."""

    version: str | None = None
    weights_s: float | None = None
    """Reading and loading the weights."""
    weights_gib: float | None = None
    compile_s: float | None = None
    compile_cached: bool = False
    """The compiled graph came from vLLM's cache."""
    kv_gib: float | None = None
    kv_tokens: int | None = None
    batched_tokens: int | None = None
    """max-num-batched-tokens: the most a step takes."""
    graphs_s: float | None = None
    graphs_gib: float | None = None
    init_s: float | None = None
    """Profile, KV cache, compilation, graphs and warm-up together."""


_NUMBERS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"Loading weights took ([\d.]+) seconds"), ("weights_s",)),
    (re.compile(r"Model loading took ([\d.]+) GiB(?: memory)? and ([\d.]+) seconds"), ("weights_gib", "weights_s")),
    (re.compile(r"torch\.compile took ([\d.]+) s in total"), ("compile_s",)),
    (re.compile(r"Available KV cache memory: ([\d.]+) GiB"), ("kv_gib",)),
    (re.compile(r"Explicitly set \(([\d.]+)/[\d.]+\) GiB for KV cache"), ("kv_gib",)),
    (re.compile(r"Graph capturing finished in (\d+) secs, took (-?[\d.]+) GiB"), ("graphs_s", "graphs_gib")),
    (re.compile(r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s"), ("init_s",)),
)
_KV_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_BATCHED_TOKENS = re.compile(r"enabled with max_num_batched_tokens=(\d+)")
_VERSION = re.compile(r"version (\d+\.\d+\S*)|V1 LLM engine \(v(\d+\.\d+[^)]*)\)")


@dataclass(frozen=True)
class StartFailure:
    """Why a start failed."""

    what: str
    """One sentence."""
    todo: str
    """One sentence."""
    said: str
    """The first exception in vLLM's own words; empty if it left without one."""

    @property
    def text(self) -> str:
        return f"{self.what} {self.todo}"


_FAILURES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory"),
        "The GPU has {0} of {1} GiB free, less than vLLM wants.",
        "End what else uses the GPU, or pass --engine-arg=--gpu-memory-utilization=0.5.",
    ),
    (
        re.compile(r"estimated maximum model length is (\d+)"),
        "The KV cache is too small for one request of this context.",
        "Start with --max-model-len {0}.",
    ),
    (
        re.compile(r"is larger than the available KV cache memory"),
        "The KV cache is too small for one request of this context.",
        "Start with a smaller --max-model-len.",
    ),
    (
        re.compile(
            r"max_model_len \((\d+)\) is greater than the derived max_model_len \(max_position_embeddings=(\d+)"
        ),
        "The model was made for a context of {1} tokens, and {0} were asked for.",
        "Start with --max-model-len {1}.",
    ),
    (
        re.compile(r"No available memory for the cache blocks"),
        "The model leaves no memory for the KV cache.",
        "Take a smaller model, or pass --engine-arg=--gpu-memory-utilization=0.95.",
    ),
    (
        re.compile(r"CUDA out of memory|OutOfMemoryError"),
        "The GPU's memory does not suffice.",
        "Take a smaller model or a smaller --max-model-len, or end what else uses the GPU.",
    ),
    (
        re.compile(r"Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\)"),
        "The machine has {0} of {1} GiB of memory free, less than vLLM wants.",
        "End other processes, or lower VLLM_CPU_KVCACHE_SPACE (GiB).",
    ),
    (
        re.compile(r"Failed to infer device type"),
        "vLLM finds no device that its build can use.",
        "Run `spark-serve engine doctor`: the driver, or an environment for the other device, is missing.",
    ),
    (
        re.compile(r"Model architectures? (\S+) (?:are|is) not supported"),
        "This vLLM does not know the model's architecture {0}.",
        "Take another model or a newer vLLM.",
    ),
    (
        re.compile(r"GatedRepoError|[Cc]annot access gated repo"),
        "The hub gives this model only to those who asked for it.",
        "Ask for access on the model's page and set HF_TOKEN, or take another model.",
    ),
    (
        re.compile(
            r"RepositoryNotFoundError|Repository Not Found|is not a local folder and is not a valid model identifier"
        ),
        "The hub has no model of this name.",
        "Check the spelling, or take `smollm2` or shape:NAME.",
    ),
    (
        re.compile(
            r"LocalEntryNotFoundError|OfflineModeIsEnabled|couldn't connect to|Temporary failure in name resolution"
        ),
        "The model is not on this machine and the hub cannot be reached.",
        "Take `smollm2` or shape:NAME, or a folder.",
    ),
    (
        re.compile(r"(?:Address already in use|address already in use)"),
        "The engine's port is taken.",
        "Free it or choose another with --engine-port.",
    ),
    (
        re.compile(r"error: unrecognized arguments: (.+)$"),
        "This vLLM does not know the argument {0}.",
        "Leave it out of --engine-arg.",
    ),
    (re.compile(r"^\S+: error: (.+)$"), "vLLM refuses its arguments: {0}.", "Correct the --engine-arg that it names."),
    (re.compile(r"No space left on device"), "The disk is full.", "Free some space and start again."),
)
"""Looked for in this order in the exceptions, then in the errors logged."""
_UNKNOWN_TODO = "`spark-serve logs engine` shows all of it."


class ColdStartLog:
    """One start. Feed it each line with the monotonic second of its receipt; `began` is when the process was started."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._stages: list[tuple[str, float, float]] = []
        self._next = 0
        self._eager = False
        self._first_token_at: float | None = None
        self._figures = Figures()
        self._exceptions: list[str] = []
        self._errors: list[str] = []
        self._unfinished = ""
        self._traceback = False
        self._continued = 0

    @property
    def figures(self) -> Figures:
        return self._figures

    @property
    def finished(self) -> bool:
        """The HTTP server answers."""
        return self._next == len(_MARKS)

    def feed(self, line: str, at: float) -> bool:
        """Take one line; a progress bar's `\\r` is a line's end. True if a stage ended with it."""
        ended = False
        for piece in line.replace("\r", "\n").split("\n"):
            if piece.strip():
                ended |= self._take(piece, at)
        return ended

    def first_token(self, at: float) -> bool:
        """Somebody got the first token; the first call after the start counts. True if this was it."""
        if not self.finished or self._first_token_at is not None:
            return False
        self._first_token_at = at
        return True

    def stages(self, now: float) -> list[StartStage]:
        """What was done and, unless it is over, what runs; seconds since the start began. `now` bounds nothing that is done."""
        out = [
            StartStage(name=name, begin_s=begin - self._began, end_s=end - self._began, detail=self._detail(name))
            for name, begin, end in self._stages
        ]
        last = self._stages[-1][2] if self._stages else self._began
        if not self.finished:
            out.append(StartStage(name=self._running, begin_s=min(last, now) - self._began))
        elif self._first_token_at is not None:
            out.append(
                StartStage(name=FIRST_TOKEN, begin_s=last - self._began, end_s=self._first_token_at - self._began)
            )
        return out

    def failure(self) -> StartFailure:
        """What to tell a person after the process has gone before it was ready."""
        said = self._exceptions[0] if self._exceptions else self._errors[0] if self._errors else ""
        everything = "\n".join((*self._exceptions, *self._errors))
        for pattern, what, todo in _FAILURES:
            found = re.search(pattern.pattern, everything, re.M)
            if found:
                values = [group.strip().rstrip(".") for group in found.groups()]
                return StartFailure(what.format(*values), todo.format(*values), said)
        what = (
            f"vLLM failed while at {self._running}: {said[:300]}." if said else f"vLLM left while at {self._running}."
        )
        return StartFailure(what, _UNKNOWN_TODO, said)

    @property
    def _running(self) -> str:
        if self.finished:
            return HTTP
        rest = [name for name in _NAMES[self._next :] if not (self._eager and name in _ONLY_COMPILED)]
        return rest[0] if rest else HTTP

    def _take(self, line: str, at: float) -> bool:
        text = _PREFIX.sub("", line, count=1)
        self._note_trouble(line, text)
        if self.finished:
            return False
        if _EAGER.search(text):
            self._eager = True
        self._note_figures(text)
        for position, (name, pattern) in enumerate(_MARKS):
            if position >= self._next - 1 and pattern.search(text):
                return self._mark(position, name, at)
        return False

    def _mark(self, position: int, name: str, at: float) -> bool:
        if position == self._next - 1:  # another worker, or a second line on the same stage: it ends now
            done, begin, _ = self._stages[-1]
            self._stages[-1] = (done, begin, at)
            return False
        begin = self._stages[-1][2] if self._stages else self._began
        self._stages.append((name, begin, at))
        self._next = position + 1
        return True

    def _note_figures(self, text: str) -> None:
        for pattern, names in _NUMBERS:
            found = pattern.search(text)
            if found:
                changes = dict(zip(names, (float(value) for value in found.groups()), strict=True))
                self._figures = replace(self._figures, **changes)  # type: ignore[arg-type]
        if (tokens := _KV_TOKENS.search(text)) is not None:
            self._figures = replace(self._figures, kv_tokens=int(tokens.group(1).replace(",", "")))
        if (tokens := _BATCHED_TOKENS.search(text)) is not None:
            self._figures = replace(self._figures, batched_tokens=int(tokens.group(1)))
        if self._figures.version is None and (version := _VERSION.search(text)) is not None:
            self._figures = replace(self._figures, version=version.group(1) or version.group(2))
        if "Directly load" in text:
            self._figures = replace(self._figures, compile_cached=True)

    def _note_trouble(self, line: str, text: str) -> None:
        """Keep the exceptions, first one first, with up to three indented lines that go on with their text, and the errors."""
        if self._continued and _INDENTED.match(text):
            self._exceptions[-1] = f"{self._exceptions[-1]} {text.strip()}"[:2000]
            self._continued -= 1
            return
        self._continued = 0
        if self._unfinished:  # the message of `ValueError:` stands on the next line
            text = f"{self._unfinished} {text.strip()}"
            self._unfinished = ""
        if text.startswith("Traceback (most recent call last)"):
            self._traceback = True
            return
        logged = _LEVEL.match(line) is not None
        if arguments := _ARGUMENTS.match(text):
            self._keep(self._exceptions, arguments.group(0))
        exception = (
            _EXCEPTION.match(text.strip()) if (logged or self._traceback) and not _INDENTED.match(text) else None
        )
        if exception is not None:
            self._traceback = False
            if not exception.group(2) and line.rstrip().endswith(":"):
                self._unfinished = text.strip()
            elif not _WRAPPER.search(text):
                self._keep(self._exceptions, text.strip())
                self._continued = 3
        elif logged and not _WRAPPER.search(text):
            self._keep(self._errors, text.strip())

    @staticmethod
    def _keep(where: list[str], text: str) -> None:
        if text and len(where) < 50:
            where.append(text[:2000])

    def _detail(self, name: str) -> str:
        """What vLLM says of a stage that is done."""
        figures = self._figures
        parts: list[str] = []
        if name == WEIGHTS:
            parts = [_said(figures.weights_gib, "GiB"), _said(figures.weights_s, "s reading")]
        elif name == COMPILE:
            parts = ["from its cache" if figures.compile_cached else "", _said(figures.compile_s, "s compiling")]
        elif name == KV_CACHE:
            tokens = f"{figures.kv_tokens:,} tokens".replace(",", " ") if figures.kv_tokens is not None else ""
            parts = [_said(figures.kv_gib, "GiB"), tokens]
        elif name == GRAPHS:
            parts = [_said(figures.graphs_gib, "GiB")]
        return " · ".join(part for part in parts if part)


def _said(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}"
