"""What vLLM states about its own start, read from its log. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Figures:
    """What vLLM itself states about its start; None where it did not say."""

    version: str | None = None
    model_init_s: float | None = None
    """Building the model, before its weights are read."""
    weights_s: float | None = None
    """Reading the weights; with `load_s`, a part of it."""
    load_s: float | None = None
    """Building the model, reading its weights and converting them."""
    weights_gib: float | None = None
    compile_s: float | None = None
    compile_cached: bool = False
    """The compiled graph came from vLLM's cache."""
    compile_refused: bool = False
    """There was one in the cache, and it could not be loaded."""
    first_run_s: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    batched_tokens: int | None = None
    """max-num-batched-tokens: the most a step takes."""
    graphs_s: float | None = None
    graphs_gib: float | None = None
    init_s: float | None = None
    """Compilation, profile, KV cache, graphs and warm-up together."""

    @property
    def model_s(self) -> float | None:
        """The weights' stage as a whole: vLLM's sum, or its parts where it gives no sum (CPU)."""
        if self.load_s is not None:
            return self.load_s
        return None if self.weights_s is None else self.weights_s + (self.model_init_s or 0.0)


_NUMBERS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"Initializing model took (\d{1,12}(?:\.\d{1,12})?) seconds"), ("model_init_s",)),
    (re.compile(r"Loading weights took (\d{1,12}(?:\.\d{1,12})?) seconds"), ("weights_s",)),
    (
        re.compile(
            r"Model loading took (\d{1,12}(?:\.\d{1,12})?) GiB(?: memory)? and (\d{1,12}(?:\.\d{1,12})?) seconds"
        ),
        ("weights_gib", "load_s"),
    ),
    (re.compile(r"Checkpoint size: (\d{1,12}(?:\.\d{1,12})?) GiB"), ("weights_gib",)),
    (
        re.compile(
            r"torch\.compile (?:and initial profiling/warmup run together )?took (\d{1,12}(?:\.\d{1,12})?) s in total"
        ),
        ("compile_s",),
    ),
    (re.compile(r"Initial profiling/warmup run took (\d{1,12}(?:\.\d{1,12})?) s"), ("first_run_s",)),
    (re.compile(r"Available KV cache memory: (\d{1,12}(?:\.\d{1,12})?) GiB"), ("kv_gib",)),
    (re.compile(r"(?:Explicitly|Auto) set \((\d{1,12}(?:\.\d{1,12})?)/[\d.]+\) GiB for KV cache"), ("kv_gib",)),
    (
        re.compile(r"Graph capturing finished in (\d{1,12}) secs, took (-?\d{1,12}(?:\.\d{1,12})?) GiB"),
        ("graphs_s", "graphs_gib"),
    ),
    (
        re.compile(r"init engine \(profile, create kv cache, warmup model\) took (\d{1,12}(?:\.\d{1,12})?) s"),
        ("init_s",),
    ),
    # several graphs are compiled where there are several models: this is their sum
    (re.compile(r"init engine .* \(compilation: (\d{1,12}(?:\.\d{1,12})?) s"), ("compile_s",)),
)
_KV_TOKENS = re.compile(r"KV cache size: (\d[\d,]{0,20}) tokens")
_BATCHED_TOKENS = re.compile(r"enabled with max_num_batched_tokens=(\d{1,12})")
_VERSION = re.compile(r"version (\d+\.\d+\S*)|V1 LLM engine \(v(\d+\.\d+[^)]*)\)")


def noted(figures: Figures, text: str) -> Figures:
    """The figures after one more line, which comes without vLLM's prefix; the latest word stands."""
    changes: dict[str, object] = {}
    for pattern, names in _NUMBERS:
        if (found := pattern.search(text)) is not None:
            changes |= zip(names, (float(value) for value in found.groups()), strict=True)
    if (tokens := _KV_TOKENS.search(text)) is not None:
        changes["kv_tokens"] = int(tokens.group(1).replace(",", ""))
    if (tokens := _BATCHED_TOKENS.search(text)) is not None:
        changes["batched_tokens"] = int(tokens.group(1))
    if figures.version is None and (version := _VERSION.search(text)) is not None:
        changes["version"] = version.group(1) or version.group(2)
    if "Directly load" in text:
        changes["compile_cached"] = True
    if "Compiling model again due to a load failure" in text:
        changes["compile_refused"] = True
    return replace(figures, **changes) if changes else figures  # type: ignore[arg-type]
