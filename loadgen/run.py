"""A whole run against any OpenAI-compatible server, in this process or in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from loadgen import crew
from loadgen.arrivals import Arrivals, Constant, Gamma, OnOff, check, rate_at
from loadgen.commands import Burst, Flash, SetArrivals, Stop
from loadgen.counters import fetch_counters
from loadgen.profile import Profile, profile_error
from loadgen.records import Behaviour, IntervalRecord, LoadRecord, RequestRecord
from loadgen.request import Limits
from loadgen.runner import WorkerSettings
from loadgen.selfcheck import shortfall
from loadgen.slo import CHAT, Slo
from loadgen.summary import Summary, summarise
from loadgen.target import LoadError, Target, ask_models


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to whom."""

    url: str
    crowds: dict[Behaviour, int] = {}
    """Closed loop: people by behaviour."""
    arrivals: Arrivals | None = None
    """Open loop instead."""
    weights: dict[Behaviour, float] = {}
    """Open loop: who the strangers are."""
    burst: int = 0
    """Requests at once at the very start."""
    flash: Flash | None = None
    """A flash crowd at the very start."""
    profile: Profile = Profile()
    duration_s: float = 30.0
    """Seconds in which requests begin."""
    grace_s: float = 10.0
    """Seconds for what is in flight after that; the rest is abandoned as stopped."""
    model: str | None = None
    """None: the first that `/v1/models` lists."""
    limits: Limits = Limits()
    slo: Slo = CHAT
    api_key: str | None = None
    out: str | None = None
    """A file that gets every record as a JSON line."""
    workers: int = 1
    """Processes, one event loop each; 1 stays in this one."""
    metrics_url: str | None = None
    """Where the engine's own counters are; None: the server itself."""


async def run_load(
    options: LoadOptions,
    on_interval: Callable[[IntervalRecord], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Run to the end, or until `stop` is set (what is in flight is abandoned then), and sum it up.

    The summary's duration goes on to the end of the last request, so that the rates hold for all of them; slow readers,
    who may take minutes more over what the server has long sent, do not prolong it.
    Raises LoadError before anything was sent when the options or the server cannot work.
    """
    _check(options)
    target = Target.parse(options.url, options.api_key)
    model = await _model(target, options.model)
    engine = target if options.metrics_url is None else Target.parse(options.metrics_url)
    records: list[RequestRecord] = []
    intervals: list[IntervalRecord] = []
    encoder = msgspec.json.Encoder()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_open_out(options.out)) if options.out is not None else None

        def emit(record: LoadRecord) -> None:
            if out is not None:
                out.write(encoder.encode(record) + b"\n")
            if isinstance(record, RequestRecord):
                records.append(record)
                return
            intervals.append(record)
            if on_interval is not None:
                on_interval(record)

        before = await fetch_counters(engine)
        began = time.monotonic()
        lead_s = crew.START_S if options.workers > 1 else 0.0
        origin = began + lead_s
        settings = WorkerSettings(
            model=model,
            workers=options.workers,
            crowds={} if options.arrivals is not None else options.crowds,
            arrivals=None
            if options.arrivals is None
            else SetArrivals(options.arrivals, origin=origin, weights=options.weights),
            profile=options.profile,
            limits=options.limits,
            slo=options.slo,
        )
        workers = crew.crew(target, settings, emit)
        if options.burst:
            workers.apply(Burst(options.burst))
        if options.flash is not None:
            workers.apply(options.flash)
        ended = asyncio.get_running_loop().create_future()
        stopping = asyncio.create_task(_stop_in_time(workers, options, stop or asyncio.Event(), lead_s, ended))
        try:
            await workers.run()
        finally:
            stopping.cancel()
        elapsed_s = time.monotonic() - began
        after = await fetch_counters(engine)
    last_end = max((record.done for record in records if record.behaviour != "slow"), default=began)
    duration_s = max(min(options.duration_s, elapsed_s), last_end - began)
    gain = after.since(before) if after is not None and before is not None and not after.running else None
    scheduled_s = min(options.duration_s, (ended.result() if ended.done() else began) - origin)
    asked, begun, trouble = _arrivals_account(options.arrivals, scheduled_s, intervals)
    return summarise(
        records,
        intervals,
        options.slo,
        duration_s,
        url=target.url,
        model=model,
        gain=gain,
        rate_asked_per_s=asked,
        rate_begun_per_s=begun,
        trouble=trouble,
    )


def _arrivals_account(
    process: Arrivals | None, seconds: float, intervals: list[IntervalRecord]
) -> tuple[float | None, float | None, str]:
    """Requests per second asked for and begun in the first `seconds` of an open loop, and whether too few were."""
    if process is None or seconds <= 0:
        return None, None, ""
    begun = sum({interval.worker: interval.due_total for interval in intervals}.values())
    marks = [rate_at(process, seconds * (step + 0.5) / 100) for step in range(100)]
    rates = [rate for rate in marks if rate is not None]
    if not rates:
        return None, begun / seconds, ""
    asked = sum(rates) / len(rates)
    shape = 1e9 if isinstance(process, Constant) else getattr(process, "shape", 1.0)
    if isinstance(process, OnOff):
        return asked, begun / seconds, ""  # its own variance is far beyond a renewal process's
    return asked, begun / seconds, shortfall(asked, seconds, begun, shape)


def _open_out(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise LoadError(f"Cannot write {path}: {error.strerror}.") from None


async def _stop_in_time(
    workers: crew.Crew, options: LoadOptions, stop: asyncio.Event, lead_s: float, ended: asyncio.Future[float]
) -> None:
    """`ended` becomes the stamp after which nothing began."""
    try:
        async with asyncio.timeout(options.duration_s + lead_s):
            await stop.wait()
        ended.set_result(time.monotonic())
    except TimeoutError:
        ended.set_result(time.monotonic())
        workers.apply(Stop(options.grace_s))
        await stop.wait()
    workers.apply(Stop())


async def _model(target: Target, asked: str | None) -> str:
    served = await ask_models(target)
    if asked is None:
        return served[0]
    if asked not in served:
        raise LoadError(f"{target.url} does not serve {asked}; it serves {', '.join(served[:5])}.")
    return asked


def _check(options: LoadOptions) -> None:
    if any(count < 0 for count in (*options.crowds.values(), options.burst)):
        raise LoadError("There cannot be fewer than 0 people.")
    if options.arrivals is not None and (wrong := check(options.arrivals)):
        raise LoadError(wrong)
    if isinstance(options.arrivals, Constant | Gamma) and not options.arrivals.per_s > 0:
        raise LoadError("A rate of 0 requests per second cannot be sent; give one above 0.")
    if not 0 < options.duration_s < 1e7:
        raise LoadError(f"A run of {options.duration_s:g} s cannot be made; give a duration above 0.")
    if not 0 <= options.grace_s < 1e7:
        raise LoadError("Grace is in seconds, and not negative.")
    if not 1 <= options.workers <= 64:
        raise LoadError("There are 1 to 64 workers.")
    if wrong := profile_error(options.profile):
        raise LoadError(wrong)
    nobody = not sum(options.crowds.values()) + options.burst and options.flash is None
    if options.arrivals is None and nobody:
        raise LoadError("There is nobody to send anything; give people, a rate or a burst.")
