"""`python tests/faults/scripted_engine.py`: a scripted server that passes for a vLLM and asks for $ENGINE_KEY; it prints its
port, and at the end of its stdin how often it was asked with the key and without."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.fakes import known_server
from tests.fakes.known_server import Behaviour, KnownServer

KEY = os.environ["ENGINE_KEY"]
METRICS = 'vllm:num_requests_running{model_name="known-model",engine="0"} 0.0\n'


class Keyed(KnownServer):
    """`/metrics` as a vLLM's."""

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/metrics":
            await known_server._answer(writer, 200, METRICS, "text/plain")
        else:
            await super()._get(path, writer)


async def main() -> None:
    async with Keyed(Behaviour(ttft_s=0.02, gap_s=0.002)) as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        right = [served.headers.get("authorization") == f"Bearer {KEY}" for served in server.served]
        print(sum(right), len(right) - sum(right), flush=True)


asyncio.run(main())
