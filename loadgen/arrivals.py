"""When: think times of people, and arrivals in open loop. One central schedule from one seed.

Every worker computes the same schedule and carries out its own part of it (arrival i belongs to worker i modulo their
number), so the requests of a seed do not depend on how many workers there are. What each person draws comes from a
generator of their own: nobody's timing moves anybody else's numbers.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from loadgen.records import Behaviour
from loadgen.trace import TraceRow, read_trace


class Constant(msgspec.Struct, frozen=True, tag_field="kind", tag="constant"):
    """One arrival every 1 / `per_s` seconds."""

    per_s: float


class Gamma(msgspec.Struct, frozen=True, tag_field="kind", tag="gamma"):
    """Independent gamma gaps with mean 1 / `per_s`. Shape 1 is Poisson; 0.5 is busy, 0.25 bursty: the squared
    coefficient of variation of the gaps is 1 / shape."""

    per_s: float
    shape: float = 1.0


class Ramp(msgspec.Struct, frozen=True, tag_field="kind", tag="ramp"):
    """The rate goes from `from_per_s` to `to_per_s` in a straight line over `over_s` seconds and stays there."""

    from_per_s: float
    to_per_s: float
    over_s: float
    shape: float = 1.0


class OnOff(msgspec.Struct, frozen=True, tag_field="kind", tag="onoff"):
    """`clients` heavy clients make `share` of all requests, each Poisson while it is on and silent while it is off (both
    exponential in length); the rest comes from strangers, Poisson. In published traces the ten busiest clients make 63
    to 93 % of the requests."""

    per_s: float
    clients: int = 10
    share: float = 0.8
    on_s: float = 10.0
    off_s: float = 30.0


class Replay(msgspec.Struct, frozen=True, tag_field="kind", tag="replay"):
    """The arrivals and lengths of a trace file (`loadgen.trace`), `speed` times as fast."""

    path: str
    speed: float = 1.0


class ScriptedRequest(msgspec.Struct, frozen=True, array_like=True):
    """One request of a script."""

    at_s: float
    """Seconds since the schedule's origin."""
    prompt_tokens: int
    output_tokens: int
    client: str
    """Who sends it; a gateway that is fair by user tells one from another by it."""
    behaviour: Behaviour = "patient"
    priority: int = 0
    """As vLLM has it: lower goes first."""


class Script(msgspec.Struct, frozen=True, tag_field="kind", tag="script"):
    """These requests, in order of time. The seed moves nothing but the words they are made of."""

    requests: list[ScriptedRequest]


Arrivals = Constant | Gamma | Ramp | OnOff | Replay | Script


class Arrival(NamedTuple):
    """One request of an open loop."""

    at_s: float
    """Seconds since the schedule's origin."""
    number: int
    client: str
    """Who sends it; a stranger sends once."""
    row: TraceRow | None = None
    """Lengths that a trace or a script asks for."""
    behaviour: Behaviour | None = None
    """None: by the weights."""
    priority: int = 0


def check(process: Arrivals) -> str:
    """What is wrong with it, as one sentence; empty when it can be carried out."""
    rates = [process.from_per_s, process.to_per_s] if isinstance(process, Ramp) else [getattr(process, "per_s", 1.0)]
    if not all(0 <= rate < 1e6 for rate in rates) or (max(rates) == 0 and isinstance(process, Ramp)):
        return f"A rate of {max(rates, key=abs):g} requests per second cannot be sent; give one above 0."
    if not 0.01 <= getattr(process, "shape", 1.0) <= 1000:
        return "The shape of gamma arrivals lies between 0.01 and 1000 (1 is Poisson)."
    if isinstance(process, Ramp) and not process.over_s > 0:
        return "A ramp takes some time; give its seconds."
    if isinstance(process, OnOff) and not (
        1 <= process.clients <= 10_000 and 0 < process.share <= 1 and process.on_s > 0
    ):
        return "Heavy clients are 1 to 10,000, with a share above 0 and at most 1, and they are on for some time."
    if isinstance(process, OnOff) and process.off_s < 0:
        return "Heavy clients cannot be off for less than 0 s."
    if isinstance(process, Replay) and not 0 < process.speed < 1e4:
        return "A trace is replayed at a speed above 0."
    if isinstance(process, Script):
        return _check_script(process)
    return ""


