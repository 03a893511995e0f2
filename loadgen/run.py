"""A whole run in one process against any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from loadgen.prompts import Mix, Sampling
from loadgen.records import Burst, IntervalRecord, LoadRecord, RequestRecord, Stop
from loadgen.request import Limits
from loadgen.runner import Runner, WorkerSettings
from loadgen.slo import CHAT, Slo
from loadgen.summary import Summary, summarise
from loadgen.target import LoadError, Target, ask_models


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to whom."""

    url: str
    people: int = 4
    slow: int = 0
    rate: float | None = None
    """Requests per second, Poisson; None: people who think."""
    burst: int = 0
    """Requests at once at the very start."""
    duration_s: float = 30.0
    """Seconds in which requests begin."""
    grace_s: float = 10.0
    """Seconds for what is in flight after that; the rest is abandoned as stopped."""
    think_s: float = 8.0
    seed: int = 1
    model: str | None = None
    """None: the first that `/v1/models` lists."""
    prompt_tokens: int = 128
    output_tokens: int = 64
    context: int = 2048
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    slo: Slo = CHAT
    api_key: str | None = None
    out: str | None = None
    """A file that gets every record as a JSON line."""


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

        settings = WorkerSettings(
            model=model,
            seed=options.seed,
            people=options.people,
            slow=options.slow,
            rate=options.rate,
            think_s=options.think_s,
            mix=Mix.of(options.prompt_tokens, options.output_tokens, options.context),
            sampling=options.sampling,
            limits=options.limits,
        )
        runner = Runner(target, settings, emit)
        began = time.monotonic()
        if options.burst:
            runner.apply(Burst(options.burst))
        stopping = asyncio.create_task(_stop_in_time(runner, options, stop or asyncio.Event()))
        try:
            await runner.run()
        finally:
            stopping.cancel()
        elapsed_s = time.monotonic() - began
    last_end = max((record.done for record in records if record.behaviour != "slow"), default=began)
    duration_s = max(min(options.duration_s, elapsed_s), last_end - began)
    return summarise(records, intervals, options.slo, duration_s, url=target.url, model=model)


def _open_out(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise LoadError(f"Cannot write {path}: {error.strerror}.") from None


async def _stop_in_time(runner: Runner, options: LoadOptions, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(options.duration_s):
            await stop.wait()
    except TimeoutError:
        runner.apply(Stop(options.grace_s))
        await stop.wait()
    runner.apply(Stop())


async def _model(target: Target, asked: str | None) -> str:
    served = await ask_models(target)
    if asked is None:
        return served[0]
    if asked not in served:
        raise LoadError(f"{target.url} does not serve {asked}; it serves {', '.join(served[:5])}.")
    return asked


def _check(options: LoadOptions) -> None:
    if min(options.people, options.slow, options.burst) < 0:
        raise LoadError("There cannot be fewer than 0 people.")
    if options.rate is not None and not 0 < options.rate < 1e6:
        raise LoadError(f"A rate of {options.rate:g} requests per second cannot be sent; give one above 0.")
    if not 0 < options.duration_s < 1e7:
        raise LoadError(f"A run of {options.duration_s:g} s cannot be made; give a duration above 0.")
    if not (0 <= options.think_s < 1e7 and 0 <= options.grace_s < 1e7):
        raise LoadError("Think time and grace are seconds, and not negative.")
    if min(options.prompt_tokens, options.output_tokens, options.context) < 1:
        raise LoadError("Prompts, replies and the context are at least one token long.")
    if options.rate is None and not options.people + options.slow + options.burst:
        raise LoadError("There is nobody to send anything; give people, slow readers, a rate or a burst.")
