"""The client of the gateway bench: one load on one system, and what it came to; a process of its own on one core."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
import psutil
import uvloop

from loadgen.http1 import allow_many_sockets
from loadgen.known_client import fetch_stamps, known_body
from loadgen.known_replies import Stamps
from loadgen.records import RequestRecord
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.summary import Distribution
from loadgen.target import Target
from loadgen.waiting import sleep_until

TTFT_S = 0.1
START_S = 1.0
"""Streams begin evenly over it."""
DRAIN_S = 15.0
"""After its load, a system has so long to bring what the server has written."""
ASKED_TOKENS = 50
LATE_MS = 50.0
"""p99 from the server's write to the client's read above this, and the system is behind."""


class Load(msgspec.Struct, frozen=True):
    part: str
    """asking or relaying"""
    streams: int
    per_s: float
    """Events a second of one stream."""
    seconds: float

    @property
    def tokens(self) -> int:
        """Of a reply: while relaying, one that lasts."""
        return ASKED_TOKENS if self.part == "asking" else round((self.seconds - TTFT_S) * self.per_s)


class Job(msgspec.Struct, frozen=True):
    """What the client's process is told."""

    load: Load
    url: str
    engine_url: str
    api_key: str | None
    pids: list[int]
    """Of what is measured."""
    engine_pid: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system under one load."""

    requests: int
    failed: dict[str, int]
    """By reason."""
    overhead_ms: Distribution
    """Client's TTFT, from having sent the request, less the server's."""
    delay_ms: Distribution
    """The server's write of an event to the client's read of it."""
    events_per_s: float
    cpu_s: float | None
    """Of the system's processes in the window; None where there are none."""
    per_cpu_s: float | None
    """Events a CPU second."""
    client_share: float
    """Of one core, 0..1."""
    server_share: float
    others_share: float
    """What everything else on this machine used, of one core; the kernel's work between processes is in it."""
    load_average: float
    """Of the machine, when it began."""

    @property
    def behind(self) -> bool:
        return bool(self.failed) or (self.delay_ms.p99 or 0.0) > LATE_MS


class Used(msgspec.Struct, frozen=True):
    """CPU seconds so far."""

    measured: float
    ours: float
    """With client and server."""
    machine: float


def used_by_now(job: Job) -> Used:
    measured = _cpu_s(job.pids)
    whole = psutil.cpu_times()
    return Used(measured, measured + _cpu_s([job.engine_pid, os.getpid()]), sum(whole) - whole.idle - whole.iowait)


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


async def measure(job: Job) -> Row:
    """In a process of its own on the client's core."""
    load, target, engine = job.load, Target.parse(job.url, job.api_key), Target.parse(job.engine_url)
    meter = Meter()
    await _warm_up(target, meter)
    warm = await fetch_stamps(engine)
    gc.collect()
    gc.freeze()
    body = known_body(TTFT_S, 1 / load.per_s, load.tokens)
    load_average = os.getloadavg()[0]
    begun = time.monotonic() + 0.1
    own_cpu, end = time.process_time(), begun + load.seconds
    window = (begun + START_S + TTFT_S, end)
    asked: list[StreamedRequest] = []
    records: list[RequestRecord] = []
    used: list[Used] = []

    async def stream(number: int) -> None:
        due = begun + number / load.streams * START_S
        while due < end:
            await sleep_until(due)
            call = Call(f"{number}-{len(asked)}", f"s{number}", "patient", due, body)
            request = StreamedRequest(target, call, Limits(total_s=end + DRAIN_S - time.monotonic()), meter)
            asked.append(request)
            records.append(await request.run())
            due = end if load.part == "relaying" else time.monotonic()

    async def watch_cpu() -> None:
        for moment in window:
            await sleep_until(moment)
            used.append(used_by_now(job))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch_cpu())
        for number in range(load.streams):
            tasks.create_task(stream(number))
    wall_s, own_s = time.monotonic() - begun, time.process_time() - own_cpu
    served = await _all_stamps(engine, len(asked))
    written = {one.request_id: one for one in served.streams}
    pairs = [(one, written[one.call.request_id]) for one in asked if one.call.request_id in written]
    events = sum(window[0] <= at < window[1] for one in asked for at in one.token_at)
    sent = {record.request_id: record.sent for record in records}
    overhead = [
        (one.token_at[0] - at - true.written[0] + true.read) * 1e3
        for one, true in pairs
        if one.token_at and true.written and (at := sent[one.call.request_id]) is not None
    ]
    delay = [(at - wrote) * 1e3 for one, true in pairs for at, wrote in zip(one.token_at, true.written, strict=False)]
    before, after = used
    spent_s = after.measured - before.measured if job.pids else None
    others_s = after.machine - before.machine - (after.ours - before.ours)
    return Row(
        requests=len(asked),
        failed=dict(Counter(record.reason.partition(" within ")[0] for record in records if record.outcome != "ok")),
        overhead_ms=Distribution.of(overhead),
        delay_ms=Distribution.of(delay),
        events_per_s=events / (window[1] - window[0]),
        cpu_s=spent_s,
        per_cpu_s=events / spent_s if spent_s else None,
        client_share=own_s / wall_s,
        server_share=(served.cpu_s - warm.cpu_s) / wall_s,
        others_share=max(0.0, others_s / (window[1] - window[0])),
        load_average=load_average,
    )


async def _warm_up(target: Target, meter: Meter) -> None:
    """Every path has been taken, and some connections to the server are open."""
    body = known_body(0.01, 0.01, 5)
    calls = [Call(f"warm-{number}", "w", "patient", time.monotonic(), body) for number in range(16)]
    await asyncio.gather(*(StreamedRequest(target, call, Limits(total_s=30.0), meter).run() for call in calls))


async def _all_stamps(engine: Target, requests: int) -> Stamps:
    """A gateway whose client has left may close its own side somewhat later; who never does is left out."""
    served = await fetch_stamps(engine)
    streams = list(served.streams)
    for _ in range(30):
        if len(streams) >= requests:
            break
        await asyncio.sleep(0.1)
        streams += (await fetch_stamps(engine)).streams
    return msgspec.structs.replace(served, streams=streams)


def main() -> None:
    """A job on stdin, a row on stdout."""
    allow_many_sockets()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(job))))


if __name__ == "__main__":
    main()
