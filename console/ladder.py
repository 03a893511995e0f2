"""The values that a setting steps through. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def beside(ladder: Sequence[float], now: float, sign: int) -> float:
    """The next value up or down; the last one stays."""
    higher = [value for value in ladder if value > now * (1 + 1e-9)]
    lower = [value for value in ladder if value < now * (1 - 1e-9)]
    return (higher[0] if higher else now) if sign > 0 else (lower[-1] if lower else now)


def around(values: Sequence[T], now: T, sign: int) -> T:
    """The next one around; the first one where today's is none of them."""
    return values[(values.index(now) + sign) % len(values)] if now in values else values[0]
