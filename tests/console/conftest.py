"""What the pictures of the console have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def one_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of day in UTC, and colours, wherever it is drawn."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
