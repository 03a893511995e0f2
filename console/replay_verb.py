"""Recordings on the command line: `console --replay`, and `demo`, which plays one that comes along."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from console.load_verbs import VerbMaker
from console.verb import UsageError
from server.client import StackError

if TYPE_CHECKING:
    from console.sources.player import Moment
    from console.sources.replay import ReplaySource

SLOWEST, FASTEST = 0.1, 60.0
RECORDINGS = Path(__file__).parent / "recordings"


class Shipped(NamedTuple):
    """A recording that comes with the package."""

    note: str
    """What it is of; its date stands in the recording itself."""
    begin: str
    """The moment from which it is worth looking at."""
    says: str


SHIPPED = {
    "h100": Shipped(
        "a real H100", "64 people+40", "an H100: 64 people, 200 people, a burst, slow readers, a cold restart"
    ),
    "cpu": Shipped("a real 2-core CPU", "0", "a small CPU: ten people, orders changed live, single requests (key 2)"),
}


def speed(text: str) -> float:
    """An argument type."""
    number = float(text.removesuffix("x"))
    if not SLOWEST <= number <= FASTEST:
        raise ValueError
    return number


speed.__name__ = f"speed from {SLOWEST:g} to {FASTEST:g}"


def _moment(text: str) -> Moment:
    from console.sources.player import moment

    return moment(text)


_moment.__name__ = "moment like 00:04:10 or '64 people+78'"


def add_console(console: argparse.ArgumentParser) -> None:
    """Options of `console` that play a recording."""
    replay = console.add_argument_group("a recording instead of a stack")
    replay.add_argument("--replay", metavar="FILE", type=Path, help="play this recording")
    _playing(replay)
    replay.add_argument("--loop", action="store_true", help="at the end begin again, for a stand")


def add_demo(verb: VerbMaker, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """The verb `demo`."""
    demo = verb("demo", run, "See the cockpit without an engine: play a real recording, over and over.")
    names = "; ".join(f"{name}: {one.says}" for name, one in SHIPPED.items())
    demo.add_argument("recording", metavar="NAME|FILE", nargs="?", default="h100", help=f"{names} (default h100)")
    demo.add_argument("--once", action="store_true", help="stay on the last frame instead of beginning again")
    _playing(demo)
    return demo


def _playing(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--at", type=_moment, metavar="MOMENT", help="begin there: 00:04:10, or '64 people+78'")
    parser.add_argument("--speed", type=speed, metavar="X", help="0.1 to 60 times as fast; default 1")


def check(options: argparse.Namespace) -> None:
    """Raises UsageError for options that want a recording where there is none."""
    given = [name for name in ("at", "speed", "loop") if getattr(options, name)]
    if given and options.replay is None:
        raise UsageError(f"--{given[0]} goes with --replay FILE.")


def demo_source(options: argparse.Namespace) -> ReplaySource:
    """What `demo` plays. Raises UsageError for a name or a moment that is not there, StackError for what is no recording."""
    name = options.recording
    shipped = SHIPPED.get(name)
    path = RECORDINGS / f"{name}.sparkrec" if shipped else Path(name)
    if shipped is None:
        shipped = next((one for known, one in SHIPPED.items() if _same(path, RECORDINGS / f"{known}.sparkrec")), None)
    if not path.exists():
        raise UsageError(f"There is no recording {name}; those that come along are {' and '.join(SHIPPED)}.")
    options.loop = not options.once
    if options.at is None and shipped is not None:
        options.at = _moment(shipped.begin)
    return source(path, options, note=shipped.note if shipped else "")


def source(path: Path, options: argparse.Namespace, note: str = "") -> ReplaySource:
    """A recording as these options want it played. Raises UsageError for a moment that is not there, StackError for what is no
    recording."""
    from console.sources.player import Moment
    from console.sources.replay import ReplaySource
    from server.telemetry.recording import RecordingError, read

    at: Moment = options.at or Moment()
    try:
        next(iter(read(path)), None)
        found = ReplaySource(path, speed=options.speed or 1.0, at=at, loop=options.loop, stays=True, note=note)
        if at.event:
            found.tape.wait()
            at.position_s(found.tape.jumps(), found.tape.at[0])
    except RecordingError as error:
        raise StackError(str(error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    return found


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
