"""Are the figures on the screen right? A client of this file's own, on raw sockets, against what a real console shows.

    spark-serve up --people 0 --wait
    python -m bench.accuracy [--streams 16] [--seconds 75] [--tokens 40]

The running stack's own people are sent home; every request is this client's, so that both speak of the same requests.
Three phases in one run: heavy load, light load right after it (nothing of the heavy one may be left in the window), and
nobody (dashes, no old figures). At the end of a phase the console in a pty is read as a person reads it, and its TTFT, TPOT
and gaps are set beside those that the client measured in the same window. A figure is right within 5 % or 1 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from loadgen.summary import P95_NEEDS
from server.client import StackClient
from server.commands import People
from server.config import default_paths
from tests.faults.terminal import Terminal

WINDOW_S = 30.0
TELLS_S = 6.0
"""The gateway's record of a request waits that long for the record of a client of ours, which never comes."""
NEAR, NEAR_S = 0.05, 1e-3
_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "min": 60.0}
_ROW = re.compile(r"\b(TTFT|TPOT|gap)\s+(.*)")
_FIGURE = re.compile(r"~?(\d+(?:\.\d+)?)\s?(ms|µs|min|s)|—")


@dataclass(frozen=True)
class Asked:
    """One request as this client saw it, monotonic seconds."""

    sent: float
    tokens_at: tuple[float, ...]
    done: float


