"""How many people? Asked several times on one real stack, so that the answers can be held against each other.

    python -m bench.answer --out DIR [--repeat 2 --cap 360] [--running] [--keep] [-- any `spark-serve up` option]

Brings a stack up (or takes the `--running` one), searches `--repeat` times with different seeds, and writes the searches
(`search-1.json` ..), the Capacity screen during and after each (`*.svg`, drawn by the real console on the live socket),
the recording, the report, and `answer.json`: the sentences and whether each estimate lies in the other's band.
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

from bench.tour import draw, people_profile, say
from loadgen.capacity import Progress
from server import commands, results
from server.client import StackClient
from server.config import default_paths

SCREEN_KEY = "5"


def search(client: StackClient, out: Path, number: int, cap_s: float, *, careful: bool) -> Progress:
    """One search from its start to its end, with pictures."""
    profile = people_profile(client)
    client.send(commands.Ask(msgspec.structs.replace(profile, seed=profile.seed + 100 * number)))
    answer = client.send(commands.Capacity(cap_s=cap_s, careful=careful))
    if not answer.ok:
        raise SystemExit(answer.message)
    say(answer.message)
    began, shown, drawn = time.monotonic(), 0, False
    while True:
        time.sleep(0.5)
        progress = client.snapshot().capacity
        if progress is None:
            continue
        for block in progress.blocks[shown:]:
            say(
                f"  {block.phase:<8}{block.people:>5} people  {block.good}/{block.due} good  {block.misses} {block.evidence}"
            )
        shown = len(progress.blocks)
        if progress.phase in {"done", "stopped"}:
            break
        if not drawn and time.monotonic() - began > cap_s * 0.55:
            drawn = True
            asyncio.run(draw(client, out / f"search-{number}-running.svg", [SCREEN_KEY]))
    say(f"  {progress.answer.sentence if progress.answer else progress.message}")
    (out / f"search-{number}.json").write_bytes(msgspec.json.format(msgspec.json.encode(progress)))
    for name, size in (("", (160, 48)), ("-80x24", (80, 24))):
        asyncio.run(draw(client, out / f"search-{number}{name}.svg", [SCREEN_KEY], size=size))
    return progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--first", type=int, default=1, help="number of the first search, for a run in parts")
    parser.add_argument("--cap", type=float, default=360.0)
    parser.add_argument("--careful", action="store_true")
    parser.add_argument("--running", action="store_true", help="use the stack that runs")
    parser.add_argument("--keep", action="store_true", help="leave it up")
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = StackClient(default_paths())
    cli = [sys.executable, "-m", "console.cli"]
    if not options.running:
        recording = options.out / "answer.sparkrec"
        recording.unlink(missing_ok=True)
        up = [*cli, "up", "--wait", "--no-discover", "--record", str(recording), *options.up]
        if subprocess.run(up, check=False).returncode:
            return 1
    try:
        for number in range(options.first, options.first + options.repeat):
            search(client, options.out, number, options.cap, careful=options.careful)
        client.send(commands.Report(str(options.out / "request_log.md")))
        saved = results.listed(default_paths().capacities).saved[:2]
        lines = results.compare(saved[1].result, saved[0].result) if len(saved) > 1 else []
        print("\n".join(lines))
        (options.out / "answer.json").write_text(
            json.dumps(
                {
                    "sentences": [entry.result.answer.sentence for entry in reversed(saved)],
                    "within": results.agree(saved[1].result, saved[0].result) if len(saved) > 1 else None,
                    "comparison": lines,
                },
                indent=1,
            )
        )
    finally:
        if not options.keep:
            subprocess.run([*cli, "down"], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
