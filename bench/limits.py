"""Each limit provoked on a real stack: what the screen names, and the seconds behind it as a fixture for the tests.

    python -m bench.limits [--group base tight ...] [--only "sequence cap" ...] [--out DIR]
    python -m bench.limits --from FILE.sparkrec --at S "sequence cap"      cut a fixture out of a recording
    python -m bench.limits --replay FILE.sparkrec                          what would be named, second by second

The first form brings a stack up for each group of cases (`spark-serve up`, so SPARK_SERVE_HOME counts), waits for the
engine, provokes case after case, and writes `DEVICE-NAME.json` into DIR: the last seconds of snapshots, reduced to what
the limit looks at. It prints a line a case: expected, named, the phrase as the Flow screen shows it. On the CPU build it
takes about fifteen minutes; memory bandwidth and compute need a GPU. Exit code 1 when a case was not named as expected.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from console.history import History
from console.ink import plain
from console.panels.foot import limit as limit_panel
from console.view import View
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.telemetry.limit import HeldLimit, limit_of, settle
from server.telemetry.limit_seen import WINDOW_S
from server.telemetry.recording import read
from server.telemetry.snapshot import (
    NO_QUANTILES,
    ColdStart,
    Engine,
    Feel,
    Gpu,
    Host,
    Limit,
    Little,
    Snapshot,
    Verdict,
)

START_LIMIT_S = 600.0
STEADY_S = 4.0
"""A case counts when the expected answer has stood for this long."""
HUGE_PROMPT_BYTES = 1_000_000


class Fixture(msgspec.Struct, frozen=True, kw_only=True):
    """Real seconds of one case."""

    about: str
    """Where and how it was made."""
    expected: str
    """The limit that was provoked; empty: no rule may claim it."""
    snapshots: list[Snapshot]


@dataclass(frozen=True)
class Case:
    """One limit and how to get there on a stack that runs."""

    name: str
    do: tuple[commands.Command, ...] = ()
    besides: str = ""
    """`huge prompts`: clients that have texts of 1 MB tokenised; `stopped`: the engine's processes get SIGSTOP."""
    limit_s: float = 90.0


@dataclass(frozen=True)
class Group:
    """Cases on one start of the stack."""

    name: str
    up: tuple[str, ...]
    cases: tuple[Case, ...] = field(default=())


def people(count: int, slow: int = 0) -> tuple[commands.Command, ...]:
    return commands.People(count=count), commands.Extra("slow", slow)


def cpu_groups() -> tuple[Group, ...]:
    """For SmolLM2-135M on two cores (about 60 tokens/s)."""
    limits = commands.Limits
    return (
        Group(
            "base",
            ("--people", "0", "--think", "4", "--max-num-seqs", "8", "--prompt-tokens", "60", "--output-tokens", "60"),
            (
                Case("no load"),
                Case("people's think time", people(3)),
                Case("sequence cap", people(24)),
                Case("queue policy", (limits(max_in_flight=2), *people(16))),
                Case("slow clients", (limits(max_in_flight=8), *people(0, slow=3)), limit_s=180),
                Case("stalled", people(4), "stopped", 120),
            ),
        ),
        Group(
            "short",
            ("--people", "0", "--think", "0.5", "--max-num-seqs", "8", "--prompt-tokens", "16", "--output-tokens", "2"),
            (Case("front end", people(2), "huge prompts", 120),),
        ),
        Group(
            "budget",
            (
                *("--people", "0", "--think", "0.2", "--max-num-seqs", "8", "--prompt-tokens", "300"),
                *("--output-tokens", "8", "--engine-arg=--max-num-batched-tokens=32"),
            ),
            (Case("token budget", people(8), limit_s=150), Case("", people(1), limit_s=60)),
        ),
        Group(
            "tight",
            (
                *("--people", "0", "--think", "0.2", "--max-num-seqs", "8", "--max-model-len", "1024"),
                *("--prompt-tokens", "100", "--output-tokens", "400", "--engine-arg=--num-gpu-blocks-override=16"),
            ),
            (Case("KV pressure", people(8), limit_s=240),),
        ),
    )


