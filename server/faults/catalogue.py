"""The faults there are: what each does, what can be set of it, how long it lasts. Pure: console, command line and kit read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

Edge = Literal["client", "network", "process", "host"]
Setting = int | float | str
Settings = Mapping[str, Setting]

MARK = "i"
"""On the charts: an injected fault."""
PROCESSES = ("engine-core", "api-server", "worker", "gateway", "load")
LONGEST_S = 3600.0


class FaultError(Exception):
    """A fault that cannot be had; its text is one sentence."""


@dataclass(frozen=True)
class Parameter:
    """One thing that can be set of a fault."""

    name: str
    says: str
    default: Setting
    steps: tuple[Setting, ...]
    """What the arrow keys offer."""
    unit: str = ""
    closed: bool = False
    """Nothing but the steps will do."""
    least: float = 0.0
    most: float = float("inf")
    said: Mapping[Setting, str] = field(default_factory=dict)
    """How some values are said."""

    def taken(self, value: Setting) -> Setting:
        """The value as it will be used. Raises FaultError."""
        if self.closed:
            if str(value) not in map(str, self.steps):
                raise FaultError(f"{self.name} must be one of {', '.join(map(str, self.steps))}, not {value}.")
            return str(value)
        try:
            number = msgspec.convert(value, type(self.default), strict=False)
        except msgspec.ValidationError:
            raise FaultError(f"{self.name} must be a number, not {value!r}.") from None
        if not isinstance(number, int | float) or not self.least <= number <= self.most:
            most = "" if self.most == float("inf") else f" and at most {self.most:g}"
            raise FaultError(f"{self.name} must be at least {self.least:g}{most}, not {value}.")
        return number

    def shown(self, value: Setting) -> str:
        """In words, with its unit."""
        if value in self.said:
            return self.said[value]
        number = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{number} {self.unit}" if self.unit else number


@dataclass(frozen=True)
class FaultKind:
    """One fault. The first parameter is the main one: a word after the name sets it, the arrow keys change it."""

    name: str
    edge: Edge
    says: str
    """What it does, in one sentence."""
    words: Callable[[Settings], str]
    """What stands on the screen while it lasts, and on the charts."""
    parameters: tuple[Parameter, ...] = ()
    seconds: float | None = None
    """How long it lasts unless told otherwise; None: it is done at once, and cannot be undone."""
    lengths: tuple[float, ...] = (10.0, 30.0, 60.0, 120.0)
    """What the arrow keys offer of its seconds."""
    asks: bool = False
    """A console asks before it is done."""

    @property
    def undoable(self) -> bool:
        return self.seconds is not None

    def settled(self, given: Settings) -> dict[str, Setting]:
        """Every setting, as given or by default. Raises FaultError."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                has = ", ".join(known) or "nothing to set"
                raise FaultError(f"The fault {self.name} has no {name!r}; it has {has}.")
        return {name: parameter.taken(given.get(name, parameter.default)) for name, parameter in known.items()}

    def lasts(self, seconds: float | None) -> float | None:
        """How long it will last. Raises FaultError."""
        if seconds is None:
            return self.seconds
        if self.seconds is None:
            raise FaultError(f"The fault {self.name} is done at once; it does not last.")
        if not 0 < seconds <= LONGEST_S:
            raise FaultError(f"A fault lasts up to {LONGEST_S:g} s, and ends by itself.")
        return seconds


def _named(process: Setting) -> str:
    return str(process).replace("-", " ").replace("api", "API")


def _on_wire(name: str, main: Parameter) -> Callable[[Settings], str]:
    def words(settings: Settings) -> str:
        value, share = settings[main.name], settings["toxicity"]
        said = f" {main.shown(value)}" if value else ""
        up = ", up" if settings["stream"] == "up" else ""
        part = f", {share * 100:.0f} % of connections" if isinstance(share, float) and share < 1 else ""
        return f"{name.replace('-', ' ')}{said} on {settings['on']}{up}{part}"

    return words


def _count(default: int, says: str, unit: str, *steps: int, most: int = 1000) -> Parameter:
    return Parameter("count", says, default, steps, unit, least=1, most=most)


_MOMENTS: dict[Setting, str] = {"0": "at once", "1": "at the first token", "50%": "half-way"}
_WAYS: dict[Setting, str] = {"fin": "by FIN", "rst": "by RST", "half-close": "by half-close"}
_ENDS: dict[Setting, str] = {"engine": "to the engine", "people": "from the people"}
_STREAMS: dict[Setting, str] = {"down": "replies", "up": "requests"}
_SHARES: dict[Setting, str] = {1.0: "all connections", 0.5: "50 % of connections", 0.1: "10 % of connections"}
_WIRE = (
    Parameter(
        "on", "engine: gateway to engine; people: people to gateway", "engine", tuple(_ENDS), "", True, said=_ENDS
    ),
    Parameter("stream", "down: what comes back; up: what is sent", "down", tuple(_STREAMS), "", True, said=_STREAMS),
    Parameter(
        "toxicity", "share of the connections that have it", 1.0, tuple(map(float, _SHARES)), most=1.0, said=_SHARES
    ),
)
_WHO = Parameter("process", "which", "engine-core", PROCESSES, closed=True)


def _network(name: str, says: str, *own: Parameter) -> FaultKind:
    return FaultKind(name, "network", says, _on_wire(name, own[0]), (*own, *_WIRE), seconds=30.0)


