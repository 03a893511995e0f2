"""What does a gateway cost? Ours, nginx, the LiteLLM proxy and nothing at all, side by side against one server.

    python -m bench.gateway [--tree FOLDER] [--nginx PROGRAM] [--litellm PROGRAM] [--out FILE.json]
    python -m bench.gateway --schedules 1000 [--tree FOLDER]

All is on loopback. What is measured has one core for itself; the server stamps each of its writes, one event a write.
A system that is not found is skipped with a sentence; the order is A B C D D C B A, and the figures are medians.

1. Asking: replies of 50 events, asked for again and again, begun evenly over a second. A request's overhead is the
   client's TTFT (from having sent, on a new connection) less the server's own (request read to first token written); the
   added TTFT is its quantile less that of `direct` in the same pass.
2. Relaying: one long reply a stream. Events that reached the client while all streams were under way, a CPU second of
   the gateway's processes; streams and their rate are raised until events come late.

`--schedules` runs the tests' random schedules of real HTTP clients with injected faults and counts what was lost or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.gateway_client import DRAIN_S, Job, Load, Row
from bench.gateway_peers import ROOT, Cores, System, direct, known_server, litellm, nginx, ours

RELAY_S = 8.0
P50_GOAL_MS, P99_GOAL_MS, PER_CPU_S_GOAL = 1.0, 5.0, 20_000
GOAL_LOAD = (64, 50.0)
QUIET_SHARE = 0.2
"""More of a core than this used by others, and a p99 tells of them."""
SCHEDULE_S = 1.5
"""Most that one random schedule may take, on average."""


def loads(asking_s: float) -> list[Load]:
    asking = [Load("asking", 4, 50.0, asking_s), Load("asking", 64, 50.0, asking_s)]
    relaying = [(4, 50.0), (64, 50.0), (128, 50.0), (256, 50.0), (256, 75.0), (256, 100.0), (256, 150.0), (256, 200.0)]
    return asking + [Load("relaying", streams, per_s, RELAY_S) for streams, per_s in relaying]


def run_client(job: Job, core: int) -> Row:
    """Raises RuntimeError when the client fails or takes too long."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "bench.gateway_client"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=job.load.seconds + DRAIN_S + 60,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(error.stderr.decode(errors="replace")[-600:]) from None
    except subprocess.TimeoutExpired:
        raise RuntimeError("the client took too long") from None
    return msgspec.json.decode(done.stdout, type=Row)


class Cell:
    """What one system came to under one load, pass by pass."""

    def __init__(self, system: System, load: Load) -> None:
        self.system = system
        self.load = load
        self.rows: list[Row] = []

    @property
    def behind(self) -> bool:
        """In most passes."""
        return 2 * sum(row.behind for row in self.rows) > len(self.rows)

    def middle(self, figure: Callable[[Row], float | None]) -> float | None:
        """The median over the passes; None where one lacks it."""
        found = [figure(row) for row in self.rows]
        known = [value for value in found if value is not None]
        return median(known) if known and len(known) == len(found) else None

    def added(self, bare: Cell, quantile: str) -> float | None:
        """Milliseconds of TTFT over `direct` in the same pass, the median over the passes."""
        pairs = [
            (getattr(row.overhead_ms, quantile), getattr(other.overhead_ms, quantile))
            for row, other in zip(self.rows, bare.rows, strict=False)
        ]
        known = [with_it - without for with_it, without in pairs if None not in {with_it, without}]
        return median(known) if known and len(known) == len(pairs) else None


def figure(value: float | None, digits: int = 2) -> str:
    return f"{'—' if value is None else format(value, f',.{digits}f'):>9}"


HEAD = (
    f"{'':<16}{'added TTFT ms':>18}{'overhead ms':>18}{'event delay ms':>18}{'events':>9}{'events a':>9}"
    f"{'failed':>8}{'others':>8}\n"
    f"{'':<16}" + "".join(f"{head:>9}" for head in ("p50", "p99") * 3) + f"{'/s':>9}{'CPU s':>9}"
)


