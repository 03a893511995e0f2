"""vLLM's metric names, 0.10 to 0.33."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.telemetry.dialects import (
    HISTOGRAM_SUFFIXES,
    CounterField,
    EngineReading,
    Fold,
    GaugeField,
    HistogramField,
    Names,
    by_name,
    fold_histograms,
    fold_scalars,
)
from server.telemetry.exposition import Sample

# `*_per_gpu` are figures of one GPU, so over data-parallel ranks their mean is one GPU's again.
_COUNTERS: Mapping[CounterField, tuple[Names, Fold]] = {
    "generation_tokens": (("vllm:generation_tokens_total",), "sum"),
    "prompt_tokens": (("vllm:prompt_tokens_total",), "sum"),
    "preemptions": (("vllm:num_preemptions_total",), "sum"),
    "prefix_queries": (("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"), "sum"),
    "prefix_hits": (("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"), "sum"),
    "flops_per_gpu": (("vllm:estimated_flops_per_gpu_total",), "mean"),
    "read_bytes_per_gpu": (("vllm:estimated_read_bytes_per_gpu_total",), "mean"),
    "write_bytes_per_gpu": (("vllm:estimated_write_bytes_per_gpu_total",), "mean"),
}

# The fullest rank is the one that preempts, so KV use is the maximum over ranks, never an average.
_GAUGES: Mapping[GaugeField, tuple[Names, Fold]] = {
    "running": (("vllm:num_requests_running",), "sum"),
    "waiting": (("vllm:num_requests_waiting",), "sum"),
    "kv_usage": (("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), "max"),
}

_HISTOGRAMS: Mapping[HistogramField, Names] = {
    "ttft": ("vllm:time_to_first_token_seconds",),
    "itl": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "e2e": ("vllm:e2e_request_latency_seconds",),
    "queue": ("vllm:request_queue_time_seconds",),
    "prefill": ("vllm:request_prefill_time_seconds",),
    "decode": ("vllm:request_decode_time_seconds",),
    "inference": ("vllm:request_inference_time_seconds",),
    "step_tokens": ("vllm:iteration_tokens_total",),
}

_CACHE_INFO = "vllm:cache_config_info"


class VllmDialect:
    name = "vLLM"
    wanted = frozenset(
        [name for names, _ in _COUNTERS.values() for name in names]
        + [name for names, _ in _GAUGES.values() for name in names]
        + [name + suffix for names in _HISTOGRAMS.values() for name in names for suffix in HISTOGRAM_SUFFIXES]
        + [_CACHE_INFO]
    )

    def read(self, samples: Iterable[Sample]) -> EngineReading:
        found = by_name(samples)
        gauges = fold_scalars(found, _GAUGES)
        if gauges.get("kv_usage", 0.0) > 1.0:
            del gauges["kv_usage"]  # a share
        kv_tokens = _kv_tokens(found.get(_CACHE_INFO, []))
        if kv_tokens:
            gauges["kv_tokens"] = kv_tokens
        return EngineReading(fold_scalars(found, _COUNTERS), gauges, fold_histograms(found, _HISTOGRAMS))


def _kv_tokens(infos: list[Sample]) -> float:
    """The cache's size over all ranks, from the labels of `cache_config_info`; 0 when they do not say."""
    tokens = 0
    for info in infos:
        size = info.labels.get("kv_cache_size_tokens", "")
        blocks, block = info.labels.get("num_gpu_blocks", ""), info.labels.get("block_size", "")
        if _whole(size):
            tokens += int(size)
        elif _whole(blocks) and _whole(block):
            tokens += int(blocks) * int(block)
    return tokens


def _whole(text: str) -> bool:
    """A number of tokens or blocks: digits, and not more of them than any memory has room for."""
    return text.isdecimal() and len(text) <= 15
