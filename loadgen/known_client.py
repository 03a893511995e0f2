"""Load on a server of known timing: the server in a process of its own, and what the client saw of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import msgspec

from loadgen.arrivals import Gamma, schedule
from loadgen.known import STAMPS_PATH, Ready
from loadgen.known_replies import MODEL, Stamps
from loadgen.records import RequestRecord
from loadgen.request import Call, Limits, Meter, StreamedRequest
from loadgen.target import LoadError, Target, get_text
from loadgen.waiting import sleep_until

TOKENS_PER_S = 50.0
TTFT_S = 0.1
TOKENS = 50
"""A reply."""
START_S = 20.0
END_S = 5.0


@dataclass(frozen=True)
class Seen:
    """One request as the load generator saw it; stamps in monotonic seconds."""

    record: RequestRecord
    token_at: Sequence[float]


@dataclass(frozen=True)
class Driven:
    """What a number of streams came to on the client's side."""

    seen: list[Seen]
    wall_s: float
    cpu_s: float
    """Of this process."""


@dataclass(frozen=True)
class Came:
    """One seed's arrivals as the server saw them."""

    at_s: list[float]
    """When each request had been read, ordered seconds since the schedule's origin."""
    late_s: list[float]
    """Meant to send -> read."""


@contextlib.asynccontextmanager
async def known_server() -> AsyncIterator[Target]:
    """A server of known timing in a process of its own. Raises LoadError when it does not start."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadgen.known"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_S):
                ready = msgspec.json.decode(await process.stdout.readline(), type=Ready)
        except (TimeoutError, msgspec.DecodeError):
            raise LoadError("The server of known timing did not start.") from None
        yield Target.parse(f"http://127.0.0.1:{ready.port}")
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def fetch_stamps(target: Target) -> Stamps:
    """The server's stamps of every stream that ended since the last time. Raises LoadError."""
    return msgspec.json.decode(await get_text(target, STAMPS_PATH, timeout_s=30.0), type=Stamps)


def known_body(ttft_s: float, gap_s: float, tokens: int) -> bytes:
    """A streamed chat request that says when its reply is due."""
    return msgspec.json.encode(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Keep time."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "known": {"ttft_s": ttft_s, "gap_s": gap_s, "tokens": tokens},
        }
    )


async def drive(
    target: Target, streams: int, seconds: float, tokens_per_s: float = TOKENS_PER_S, tokens: int = TOKENS
) -> Driven:
    """So many people who ask again at once, begun evenly over the length of one reply; the last replies are awaited."""
    body = known_body(TTFT_S, 1 / tokens_per_s, tokens)
    meter = Meter()
    seen: list[Seen] = []
    cpu, began = time.process_time(), time.monotonic()

    async def person(number: int) -> None:
        due = began + number / streams * (TTFT_S + tokens / tokens_per_s)
        await sleep_until(due)
        asked = 0
        while due < began + seconds:
            asked += 1
            call = Call(f"{streams}-{number}-{asked}", f"s{number}", "patient", due, body)
            request = StreamedRequest(target, call, Limits(), meter)
            record = await request.run()
            seen.append(Seen(record, request.token_at))
            due = record.done

    async with asyncio.TaskGroup() as people:
        for number in range(streams):
            people.create_task(person(number))
    return Driven(seen, time.monotonic() - began, time.process_time() - cpu)


async def arrive(target: Target, seed: int, per_s: float, seconds: float) -> Came:
    """Strangers who come by the Poisson schedule of a seed, and what the server saw of them. Raises LoadError."""
    body = known_body(0.01, 0.01, 1)
    meter = Meter()
    origin = time.monotonic()
    due = [origin + one.at_s for one in takewhile(lambda one: one.at_s < seconds, schedule(Gamma(per_s), seed))]
    calls = [Call(f"{seed}-{number}", "o", "patient", at, body) for number, at in enumerate(due)]
    async with asyncio.TaskGroup() as strangers:
        for call in calls:
            await sleep_until(call.scheduled)
            strangers.create_task(StreamedRequest(target, call, Limits(), meter).run())
    read = {stream.request_id: stream.read for stream in (await fetch_stamps(target)).streams}
    late = [read[call.request_id] - call.scheduled for call in calls if call.request_id in read]
    return Came(sorted(at - origin for at in read.values()), late)
