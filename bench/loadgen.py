"""How wrong is a load generator? Ours and three others against one server that stamps every write of its own.

    python -m bench.loadgen [--vllm PYTHON] [--guidellm PROGRAM] [--aiperf PROGRAM] [--tokenizer FOLDER] [--out FILE.json]

Every client has core 0 for itself and the server core 1. A tool that is not given is skipped with a sentence. All is
offline and on loopback. Three questions:

1. 16, 64 and 256 streams of 50 tokens/s with a true TTFT of 100 ms. Our stamps beside the server's, token by token. Then
   what each tool says of a request less what the server did: a TTFT's truth is from the server's read of the request to
   its write of the first token, so a tool's own delay before sending is an error too. All streams begin at once, which
   costs every client its time to connect them; the requests after that first round are shown apart. CPU is the whole
   process tree's while the server was streaming.
2. How many events a second does one core of ours keep up with?
3. Poisson arrivals: asked for 20/s, how many came?
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

# A script's own folder comes first, and in this one `loadgen` would be this file.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peers import REPLY_S, Job, Said, Tool, aiperf, environment, guidellm, ours, vllm_bench
from loadgen.http1 import allow_many_sockets
from loadgen.known import STAMPS_PATH
from loadgen.known_client import TOKENS, TOKENS_PER_S, TTFT_S, drive
from loadgen.known_replies import Stamps, StreamStamps
from loadgen.selftest import judge
from loadgen.summary import Distribution
from loadgen.target import Target

ROOT = Path(__file__).parents[1]
CLIENT_CORE, SERVER_CORE = "0", "1"
LOADS = {16: 528, 64: 704, 256: 1536}
"""Requests by streams: a p99 needs 500."""
POISSON_PER_S, POISSON_REQUESTS, SEEDS = 20.0, 300, (1, 2, 3)
SUSTAIN_STREAMS, SUSTAIN_S, SUSTAIN_REPLY_S = 256, 5.0, 2.0
SUSTAIN_RATES = (60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300, 330, 360, 400, 440)
BEHIND_MS = 5.0
"""Half of the last second's tokens are stamped later than this after their write: a backlog grows."""
TOOL_TIMEOUT_S = 240.0


@contextlib.contextmanager
def known_server(*plan: str) -> Iterator[str]:
    """The URL of a server of known timing on a core of its own."""
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "loadgen.known", *plan]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.stdin.close()


def stamps(url: str) -> Stamps:
    with urllib.request.urlopen(url + STAMPS_PATH, timeout=60) as answer:
        return msgspec.json.decode(answer.read(), type=Stamps)


class CpuCurve:
    """CPU seconds of a process tree over time, to read off afterwards."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._points: list[tuple[float, float]] = []

    def sample(self) -> None:
        total = 0.0
        with contextlib.suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += sum(process.cpu_times()[:4])  # with those of children that are gone
        if total:
            self._points.append((time.monotonic(), total))

    def at(self, moment: float) -> float:
        for (t0, c0), (t1, c1) in pairwise(self._points):
            if t0 <= moment <= t1:
                return c0 + (c1 - c0) * (moment - t0) / (t1 - t0)
        return self._points[-1][1]


def run_tool(tool: Tool, job: Job) -> CpuCurve:
    """Run it to its end on the client's core. Raises RuntimeError when it fails or takes too long."""
    log = job.out / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", CLIENT_CORE, *tool.command(job)],
            cwd=ROOT,
            env=environment(tool),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        curve = CpuCurve(process.pid)
        deadline = time.monotonic() + TOOL_TIMEOUT_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                curve.sample()
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise RuntimeError(f"{tool.name} ended with {process.returncode}: {log.read_text(errors='replace')[-600:]}")
    return curve


