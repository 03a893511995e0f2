"""Waiting for a moment, and never being early."""

from __future__ import annotations

import asyncio
import time


async def sleep_until(due: float) -> None:
    """Until `due` (monotonic seconds), never early, which one `asyncio.sleep` can be: uvloop rounds to milliseconds. Others
    get a turn in any case."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    while (left_s := due - time.monotonic()) > 0:  # noqa: ASYNC110 - no event says that a moment has come
        await asyncio.sleep(left_s)
