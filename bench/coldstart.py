"""Cold starts taken apart: one stack restarted in each kind of cold, our stages beside the engine's own figures.

    python -m bench.coldstart --out DIR [--kinds process,compile,disk] [--people 4] [-- any `spark-serve up` option]

On a CPU, where the engine runs eagerly unless told otherwise:

    python -m bench.coldstart --out DIR -- --model smollm2 --engine-arg=--no-enforce-eager

On a GPU, with random weights that are saved once, so that they can come from the disk:

    python -m bench.coldstart --out DIR --people 16 -- --model shape:qwen3-1.7b:saved

Prints a table for each start and one that compares the kinds, as Markdown, and writes `coldstart.json` (all of it) and
`coldstart.sparkrec` (the recording) into DIR. Exit code 1 if a stage that the engine times itself is further than 10 %
and 1 s from its figure, or if more than 2 s of a start belong to no stage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from console.panels.anatomy import agrees
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.engine.coldstart import FIRST_TOKEN, ORDER
from server.engine.comparison import init_measured_s, took
from server.telemetry.snapshot import ColdStart, Snapshot

GAP_S = 2.0
SAVING_S = 900.0
"""Random weights may have to be written before a disk-cold restart; the engine serves on meanwhile."""
OVER = {"ready", "failed", "down", "no_engine"}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Watch:
    """A stack watched through one start."""

    def __init__(self, client: StackClient, limit_s: float) -> None:
        self.client = client
        self.limit_s = limit_s
        self.estimates: list[tuple[float, float]] = []
        """(seconds so far, estimated seconds left)."""
        self._said = ""

    def through(self) -> Snapshot:
        """Until the start under way is over and somebody got a first token, or nobody is there to ask for one."""
        end = time.monotonic() + self.limit_s
        while time.monotonic() < end:
            snapshot = self.client.snapshot()
            start = snapshot.engine.start
            running = next((stage.name for stage in reversed(start.stages) if stage.end_s is None), "")
            if running and running != self._said:
                self._said = running
                say(f"  {start.elapsed_s:6.1f} s  {snapshot.engine.phase}: {running}")
            if start.left_s is not None and not start.finished:
                self.estimates.append((start.elapsed_s, start.left_s))
            if snapshot.engine.phase in OVER:
                token = any(stage.name == FIRST_TOKEN for stage in start.stages)
                if snapshot.engine.phase != "ready" or token or not snapshot.people.people.v:
                    return snapshot
            time.sleep(0.25)
        raise SystemExit(f"not over within {self.limit_s:.0f} s")

    def until_it_begins(self) -> None:
        """The engine leaves, which may come late: random weights are written first."""
        end = time.monotonic() + SAVING_S
        note = ""
        while time.monotonic() < end:
            snapshot = self.client.snapshot()
            if snapshot.engine.phase != "ready":
                return
            if snapshot.engine.start.note.startswith("writing") and snapshot.engine.start.note != note:
                note = snapshot.engine.start.note
                say(f"  {note}")
            time.sleep(0.05)
        raise SystemExit("the restart does not begin")


def unnamed_s(start: ColdStart) -> float:
    """The longest time of a start that belongs to no stage, seconds."""
    stages = [stage for stage in start.stages if stage.end_s is not None]
    gaps = [0.0, *(other.begin_s - (one.end_s or 0.0) for one, other in itertools.pairwise(stages))]
    served = [stage for stage in stages if stage.name != FIRST_TOKEN]
    return max(*gaps, stages[0].begin_s, start.elapsed_s - (served[-1].end_s or 0.0))


def estimate_errors(start: ColdStart, estimates: list[tuple[float, float]]) -> dict[str, float]:
    """Estimated less true seconds left, at a quarter, half and three quarters of the start."""
    out = {}
    for share in (0.25, 0.5, 0.75):
        near = min(estimates, key=lambda pair: abs(pair[0] - share * start.elapsed_s), default=None)
        if near is not None:
            out[f"{share:.0%}"] = round(near[1] - (start.elapsed_s - near[0]), 1)
    return out


def report(title: str, snapshot: Snapshot, estimates: list[tuple[float, float]]) -> tuple[dict[str, object], int]:
    """Print one start; returns what to keep of it, and how many figures disagree."""
    start = snapshot.engine.start
    wrong = 0
    print(f"\n### {title}: served after {start.elapsed_s:.1f} s\n")
    print(f"cold: {start.clears}. warm: {start.keeps}." + (f" {start.note}." if start.note else ""))
    print("\n| stage | seconds | engine's own | agrees | |\n|---|---|---|---|---|")
    pairs = [(stage.name, took(stage), stage.engine_s, stage.detail) for stage in start.stages]
    pairs.append(("(of it, engine init)", init_measured_s(start.stages), start.init_s, ""))
    for name, ours, own, detail in pairs:
        if ours is None:
            continue
        good = None if own is None else agrees(ours, own, name)
        wrong += good is False
        words = {None: "", True: "yes", False: "NO"}[good]
        print(f"| {name} | {ours:.2f} | {'' if own is None else f'{own:.2f}'} | {words} | {detail} |")
    gap = unnamed_s(start)
    felt, errors = start.meanwhile, estimate_errors(start, estimates)
    wrong += gap > GAP_S
    print(f"\nlongest time without a name {gap:.2f} s; estimate less truth at 25, 50, 75 %: {errors or '—'}")
    print(f"people: {felt.finished} requests touched, {felt.refused} refused, {felt.cut} cut off, {felt.missed} missed")
    kept = {
        "elapsed_s": start.elapsed_s,
        "unnamed_s": gap,
        "estimate_errors_s": errors,
        "start": msgspec.to_builtins(start),
    }
    return kept, wrong


def compare(kinds: dict[str, list[ColdStart]]) -> None:
    """One table: a column a kind, the median of its starts."""
    seen = {stage.name for starts in kinds.values() for start in starts for stage in start.stages}
    names = [name for name in ORDER if name in seen]
    print(f"\n### The kinds compared, seconds\n\n| stage | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
    for name in names:
        cells: list[str] = []
        for starts in kinds.values():
            found = [t for start in starts for s in start.stages if s.name == name and (t := took(s)) is not None]
            cells.append(f"{statistics.median(found):.1f}" if found else "")
        print(f"| {name} | {' | '.join(cells)} |")
    served = (f"{statistics.median([start.elapsed_s for start in starts]):.1f}" for starts in kinds.values())
    print(f"| **served after** | {' | '.join(served)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", default="process,compile,disk", help="in this order, each as often as it is named")
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--limit", type=float, default=900.0, metavar="S", help="seconds that one start may take")
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = StackClient(default_paths())
    recording = options.out / "coldstart.sparkrec"
    recording.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "console.cli", "up", "--no-discover", "--people", str(options.people)]
    say("up")
    if subprocess.run([*argv, "--record", str(recording), *options.up], check=False).returncode != 0:
        return 1
    kept: list[dict[str, object]] = []
    kinds: dict[str, list[ColdStart]] = {}
    wrong = 0
    try:
        for kind in (None, *options.kinds.split(",")):
            watch = Watch(client, options.limit)
            if kind is not None:
                answer = client.send(commands.Restart(kind))
                say(answer.message)
                if not answer.ok:
                    return 1
                watch.until_it_begins()
            snapshot = watch.through()
            if snapshot.engine.phase != "ready":
                say(f"{snapshot.engine.phase}: {snapshot.engine.error}")
                return 1
            time.sleep(15.0)  # who waited is answered
            settled = client.snapshot()
            start = settled.engine.start
            one, disagree = report(start.kind, settled, watch.estimates)
            kept.append(one)
            wrong += disagree
            kinds.setdefault(start.kind, []).append(start)
        compare(kinds)
        engine = settled.engine
        print(f"\n{engine.model} ({engine.model_kind}), vLLM {engine.version}, {engine.device}")
    finally:
        (options.out / "coldstart.json").write_text(json.dumps(kept, indent=1))
        say("down")
        try:
            daemon = client.daemon()
            client.send(commands.Down())
            client.stopped(daemon, 60)
        except StackError as error:
            say(str(error))
    say(f"{wrong} disagreements" if wrong else "all agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
