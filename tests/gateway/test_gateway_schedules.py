"""Random schedules of real clients and injected faults: nothing lost, nothing twice, nothing left over."""

from __future__ import annotations

import asyncio
import logging

import pytest
from gateway_schedules import Schedule

CLIENTS = 12


@pytest.mark.parametrize("ten", range(10))
async def test_every_request_ends_once_and_every_place_is_free_again(
    ten: int, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(*(Schedule(seed, CLIENTS).run() for seed in range(10 * ten, 10 * ten + 10)))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
