"""`python tests/faults/scripted_console.py WHAT`: the real console, through its command line, on scripted snapshots; the
screen says SCRIPTED. WHAT breaks: `nothing`, `source`, `panel`, `action`, `worker`, `fatal`."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

from console import cli
from console.app import CockpitApp
from console.panels import batch
from console.screens import flow
from console.sources.scripted import ScriptedSource
from server.client import StackClient
from server.config import default_paths
from server.telemetry.snapshot import Snapshot
from tests.console import samples

WHAT = sys.argv[1]
EVERY_S = 0.05


class Endless(ScriptedSource):
    """Goes on for ever, or breaks once."""

    retry_s = 0.2
    broken = False

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        if WHAT == "source" and not self.broken:
            self.broken = True
            raise ValueError("a source that\nis broken")
        async for snapshot in super().snapshots():
            yield snapshot


def script() -> list[Snapshot]:
    course = list(samples.course(samples.LOADED, 30))
    last = course[-1]
    later = (
        samples.change(last, at=last.at + n / 2, seq=last.seq + n, uptime_s=last.uptime_s + n) for n in range(1, 2000)
    )
    return [*course, *later]


def breaks(*_: Any) -> Any:
    raise KeyError("a thing")


def until(calls: int, then: Any) -> Any:
    """Breaks that many times, and does its work from then on."""
    count = itertools.count()

    @functools.wraps(then)
    def call(*arguments: Any) -> Any:
        return breaks() if next(count) < calls else then(*arguments)

    return call


def after(calls: int, at_first: Any) -> Any:
    """Does its work that many times, and breaks from then on."""
    count = itertools.count()

    @functools.wraps(at_first)
    def call(*arguments: Any) -> Any:
        return at_first(*arguments) if next(count) < calls else breaks()

    return call


def main() -> int:
    source = Endless(script(), every_s=EVERY_S)
    if WHAT == "panel":
        flow.batch = until(60, batch.batch)
    if WHAT == "action":
        CockpitApp.action_freeze = breaks  # type: ignore[method-assign]
    if WHAT == "worker":
        source.send = breaks  # type: ignore[method-assign]
    if WHAT == "fatal":
        CockpitApp.redraw = after(40, CockpitApp.redraw)  # type: ignore[method-assign]

    def opened(_: object) -> int:
        cli._check_terminal()
        return cli._open(source, StackClient(default_paths()), {}, ephemeral=False)

    cli._console = opened
    return cli.main(["console"])


if __name__ == "__main__":
    sys.exit(main())
