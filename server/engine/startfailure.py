"""Why a start failed, from the errors in vLLM's log: one sentence, a suggestion, and the first real exception. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEVEL = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:ERROR|CRITICAL)\s")
_EXCEPTION = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?::\s*(.*))?$")
_ARGUMENTS = re.compile(r"^\S+: error: (.+)$")
_WRAPPER = re.compile(r"initialization failed|See root cause above|during engine core initialization")
_INDENTED = re.compile(r"^\s")
QUOTE = 220
"""Characters of the exception that a screen gets; the log has the rest."""


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
        """All of it for a screen."""
        if self.said.rpartition(": error: ")[2].rstrip(".") in self.what:
            return f"{self.what} {self.todo}"
        quote = self.said if len(self.said) <= QUOTE else f"{self.said[: QUOTE - 1].rstrip()}…"
        return f"{self.what} {self.todo}" + f" It said: {quote}"


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
        re.compile(r"Cannot find any model weights with `?([^`]*?)`?\s*$"),
        "There are no weights in {0}.",
        "Name a folder that holds *.safetensors, or take shape:NAME.",
    ),
    (
        re.compile(r"SafetensorError|InvalidHeaderDeserialization|MetadataIncompleteBuffer"),
        "A file of the model's weights is damaged or cut short.",
        "Fetch the model again.",
    ),
    (
        re.compile(r"exceeds dimension size|size mismatch for|Attempted to load weight .* into parameter"),
        "The weights do not fit the model's config.json.",
        "Fetch the model again, both from one source.",
    ),
    (
        re.compile(r"Cannot find the config file for (\w+)"),
        "The model is not quantised by {0}.",
        "Leave --quantization out, or take a model that is.",
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


class Trouble:
    """The exceptions and errors of one start, in the order they were logged."""

    def __init__(self) -> None:
        self._exceptions: list[str] = []
        self._errors: list[str] = []
        self._unfinished = ""
        self._traceback = False
        self._continued = 0

    def failure(self, running: str) -> StartFailure:
        """What to tell a person; `running` is the stage that was under way."""
        said = self._exceptions[0] if self._exceptions else self._errors[0] if self._errors else ""
        everything = "\n".join((*self._exceptions, *self._errors))
        for pattern, what, todo in _FAILURES:
            found = re.search(pattern.pattern, everything, re.M)
            if found:
                values = [group.strip().rstrip(".") for group in found.groups()]
                return StartFailure(what.format(*values), todo.format(*values), said)
        return StartFailure(f"vLLM {'failed' if said else 'left'} during {running}.", _UNKNOWN_TODO, said)

    def feed(self, line: str, text: str) -> None:
        """Keep the exceptions, first one first, with up to three indented lines that go on with their text, and the errors.

        `text` is the line without vLLM's prefix.
        """
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