def _check_script(script: Script) -> str:
    requests = script.requests
    if not all(0 <= request.at_s < 1e7 for request in requests):
        return "The requests of a script come at seconds from 0 on."
    if any(later.at_s < earlier.at_s for earlier, later in itertools.pairwise(requests)):
        return "The requests of a script are in order of time."
    if any(min(request.prompt_tokens, request.output_tokens) < 1 for request in requests):
        return "The prompts and replies of a script are at least one token long."
    return ""


def parse_arrivals(text: str) -> Arrivals:
    """Read `KIND:NUMBERS`, as a command line takes it. Raises ValueError with one sentence.

    constant:RATE, poisson:RATE, gamma:RATE:SHAPE, ramp:FROM:TO:SECONDS[:SHAPE], onoff:RATE[:CLIENTS[:SHARE]],
    replay:FILE[:SPEED]
    """
    kind, _, rest = text.partition(":")
    try:
        process = _replay(rest) if kind == "replay" else _of_numbers(kind, [float(part) for part in rest.split(":")])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{text!r} are no arrivals; give {', '.join(_EXAMPLES)}.") from None
    if wrong := check(process):
        raise ValueError(wrong)
    return process


_EXAMPLES = (
    "constant:2",
    "poisson:2",
    "gamma:2:0.25",
    "ramp:0.5:8:120",
    "onoff:2:10:0.8",
    "replay:trace.csv:10",
)


def _replay(rest: str) -> Replay:
    path, _, speed = rest.rpartition(":")
    if not rest:
        raise ValueError
    try:
        return Replay(path, float(speed)) if path else Replay(rest)
    except ValueError:
        return Replay(rest)


def _of_numbers(kind: str, numbers: list[float]) -> Arrivals:
    if kind == "onoff" and len(numbers) > 1:
        return OnOff(numbers[0], int(numbers[1]), *numbers[2:3])
    if kind == "poisson" and len(numbers) > 1:
        raise ValueError
    kinds: dict[str, Callable[..., Arrivals]] = {
        "constant": Constant,
        "poisson": Gamma,
        "gamma": Gamma,
        "ramp": Ramp,
        "onoff": OnOff,
    }
    return kinds[kind](*numbers)


def in_words(process: Arrivals) -> str:
    """As a person reads it."""
    match process:
        case Constant(per_s=per_s):
            return f"constant {per_s:g} /s"
        case Gamma(per_s=per_s, shape=shape):
            return f"Poisson {per_s:g} /s" if shape == 1 else f"gamma {per_s:g} /s, shape {shape:g}"
        case Ramp():
            clumps = "" if process.shape == 1 else f", shape {process.shape:g}"
            return f"ramp {process.from_per_s:g} to {process.to_per_s:g} /s in {process.over_s:g} s{clumps}"
        case OnOff():
            return f"{process.clients} heavy clients, {process.share:.0%} of {process.per_s:g} /s"
        case Replay():
            return f"replay of {process.path.rpartition('/')[2]} x{process.speed:g}"
        case Script(requests=requests):
            return f"script of {len(requests)} requests"


def rate_at(process: Arrivals, at_s: float) -> float | None:
    """Requests per second that are asked for `at_s` seconds after the origin; None for a trace or a script, which
    have no rate."""
    if isinstance(process, Ramp):
        done = min(1.0, max(0.0, at_s / process.over_s))
        return process.from_per_s + (process.to_per_s - process.from_per_s) * done
    return None if isinstance(process, Replay | Script) else process.per_s


