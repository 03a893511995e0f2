"""Figures that are held, and how far those of now are from them. Pure, but for what the view that is drawn compares with.

A figure finds its counterpart by what it is in the snapshot: `counterparts` walks both once and keeps them by identity, so a
panel need not say which field it draws.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import msgspec

from console.ink import Line, Span
from server.telemetry.snapshot import Gpu, Quantiles, Snapshot, StageTime, Value

Better = Literal["more", "less", ""]
"""Which direction is better; empty where neither is."""

MORE_IS_BETTER = frozenset({"attainment", "goodput_per_s", "fluidity", "energy_per_token"})
LESS_IS_BETTER = frozenset(
    {
        "depth", "oldest_s", "wait_s", "refused_share", "failed_share", "estimated_wait_s", "waiting", "preemptions_per_min",
        "queue_s", "prefill_s", "front_end_s", "ttft_s", "itl_s", "tpot_s", "gap_s", "e2e_s", "server_ttft_s", "ttft_gap_s",
        "amplification", "left_per_min", "wasted_tokens_per_s", "wasted_share", "energy_per_token_j", "loop_lag_ms",
        "start_lag_ms", "send_lag_ms",
    }
)  # fmt: skip
"""Fields of the snapshot whose direction has a meaning by itself; of all others more may be good or bad."""
NOTABLE = 0.05
"""Share of the held figure from which a change is coloured: below it figures of a steady load differ, too."""

STABLE_S = 60.0
STABLE_WITHIN = 0.1
"""How far the number of people (or the rate) may be from its mean within a stable minute."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """What is held."""

    snapshot: Snapshot
    name: str
    """As the header has it: a time of day, or a recording and a time in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Then:
    """A figure's counterpart in the baseline, and what it was a moment ago, when changes were last told."""

    held: Any
    better: Better
    told: Any


def counterparts(now: Snapshot, held: Snapshot, told: Snapshot | None = None) -> dict[int, Then]:
    """`id` of each reading of `now` that the baseline has too -> what it has. Valid while `now` is. `told`: the snapshot whose
    changes are shown; a console that told new ones at every tick would write twice as much to the terminal."""
    found: dict[int, Then] = {}
    told = told or now
    for part in ("people", "queue", "engine", "feel", "host", "verdict"):
        _pair(getattr(now, part), getattr(held, part), getattr(told, part), found)
    others, before = ({gpu.index: gpu for gpu in snapshot.gpus} for snapshot in (held, told))
    for gpu in now.gpus:
        if gpu.index in others and gpu.index in before:
            _pair(gpu, others[gpu.index], before[gpu.index], found)
    stages, shown = ({stage.name: stage for stage in snapshot.breakdown.stages} for snapshot in (held, told))
    for stage in now.breakdown.stages:
        if stage.name in stages and stage.name in shown:
            better: Better = "" if stage.name == "decode" else "less"
            found[id(stage)] = Then(stages[stage.name], better, shown[stage.name])
    return found


def _pair(now: Any, held: Any, told: Any, found: dict[int, Then]) -> None:
    for name in now.__struct_fields__:
        one, other = getattr(now, name), getattr(held, name)
        if isinstance(one, Value):
            known = one.v is not None and other.v is not None
        elif isinstance(one, Quantiles):
            known = one.n > 0 and other.n > 0
        else:
            continue
        if known:
            better: Better = "more" if name in MORE_IS_BETTER else "less" if name in LESS_IS_BETTER else ""
            found[id(one)] = Then(other, better, getattr(told, name))


_compared: ContextVar[Mapping[int, Then]] = ContextVar("compared", default={})  # noqa: B039 - nobody writes into it


@contextmanager
def comparing(found: Mapping[int, Then]) -> Iterator[None]:
    """Let `change` answer from these counterparts."""
    token = _compared.set(found)
    try:
        yield
    finally:
        _compared.reset(token)


def held_of(reading: object) -> Any:
    """What the baseline has for a reading of the snapshot; None without one."""
    then = _compared.get().get(id(reading))
    return None if then is None else then.held


def change(reading: object, text: str, read: Callable[[Any], float | None] = lambda value: value.v) -> Line:
    """How far the reading that `text` shows is from the baseline, in the unit and with the decimals of `text`: `+14`, or `▲14`
    in the style of better or worse where that has a meaning; nothing where there is no baseline, or either is absent. `read`
    takes the number out of the reading."""
    then = _compared.get().get(id(reading))
    if then is None:
        return ()
    now, held = read(then.told), read(then.held)
    if now is None or held is None or not math.isfinite(now) or not math.isfinite(held):
        return ()
    told, style = difference(now, held, text), _style(now, held, then.better)
    if not told:
        return ()
    if style in {"good", "bad"}:
        told = told.replace("+", "▲").replace("−", "▼")
    return (Span(f" {told}", style, "since the baseline that is held", spare=True),)


