"""A scripted engine with vLLM's page, of one rank or of several, for a stack that attaches to more than one."""

from __future__ import annotations

from collections import Counter

from tests.fakes.known_server import Behaviour, KnownServer

EDGES = ("0.01", "0.1", "1.0", "+Inf")


def scripted_replica(*, ranks: int = 1, ttft_s: float = 0.02, gap_s: float = 0.01, port: int = 0) -> KnownServer:
    """`async with scripted_replica() as engine`; its requests are dealt to its ranks in turn."""
    server = KnownServer(Behaviour(ttft_s=ttft_s, gap_s=gap_s), port=port)

    def page() -> str:
        figures: Counter[tuple[str, int, str]] = Counter()
        for place, served in enumerate(server.served):
            rank = place % ranks
            figures["num_requests_running", rank, ""] += not served.ending
            figures["generation_tokens_total", rank, ""] += served.tokens
            figures["prompt_tokens_total", rank, ""] += 10
            figures["prefix_cache_queries_total", rank, ""] += 10
            figures["prefix_cache_hits_total", rank, ""] += 4
            figures["iteration_tokens_total_count", rank, ""] += served.tokens
            if served.first_token is not None:
                took = served.first_token - served.accepted
                figures["time_to_first_token_seconds_sum", rank, ""] += took  # type: ignore[assignment]
                figures["time_to_first_token_seconds_count", rank, ""] += 1
                for edge in EDGES:
                    figures["time_to_first_token_seconds_bucket", rank, edge] += took <= float(edge)
        lines = []
        for rank in range(ranks):
            gauges = {"num_requests_running": 0, "num_requests_waiting": 0, "num_preemptions_total": 0}
            for name in gauges:
                figures.setdefault((name, rank, ""), 0)
            figures.setdefault(("generation_tokens_total", rank, ""), 0)
        for (name, rank, edge), value in figures.items():
            le = f',le="{edge}"' if edge else ""
            lines.append(f'vllm:{name}{{model_name="{server.model}",engine="{rank}"{le}}} {value}\n')
        return "".join(lines)

    server.metrics = page
    return server
