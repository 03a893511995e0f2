"""The cockpit's tour: one real stack driven through a day in eight minutes, and recorded.

    python -m bench.tour --out DIR [--crowd 64 --heavy 200 ...] [-- any `spark-serve up` option]

One chat, ten friends, 64 people, more and more until it bends, 200 people, another policy, a burst, slow readers, a retry storm
and a cold restart. Writes into DIR: `tour.sparkrec` with its requests beside it (the recording), `NAME.svg` (the Flow screen at
each step, 160x48, drawn by the real console on the live socket), `NAME.json` (the snapshot at that moment), `requests.json`,
and `tour.json`: the figures that the README and the notes quote. Needs an engine (`spark-serve engine install`).

To ship it: `python -m bench.cut DIR/tour.sparkrec console/recordings/h100.sparkrec --from 'engine ready-5' --scrub /home/me/`
says how many bytes it has; 2 MB is the most, for which people should think for 4 s or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from console.app import CockpitApp
from console.sources.live import LiveSource
from loadgen.profile import Profile
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.telemetry.snapshot import Snapshot

SIZE = (160, 48)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def people_profile(client: StackClient) -> Profile:
    """What the people ask, once the load generator has told so: a moment after the engine is ready."""
    end = time.monotonic() + 30
    while (profile := client.snapshot().people.profile) is None:
        if time.monotonic() > end:
            raise SystemExit("the load generator tells nothing")
        time.sleep(0.2)
    return profile


async def draw(client: StackClient, path: Path, keys: list[str], size: tuple[int, int] = SIZE) -> None:
    """Open the real console on the live socket, off screen, and save what it shows."""
    app = CockpitApp(LiveSource(client.paths.socket))
    async with app.run_test(size=size) as pilot:
        await asyncio.sleep(3.0)
        for key in keys:
            await pilot.press(key)
            await asyncio.sleep(1.0)
        path.write_text(app.export_screenshot(title="spark-serve console"))


class Tour:
    def __init__(self, client: StackClient, out: Path) -> None:
        self.client = client
        self.out = out
        self.figures: dict[str, object] = {}

    def hold(self, seconds: float) -> None:
        time.sleep(seconds)

    def until(self, what: str, reached: Callable[[Snapshot], bool], limit_s: float) -> Snapshot:
        """Wait for a condition on the live snapshot, at most `limit_s`."""
        end = time.monotonic() + limit_s
        while True:
            snapshot = self.client.snapshot()
            if reached(snapshot):
                return snapshot
            if time.monotonic() > end:
                say(f"  not reached within {limit_s:.0f} s: {what}")
                return snapshot
            time.sleep(0.25)

    def keep(self, name: str, keys: list[str] | None = None) -> None:
        """Save screen and snapshot of this moment."""
        asyncio.run(draw(self.client, self.out / f"{name}.svg", keys or []))
        snapshot = self.client.snapshot()
        (self.out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(snapshot)))
        self.figures[name] = summary(snapshot)
        say(f"  {name}: {json.dumps(self.figures[name])}")

    def people(self, count: int, seconds: float, name: str = "") -> None:
        """So many people for so long; with a name the moment is kept."""
        say(f"{count} people")
        self.client.send(commands.People(count=count))
        self.hold(seconds)
        if name:
            self.keep(name)

    def run(self, options: argparse.Namespace) -> None:
        """All steps but the start and the cold restart."""
        hold, crowd, heavy = options.hold, options.crowd, options.heavy
        self.hold(hold)
        self.keep("one-chat")
        self.people(options.friends, hold, "friends")
        self.people(crowd, 1.5 * hold, "crowd")
        asyncio.run(draw(self.client, self.out / "crowd-80x24.svg", [], size=(80, 24)))
        if heavy:
            for part in (1, 2):
                self.people(crowd + (heavy - crowd) * part // 3, 0.7 * hold)
            self.people(heavy, 1.5 * hold, "heavy")
            say("policy shortest, and back")
            self.client.send(commands.Policy(order="shortest", ageing_s=30.0))
            self.hold(0.8 * hold)
            self.keep("policy")
            self.client.send(commands.Policy(order="fifo"))
            self.people(crowd, 0.7 * hold)
        say(f"burst {options.burst}")
        self.client.send(commands.Burst(options.burst))
        self.until("queue", lambda s: (s.queue.depth.v or 0) > 0, 10)
        self.keep("burst")
        self.until("drained", lambda s: not s.queue.depth.v, 120)
        say(f"{options.slow} slow readers")
        self.client.send(commands.Extra("slow", options.slow))
        self.hold(hold)
        self.keep("slow")
        self.client.send(commands.Extra("slow", 0))
        say(f"a retry storm of {options.retriers} at a short queue")
        rules = self.client.snapshot().queue.rules
        self.client.send(commands.Policy(max_queue=max(1, options.retriers // 10)))
        self.client.send(commands.Extra("retrier", options.retriers))
        self.client.send(commands.Burst(options.burst))
        self.hold(0.8 * hold)
        self.keep("storm")
        self.client.send(commands.Extra("retrier", 0))
        self.client.send(commands.Policy(max_queue=rules.max_queue if rules is not None else 256))


def summary(snapshot: Snapshot) -> dict[str, object]:
    """The figures worth quoting."""
    feel, engine, queue = snapshot.feel, snapshot.engine, snapshot.queue
    named = sum(s.mean_s or 0.0 for s in snapshot.breakdown.stages if s.name != "unattributed")
    gpu = snapshot.gpus[0] if snapshot.gpus else None
    shares = ("busy", "sm_active", "sm_occupancy", "tensor", "dram", "power_w", "mfu", "mbu")
    front_end = next((s.mean_s for s in snapshot.breakdown.stages if s.name == "front end"), None)
    return {
        "verdict": snapshot.verdict.word,
        "people": snapshot.people.people.v,
        "ttft": [feel.ttft_s.p50, feel.ttft_s.p95, feel.ttft_s.n],
        "tpot": [feel.tpot_s.p50, feel.tpot_s.p95, feel.tpot_s.n],
        "tokens_per_s": engine.generation_tokens_per_s.v,
        "running": [engine.running.v, engine.max_num_seqs.v],
        "kv": engine.kv_usage.v,
        "queue_depth": queue.depth.v,
        "queue_wait_mean": queue.wait_s.mean,
        "engine_queue_mean": engine.queue_s.mean,
        "prefill_mean": engine.prefill_s.mean,
        "decode_mean": engine.decode_s.mean,
        "stage_times": engine.stage_times,
        "named_over_e2e": named / snapshot.breakdown.e2e_s if snapshot.breakdown.e2e_s else None,
        "breakdown_n": snapshot.breakdown.n,
        "front_end_ours_ms": None if front_end is None else 1e3 * front_end,
        "front_end_engine_ms": None if engine.front_end_s.v is None else 1e3 * engine.front_end_s.v,
        "little": [snapshot.little.expected, snapshot.little.counted, snapshot.little.error],
        "gpu": None if gpu is None else {name: getattr(gpu, name).v for name in shares},
        "cpu_cores": {
            name: getattr(snapshot.host, f"{name}_cpu_cores").v for name in ("engine", "gateway", "load", "stack")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--friends", type=int, default=10, help="people who come after the first one")
    parser.add_argument("--crowd", type=int, default=64, help="people of the crowd")
    parser.add_argument("--heavy", type=int, default=200, help="people of a second, heavier crowd; 0 leaves it out")
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument("--slow", type=int, default=16)
    parser.add_argument("--retriers", type=int, default=40, help="who come while the queue is short")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds each step is watched")
    parser.add_argument("--no-restart", action="store_true")
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = StackClient(default_paths())
    tour = Tour(client, options.out)
    began = time.monotonic()
    cli = [sys.executable, "-m", "console.cli"]
    recording = options.out / "tour.sparkrec"
    for old in options.out.glob(f"{recording.name}*"):
        old.unlink()
    say("up")
    up = subprocess.Popen([*cli, "up", "--no-discover", "--people", "1", "--record", str(recording), *options.up])
    if up.wait() != 0:
        return 1
    try:
        tour.until("starting", lambda s: s.engine.phase == "starting" and s.engine.start.elapsed_s > 10, 60)
        tour.keep("starting")
        ready = tour.until("ready", lambda s: s.engine.phase in {"ready", "failed", "down"}, 400)
        say(f"  {ready.engine.phase} after {time.monotonic() - began:.0f} s {ready.engine.error}")
        if ready.engine.phase != "ready":
            return 1
        tour.figures["start"] = [[s.name, s.begin_s, s.end_s] for s in ready.engine.start.stages]
        tour.run(options)
        (options.out / "requests.json").write_bytes(msgspec.json.encode(client.requests(2000)))
        if not options.no_restart:
            say("cold restart")
            client.send(commands.Restart())
            tour.until("starting", lambda s: s.engine.phase == "starting" and s.engine.start.elapsed_s > 15, 90)
            tour.keep("restart")
            tour.keep("restart-engine", ["3"])
            again = tour.until("ready", lambda s: s.engine.phase in {"ready", "failed", "down"}, 400)
            tour.figures["restart"] = [[s.name, s.begin_s, s.end_s] for s in again.engine.start.stages]
            tour.hold(25)
            tour.keep("after-restart")
        client.send(commands.People(count=0))
        last = tour.until("empty", lambda s: s.people.in_flight.v == 0, 60)
        tour.figures["accounting"] = {
            "sent": last.people.sent_total,
            "outcomes": last.people.outcomes,
            "gateway_arrived": last.queue.arrived_total,
            "gateway_outcomes": last.queue.outcomes,
        }
    finally:
        say("down")
        try:
            daemon = client.daemon()
            client.send(commands.Down())
            tour.figures["down_clean"] = client.stopped(daemon, 60)
        except StackError as error:
            say(str(error))
        tour.figures["wall_s"] = time.monotonic() - began
        tour.figures["bytes"] = sum(part.stat().st_size for part in options.out.glob(f"{recording.name}*"))
        (options.out / "tour.json").write_text(json.dumps(tour.figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
