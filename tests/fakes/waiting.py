"""Wait for a condition, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str = "the condition", within_s: float = 60.0) -> None:
    """Return as soon as `condition()` is true. Raises AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {within_s:g} s")
        await asyncio.sleep(0.005)