_SHOWN = re.compile(
    r"\s*~?(?:x)?<?(?P<number>[\d ,]*\d(?:\.(?P<decimals>\d+))?)\s?(?P<unit>%|ms|min|mJ|[KMG]iB|[skMGTB](?![A-Za-z]))?"
)
_SCALES = {
    "%": 100.0, "ms": 1000.0, "min": 1 / 60, "s": 1.0, "mJ": 1000.0, "k": 1e-3, "M": 1e-6, "G": 1e-9, "T": 1e-12,
    "B": 1.0, "KiB": 2.0**-10, "MiB": 2.0**-20, "GiB": 2.0**-30,
}  # fmt: skip


def difference(now: float, held: float, text: str) -> str:
    """`now - held` in the unit and decimals in which `text` shows `now`: `+14`, `−0.22`.

    Empty where that would be nothing, or `text` shows no number.
    """
    shown = _SHOWN.match(text)
    if shown is None:
        return ""
    scale = _SCALES.get(shown["unit"] or "", 1.0)
    decimals = len(shown["decimals"] or "")
    size = abs(now - held) * scale
    told = f"{size:.{decimals}f}" if size < 9_999.5 else f"{size / 1000:.0f}k"
    if not any(digit in told for digit in "123456789"):
        return ""
    return ("+" if now > held else "−") + told


def _style(now: float, held: float, better: Better) -> str:
    if not better or abs(now - held) <= NOTABLE * abs(held):
        return "change"
    return "good" if (now > held) == (better == "more") else "bad"


def stable_minute(recorded: Iterable[Snapshot]) -> Snapshot | None:
    """The last stable minute as one snapshot: figures of a moment are means over it, those that have a window of their own
    are as at its end. Stable: the engine served, and the people (or the rate, or what was inside) stayed within a tenth of
    their mean. Where there was none, the last moment at which it served; None where it never did."""
    window: deque[Snapshot] = deque()
    best: tuple[Snapshot, ...] = ()
    last: Snapshot | None = None
    for snapshot in recorded:
        if snapshot.engine.phase != "ready" or (window and not snapshot.at > window[-1].at):
            window.clear()
        if snapshot.engine.phase != "ready":
            continue
        last = snapshot
        window.append(snapshot)
        while window[-1].at - window[0].at > STABLE_S:
            window.popleft()
        if window[-1].at - window[0].at >= STABLE_S * 0.9 and _steady(window):
            best = tuple(window)
    return averaged(best) if best else last


def _load(snapshot: Snapshot) -> float:
    people = snapshot.people
    for value in (people.rate_asked_per_s if people.mode == "open" else people.people, snapshot.queue.in_flight):
        if value.v is not None:
            return value.v
    return 0.0


def _steady(window: Iterable[Snapshot]) -> bool:
    loads = [_load(snapshot) for snapshot in window]
    mean = fmean(loads)
    return mean > 0 and all(abs(load - mean) <= STABLE_WITHIN * mean for load in loads)


def averaged(minute: tuple[Snapshot, ...]) -> Snapshot:
    """The last of them, with the mean of each figure of a moment over all."""
    last = minute[-1]
    parts = {
        name: _averaged(getattr(last, name), [getattr(one, name) for one in minute])
        for name in ("people", "queue", "engine", "host")
    }
    gpus: list[Gpu] = []
    for gpu in last.gpus:
        same = [other for one in minute for other in one.gpus if other.index == gpu.index]
        gpus.append(_averaged(gpu, same))
    return msgspec.structs.replace(last, **parts, gpus=gpus)


def _averaged(last: Any, all_of_them: list[Any]) -> Any:
    means: dict[str, Value] = {}
    for name in last.__struct_fields__:
        value = getattr(last, name)
        if not isinstance(value, Value) or value.v is None or value.window_s is not None:
            continue
        known = [other.v for one in all_of_them if (other := getattr(one, name)).v is not None]
        means[name] = msgspec.structs.replace(value, v=fmean(known))
    return msgspec.structs.replace(last, **means)


def stage_mean(stage: StageTime) -> float | None:
    """For `change`."""
    return stage.mean_s
