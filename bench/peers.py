"""How other load generators are run against one server, and what they say of each request.

Each has an environment of its own; none is a dependency. All get the same server, streams and number of requests.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadgen.known_replies import MODEL

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
VLLM_BENCH = """
import argparse
import vllm.benchmarks.serve as serve
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
PROMPT_TOKENS = 16
REPLY_TOKENS = 50
REPLY_S = 1.1
"""Of one reply at the usual plan: 100 ms and 50 tokens of 20 ms."""


@dataclass(frozen=True)
class Job:
    """Closed loop with so many streams, or open loop at a rate (requests per second); so many requests in all."""

    url: str
    requests: int
    out: Path
    """An empty folder."""
    streams: int = 0
    rate: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Said:
    """What a tool says of one request, milliseconds."""

    request_id: str
    """As the server knows it."""
    ttft_ms: float
    itl_ms: float | None
    """The mean gap between its tokens."""
    gaps_ms: list[float] | None = None
    """Each gap, where the tool keeps them."""


@dataclass(frozen=True)
class Tool:
    name: str
    command: Callable[[Job], list[str]]
    read: Callable[[Path], list[Said]]
    env: dict[str, str]


def ours() -> Tool:
    def command(job: Job) -> list[str]:
        how = ["--people", str(job.streams), "--think", "0.001"] if job.streams else ["--rate", str(job.rate)]
        seconds = job.requests / job.rate if job.rate else job.requests / job.streams * REPLY_S
        return [
            *(sys.executable, "-m", "console.cli", "load", "--url", job.url, *how, "--duration", f"{seconds:.1f}"),
            *("--turns", "1", "--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(REPLY_TOKENS)),
            *("--seed", str(job.seed), "--out", str(job.out / "requests.jsonl"), "--json"),
        ]

    def read(out: Path) -> list[Said]:
        records = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
        return [
            Said(
                record["request_id"],
                (record["first_token"] - record["scheduled"]) * 1e3,
                (record["last_token"] - record["first_token"]) * 1e3 / max(1, record["completion_tokens"] - 1),
            )
            for record in records
            if record["type"] == "request" and record["outcome"] == "ok"
        ]

    return Tool("spark-serve load", command, read, {})


def vllm_bench(python: str, tokenizer: str) -> Tool:
    def command(job: Job) -> list[str]:
        how = ["--request-rate", str(job.rate)] if job.rate else ["--max-concurrency", str(job.streams)]
        return [
            *(python, "-c", VLLM_BENCH, "--backend", "openai-chat", "--base-url", job.url),
            *("--endpoint", "/v1/chat/completions", "--model", MODEL, "--tokenizer", tokenizer),
            *("--dataset-name", "random", "--random-input-len", str(PROMPT_TOKENS)),
            *("--random-output-len", str(REPLY_TOKENS), "--num-prompts", str(job.requests), *how),
            *("--seed", str(job.seed), "--request-id-prefix", "bench-", "--disable-tqdm"),
            *("--save-result", "--save-detailed", "--result-dir", str(job.out), "--result-filename", "result.json"),
        ]

    def read(out: Path) -> list[Said]:
        result = json.loads((out / "result.json").read_text())
        return [
            Said(f"bench-{number}", ttft * 1e3, sum(gaps) * 1e3 / len(gaps), [gap * 1e3 for gap in gaps])
            for number, (ttft, gaps) in enumerate(zip(result["ttfts"], result["itls"], strict=True))
            if gaps
        ]

    return Tool("vllm bench serve", command, read, OFFLINE)


def guidellm(program: str, tokenizer: str) -> Tool:
    def command(job: Job) -> list[str]:
        how = f"kind=poisson,rate={job.rate:g}" if job.rate else f"kind=concurrent,streams={job.streams}"
        return [
            *(program, "run", "--backend", f"kind=openai_http,target={job.url},model={MODEL}", "--profile", how),
            *("--constraint", f"kind=max_requests,count={job.requests}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={REPLY_TOKENS}"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}", "--seed", f"kind=static,value={job.seed}"),
            *("--output", f"kind=json,path={job.out / 'report.json'}", "--disable-console"),
        ]

    def read(out: Path) -> list[Said]:
        report = json.loads((out / "report.json").read_text())
        return [
            Said(
                request["response_id"].removeprefix("chatcmpl-"),
                request["time_to_first_token_ms"],
                request["inter_token_latency_ms"],
            )
            for request in report["benchmarks"][0]["requests"]["successful"]
        ]

    return Tool("guidellm", command, read, OFFLINE)


def aiperf(program: str, tokenizer: str) -> Tool:
    def command(job: Job) -> list[str]:
        how = ["--request-rate", f"{job.rate:g}", "--arrival-pattern", "poisson"]
        return [
            *(program, "profile", "-m", MODEL, "--url", job.url, "--endpoint-type", "chat", "--streaming"),
            *("--tokenizer", tokenizer, "--isl", str(PROMPT_TOKENS), "--osl", str(REPLY_TOKENS)),
            *(how if job.rate else ["--concurrency", str(job.streams)]),
            *("--request-count", str(job.requests), "--random-seed", str(job.seed), "--artifact-dir", str(job.out)),
            *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
        ]

    def read(out: Path) -> list[Said]:
        said = []
        for line in (out / "profile_export.jsonl").read_text().splitlines():
            record = json.loads(line)
            metrics = record["metrics"]
            if "time_to_first_token" in metrics:
                itl = metrics.get("inter_token_latency", {}).get("value")
                gaps = metrics.get("inter_chunk_latency", {}).get("value")
                ttft = metrics["time_to_first_token"]["value"]
                said.append(Said(record["metadata"]["x_request_id"], ttft, itl, gaps))
        return said

    return Tool("aiperf", command, read, {})  # its own offline mode takes no tokenizer from a folder


def environment(tool: Tool) -> dict[str, str]:
    return {**os.environ, **QUIET, **tool.env}
