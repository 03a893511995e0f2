"""Do readers that stall cost the others anything? 64 streams through the gateway, without and with stalled ones beside them.

    python -m bench.stalled [--readers 8] [--rounds 1] [--out FILE.json]

The server of known timing writes over 8 MiB to each stalled reader, who reads its head and then nothing: loopback's kernel
swallows some of it, the gateway's buffer must hold at its bound and the rest stays upstream. Passes run A B B A, all
parts as in `bench.gateway`; a pass counts only if every reader was still stalled at its end. Then the readers are left
to the write-stall limit. Exit code 1 when the bound broke or a reader was not cut off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.gateway import machine, run_client
from bench.gateway_client import Job, Load, Row
from bench.gateway_peers import ROOT, Cores, known_server, ours
from loadgen.known_client import known_body
from server.gateway.client import STALL_S
from server.gateway.exchange import BUFFER_LIMIT_BYTES
from server.telemetry.gateway_series import PREFIX

TOKENS = 60_000
"""About 12 MiB of a stalled reader's reply."""
FILL_LIMIT_S = 120.0
LOAD = Load("asking", 64, 50.0, 10.5)


def gauge(url: str, name: str) -> float:
    """Of the gateway, now."""
    text = httpx.get(f"{url}/metrics", timeout=10.0).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == f"{PREFIX}{name}")


@contextlib.contextmanager
def stalled(url: str, count: int) -> Iterator[list[socket.socket]]:
    """So many readers who ask for a long reply and read only its head; entered once none of it moves any more."""
    host, port = url.removeprefix("http://").split(":")
    body = known_body(0.01, 0.0, TOKENS)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    readers = []
    try:
        for number in range(count):
            sock = socket.socket()
            readers.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(10.0)
            sock.connect((host, int(port)))
            sock.sendall(f"{head}x-request-id: stalled-{number}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            sock.recv(512)
        _until_still(url)
        yield readers
    finally:
        for sock in readers:
            sock.close()


def _until_still(url: str) -> None:
    """The gateway's buffers are in use and have not changed for 2 s."""
    end, last, since = time.monotonic() + FILL_LIMIT_S, -1.0, time.monotonic()
    while time.monotonic() < end:
        now = gauge(url, "buffered_bytes")
        if now != last:
            last, since = now, time.monotonic()
        if now > 0 and time.monotonic() - since >= 2.0:
            return
        time.sleep(0.2)
    raise RuntimeError("the readers did not stall")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    cores = Cores.of_this_machine()
    rows: dict[str, list[Row]] = {"alone": [], "beside": []}
    buffered: list[float] = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-stalled-")))
        engine = stack.enter_context(known_server(cores.server, scratch))
        gateway = stack.enter_context(ours(ROOT, engine.url, cores.gateway, scratch))
        job = Job(LOAD, gateway.url, engine.url, None, gateway.pids(), engine.pid or 0)
        for name in ["alone", "beside", "beside", "alone"] * options.rounds:
            if name == "alone":
                rows[name].append(run_client(job, cores.client))
                continue
            with stalled(gateway.url, options.readers):
                buffered.append(gauge(gateway.url, "buffered_bytes"))
                rows[name].append(run_client(job, cores.client))
                if gauge(gateway.url, "held") + gauge(gateway.url, "in_flight") < options.readers:
                    raise RuntimeError("readers were cut off before the pass was over")
                buffered.append(gauge(gateway.url, "buffered_bytes"))
        cut_s = _cut_off(gateway.url, options.readers)
    bound = options.readers * BUFFER_LIMIT_BYTES
    found = {
        "machine": machine(),
        "readers": options.readers,
        "buffered_bytes": buffered,
        "bound_bytes": bound,
        "cut_off_s": cut_s,
        "passes": {name: msgspec.to_builtins(passes) for name, passes in rows.items()},
    }
    print(f"{'':<26}{'overhead of TTFT, ms':>22}{'event delay, ms':>22}{'events/s':>10}{'failed':>8}{'others':>8}")
    print(f"{'':<26}{'p50':>11}{'p99':>11}{'p50':>11}{'p99':>11}")
    for name, title in (("alone", "64 streams alone"), ("beside", f"beside {options.readers} stalled")):
        spans = [
            [getattr(getattr(row, span), quantile) for row in rows[name]]
            for span in ("overhead_ms", "delay_ms")
            for quantile in ("p50", "p99")
        ]
        failed = sum(sum(row.failed.values()) for row in rows[name])
        others = max(row.others_share for row in rows[name])
        cells = "".join(f"{median(values):>11.2f}" for values in spans)
        print(f"{title:<26}{cells}{median(r.events_per_s for r in rows[name]):>10,.0f}{failed:>8}{others:>8.0%}")
        for values, what in zip(spans, ("TTFT p50", "TTFT p99", "delay p50", "delay p99"), strict=True):
            print(f"{'':<6}{what}, by pass: " + ", ".join(f"{value:.2f}" for value in values))
    each = max(buffered) / options.readers / 1024
    print(f"the gateway held {each:.0f} KiB a stalled reader at most (bound {BUFFER_LIMIT_BYTES // 1024})")
    print(f"left alone, all were cut off after {cut_s:.1f} s (limit {STALL_S:g} s without a byte taken)")
    found["met"] = max(buffered) <= bound
    return found


def _cut_off(url: str, count: int) -> float:
    """Seconds from standing still until the gateway has let go of every stalled reader."""
    with stalled(url, count):
        begun = time.monotonic()
        while gauge(url, "in_flight") + gauge(url, "held") > 0:
            if time.monotonic() - begun > 3 * STALL_S:
                raise RuntimeError("stalled readers were not cut off")
            time.sleep(0.1)
        if gauge(url, "buffered_bytes"):
            raise RuntimeError("bytes of those who were cut off are still held")
        return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="A B B A so many times")
    parser.add_argument("--out", metavar="FILE", help="all figures as JSON")
    options = parser.parse_args()
    try:
        found = compare(options)
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
