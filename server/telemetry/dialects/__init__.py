"""What an engine calls its metrics: one module an engine, all ending as the same `EngineReading`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from server.telemetry.exposition import Sample, parse_number
from server.telemetry.windows import Buckets

CounterField = Literal[
    "generation_tokens",
    "prompt_tokens",
    "preemptions",
    "prefix_queries",
    "prefix_hits",
    "flops_per_gpu",
    "read_bytes_per_gpu",
    "write_bytes_per_gpu",
]
GaugeField = Literal["running", "waiting", "kv_usage", "kv_tokens"]
HistogramField = Literal["ttft", "itl", "e2e", "queue", "prefill", "decode", "inference", "step_tokens"]
"""Seconds, but `step_tokens`: tokens of a scheduler step, whose count is the engine's heartbeat."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scrape in canonical terms, all ranks of the engine together. A field that the engine does not report is not there."""

    counters: Mapping[CounterField, float] = field(default_factory=dict)
    gauges: Mapping[GaugeField, float] = field(default_factory=dict)
    histograms: Mapping[HistogramField, Buckets] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counters or self.gauges or self.histograms)


class Dialect(Protocol):
    """An engine's metric names."""

    @property
    def name(self) -> str:
        """As a person calls the engine."""

    @property
    def wanted(self) -> frozenset[str]:
        """Sample names to scan for, histogram suffixes included."""

    def read(self, samples: Iterable[Sample]) -> EngineReading:
        """Fold the samples of one page. Empty when it holds none of the engine's."""


Fold = Literal["sum", "mean", "max"]
"""How the ranks of one engine (label `engine`) become one figure."""

Names = tuple[str, ...]
"""A metric's name today, then its earlier names."""

F = TypeVar("F")

BEYOND_REASON = 1e30
"""A year of an exaflop a second is 3e25."""
MOST_SAMPLES = 2.0**53
"""Of a histogram; beyond it a float does not count by ones."""
MOST_EDGES = 1_000
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")


def by_name(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.name, []).append(sample)
    return grouped


def fold_scalars(found: Mapping[str, list[Sample]], fields: Mapping[F, tuple[Names, Fold]]) -> dict[F, float]:
    """Each field from the first of its names that is there."""
    folded: dict[F, float] = {}
    for key, (names, how) in fields.items():
        values = next(([s.value for s in found[name]] for name in names if name in found), None)
        if values is None:
            continue
        figure = max(values) if how == "max" else _total(values) / (len(values) if how == "mean" else 1)
        if figure < BEYOND_REASON:
            folded[key] = figure
    return folded


def fold_histograms(found: Mapping[str, list[Sample]], fields: Mapping[F, Names]) -> dict[F, Buckets]:
    """Each histogram with its ranks summed; one whose parts are not all there (a cut page) is left out."""
    folded: dict[F, Buckets] = {}
    for key, names in fields.items():
        for name in names:
            parts = [found.get(name + suffix) for suffix in HISTOGRAM_SUFFIXES]
            if parts[0] and parts[1] and parts[2]:
                buckets = _buckets(parts[0], parts[1], parts[2])
                if buckets is not None:
                    folded[key] = buckets
                break
    return folded


def _buckets(buckets: list[Sample], sums: list[Sample], counts: list[Sample]) -> Buckets | None:
    by_edge: dict[float, float] = {}
    try:
        for sample in buckets:
            edge = parse_number(sample.labels.get("le", ""))
            by_edge[edge] = by_edge.get(edge, 0.0) + sample.value
    except ValueError:
        return None
    if len(by_edge) > MOST_EDGES:
        return None
    edges = tuple(sorted(by_edge))
    cumulative = tuple(by_edge[edge] for edge in edges)
    rising = all(a <= b for a, b in itertools.pairwise(cumulative))
    n, total = _total(s.value for s in counts), _total(s.value for s in sums)
    if edges[-1] != math.inf or not rising or cumulative[-1] != n or n > MOST_SAMPLES or total >= BEYOND_REASON:
        return None
    return Buckets(edges, cumulative, total)


def _total(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