def gpu_groups() -> tuple[Group, ...]:
    """For a Qwen3-8B shape on an H100."""
    limits = commands.Limits
    model = ("--model", "shape:qwen3-8b")
    return (
        Group(
            "base",
            (*model, "--people", "0", "--think", "2", "--max-num-seqs", "64"),
            (
                Case("no load"),
                Case("people's think time", people(32)),
                Case("sequence cap", people(250)),
                Case("queue policy", (limits(max_in_flight=16), *people(128))),
                Case("slow clients", (limits(max_in_flight=64), *people(0, slow=48)), limit_s=150),
                Case("stalled", people(32), "stopped", 100),
            ),
        ),
        Group(
            "eager-people",
            (*model, "--people", "0", "--think", "0.1", "--max-num-seqs", "256", "--prompt-tokens", "300"),
            (Case("memory bandwidth", people(1)),),
        ),
        Group(
            "long",
            (
                *(*model, "--people", "0", "--think", "0.1", "--max-num-seqs", "64", "--prompt-tokens", "3500"),
                *("--output-tokens", "8", "--engine-arg=--max-num-batched-tokens=8192"),
            ),
            (Case("compute", people(32)),),
        ),
        Group(
            "budget",
            (
                *(*model, "--people", "0", "--think", "0.1", "--max-num-seqs", "64", "--prompt-tokens", "1500"),
                *("--output-tokens", "32", "--engine-arg=--max-num-batched-tokens=256"),
            ),
            (Case("token budget", people(48)),),
        ),
        Group(
            "tight",
            (
                *(*model, "--people", "0", "--think", "0.1", "--max-num-seqs", "64", "--max-model-len", "2048"),
                *("--prompt-tokens", "300", "--output-tokens", "800", "--engine-arg=--num-gpu-blocks-override=1500"),
            ),
            (Case("KV pressure", people(64), limit_s=120),),
        ),
        Group(
            "small",
            (
                *("--model", "smollm2", "--people", "0", "--think", "0.1", "--max-num-seqs", "256"),
                *("--prompt-tokens", "60", "--output-tokens", "4", "--workers", "4"),
            ),
            (Case("front end", people(400), limit_s=90),),
        ),
    )


# what a fixture keeps


def reduced(snapshot: Snapshot) -> Snapshot:
    """What the limit looks at, and nothing else."""
    keep = msgspec.structs.replace
    flags = [part for part in snapshot.engine.argv if part.startswith("--max-num-batched-tokens")]
    no_quantiles = {
        name: NO_QUANTILES
        for name, default in zip(Engine.__struct_fields__, Engine.__struct_defaults__, strict=True)
        if default is NO_QUANTILES
    }
    engine = keep(snapshot.engine, argv=flags, start=ColdStart(), url="", pid=None, log_tail=[], **no_quantiles)
    return keep(
        snapshot,
        uptime_s=0.0,
        recording_s=None,
        wall=0.0,
        verdict=Verdict(word=snapshot.verdict.word, reason=snapshot.verdict.reason),
        limit="",
        limit_detail=Limit(),
        people=keep(snapshot.people, outcomes={}),
        queue=keep(snapshot.queue, url="", wait_s=NO_QUANTILES, outcomes={}, first=[], flying=[]),
        engine=engine,
        feel=Feel(),
        little=Little(),
        gpus=[_without_others(gpu) for gpu in snapshot.gpus],
        host=Host(),
        events=[],
        sources={},
    )


def _without_others(gpu: Gpu) -> Gpu:
    """Processes are this machine's own business."""
    return msgspec.structs.replace(gpu, processes=[])


def write_fixture(path: Path, about: str, expected: str, snapshots: Sequence[Snapshot]) -> None:
    """Every second snapshot (1 s apart) of the window that ends with the last."""
    end = snapshots[-1].at
    window = [s for s in snapshots if s.at >= end - WINDOW_S][::-1][::2][::-1]
    fixture = Fixture(about=about, expected=expected, snapshots=[reduced(s) for s in window])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(_lines(fixture)) + b"\n")
    print(f"    {path.name}: {len(window)} snapshots, {path.stat().st_size / 1000:.0f} KB", flush=True)


