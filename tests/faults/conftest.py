"""For modules with a `stack` of `tests.faults.scripted`: a console on it, and what runs there without a fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.scripted import FaultyStack, console
from tests.faults.terminal import Terminal


@pytest.fixture(scope="module")
def screen(stack: FaultyStack) -> Iterator[Terminal]:
    terminal = console()
    yield terminal
    terminal.end()


@pytest.fixture(scope="module")
def usual(stack: FaultyStack) -> list[str]:
    return stack.kinds()