CATALOGUE: tuple[FaultKind, ...] = (
    FaultKind(
        "slow",
        "client",
        "Slow readers come, who read at 1 KB/s, and go home when it is over.",
        lambda s: f"{s['count']} more slow readers",
        (_count(4, "how many come", "readers", 4, 8, 16, 32),),
        seconds=60.0,
    ),
    FaultKind(
        "stall",
        "client",
        "Readers ask and then stop reading: who holds what they don't take, and for how long?",
        lambda s: f"{s['count']} stop reading",
        (_count(4, "how many ask", "readers", 4, 8, 16, 32),),
    ),
    FaultKind(
        "leave",
        "client",
        "People ask and leave: before the first token, at it, or half-way; by FIN, RST or half-close.",
        lambda s: f"{s['count']} people leave {_MOMENTS[s['at']]} {_WAYS[s['how']]}",
        (
            Parameter(
                "at",
                "0: at once; 1: at the first token; 50%: half-way",
                "1",
                tuple(_MOMENTS),
                closed=True,
                said=_MOMENTS,
            ),
            Parameter("how", "how they close", "fin", tuple(_WAYS), closed=True, said=_WAYS),
            _count(8, "how many ask", "people", 8, 16, 64),
        ),
    ),
    FaultKind(
        "retry-storm",
        "client",
        "People come who ask again as soon as they are refused, and go home when it is over.",
        lambda s: f"{s['count']} more retriers",
        (_count(16, "how many come", "people", 8, 16, 32, 64),),
        seconds=60.0,
    ),
    FaultKind(
        "burst",
        "client",
        "So many requests at once, besides everything else.",
        lambda s: f"burst +{s['count']}",
        (_count(16, "how many", "requests", 16, 200, most=100_000),),
    ),
    _network(
        "latency",
        "Everything comes so much later, as over a long line.",
        Parameter("ms", "how late, milliseconds", 500.0, (100.0, 250.0, 500.0, 1000.0, 3000.0), "ms", most=60_000.0),
        Parameter(
            "jitter", "milliseconds more or less", 0.0, (0.0, 50.0, 200.0), "ms", most=60_000.0, said={0.0: "no jitter"}
        ),
    ),
    _network(
        "bandwidth",
        "A thin line: so many KB a second and no more, for each connection.",
        Parameter("rate", "KB a second", 2.0, (1.0, 2.0, 10.0, 100.0), "KB/s", least=0.01, most=1e6),
    ),
    _network(
        "slow-close",
        "The end of a connection comes late.",
        Parameter("ms", "how late, milliseconds", 2000.0, (500.0, 2000.0, 10_000.0), "ms", most=60_000.0),
    ),
    _network(
        "timeout",
        "Nothing comes through, and nothing says so; then the connection closes.",
        Parameter(
            "ms",
            "until it closes, milliseconds; 0: when it is over",
            0.0,
            (0.0, 1000.0, 5000.0),
            "ms",
            most=600_000.0,
            said={0.0: "till it is over"},
        ),
    ),
    _network(
        "reset-peer",
        "The connection breaks off by RST, as when a box in between forgets it.",
        Parameter(
            "ms",
            "until then, milliseconds",
            0.0,
            (0.0, 200.0, 1000.0, 5000.0),
            "ms",
            most=60_000.0,
            said={0.0: "at once"},
        ),
    ),
    _network(
        "slicer",
        "Bytes come in small pieces with pauses, so that an event is cut anywhere.",
        Parameter("bytes", "of a piece", 16, (1, 16, 64, 256), "bytes", least=1, most=1_000_000),
        Parameter("variation", "bytes more or less", 0, (0, 4, 15), "bytes", most=1_000_000, said={0: "all alike"}),
        Parameter(
            "gap", "microseconds between two", 1000.0, (0.0, 1000.0, 10_000.0), "µs", most=1e6, said={0.0: "no gap"}
        ),
    ),
    _network(
        "limit-data",
        "After so many bytes the connection closes, in the middle of whatever it carried.",
        Parameter("bytes", "until then", 2000, (500, 2000, 20_000), "bytes", most=1_000_000_000),
    ),
    FaultKind(
        "pause",
        "process",
        "A process stands still (SIGSTOP), then goes on: alive by every count, and doing nothing.",
        lambda s: f"{_named(s['process'])} paused",
        (_WHO,),
        seconds=6.0,
        lengths=(6.0, 30.0, 90.0),
    ),
    FaultKind(
        "kill",
        "process",
        "A process is killed (SIGKILL): it has no time to say anything.",
        lambda s: f"{_named(s['process'])} killed",
        (_WHO,),
        asks=True,
    ),
    FaultKind(
        "fds",
        "host",
        "The gateway may have so few files and connections open, and no more.",
        lambda s: f"gateway at {s['limit']} file descriptors",
        (Parameter("limit", "open files at most", 40, (40, 64, 128), least=16, most=1_000_000),),
        seconds=30.0,
    ),
    FaultKind(
        "disk-full",
        "host",
        "The disk is full for recordings and the stack's own log: a recording that runs ends.",
        lambda s: "disk full for recordings and log",
        seconds=30.0,
    ),
)
NAMES = {kind.name: kind for kind in CATALOGUE}


def fault_named(name: str) -> FaultKind:
    """Raises FaultError."""
    if name not in NAMES:
        raise FaultError(f"There is no fault {name!r}; there are {', '.join(NAMES)}.")
    return NAMES[name]