def _lines(fixture: Fixture) -> Iterator[bytes]:
    """JSON with one snapshot a line, so that a difference can be read."""
    yield b'{"about":%s,"expected":%s,"snapshots":[' % tuple(
        msgspec.json.encode(text) for text in (fixture.about, fixture.expected)
    )
    last = len(fixture.snapshots) - 1
    for i, snapshot in enumerate(fixture.snapshots):
        yield msgspec.json.encode(snapshot) + (b"" if i == last else b",")
    yield b"]}"


def file_name(device: str, expected: str) -> str:
    slug = expected.lower().replace("'s", "").replace(" ", "-") or "not-evaluated"
    return f"{device}-{slug}.json"


def device_slug(snapshot: Snapshot) -> str:
    """`h100`, `gb10`, `cpu`."""
    name = snapshot.gpus[0].name if snapshot.gpus else ""
    return next((word.lower() for word in name.split() if any(map(str.isdigit, word))), "gpu" if name else "cpu")


def screen_line(snapshot: Snapshot) -> str:
    """The limit's line as the Flow screen of 160 columns has it."""
    return plain(limit_panel(View(snapshot=snapshot, history=History(), link="live"), 160, 1)[0]).strip()


# provoking


class Watch:
    """The live stack's snapshots, each once."""

    def __init__(self, client: StackClient) -> None:
        self.client = client
        self.recent: deque[Snapshot] = deque(maxlen=64)

    def look(self) -> Snapshot:
        snapshot = self.client.snapshot()
        if not self.recent or snapshot.seq != self.recent[-1].seq:
            self.recent.append(snapshot)
        return snapshot

    def until(self, reached: Callable[[Snapshot], bool], limit_s: float) -> bool:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if reached(self.look()):
                return True
            time.sleep(0.2)
        return False


