"""Are the sums right? Two real CPU engines behind one stack, our screen's sums against the two engines' own /metrics.

    python -m bench.replicas [--seconds 45] [--people 12] [--out FILE.json]

Two vLLMs are started one after the other (SmolLM2, 4 slots each, 1 GiB of KV cache), a stack attaches to both and drives them.
Their pages are read beside it twice a second by a parser of its own (prometheus_client), and each sum of a snapshot is held
against the two pages over the same window: at rest, under people, and after one of the two was killed. Exit code 1 when a sum
is off by more than 5 % and what a tick can move, or the dead one is not named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.gateway import machine
from server import commands
from server.client import StackClient
from server.config import Paths, StackSettings, default_paths
from server.engine.device import find_machine
from server.engine.environment import find_environment
from server.engine.launch import plan
from server.engine.models import prepare
from server.telemetry.snapshot import Snapshot

SLOTS = 4
START_LIMIT_S = 240.0
EVERY_S = 0.5
TOLERANCE = 0.05
COUNTERS = ("generation_tokens_total", "prompt_tokens_total", "prefix_cache_hits_total", "prefix_cache_queries_total")


@dataclass
class Page:
    """One reading of both engines: metric -> sum over the two."""

    at: float
    figures: dict[str, float]
    each: list[dict[str, float]]


@dataclass
class Reader:
    """The second account: both pages, twice a second, in a thread."""

    urls: list[str]
    pages: list[Page] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=5.0) as http:
            while not self._stop.wait(EVERY_S):
                each = []
                for url in self.urls:
                    with contextlib.suppress(httpx.HTTPError):
                        each.append(_figures(http.get(f"{url}/metrics").text))
                names = {name for one in each for name in one}
                total = {name: math.fsum(one.get(name, 0.0) for one in each) for name in names}
                self.pages.append(Page(time.monotonic(), total, each))

    def stop(self) -> None:
        self._stop.set()

    def rate(self, name: str, at: float, window_s: float) -> float:
        """Gained a second, between the window's ends: their pages are read half a second apart, so what lies between two
        readings is interpolated."""
        return (self._total(name, at) - self._total(name, at - window_s)) / window_s

    def _total(self, name: str, at: float) -> float:
        before = max((page for page in self.pages if page.at <= at), key=lambda page: page.at, default=self.pages[0])
        after = min((page for page in self.pages if page.at > at), key=lambda page: page.at, default=self.pages[-1])
        low, high = before.figures.get(name, 0.0), after.figures.get(name, 0.0)
        return low if after.at <= before.at else low + (high - low) * (at - before.at) / (after.at - before.at)

    def gauge(self, name: str, at: float, window_s: float) -> float:
        return statistics.fmean(page.figures[name] for page in self.pages if at - window_s <= page.at <= at)


def _figures(text: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("vllm:")
            if name != sample.name and "le" not in sample.labels:
                figures[name] = figures.get(name, 0.0) + sample.value
    return figures


@contextlib.contextmanager
def engine(name: str, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One vLLM of its own session, ended with all of it."""
    paths = default_paths()
    settings = StackSettings(model=name, device="cpu", engine_port=port, max_num_seqs=SLOTS)
    environment = find_environment(settings, paths)
    model = prepare(settings, environment, paths, lambda text: print(text, flush=True))
    launch = plan(environment, model, settings, find_machine(), None, os.environ)
    env = {**launch.env, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (path := folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(launch.argv, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            _until_healthy(launch.url, process, path)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.3)
    how = "ended" if process.poll() is not None else f"did not come up within {START_LIMIT_S:.0f} s"
    said = log.read_text(errors="replace").splitlines()[-3:]
    raise SystemExit("\n".join([f"{url} {how}", *said]))


def spark(home: Path, *arguments: str) -> None:
    """One verb. Raises SystemExit with its words."""
    done = subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env={**os.environ, "SPARK_SERVE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"spark-serve {' '.join(arguments)}: {done.stdout}{done.stderr}")


def compared(snapshot: Snapshot, reader: Reader, shown: list[Snapshot]) -> list[tuple[str, float, float, float]]:
    """(what, ours, theirs, what a tick can move) over the same seconds."""
    rows = []
    engine_, at = snapshot.engine, snapshot.at
    window_s = shown[-1].at - shown[0].at
    for name, ours in (
        ("running", statistics.fmean(one.engine.running.v or 0.0 for one in shown)),
        ("waiting", statistics.fmean(one.engine.waiting.v or 0.0 for one in shown)),
    ):
        rows.append((name, ours, reader.gauge(f"num_requests_{name}", at, window_s), 0.3))
    for name in ("generation_tokens", "prompt_tokens"):
        # Over all of the snapshots: each page comes in bursts, and is read at a moment of its own.
        seen = [(one.at, getattr(one.engine, f"{name}_per_s")) for one in shown]
        known = [(moment, value) for moment, value in seen if value.v is not None]
        if not known:
            continue
        theirs = statistics.fmean(
            reader.rate(f"{name}_total", moment - value.age_s, value.window_s or 10.0) for moment, value in known
        )
        rows.append((f"{name}/s", statistics.fmean(value.v for _, value in known), theirs, 1.0))
    hits = engine_.prefix_hit_share
    if hits.v is not None and hits.window_s:
        asked, hit = (
            reader.rate(f"prefix_cache_{what}_total", at - hits.age_s, hits.window_s) for what in ("queries", "hits")
        )
        rows.append(("prefix hit share", hits.v, hit / asked if asked else 0.0, 0.01))
    ttft = engine_.ttft_s
    if ttft.mean is not None:
        n = reader.rate("time_to_first_token_seconds_count", at - ttft.age_s, ttft.window_s)
        total = reader.rate("time_to_first_token_seconds_sum", at - ttft.age_s, ttft.window_s)
        rows.append(("TTFT n", float(ttft.n), n * ttft.window_s, 2.0))
        rows.append(("TTFT mean, s", ttft.mean, total / n if n else 0.0, 0.02))
    return rows


def said(title: str, rows: list[tuple[str, float, float, float]]) -> bool:
    print(f"\n{title:<26}{'our sum':>12}{'their pages':>14}")
    good = True
    for name, ours, theirs, slack in rows:
        fits = abs(ours - theirs) <= max(slack, TOLERANCE * abs(theirs))
        good = good and fits
        print(f"  {name:<24}{ours:>12.3f}{theirs:>14.3f}{'' if fits else '   OFF'}", flush=True)
    return good


def watched(client: StackClient, seconds: float) -> list[Snapshot]:
    """A snapshot every half second."""
    shown: list[Snapshot] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shown.append(client.snapshot())
        time.sleep(EVERY_S)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--port", type=int, default=18951, help="of the first engine; two more are used")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(machine())
    result: dict[str, Any] = {"machine": machine(), "people": options.people, "slots": SLOTS}
    with tempfile.TemporaryDirectory(prefix="spark-replicas-") as name, contextlib.ExitStack() as cleanup:
        folder = Path(name)
        began = time.monotonic()
        cleanup.enter_context(engine(options.model, options.port, folder))
        second = cleanup.enter_context(engine(options.model, options.port + 1, folder))
        print(f"both engines serve after {time.monotonic() - began:.0f} s", flush=True)
        urls = [f"http://127.0.0.1:{options.port + place}" for place in range(2)]
        home = folder / "home"
        client = StackClient(Paths(home / "data", home / "state", home / "run"))
        load = ("--people", "0", "--think", "1", "--prompt-tokens", "40", "--output-tokens", "24")
        cleanup.callback(spark, home, "down")
        attached = [part for url in urls for part in ("--attach", url)]
        spark(
            home, "up", *attached, "--drive", "--port", str(options.port + 2), "--max-in-flight", "8", *load, "--wait"
        )
        reader = Reader(urls)
        thread = threading.Thread(target=reader.run, daemon=True)
        thread.start()
        cleanup.callback(reader.stop)

        time.sleep(12.0)
        shown = watched(client, 5.0)
        rest = compared(shown[-1], reader, shown)
        good = said("at rest", rest)

        client.send(commands.People(count=options.people))
        shown = watched(client, options.seconds)
        half = [one for one in shown if one.at >= shown[-1].at - options.seconds / 2]
        loaded = compared(shown[-1], reader, half)
        good = said(f"{options.people} people", loaded) and good
        latest = shown[-1]
        found = latest.replicas
        assert found is not None
        finished = client.requests(2000)
        names = [member.name for member in found.members]
        served = {place: sum(one.replica.endswith(place) for one in finished) for place in names}
        finals = [round(page.get("e2e_request_latency_seconds_count", 0.0)) for page in reader.pages[-1].each]
        print(f"  requests by record      {served}; finished by the engines: {dict(zip(names, finals, strict=True))}")
        little = latest.little
        print(
            f"  max / mean {found.imbalance.v}, n={found.imbalance.n}; Little {little.expected}, counted {little.counted}"
        )
        print(f"  limit: {latest.limit}", flush=True)

        killed = time.monotonic()
        os.killpg(second.pid, signal.SIGKILL)
        named_s = None
        while time.monotonic() < killed + 20 and named_s is None:
            after = client.snapshot()
            if (
                after.replicas is not None
                and after.replicas.answering == 1
                and after.engine.running.why == "1 of 2 replicas"
            ):
                named_s = after.at - killed
            time.sleep(0.1)
        before = len(client.requests(2000))
        rest_of = watched(client, 12.0)
        went_on = len(client.requests(2000)) - before
        last = rest_of[-1].replicas
        why = "" if last is None else last.members[1].why
        print(
            f"\none killed: out of the sum after {named_s and round(named_s, 1)} s, {why!r}; {went_on} more requests finished"
        )
        result |= {
            "rest": rest,
            "loaded": loaded,
            "served": served,
            "finals": finals,
            "named_s": named_s,
            "went_on": went_on,
        }
        good = good and named_s is not None and went_on > 0
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))
    print("\nevery sum agrees" if good else "\nSOMETHING IS OFF")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
