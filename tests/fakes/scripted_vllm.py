"""A package that claims to be vLLM: a scripted OpenAI server of two processes with vLLM's titles, for faults of processes.

Each token passes through the engine core (a `cat` with its title), so that one that stands still makes none. Like vLLM's,
the API server leaves with code 0 when its engine core dies.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.fakes.known_server import Behaviour, KnownServer

MODULE = "from tests.fakes.scripted_vllm import main\nmain()\n"
INFO = "(APIServer pid=1) INFO 11-25 04:00:00 [x.py:1] "
START = (
    "non-default args: {}",
    "Resolved architecture: LlamaForCausalLM",
    "Initializing a V1 LLM engine (v0.32.0) with config: x",
    "Starting to load model x...",
    "Loading weights took 0.01 seconds",
    "Available KV cache memory: 1.0 GiB",
    "init engine (profile, create kv cache, warmup model) took 0.01 s",
)


def make_package(folder: Path) -> None:
    """A folder for PYTHONPATH, before one from which `tests` can be imported. $SCRIPTED_TTFT_S and $SCRIPTED_GAP_S time it."""
    (folder / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    for part in ("vllm", "vllm/entrypoints", "vllm/entrypoints/openai"):
        (folder / part / "__init__.py").touch()
    (folder / "vllm" / "_version.py").write_text("__version__ = '0.32.0+cpu'\n")
    (folder / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(MODULE)


def main() -> None:
    asyncio.run(_serve(dict(zip(sys.argv[1:], sys.argv[2:], strict=False))))


async def _serve(options: dict[str, str]) -> None:
    core = await asyncio.create_subprocess_exec(
        "VLLM::EngineCore", executable="/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert core.stdin is not None
    assert core.stdout is not None
    stdin, stdout = core.stdin, core.stdout
    turn, steps = asyncio.Lock(), 0

    async def step() -> None:
        nonlocal steps
        async with turn:
            stdin.write(b".")
            await stdout.readexactly(1)
            steps += 1

    def metrics() -> str:
        label = f'{{model_name="{server.model}",engine="0"}}'
        figures = {
            "num_requests_running": server.in_flight,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": min(1.0, server.in_flight / 100),
            "generation_tokens_total": server.tokens_sent,
            "prompt_tokens_total": 10 * len(server.served),
            "iteration_tokens_total_count": steps,
            "iteration_tokens_total_sum": steps,
        }
        return "".join(f"vllm:{name}{label} {value}\n" for name, value in figures.items())

    ttft_s, gap_s = (float(os.environ.get(f"SCRIPTED_{name}_S", "0.02")) for name in ("TTFT", "GAP"))
    server = KnownServer(Behaviour(ttft_s=ttft_s, gap_s=gap_s), pace=step, metrics=metrics, port=int(options["--port"]))
    for said in START:
        print(INFO + said, flush=True)
    async with server:
        print("INFO:     Application startup complete.", flush=True)
        code = await core.wait()
        print(
            f"(EngineCore pid={core.pid}) ERROR 11-25 04:00:09 [core.py:1] RuntimeError: ended with {code}", flush=True
        )
        os._exit(0)