@contextmanager
def huge_prompts(url: str, model: str) -> Iterator[None]:
    """Two clients that have the engine tokenise texts of 1 MB, one after the other: work for its front end alone."""
    over = threading.Event()
    where = urllib.parse.urlsplit(url)
    body = msgspec.json.encode(
        {"model": model, "messages": [{"role": "user", "content": "word " * (HUGE_PROMPT_BYTES // 5)}]}
    )

    def post() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
                connection.request("POST", "/tokenize", body, {"content-type": "application/json"})
                connection.getresponse().read()
                connection.close()

    threads = [threading.Thread(target=post, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The engine's workers stand still; its API server goes on and answers /health."""
    workers = psutil.Process(pid).children(recursive=True)
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


def provoke(watch: Watch, case: Case, out: Path, device: str, about: str) -> bool:
    """One case; True when it was named as expected."""
    for command in case.do:
        watch.client.send(command)
    engine = watch.look().engine
    with contextlib.ExitStack() as besides:
        if case.besides == "huge prompts":
            besides.enter_context(huge_prompts(engine.url, engine.model))
        if case.besides == "stopped":
            watch.until(lambda s: (s.engine.running.v or 0) >= 2, 60)
            if engine.pid is not None:
                besides.enter_context(stopped(engine.pid))
        steady_since: list[float] = []

        def named(snapshot: Snapshot) -> bool:
            due = limit_of(watch.recent).name == snapshot.limit_detail.name == case.name
            if not due or (not case.name and not snapshot.limit_detail.rules):
                steady_since.clear()
                return False
            steady_since.append(snapshot.at)
            return snapshot.at - steady_since[0] >= STEADY_S

        found = watch.until(named, case.limit_s)
        last = watch.recent[-1]
        print(f"{'ok ' if found else 'NOT'} {case.name or 'not evaluated':20} {screen_line(last)}", flush=True)
        for rule in () if found else last.limit_detail.rules:
            print(f"      {rule.name:20} {rule.holds!s:6} {rule.evidence}", flush=True)
        write_fixture(out / ("" if found else "missed") / file_name(device, case.name), about, case.name, watch.recent)
    return found


def run_group(client: StackClient, group: Group, only: Sequence[str], options: argparse.Namespace) -> bool:
    cases = [case for case in group.cases if not only or case.name in only]
    if not cases:
        return True
    print(f"-- {group.name}: {' '.join(group.up)}", flush=True)
    cli = [sys.executable, "-m", "console.cli"]
    recording = options.out.parent / f"{group.name}.sparkrec" if options.record else None
    up = [*cli, "up", "--no-discover", *group.up, *options.up]
    if recording is not None:
        recording.unlink(missing_ok=True)
        up += ["--record", str(recording)]
    if subprocess.run(up, check=False).returncode:
        return False
    watch, good = Watch(client), True
    try:
        watch.until(lambda s: s.engine.phase in {"ready", "failed", "down"}, START_LIMIT_S)
        ready = watch.look()
        if ready.engine.phase != "ready":
            print(f"NOT {ready.engine.phase}: {ready.engine.error}", flush=True)
            return False
        slug = (
            "cpu"
            if not ready.gpus
            else next((w.lower() for w in ready.gpus[0].name.split() if any(map(str.isdigit, w))), "gpu")
        )
        about = f"vLLM {ready.engine.version} on {ready.engine.device}, {ready.engine.model}; {' '.join(group.up)}"
        for case in cases:
            good = provoke(watch, case, options.out, slug, about) and good
    finally:
        with contextlib.suppress(StackError):
            daemon = client.daemon()
            client.send(commands.Down())
            client.stopped(daemon, 60)
    return good


# recordings


def replay(path: Path) -> None:
    """What would be named over a whole recording: a line for each change."""
    held, recent, named = HeldLimit(), deque[Snapshot](maxlen=64), None
    first: float | None = None
    for snapshot in read(path):
        first = snapshot.at if first is None else first
        recent.append(snapshot)
        held = settle(limit_of(recent), held, snapshot.at)
        if held.limit.name != named:
            named = held.limit.name
            print(f"{snapshot.at - first:7.1f} s  {snapshot.verdict.word:8} {held.limit.phrase}")


def cut(path: Path, at_s: float, expected: str, out: Path) -> None:
    """The window that ends `at_s` seconds into a recording, as a fixture."""
    recent: deque[Snapshot] = deque(maxlen=64)
    first: float | None = None
    for snapshot in read(path):
        first = snapshot.at if first is None else first
        if snapshot.at - first > at_s:
            break
        recent.append(snapshot)
    engine = recent[-1].engine
    about = f"vLLM {engine.version} on {engine.device}, {engine.model}: {path.name} at {at_s:g} s"
    write_fixture(out / file_name(device_slug(recent[-1]), expected), about, expected, recent)
    print(f"    {limit_of(recent).phrase}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("tests/data/limits"))
    parser.add_argument("--group", nargs="+", default=[], help="only these groups")
    parser.add_argument("--only", nargs="+", default=[], help="only these limits")
    parser.add_argument("--gpu", action="store_true", help="the cases for an H100")
    parser.add_argument("--record", action="store_true", help="record each group beside DIR")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--from", dest="source", type=Path, help="a recording to cut a fixture from")
    parser.add_argument("--at", type=float, default=0.0, metavar="S")
    parser.add_argument("expected", nargs="?", default="", help="with --from: the limit that was provoked")
    parser.add_argument("--up", nargs=argparse.REMAINDER, default=[], help="options for every `spark-serve up`, last")
    options: Any = parser.parse_args()
    if options.replay:
        replay(options.replay)
        return 0
    if options.source:
        cut(options.source, options.at, options.expected, options.out)
        return 0
    client = StackClient(default_paths())
    groups = gpu_groups() if options.gpu else cpu_groups()
    wanted = [group for group in groups if not options.group or group.name in options.group]
    missed = [group.name for group in wanted if not run_group(client, group, options.only, options)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
