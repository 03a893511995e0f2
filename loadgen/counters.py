"""The server's own account of a run: vLLM's counters before and after, to set beside ours."""

from __future__ import annotations

import msgspec

from loadgen.target import LoadError, Target, get_text

_WANTED = {
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:request_success_total": "finished",
    "vllm:time_to_first_token_seconds_sum": "ttft_sum_s",
    "vllm:time_to_first_token_seconds_count": "ttft_count",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:prefix_cache_hits_total": "prefix_hits",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:num_requests_running": "running",
}


class Counters(msgspec.Struct, frozen=True):
    """Sums over all engines of one page of metrics; requests, tokens, seconds."""

    generation_tokens: float = 0.0
    prompt_tokens: float = 0.0
    finished: float = 0.0
    ttft_sum_s: float = 0.0
    ttft_count: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    preemptions: float = 0.0
    running: float = 0.0
    """A gauge: requests in the batch at that moment."""

    def since(self, before: Counters) -> Counters | None:
        """What was added; None when a counter shrank (the server began anew)."""
        gains = {
            name: getattr(self, name) - (0.0 if name == "running" else getattr(before, name))
            for name in self.__struct_fields__
        }
        return None if min(gains.values()) < 0 else Counters(**gains)

    @property
    def ttft_mean_s(self) -> float | None:
        """The server's own time to first token, mean seconds."""
        return self.ttft_sum_s / self.ttft_count if self.ttft_count else None

    @property
    def prefix_hit_share(self) -> float | None:
        """Prompt tokens found in the prefix cache, 0..1."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


def read_counters(page: str) -> Counters | None:
    """The counters of a page of metrics in Prometheus' text format; None when it is not vLLM's."""
    sums: dict[str, float] = {}
    for line in page.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        field = _WANTED.get(name)
        if field is None:
            continue
        values = line.rpartition("}")[2].split() if "}" in line else line.split()[1:]
        try:
            sums[field] = sums.get(field, 0.0) + float(values[0])
        except (ValueError, IndexError):
            continue
    return Counters(**sums) if "generation_tokens" in sums else None


async def fetch_counters(target: Target) -> Counters | None:
    """The server's counters now; None where it has none of vLLM's."""
    try:
        return read_counters(await get_text(target, "/metrics"))
    except LoadError:
        return None
