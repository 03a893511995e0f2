"""Screens that are imported when somebody goes to them: a console is to paint within half a second of being started."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from textual.screen import Screen


def late(module: str, name: str) -> Callable[..., Screen[Any]]:
    """What makes the screen `name` of `console.screens.<module>`, given what that takes."""

    def make(*given: Any) -> Screen[Any]:
        screen: Screen[Any] = getattr(import_module(f"console.screens.{module}"), name)(*given)
        return screen

    return make
