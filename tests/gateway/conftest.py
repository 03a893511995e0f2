from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop the gateway really runs on: its transports buffer and pause in their own way."""
    return {"uvloop": uvloop.new_event_loop}