@dataclass
class RawClient:
    """Sends completions on sockets and stamps each event; it shares no code with what it checks."""

    host: str
    port: int
    model: str
    tokens: int
    asked: list[Asked] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def one(self, number: int) -> None:
        body = json.dumps(
            {
                "model": self.model,
                "prompt": f"Tell a story about number {number}: " + "once upon a time " * 5,
                "max_tokens": self.tokens,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        sent = time.monotonic()
        stamps: list[float] = []
        finished = False
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(head + body)
            while line := await reader.readline():
                at = time.monotonic()
                if not line.startswith(b"data:"):
                    continue
                text = line[5:].strip()
                if text == b"[DONE]":
                    finished = True
                elif any(choice.get("text") for choice in json.loads(text).get("choices", [])):
                    stamps.append(at)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if not finished or not stamps:
            self.failed.append(f"request {number} ended early")
            return
        self.asked.append(Asked(sent, tuple(stamps), time.monotonic()))

    async def load(self, streams: int, seconds: float) -> None:
        """So many people who ask without pause, for so long; then all have been told."""
        end = time.monotonic() + seconds
        numbers = iter(range(1_000_000))

        async def person() -> None:
            while time.monotonic() < end:
                await self.one(next(numbers))

        await asyncio.gather(*(person() for _ in range(streams)))


def quantile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else None


def measured(asked: Sequence[Asked], begin: float, end: float) -> dict[tuple[str, str], tuple[float | None, int]]:
    """By figure and quantile, of requests that ended in the window; gaps by when they ended."""
    within = [one for one in asked if begin <= one.done <= end]
    values = {
        "TTFT": [one.tokens_at[0] - one.sent for one in within],
        "TPOT": [
            (one.tokens_at[-1] - one.tokens_at[0]) / (len(one.tokens_at) - 1)
            for one in within
            if len(one.tokens_at) > 1
        ],
        "gap": [b - a for one in asked for a, b in pairwise(one.tokens_at) if begin <= b <= end],
    }
    found: dict[tuple[str, str], tuple[float | None, int]] = {}
    for name, seen in values.items():
        for column, share in (("p50", 0.5), ("p95", 0.95)):
            found[name, column] = (quantile(seen, share), len(seen))
    return found


def shown(screen: str) -> dict[tuple[str, str], float | None]:
    """What stands in the table of what people feel; None where it is a dash."""
    found: dict[tuple[str, str], float | None] = {}
    for line in screen.splitlines():
        if (
            (row := _ROW.search(line))
            and len(cells := list(_FIGURE.finditer(row[2]))) >= 3
            and (row[1], "p50") not in found
        ):
            for column, cell in zip(("p50", "p95"), cells, strict=False):
                found[row[1], column] = float(cell[1]) * _UNITS[cell[2]] if cell[1] else None
    return found


class Screen:
    """A real console in a pty, read all the time by a thread of its own, and made out only when it is looked at: an
    emulator that works beside the client would spoil its stamps."""

    def __init__(self) -> None:
        self._terminal = Terminal()
        self._written: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            if select.select([self._terminal.fd], [], [], 0.2)[0]:
                try:
                    self._written.put(os.read(self._terminal.fd, 65536))
                except OSError:
                    return

    @property
    def text(self) -> str:
        while not self._written.empty():
            self._terminal.feed(self._written.get())
        return str(self._terminal.text)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._terminal.end(signal.SIGTERM)


def compare(phase: str, screen: str, truth: dict[tuple[str, str], tuple[float | None, int]]) -> bool:
    """Print each figure beside the truth; True when all are right."""
    seen, right = shown(screen), True
    print(f"{phase}")
    for (name, column), (true, n) in truth.items():
        value = seen.get((name, column), None)
        if (name, column) not in seen:
            print(f"  {name:<5}{column}  not on the screen")
            right = False
            continue
        if value is None:
            few = true is None or (column == "p95" and n < P95_NEEDS * 1.3)
            print(f"  {name:<5}{column}  shows —     client {told(true):>9}  n={n}  {'right' if few else 'WRONG'}")
            right &= few
            continue
        if true is None:
            print(f"  {name:<5}{column}  shows {value * 1e3:8.1f} ms, and nothing was asked  WRONG")
            right = False
            continue
        off = value - true
        good = abs(off) <= max(NEAR * true, NEAR_S)
        right &= good
        print(
            f"  {name:<5}{column}  shows {value * 1e3:8.1f} ms  client {told(true):>9}  n={n:<6} "
            f"{off * 1e3:+7.2f} ms {off / true:+7.1%}  {'right' if good else 'WRONG'}"
        )
    return right


def told(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds * 1e3:.1f} ms"


def nobody_asks(client: StackClient) -> None:
    """Wait for it, two minutes at most."""
    for _ in range(240):
        if not client.snapshot().people.in_flight.v:
            return
        time.sleep(0.5)
    raise SystemExit("The stack's own people are still served after two minutes.")


async def run(options: argparse.Namespace) -> bool:
    client = StackClient(default_paths())
    before = client.snapshot()
    client.send(People(count=0))
    host, port = before.queue.url.removeprefix("http://").split(":")
    raw = RawClient(host, int(port), before.engine.model, options.tokens)
    print(f"{before.engine.model} on {before.device.name if before.device else 'CPU'}, vLLM {before.engine.version}")
    screen = Screen()
    try:
        await asyncio.to_thread(nobody_asks, client)
        if before.people.sent_total:
            await asyncio.sleep(WINDOW_S + TELLS_S)  # our own people leave the window
        right = True
        for phase, streams, seconds in (
            (f"heavy: {options.streams} streams", options.streams, options.seconds),
            ("light, right after it: 1 stream", 1, WINDOW_S + 2 * TELLS_S),
        ):
            task = asyncio.create_task(raw.load(streams, seconds))
            await asyncio.sleep(seconds - 1.0)
            now = time.monotonic()
            text = screen.text
            truth = measured(raw.asked, now - WINDOW_S - TELLS_S + 1, now - TELLS_S + 1)
            gaps = measured(raw.asked, now - WINDOW_S, now)
            truth |= {key: value for key, value in gaps.items() if key[0] == "gap"}
            right &= compare(phase, text, truth)
            await task
        if not options.no_idle:
            await asyncio.sleep(WINDOW_S + 2 * TELLS_S)
            right &= compare("nobody, right after it", screen.text, measured([], 0, 0))
        print(f"requests {len(raw.asked)}, failed {len(raw.failed)}")
    finally:
        screen.close()
        client.send(People(count=int(before.people.people.v or 0)))
    return right and not raw.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=75.0, help="of the heavy phase")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--no-idle", action="store_true", help="leave the last phase out")
    right = asyncio.run(run(parser.parse_args()))
    print("every figure is right" if right else "NOT every figure is right")
    sys.exit(not right)


if __name__ == "__main__":
    main()