def cell_row(cell: Cell, bare: Cell) -> str:
    spans = [cell.added(bare, "p50"), cell.added(bare, "p99")] if cell is not bare else [None, None]
    spans += [cell.middle(lambda row: row.overhead_ms.p50), cell.middle(lambda row: row.overhead_ms.p99)]
    spans += [cell.middle(lambda row: row.delay_ms.p50), cell.middle(lambda row: row.delay_ms.p99)]
    rates = [cell.middle(lambda row: row.events_per_s), cell.middle(lambda row: row.per_cpu_s)]
    failed = sum(sum(row.failed.values()) for row in cell.rows)
    others = max(row.others_share for row in cell.rows)
    cells = "".join(figure(span) for span in spans) + "".join(figure(rate, 0) for rate in rates)
    return f"{cell.system.name:<16}{cells}{failed:>8}{others:>8.0%}{'  behind' if cell.behind else ''}"


def run_load(load: Load, systems: Sequence[System], rounds: int, engine: System, cores: Cores) -> list[Cell]:
    """In the order A B C D D C B A, `rounds` times."""
    cells = [Cell(system, load) for system in systems]
    for cell in [*cells, *reversed(cells)] * rounds:
        cell.system.wake()
        pids = cell.system.pids()
        job = Job(load, cell.system.url, engine.url, cell.system.api_key, pids, engine.pid or 0)
        try:
            cell.rows.append(run_client(job, cores.client))
        except RuntimeError as error:
            print(f"{cell.system.name} failed: {error}", flush=True)
        if cell.system.pids() != pids:
            print(f"{cell.system.name} has other processes than before: its CPU time is wrong", flush=True)
        cell.system.rest()
    return [cell for cell in cells if cell.rows]


def best(cells: Sequence[Cell], name: str) -> tuple[float, Cell] | None:
    """The most events a CPU second while relaying: where it kept up, if it did anywhere."""
    found = [
        (rate, cell)
        for cell in cells
        if cell.system.name == name and cell.load.part == "relaying"
        if (rate := cell.middle(lambda row: row.per_cpu_s)) is not None
    ]
    return max([one for one in found if not one[1].behind] or found, key=lambda one: one[0], default=None)


def verdict(cells: Sequence[Cell]) -> list[str]:
    """What the figures say against the goals, a sentence a line."""

    def at_goal(name: str, part: str) -> Cell | None:
        own = [cell for cell in cells if cell.system.name == name and cell.load.part == part]
        return next((cell for cell in own if (cell.load.streams, cell.load.per_s) == GOAL_LOAD), None)

    lines = []
    mine, bare = at_goal("our gateway", "asking"), at_goal("direct", "asking")
    if mine and bare:
        for quantile, goal in (("p50", P50_GOAL_MS), ("p99", P99_GOAL_MS)):
            added = mine.added(bare, quantile)
            both = [cell.middle(lambda row: getattr(row.overhead_ms, quantile)) for cell in (mine, bare)]  # noqa: B023
            spans = f"{figure(both[0]).strip()} less {figure(both[1]).strip()}"
            said = "not known" if added is None else f"{added:.2f} ms ({spans}), {'met' if added < goal else 'MISSED'}"
            lines.append(f"added TTFT {quantile} at 64 x 50/s: {said} (goal: under {goal:g} ms)")
        others = max(row.others_share for cell in (mine, bare) for row in cell.rows)
        if others > QUIET_SHARE:
            lines.append(f"NOT TO BE TRUSTED: other programs used up to {others:.0%} of a core then; repeat it")
    relayed = at_goal("our gateway", "relaying")
    rate = relayed.middle(lambda row: row.per_cpu_s) if relayed else None
    if rate:
        said = "met" if rate > PER_CPU_S_GOAL else "MISSED"
        lines.append(f"events a CPU second at 64 x 50/s: {rate:,.0f}, {said} (goal: over {PER_CPU_S_GOAL:,})")
        for name in ("nginx", "LiteLLM proxy"):
            peer = at_goal(name, "relaying")
            other = peer.middle(lambda row: row.per_cpu_s) if peer else None
            if peer and other:
                behind = ", which is behind there" if peer.behind else ""
                lines.append(f"  that is {rate / other:.2f} times {name} ({other:,.0f}){behind}")
    for name in ("our gateway", "nginx", "LiteLLM proxy"):
        if found := best(cells, name):
            load = found[1].load
            behind = ", behind" if found[1].behind else ""
            lines.append(
                f"highest for {name}: {found[0]:,.0f} events a CPU second ({load.streams} x {load.per_s:g}/s{behind})"
            )
    return lines