def schedule(process: Arrivals, seed: int) -> Iterator[Arrival]:
    """All arrivals in order; endless but for a trace or a script. Raises TraceError when a trace cannot be read."""
    rng = generator(seed, "arrivals")
    if isinstance(process, Replay):
        for number, row in enumerate(read_trace(process.path)):
            yield Arrival(row.at_s / process.speed, number, f"o{number}", row)
        return
    if isinstance(process, Script):
        for number, asked in enumerate(process.requests):
            row = TraceRow(asked.at_s, asked.prompt_tokens, asked.output_tokens)
            yield Arrival(asked.at_s, number, asked.client, row, asked.behaviour, asked.priority)
        return
    if isinstance(process, OnOff):
        times = _on_off(process, seed)
    elif isinstance(process, Ramp):
        times = ((at_s, "") for at_s in _ramp(process, rng))
    else:
        times = ((at_s, "") for at_s in _renewal(process, rng))
    for number, (at_s, client) in enumerate(times):
        yield Arrival(at_s, number, client or f"o{number}")


def _renewal(process: Constant | Gamma, rng: random.Random) -> Iterator[float]:
    if process.per_s <= 0:
        return
    at_s = 0.0
    shape = process.shape if isinstance(process, Gamma) else None
    while True:
        at_s += 1 / process.per_s if shape is None else rng.gammavariate(shape, 1 / (shape * process.per_s))
        yield at_s


def _ramp(process: Ramp, rng: random.Random) -> Iterator[float]:
    """Gaps of mean 1 in operational time, mapped back through the integral of the rate (time rescaling)."""
    low, high, over_s = process.from_per_s, process.to_per_s, process.over_s
    slope = (high - low) / over_s
    at_end = (low + high) / 2 * over_s
    passed = 0.0
    while True:
        passed += rng.gammavariate(process.shape, 1 / process.shape)
        if passed < at_end:
            # low t + slope t^2 / 2 = passed, in the form that does not cancel
            yield 2 * passed / (low + math.sqrt(max(0.0, low * low + 2 * slope * passed)))
        elif high > 0:
            yield over_s + (passed - at_end) / high
        else:
            return


def _on_off(process: OnOff, seed: int) -> Iterator[tuple[float, str]]:
    on_share = process.on_s / (process.on_s + process.off_s)
    per_client = process.per_s * process.share / process.clients / on_share
    streams = [_client(process, per_client, seed, f"h{number + 1}") for number in range(process.clients)]
    rest = process.per_s * (1 - process.share)
    if rest > 0:
        streams.append((at_s, "") for at_s in _renewal(Gamma(rest), generator(seed, "strangers")))
    return heapq.merge(*streams)


def _client(process: OnOff, per_s: float, seed: int, name: str) -> Iterator[tuple[float, str]]:
    rng = generator(seed, f"onoff {name}")
    if per_s <= 0:
        return
    begin = 0.0
    on = rng.random() < process.on_s / (process.on_s + process.off_s)
    while True:
        length = rng.expovariate(1 / process.on_s) if on else rng.expovariate(1 / process.off_s) if process.off_s else 0
        if on:
            at_s = begin
            while (at_s := at_s + rng.expovariate(per_s)) < begin + length:
                yield at_s, name
        begin += length
        on = not on


def mine(arrivals: Iterator[Arrival], worker: int, workers: int) -> Iterator[Arrival]:
    """The part of the central schedule that one worker carries out."""
    return itertools.islice(arrivals, worker, None, workers)


def generator(seed: int, who: str) -> random.Random:
    """The random generator of one person, client or schedule; what others draw does not move it."""
    return random.Random(f"{seed}/{who}")


def think_s(rng: random.Random, mean_s: float) -> float:
    """Seconds between a reply and the next request, exponential; 0 when the mean is 0."""
    return rng.expovariate(1.0 / mean_s) if mean_s > 0 else 0.0


def first_think_s(rng: random.Random, mean_s: float) -> float:
    """Seconds before a person's first request, uniform over the mean think time: no stampede at the start."""
    return rng.uniform(0.0, mean_s)


def request_id(rng: random.Random) -> str:
    """32 hex digits of a version 4 UUID, from the seed."""
    return uuid.UUID(int=rng.getrandbits(128), version=4).hex
