"""What each behaviour does to a real stack, in figures: one stack, one phase after the other.

    python -m bench.behaviours --out DIR [--crowd 24 --hold 45] [-- any `spark-serve up` option]

Accounts first (the engine's own counters beside ours, without and with people who leave), then slow readers, abandoners
and a retry storm without and with a budget. Writes `behaviours.json` and prints a table. Needs an engine
(`spark-serve engine install`); takes about ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.tour import people_profile, say
from loadgen.behaviours import Manners, Patience, apportion
from loadgen.profile import Profile
from loadgen.prompts import Mix, Sampling
from loadgen.records import Behaviour
from loadgen.run import LoadOptions, run_load
from loadgen.summary import Summary
from server import commands
from server.client import StackClient
from server.config import default_paths
from server.telemetry.snapshot import Snapshot


class Bench:
    def __init__(self, client: StackClient, crowd: int, hold_s: float) -> None:
        self.client = client
        self.crowd = crowd
        self.hold_s = hold_s
        self.found: dict[str, object] = {}

    def tell(self, command: commands.Command) -> None:
        answer = self.client.send(command)
        if not answer.ok:
            raise SystemExit(answer.message)

    def empty(self) -> None:
        """Nobody there, nothing under way."""
        self.tell(commands.People(count=0))
        for behaviour in ("slow", "abandoner", "retrier"):
            self.tell(commands.Extra(behaviour, 0))
        end = time.monotonic() + 120
        while time.monotonic() < end:
            snapshot = self.client.snapshot()
            if not snapshot.people.in_flight.v and not snapshot.engine.running.v:
                return
            time.sleep(0.5)

    def hold(self, name: str) -> dict[str, object]:
        time.sleep(self.hold_s)
        figures = phase(self.client.snapshot())
        self.found[name] = figures
        say(f"  {name}: {json.dumps(figures)}")
        return figures

    def account(self, name: str, crowds: dict[Behaviour, int], profile: Profile, duration_s: float) -> Summary:
        """One run of our own through the gateway, set beside the engine's counters."""
        snapshot = self.client.snapshot()
        summary = asyncio.run(
            run_load(
                LoadOptions(
                    url=snapshot.queue.url,
                    metrics_url=snapshot.engine.url,
                    crowds=crowds,
                    profile=profile,
                    duration_s=duration_s,
                    grace_s=60.0,
                )
            )
        )
        server = summary.server
        self.found[name] = {
            "outcomes": summary.outcomes,
            "our_finished": summary.outcomes["ok"],
            "our_tokens_of_finished": summary.completion_tokens,
            "left": summary.left,
            "read_by_people_who_left": summary.wasted_tokens,
            "server": None if server is None else msgspec.to_builtins(server),
            "ttft_mean_ms": None if summary.ttft_s.mean is None else 1e3 * summary.ttft_s.mean,
        }
        say(f"  {name}: {json.dumps(self.found[name])}")
        return summary


def phase(snapshot: Snapshot) -> dict[str, object]:
    """The figures that show a behaviour's mark, over the snapshot's own windows."""
    people, queue, engine, feel = snapshot.people, snapshot.queue, snapshot.engine, snapshot.feel
    return {
        "verdict": snapshot.verdict.word,
        "attainment": snapshot.verdict.attainment.v,
        "due": snapshot.verdict.attainment.n,
        "misses": feel.misses,
        "engine_itl_mean_ms": None if engine.itl_s.mean is None else 1e3 * engine.itl_s.mean,
        "engine_itl_n": engine.itl_s.n,
        "running": engine.running.v,
        "queue_depth": queue.depth.v,
        "refused_share": queue.refused_share.v,
        "held": people.held.v,
        "gateway_buffered_bytes": queue.buffered_bytes.v,
        "gateway_connections": queue.connections.v,
        "amplification": people.amplification.v,
        "amplification_n": people.amplification.n,
        "left_per_min": people.left_per_min.v,
        "wasted_share": people.wasted_share.v,
        "void": people.void,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crowd", type=int, default=24, help="people of the overloaded phases")
    parser.add_argument("--hold", type=float, default=45.0, help="seconds each phase is watched; windows are 30 s")
    parser.add_argument("--slow", type=int, default=6)
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = StackClient(default_paths())
    bench = Bench(client, options.crowd, options.hold)
    cli = [sys.executable, "-m", "console.cli"]
    if subprocess.run([*cli, "up", "--wait", "--no-discover", "--people", "0", *options.up], check=False).returncode:
        return 1
    try:
        everyday = people_profile(client)
        sampling = Sampling(ignore_eos=True, cache_salt=f"bench-{time.time_ns():x}")
        profile = msgspec.structs.replace(everyday, think_s=1.0, sampling=sampling)
        say("accounts: one stream, some people, people who leave")
        bench.account("one stream", {"patient": 1}, msgspec.structs.replace(profile, think_s=0.2), options.hold)
        bench.account("no abandoners", {"patient": 6}, profile, options.hold)
        hasty = Manners(patience=Patience(ttft_s=1.0, stall_s=0.5))
        bench.account(
            "with abandoners",
            apportion(options.crowd, {"patient": 1, "abandoner": 1}),
            msgspec.structs.replace(profile, manners=hasty),
            options.hold,
        )
        say("slow readers")
        bench.tell(commands.Ask(msgspec.structs.replace(everyday, think_s=1.0)))
        bench.tell(commands.People(count=4))
        bench.hold("patient people")
        bench.tell(commands.Extra("slow", options.slow))
        bench.hold("and slow readers")
        bench.tell(commands.Extra("slow", 0))
        bench.tell(commands.People(count=4 + options.slow))
        bench.hold("as many, all patient")  # the batch is as full: what is left of the difference is the slow reading
        bench.empty()
        say("abandoners in an overload")
        bench.tell(commands.Extra("abandoner", options.crowd))
        bench.hold("abandoners")
        bench.empty()
        say("a retry storm on a short queue")
        seats = int(client.snapshot().queue.max_in_flight.v or 8)
        bench.tell(commands.Limits(max_queue=seats // 2))
        short = Mix.of(everyday.mix.prompt.median, everyday.mix.output.median, everyday.mix.context)
        for kind in ("naive", "jitter", "budget"):
            retry = msgspec.structs.replace(Manners().retry, kind=kind)
            manners = msgspec.structs.replace(Manners(), retry=retry)
            bench.tell(commands.Ask(msgspec.structs.replace(everyday, think_s=1.0, mix=short, manners=manners)))
            bench.tell(commands.Extra("retrier", options.crowd))
            bench.hold(f"retriers, {kind}")
            bench.empty()
    finally:
        say("down")
        subprocess.run([*cli, "down"], check=False)
        (options.out / "behaviours.json").write_text(json.dumps(bench.found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
