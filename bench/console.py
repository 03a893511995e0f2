"""What the cockpit costs beside other terminals for vLLM, each in a real pty on the same loaded engine, one after the other.

    for tool in vllmstat vllm-htop vllmpytop nvitop; do python3 -m venv TOOLS/$tool; TOOLS/$tool/bin/pip install $tool; done
    spark-serve up --people 32 --wait
    python -m bench.console --tools TOOLS [--seconds 30] [--rounds 2] [--keys 500] [--size 160x48]

Each tool runs at its own default refresh; ours also over the recording of an H100 under full load, where no engine takes the
cores that it is measured on. First paint: 20 cells of text on the screen. First data: its first figure of the
engine. CPU (of one core) and memory are those of its whole process tree, after 5 s, so that charts are being drawn. Key to
paint: from writing a key to the first byte of what it must show, keys at irregular distances under the same load. What it
wrote is made out by a terminal emulator afterwards, so that nothing but the tool and the engine work meanwhile.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import pyte

from loadgen.summary import P99_NEEDS
from server.client import StackClient
from server.config import default_paths
from server.telemetry.snapshot import Snapshot
from tests.faults.terminal import readable

WARM_S = 5.0
KEY_S = 3.0
"""A key that shows nothing for so long was not taken."""


@dataclass(frozen=True)
class Tool:
    """A terminal program."""

    name: str
    argv: tuple[str, ...]
    data: str
    """A pattern that its screen matches once it shows a figure of the engine."""
    keys: tuple[tuple[str, bytes], ...] = ()
    """Keys to press in turn, and what must come then; none: it takes no key that can be told."""


@dataclass(frozen=True)
class Cost:
    """Of one tool in one round; None where it never came."""

    tool: str
    first_paint_s: float | None
    first_data_s: float | None
    cpu_share: float
    rss_mb: float
    bytes_per_s: float
    keys_ms: list[float]
    keys_lost: int
    load: str


def tools(folder: Path, url: str) -> list[Tool]:
    """Ours, and those of the peers that are installed in `folder`."""
    ours = (sys.executable, "-m", "console.cli", "console")
    turns = (("3", b"cold start"), ("1", b"what people feel"))
    replayed = (*ours, "--replay", "screenshots/h100.sparkrec", "--at", "200 people+5", "--loop")
    found = [Tool("spark-serve", ours, r"● live", turns), Tool("the same, H100 replay", replayed, "200 ", turns)]
    for tool in (
        Tool("vllmstat", ("-u", url), r"running [1-9]", (("\x10", b"Search"), ("\x1b", b"THROUGHPUT"))),
        Tool("vllm-htop", ("--url", url), r"Running\s+:\s+\d", ((" ", b"PAUSED"), (" ", b"Saturation"))),
        Tool("vllmpytop", ("--url", url), r"g-tok\s+\d", (("h", b"keybindings"), ("h", b"perf"))),
        Tool("nvitop", (), r"MiB", (("h", b"Arrow"), ("\x1b", b"MiB"))),
    ):
        path = folder / tool.name / "bin" / tool.name
        if path.exists():
            found.append(Tool(tool.name, (str(path), *tool.argv), tool.data, tool.keys))
    return found


class Child:
    """A tool in a pty; what it writes is kept with its time."""

    def __init__(self, argv: Sequence[str], cells: int, rows: int) -> None:
        self.begun = time.monotonic()
        self.written: list[tuple[float, bytes]] = []
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cells, 0, 0))
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execv(argv[0], list(argv))
        self.tree = psutil.Process(self.pid)

    def read(self, until: float, awaited: bytes = b"") -> float | None:
        """Until a moment, or until these bytes came: then their time."""
        seen = b""
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._terminal], [], [], left)[0]:
                return None
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                return None
            at = time.monotonic()
            self.written.append((at, data))
            seen = seen[-64:] + data
            if awaited and awaited in seen:
                return at
        return None

    def press(self, key: str) -> None:
        os.write(self._terminal, key.encode())

    def cpu_s(self) -> float:
        """Of all its processes, ended children included."""
        own = self.tree.cpu_times()
        living = sum(sum(child.cpu_times()[:2]) for child in self.tree.children(recursive=True))
        return own.user + own.system + own.children_user + own.children_system + living

    def rss_mb(self) -> float:
        return sum(one.memory_info().rss for one in [self.tree, *self.tree.children(recursive=True)]) / 2**20

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                break
            self.read(time.monotonic() + 2.0)
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
        else:
            os.waitpid(self.pid, 0)
        os.close(self._terminal)


def firsts(
    written: Sequence[tuple[float, bytes]], cells: int, rows: int, data: str
) -> tuple[float | None, float | None]:
    """When 20 cells of text stood on the screen, and when the pattern did."""
    screen = pyte.Screen(cells, rows)
    stream = pyte.ByteStream(screen)
    painted: float | None = None
    for at, chunk in written:
        stream.feed(readable(chunk))
        text = "\n".join(screen.display)
        if painted is None and len("".join(text.split())) >= 20:
            painted = at
        if re.search(data, text):
            return painted, at
    return painted, None


def measure(tool: Tool, cells: int, rows: int, seconds: float, keys: int, load: str, seed: int) -> Cost:
    """Run it, look at it, press its keys, and end it."""
    child = Child(tool.argv, cells, rows)
    try:
        child.read(child.begun + WARM_S)
        early = list(child.written)
        before, at, count = child.cpu_s(), time.monotonic(), len(child.written)
        child.read(at + seconds)
        took = time.monotonic() - at
        spent, memory = child.cpu_s() - before, child.rss_mb()
        size = sum(len(data) for _, data in child.written[count:])
        delays, lost = press(child, tool, keys, random.Random(seed))
    finally:
        child.end()
    painted, fed = firsts(early, cells, rows, tool.data)
    return Cost(
        tool.name,
        None if painted is None else painted - child.begun,
        None if fed is None else fed - child.begun,
        spent / took,
        memory,
        size / took,
        delays,
        lost,
        load,
    )


def press(child: Child, tool: Tool, count: int, chance: random.Random) -> tuple[list[float], int]:
    """Milliseconds from each key to what it shows, and how many showed nothing."""
    delays, lost = [], 0
    for number in range(count if tool.keys else 0):
        key, awaited = tool.keys[number % len(tool.keys)]
        child.read(time.monotonic() + chance.uniform(0.03, 0.15))
        at = time.monotonic()
        child.press(key)
        shown = child.read(at + KEY_S, awaited)
        if shown is None:
            lost += 1
        else:
            delays.append((shown - at) * 1e3)
    return delays, lost


def load_of(snapshot: Snapshot) -> str:
    """The load in words."""
    running, tokens = snapshot.engine.running.v, snapshot.engine.generation_tokens_per_s.v
    return f"{snapshot.people.people.v or 0:.0f} people, batch {running or 0:.0f}, {tokens or 0:.0f} tokens/s"


def table(costs: Sequence[Cost]) -> list[str]:
    """One row a tool: the median over rounds; ratios are to ours."""
    lines = [
        "| tool | first paint s | first data s | CPU % of a core | RSS MB | KiB/s | key to paint ms, p50 / p99 (n) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(cost.tool for cost in costs):
        own = [cost for cost in costs if cost.tool == name]
        delays = sorted(delay for cost in own for delay in cost.keys_ms)
        p99 = f"{delays[int(0.99 * len(delays))]:.0f}" if len(delays) >= P99_NEEDS else "—"
        pressed = f"{median(delays):.0f} / {p99} ({len(delays)})" if delays else "—"
        if lost := sum(cost.keys_lost for cost in own):
            pressed += f", {lost} showed nothing"
        lines.append(
            f"| {name} | {middle([c.first_paint_s for c in own])} | {middle([c.first_data_s for c in own])} | "
            f"{median(c.cpu_share for c in own) * 100:.1f} | {median(c.rss_mb for c in own):.0f} | "
            f"{median(c.bytes_per_s for c in own) / 1024:.1f} | {pressed} |"
        )
    return lines


def middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.2f}" if known else "—"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=Path("TOOLS"))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--keys", type=int, default=P99_NEEDS // 2, help="presses a round; a fifth of them for the peers"
    )
    parser.add_argument("--size", default="160x48")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cells, rows = (int(part) for part in options.size.split("x"))
    client = StackClient(default_paths())
    costs: list[Cost] = []
    for turn in range(options.rounds):
        order = tools(options.tools, client.snapshot().engine.url)
        for tool in order if turn % 2 == 0 else order[::-1]:
            load = load_of(client.snapshot())
            keys = options.keys if tool is order[1] else options.keys // 5
            cost = measure(tool, cells, rows, options.seconds, keys, load, turn)
            print(
                f"{turn + 1} {tool.name:<22}{cost.cpu_share * 100:5.1f} % {cost.rss_mb:5.0f} MB "
                f"{cost.bytes_per_s / 1024:6.1f} KiB/s under {load}",
                flush=True,
            )
            costs.append(cost)
    print("\n".join(table(costs)))
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs]))


if __name__ == "__main__":
    main()