def machine() -> dict[str, Any]:
    models = [line.partition(":")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    cores = Cores.of_this_machine()
    found: dict[str, Any] = {"machine": machine(), "cores": vars(cores), "load_average": os.getloadavg(), "cells": []}
    print(f"{found['machine']}; load average {os.getloadavg()[0]:.2f}", flush=True)
    cells: list[Cell] = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        engine = stack.enter_context(known_server(cores.server, scratch))
        systems = [stack.enter_context(direct(engine.url))]
        for program, maker in ((options.nginx, nginx), (options.litellm, litellm)):
            if shutil.which(program):
                systems.append(stack.enter_context(maker(program, engine.url, cores.gateway, scratch)))
            else:
                print(f"{maker.__name__} is left out: there is no program {program}.")
        systems.append(stack.enter_context(ours(options.tree, engine.url, cores.gateway, scratch)))
        found["versions"] = {system.name: system.version for system in systems}
        print("; ".join(f"{name} {version}".strip() for name, version in found["versions"].items()))
        for system in systems:
            system.rest()
        behind: set[tuple[str, str]] = set()
        for load in loads(options.seconds):
            if options.streams and load.streams > options.streams:
                continue
            now = [system for system in systems if (load.part, system.name) not in behind]
            print(f"\n{load.part}, {load.streams} x {load.per_s:g}/s, replies of {load.tokens}\n{HEAD}", flush=True)
            new = run_load(load, now, options.rounds, engine, cores)
            for cell in new:
                print(cell_row(cell, new[0]), flush=True)
                for reason, count in sum((Counter(row.failed) for row in cell.rows), Counter()).most_common(3):
                    print(f"{'':<16}{count} x {reason}", flush=True)
            behind |= {(load.part, cell.system.name) for cell in new if cell.behind}
            cells += new
            if behind >= {(load.part, system.name) for system in systems[1:]} or (load.part, "direct") in behind:
                break
    found["cells"] = [
        {"system": cell.system.name, "load": msgspec.to_builtins(cell.load), "passes": msgspec.to_builtins(cell.rows)}
        for cell in cells
    ]
    found["verdict"] = verdict(cells)
    found["load_average_after"] = os.getloadavg()
    print("\n" + "\n".join(found["verdict"]) + f"\nload average {os.getloadavg()[0]:.2f}")
    return found


def schedules(count: int, tree: Path) -> dict[str, Any]:
    """Raises RuntimeError where they could not be run."""
    tests = tree / "tests" / "gateway"
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("schedules.py")), str(count)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tests}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 + SCHEDULE_S * count,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    found: dict[str, Any] = json.loads(done.stdout)
    print("\n".join(f"{name:<14}{value}" for name, value in found.items()))
    if found["lost"] or found["duplicated"] or found["failures"] or found["logged_errors"]:
        raise RuntimeError("a schedule broke its promise")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose gateway is measured")
    parser.add_argument("--nginx", metavar="PROGRAM", default="nginx")
    parser.add_argument("--litellm", metavar="PROGRAM", default="litellm")
    parser.add_argument("--rounds", type=int, default=1, help="A B C D D C B A so many times (1)")
    parser.add_argument("--seconds", type=float, default=10.5, help="of asking; a p99 of 64 streams needs 10")
    parser.add_argument("--streams", type=int, help="leave loads with more out")
    parser.add_argument("--schedules", type=int, metavar="N", help="so many random schedules instead")
    parser.add_argument("--out", metavar="FILE", help="all figures as JSON")
    options = parser.parse_args()
    options.tree = options.tree.resolve()
    try:
        found = schedules(options.schedules, options.tree) if options.schedules else compare(options)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        sys.exit(f"failed: {error}")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
