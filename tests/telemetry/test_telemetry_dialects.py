"""vLLM's names to canonical fields."""

from __future__ import annotations

from pathlib import Path

from server.telemetry.dialects import Dialect, EngineReading
from server.telemetry.dialects.vllm import VllmDialect
from server.telemetry.exposition import scan

DATA = Path(__file__).parent.parent / "data"


def read(text: str) -> EngineReading:
    dialect: Dialect = VllmDialect()
    return dialect.read(scan(text, dialect.wanted).samples)


def test_a_real_page_fills_every_field() -> None:
    reading = read((DATA / "vllm-0.24-h100-c64.prom").read_text())
    assert reading.gauges["running"] == 64
    assert reading.gauges["waiting"] == 0
    assert reading.gauges["kv_tokens"] == 423_008
    assert reading.counters["generation_tokens"] == 30_451
    assert len(reading.counters) == 8
    assert len(reading.histograms) == 8
    assert reading.histograms["step_tokens"].n == 3141
    assert reading.histograms["step_tokens"].total == 175_859


def test_the_newest_cpu_page_fills_every_field() -> None:
    reading = read((DATA / "vllm-0.32-cpu.prom").read_text())
    assert len(reading.histograms) == 8
    assert {"running", "waiting", "kv_usage", "kv_tokens"} <= reading.gauges.keys()


def test_earlier_names_are_fallbacks() -> None:
    text = "vllm:gpu_cache_usage_perc 0.5\n" + histogram("vllm:time_per_output_token_seconds", (1, 3, 3), 0.2)
    reading = read(text)
    assert reading.gauges == {"kv_usage": 0.5}
    assert reading.histograms["itl"].counts == (1, 3, 3)
    both = read(text + "vllm:kv_cache_usage_perc 0.25\n")
    assert both.gauges["kv_usage"] == 0.25


def test_ranks_of_one_engine_become_one() -> None:
    text = "".join(
        f'vllm:num_requests_running{{engine="{rank}"}} {rank + 1}\n'
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank + 1}\n'
        f'vllm:generation_tokens_total{{engine="{rank}"}} 10\n'
        f'vllm:estimated_flops_per_gpu_total{{engine="{rank}"}} 10\n'
        f'vllm:cache_config_info{{engine="{rank}",block_size="16",num_gpu_blocks="10"}} 1\n'
        + histogram("vllm:time_to_first_token_seconds", (1, 2, 4), 1.5, f'engine="{rank}"')
        for rank in range(3)
    )
    reading = read(text)
    assert reading.gauges == {"running": 6, "kv_usage": 0.3, "kv_tokens": 480}
    assert reading.counters == {"generation_tokens": 30, "flops_per_gpu": 10}
    assert reading.histograms["ttft"].counts == (3, 6, 12)
    assert reading.histograms["ttft"].total == 4.5


def test_what_is_not_there_is_not_there() -> None:
    assert not read("other_metric 1\n")
    assert not read("vllm:num_requests_running NaN\n")


def test_an_incomplete_histogram_is_left_out() -> None:
    whole = histogram("vllm:time_to_first_token_seconds", (1, 2, 4), 1.5)
    lines = whole.splitlines(keepends=True)
    for left_out in range(len(lines)):
        reading = read("".join(line for i, line in enumerate(lines) if i != left_out))
        present = "ttft" in reading.histograms
        assert present == (left_out in {0, 1}), "an inner edge may be missing, the rest may not"


def histogram(name: str, counts: tuple[int, int, int], total: float, label: str = 'engine="0"') -> str:
    edges = ("0.1", "1.0", "+Inf")
    buckets = "".join(
        f'{name}_bucket{{{label},le="{edge}"}} {count}\n' for edge, count in zip(edges, counts, strict=True)
    )
    return f"{buckets}{name}_sum{{{label}}} {total}\n{name}_count{{{label}}} {counts[-1]}\n"
