"""Random schedules of real HTTP clients with injected faults against the gateway, counted: what was lost, what was doubled.

    PYTHONPATH=TREE:TREE/tests/gateway python -P bench/schedules.py COUNT

It is the tests' own schedule, with its checks; `python -m bench.gateway --schedules COUNT` sets the paths.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from typing import Any

import uvloop
from gateway_schedules import Schedule

CLIENTS = 12
AT_ONCE = 10
LIMIT_S = 30.0
"""A schedule that takes longer has failed."""


class Counted(Schedule):  # type: ignore[misc]
    """Tells what it found before its checks judge it."""

    def __init__(self, seed: int, clients: int, found: Counter[str]) -> None:
        super().__init__(seed, clients)
        self.found = found

    def check(self, run: Any, engine: Any, names: list[str]) -> None:
        recorded = Counter(record.request_id for record in run.records)
        self.found["requests"] += len(recorded)
        self.found["lost"] += len(set(self.statuses) - set(recorded))
        self.found["duplicated"] += sum(recorded.values()) - len(recorded)
        self.found.update(record.outcome for record in run.records)
        super().check(run, engine, names)


class Errors(logging.Handler):
    """Counts what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


async def one(seed: int, found: Counter[str], failures: list[str]) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            await Counted(seed, CLIENTS, found).run()
    except (AssertionError, OSError, TimeoutError) as error:
        failures.append(f"seed {seed}: {type(error).__name__} {error}")


async def all_of(count: int) -> dict[str, Any]:
    found: Counter[str] = Counter()
    failures: list[str] = []
    for first in range(0, count, AT_ONCE):
        seeds = range(first, min(first + AT_ONCE, count))
        await asyncio.gather(*(one(seed, found, failures) for seed in seeds))
    return {"schedules": count, **found, "failures": failures}


def main() -> None:
    errors = Errors()
    logging.getLogger().addHandler(errors)
    began = time.monotonic()
    result = uvloop.run(all_of(int(sys.argv[1])))
    print(json.dumps({**result, "logged_errors": errors.messages, "wall_s": time.monotonic() - began}))


if __name__ == "__main__":
    main()