def spread(values: Sequence[float]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(Distribution.of(values))
    return found


def true_ttft_ms(stream: StreamStamps) -> float:
    return (stream.written[0] - stream.read) * 1e3


def compare(said: Sequence[Said], streams: Sequence[StreamStamps], first_round: int) -> dict[str, Any]:
    """Each request's figures less the server's, as distributions."""
    whole = {stream.request_id: stream for stream in streams if len(stream.written) == stream.tokens > 1}
    begun = sorted(stream.read for stream in whole.values())
    later_than = begun[min(first_round, len(begun)) - 1]
    matched = [(one, whole[one.request_id]) for one in said if one.request_id in whole]
    ttft = [(one.ttft_ms - true_ttft_ms(true), true.read > later_than) for one, true in matched]
    itl, gaps = [], []
    for one, true in matched:
        server = [(after - before) * 1e3 for before, after in pairwise(true.written)]
        if one.itl_ms is not None:
            itl.append(one.itl_ms - sum(server) / len(server))
        if one.gaps_ms is not None and len(one.gaps_ms) >= len(server):
            gaps += [abs(gap - truth) for gap, truth in zip(one.gaps_ms[-len(server) :], server, strict=True)]
    return {
        "said_ttft_ms": spread([one.ttft_ms for one, _ in matched]),
        "true_ttft_ms": spread([true_ttft_ms(true) for _, true in matched]),
        "ttft_error_ms": spread([error for error, _ in ttft]),
        "ttft_error_later_ms": spread([error for error, later in ttft if later]),
        "itl_mean_error_ms": spread(itl),
        "gap_error_ms": spread(gaps),
        "matched": len(matched),
        "said": len(said),
        "server_late_ms": spread([late * 1e3 for stream in streams for late in stream.lateness_s]),
    }


def one_load(tool: Tool, url: str, streams: int, requests: int) -> dict[str, Any]:
    stamps(url)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(url, requests, Path(folder), streams=streams)
        curve = run_tool(tool, job)
        served = [stream for stream in stamps(url).streams if stream.written]
        events = sum(len(stream.written) for stream in served)
        busy_s = curve.at(max(s.written[-1] for s in served)) - curve.at(min(s.read for s in served))
        found = compare(tool.read(job.out), served, streams)
    return {"tool": tool.name, "streams": streams, "cpu_ms_per_1000": busy_s / events * 1e6, **found}


def quietest(tries: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Of several runs the one that others on this machine disturbed least, by the server's lateness and not by the tool."""
    return min((measure() for _ in range(tries)), key=lambda row: row["server_late_ms"]["p99"])


def poisson(tool: Tool, url: str, seed: int) -> dict[str, Any]:
    """Requests a second as the server read them."""
    stamps(url)
    with tempfile.TemporaryDirectory() as folder:
        run_tool(tool, Job(url, POISSON_REQUESTS, Path(folder), rate=POISSON_PER_S, seed=seed))
        reads = sorted(stream.read for stream in stamps(url).streams if len(stream.written) > 1)
    rate = (len(reads) - 1) / (reads[-1] - reads[0])
    error = POISSON_PER_S / math.sqrt(len(reads))
    return {"tool": tool.name, "seed": seed, "n": len(reads), "rate": rate, "sigmas": (rate - POISSON_PER_S) / error}


def drive_child(url: str, streams: int, rate: float, tokens: int, seconds: float) -> None:
    """In a process of its own on the client's core: drive, and print how its stamps differ from the server's."""
    allow_many_sockets()
    driven = uvloop.run(drive(Target.parse(url), streams, seconds, rate, tokens))
    served = stamps(url)
    step = msgspec.to_builtins(judge(streams, driven, served))
    begun = min(stream.read for stream in served.streams)
    written = {stream.request_id: stream.written for stream in served.streams}
    pairs = [
        (wrote, saw)
        for one in driven.seen
        for wrote, saw in zip(written[one.record.request_id], one.token_at, strict=True)
    ]
    low, high = (
        begun + TTFT_S + tokens / rate,
        begun + seconds,
    )  # all streams are under way, and none has ended for good
    events = sum(low <= saw < high for _, saw in pairs)
    lag = [(saw - wrote) * 1e3 for wrote, saw in pairs if low <= wrote < high]
    last = sorted((saw - wrote) * 1e3 for wrote, saw in pairs if high - 1 <= wrote < high)
    late = sorted(at * 1e3 for stream in served.streams for at in stream.lateness_s)
    client_ms, server_ms = last[len(last) // 2], late[len(late) // 2]
    step |= {"rate": rate, "events_per_s": events / (high - low), "stamp_error_ms": spread(lag)}
    step["behind"] = "client" if client_ms > BEHIND_MS else "server" if server_ms > BEHIND_MS else ""
    print(json.dumps(step))


def our_stamps(url: str, streams: int, rate: float, tokens: int, seconds: float) -> dict[str, Any]:
    """Our client's stamps beside the server's, token by token, of people who begin evenly spread."""
    stamps(url)
    arguments = [str(value) for value in (streams, rate, tokens, seconds)]
    command = ["taskset", "-c", CLIENT_CORE, sys.executable, __file__, "--drive", url, *arguments]
    step: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    return step


def sustain(tries: int) -> list[dict[str, Any]]:
    """Raise the rate until the client or the server is behind, each time it is tried."""
    found = []
    with known_server() as url:
        for rate in SUSTAIN_RATES:
            for _ in range(tries):
                step = our_stamps(url, SUSTAIN_STREAMS, rate, round(SUSTAIN_REPLY_S * rate), SUSTAIN_S)
                found.append(step)
                print(sustain_row(step), flush=True)
                if not step["behind"]:
                    break
            if step["behind"]:
                break
    kept_up = [step["events_per_s"] for step in found if not step["behind"]]
    print(f"highest sustained: {max(kept_up, default=0):,.0f} events/s on one core")
    return found


def figure(value: float | None) -> str:
    return f"{'—' if value is None else format(value, '.2f'):>8}"


def load_row(row: dict[str, Any]) -> str:
    spreads = (row["ttft_error_ms"], row["ttft_error_later_ms"])
    cells = "".join(figure(found[key]) for found in spreads for key in ("mean", "p50", "p99"))
    gaps = "".join(figure(row["gap_error_ms"][key]) for key in ("mean", "p50", "p99"))
    cpu = f"{row['cpu_ms_per_1000']:>7.0f}"
    return f"{row['tool']:<17}{row['streams']:>5}{cells}{figure(row['itl_mean_error_ms']['mean'])}{gaps}{cpu}"


LOAD_HEAD = (
    f"{'ms':<22}{'TTFT error, all begin at once':^24}{'the rounds after':^24}{'ITL':>8}{'gap error (abs.)':^24}"
    f"{'CPU ms':>7}\n{'':<17}{'at':>5}"
    + "".join(f"{head:>8}" for head in ("mean", "p50", "p99", "mean", "p50", "p99", "mean", "mean", "p50", "p99"))
    + f"{'/1,000':>7}"
)


def stamps_row(step: dict[str, Any]) -> str:
    spreads = (step["errors"]["ttft"], step["errors"]["gap"], step["send_lag_ms"])
    cells = "".join(figure(found[key]) for found in spreads for key in ("mean", "p50", "p99"))
    return f"{'our stamps':<17}{step['streams']:>5}{cells}{step['cpu_ms']:>7.0f}"


STAMPS_HEAD = (
    f"{'ms':<22}{'TTFT: read - written':^24}{'gap error (abs.)':^24}{'meant to send -> sent':^24}{'CPU ms':>7}\n"
    f"{'':<17}{'at':>5}" + "".join(f"{head:>8}" for head in ("mean", "p50", "p99") * 3) + f"{'/1,000':>7}"
)


def sustain_row(step: dict[str, Any]) -> str:
    stamp = step["stamp_error_ms"]
    behind = f": the {step['behind']} is behind" if step["behind"] else ""
    return (
        f"{step['streams']} x {step['rate']:g}/s: {step['events_per_s']:>7,.0f} events/s, {step['cpu_share']:.0%} of a core, "
        f"{step['cpu_ms']:.1f} ms of CPU per 1,000; stamp error mean {stamp['mean']:.2f} p50 {stamp['p50']:.2f} "
        f"p99 {stamp['p99']:.2f} ms; server late p50 {step['server_late_ms']['p50']:.2f} ms{behind}"
    )


def tools_of(options: argparse.Namespace) -> list[Tool]:
    makers = {"vllm": vllm_bench, "guidellm": guidellm, "aiperf": aiperf}
    tools = [ours()]
    for name, make in makers.items():
        program = getattr(options, name)
        if not program:
            print(f"{name} is left out: no --{name} was given.")
        elif not options.tokenizer:
            print(f"{name} is left out: it needs a --tokenizer folder.")
        else:
            tools.append(make(program, options.tokenizer))
    return tools


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", metavar="PYTHON", help="the python of an environment that has vLLM")
    parser.add_argument("--guidellm", metavar="PROGRAM")
    parser.add_argument("--aiperf", metavar="PROGRAM")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="a model's folder; the others count tokens with it")
    parser.add_argument("--out", metavar="FILE", help="all figures as JSON")
    parser.add_argument("--parts", default="loads,sustain,poisson")
    parser.add_argument(
        "--tries", type=int, default=1, help="runs of each load; the one in which the server was least late counts"
    )
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        url, streams, rate, tokens, seconds = options.drive
        drive_child(url, int(streams), float(rate), int(tokens), float(seconds))
        return
    allow_many_sockets()
    tools = tools_of(options)
    found: dict[str, Any] = {"load_average": os.getloadavg(), "loads": [], "stamps": [], "sustain": [], "poisson": []}
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    if "sustain" in options.parts:
        print("\nHow many events a second does one core keep up with?")
        found["sustain"] = sustain(options.tries)
    with known_server("--ttft", "0.1", "--gap", "0.02", "--tokens", "50", "--spread", "0.5") as url:
        if "loads" in options.parts:
            print(f"\n{STAMPS_HEAD}")
            for streams, requests in LOADS.items():
                plan = (streams, TOKENS_PER_S, TOKENS, requests / streams * REPLY_S)
                attempt(
                    found["stamps"], lambda p=plan: quietest(options.tries, lambda: our_stamps(url, *p)), stamps_row
                )
            print(f"\n{LOAD_HEAD}")
            for tool in tools:
                for streams, requests in LOADS.items():
                    attempt(
                        found["loads"],
                        lambda t=tool, s=streams, n=requests: quietest(options.tries, lambda: one_load(t, url, s, n)),
                        load_row,
                    )
        if "poisson" in options.parts:
            print(f"\nPoisson, {POISSON_PER_S:g} requests/s asked, {POISSON_REQUESTS} requests")
            for tool in tools:
                for seed in SEEDS:
                    attempt(
                        found["poisson"],
                        lambda t=tool, s=seed: poisson(t, url, s),
                        lambda row: (
                            f"{row['tool']:<17} seed {row['seed']}: {row['rate']:.2f}/s, {row['sigmas']:+.1f} sigma"
                        ),
                    )
    print(f"\nload average after: {os.getloadavg()[0]:.2f}")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1))


def attempt(rows: list[dict[str, Any]], measure: Any, row: Any) -> None:
    """A tool that fails does not end the bench."""
    try:
        rows.append(measure())
    except (RuntimeError, OSError, LookupError, ValueError) as error:
        print(f"failed: {error}", flush=True)
    else:
        print(row(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
