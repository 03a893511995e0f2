"""What the cockpit costs: CPU, bytes to the terminal, memory, first paint, in a real pty.

    python -m bench.terminal [--seconds 30] [--size 160x48] [--idle | --live] [--hz 2] [--screen requests]
        [--plain] [--hold]

A child process runs the application on a scripted source whose figures move at every tick; this process reads its
terminal as a terminal would. The child is measured from outside (/proc), after the first paint.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import math
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

# The samples of the tests are the script.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "console"))

from requests_samples import STAGES, request
from samples import IDLE, LOADED, course

from console.app import CockpitApp
from console.sources.live import decode
from server.commands import Answer, Command
from server.telemetry.snapshot import JoinedRequest, Quantiles, Snapshot, Value, snapshot_encoder

REQUESTS_PER_S = 25.0
KEPT = 4000
ALTERNATE_SCREEN = b"\x1b[?1049h"
FIRST_DATA = "● live".encode()


def moving(last: Snapshot, every_s: float, idle: bool) -> Iterator[Snapshot]:
    """The sample for ever after, with figures that move as those of a loaded stack do."""
    tick = 0
    while True:
        tick += 1
        swing = math.sin(tick / 7) + 0.4 * math.sin(tick * 1.7)

        def near(value: Value, by: float, swing: float = swing) -> Value:
            return value if value.v is None else msgspec.structs.replace(value, v=max(0.0, value.v + by * swing))

        def around(found: Quantiles, swing: float = swing, tick: int = tick) -> Quantiles:
            scale = 1 + 0.2 * swing
            return msgspec.structs.replace(
                found,
                n=found.n + tick % 7,
                p50=None if found.p50 is None else found.p50 * scale,
                p95=None if found.p95 is None else found.p95 * scale,
                p99=None if found.p99 is None else found.p99 * (1 + 0.05 * swing),
            )

        later = tick * every_s
        clock = {
            "seq": last.seq + tick,
            "at": last.at + later,
            "wall": last.wall + later,
            "uptime_s": last.uptime_s + later,
        }
        if idle:
            yield msgspec.structs.replace(last, **clock)
            continue
        feel, queue, engine, people, gpu = last.feel, last.queue, last.engine, last.people, last.gpus[0]
        stages = [msgspec.structs.replace(s, mean_s=(s.mean_s or 0) * (1 + 0.1 * swing)) for s in last.breakdown.stages]
        yield msgspec.structs.replace(
            last,
            **clock,
            recording_s=(last.recording_s or 0) + later,
            people=msgspec.structs.replace(
                people, thinking=near(people.thinking, 6), in_flight=near(people.in_flight, 6)
            ),
            queue=msgspec.structs.replace(
                queue,
                depth=near(queue.depth, 7),
                oldest_s=near(queue.oldest_s, 0.6),
                arrivals_per_s=near(queue.arrivals_per_s, 2),
            ),
            engine=msgspec.structs.replace(
                engine,
                running=near(engine.running, 1.5),
                kv_usage=near(engine.kv_usage, 0.05),
                tokens_per_step=near(engine.tokens_per_step, 60),
                steps_per_s=near(engine.steps_per_s, 2),
                prompt_tokens_per_s=near(engine.prompt_tokens_per_s, 900),
            ),
            feel=msgspec.structs.replace(
                feel,
                ttft_s=around(feel.ttft_s),
                tpot_s=around(feel.tpot_s),
                gap_s=around(feel.gap_s),
                e2e_s=around(feel.e2e_s),
                tokens_per_s=near(feel.tokens_per_s, 220),
                goodput_per_s=near(feel.goodput_per_s, 1.2),
            ),
            breakdown=msgspec.structs.replace(last.breakdown, stages=stages, e2e_s=sum(s.mean_s or 0 for s in stages)),
            little=msgspec.structs.replace(last.little, expected=73.5 + swing, counted=73.1 + swing * 0.9),
            gpus=[
                msgspec.structs.replace(
                    gpu,
                    tensor=near(gpu.tensor, 0.06),
                    dram=near(gpu.dram, 0.05),
                    sm_active=near(gpu.sm_active, 0.02),
                    sm_occupancy=near(gpu.sm_occupancy, 0.02),
                    power_w=near(gpu.power_w, 8),
                    mfu=near(gpu.mfu, 0.03),
                    mbu=near(gpu.mbu, 0.03),
                )
            ],
        )


class MovingSource:
    """History at once, then a snapshot every `every_s`, through the decoder that the live source uses."""

    kind: Literal["live"] = "live"
    can_send = False
    behind = 0
    retry_s = 1.0

    def __init__(self, every_s: float, idle: bool) -> None:
        self.every_s = every_s
        self.idle = idle
        self.finished = 0

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        last = IDLE if self.idle else LOADED
        for snapshot in course(last):
            yield snapshot
        for snapshot in moving(last, self.every_s, self.idle):
            await asyncio.sleep(self.every_s)
            yield decode(snapshot_encoder.encode(snapshot))

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """4 000 at first, then as many as the loaded stack finishes."""
        before = KEPT if since < until - 3600 else 0
        fresh = 0 if self.idle and not before else round(REQUESTS_PER_S * min(until - since, KEPT))
        found = []
        for n in range(max(before, min(fresh, limit))):
            self.finished += 1
            ended = until - (max(before, fresh) - n) / REQUESTS_PER_S
            queue_s = 0.3 + 0.2 * math.sin(self.finished / 9)
            stages = {**STAGES, "queue": queue_s, "decode": 2.4 + 0.5 * math.sin(self.finished)}
            found.append(
                request(
                    f"w0p{self.finished % 273}-{self.finished:06}",
                    ended,
                    who=f"w0p{self.finished % 273}",
                    stages=stages,
                    ttft_s=queue_s + 0.13,
                    sealed_at=until,
                )
            )
        return msgspec.json.decode(msgspec.json.encode(found), type=list[JoinedRequest])

    async def send(self, command: Command) -> Answer:
        raise NotImplementedError

    def hold(self, still: bool) -> None: ...

    async def close(self) -> None: ...


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return next(
        int(one.split()[1]) / 1024
        for one in Path(f"/proc/{pid}/status").read_text().splitlines()
        if one.startswith("VmRSS")
    )


def measure(
    seconds: float,
    cells: int,
    rows: int,
    hz: float,
    idle: bool,
    live: bool,
    screen: str = "flow",
    looked: Sequence[str] = (),
) -> dict[str, float]:
    begun = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        arguments = [sys.executable, "-m", "bench.terminal", "--child", "--hz", str(hz), "--screen", screen]
        arguments += [*looked, *(["--idle"] if idle else [])]
        if live:
            arguments = [sys.executable, "-m", "console.cli", "console"]
        os.execv(sys.executable, arguments)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cells, 0, 0))
    first_paint, first_data, seen = math.nan, math.nan, b""
    try:
        _, first_paint, first_data, seen = _read(terminal, begun + 4.0, begun)
        cpu, at = cpu_seconds(pid), time.monotonic()
        written, *_ = _read(terminal, at + seconds, begun)
        spent, took, memory = cpu_seconds(pid) - cpu, time.monotonic() - at, rss_mb(pid)
        os.kill(pid, signal.SIGTERM)
        *_, tail = _read(terminal, time.monotonic() + 3.0, begun)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    if ALTERNATE_SCREEN not in seen:
        raise SystemExit("The console never came up:\n" + seen.decode(errors="replace")[-3000:])
    return {
        "cpu_share": spent / took,
        "bytes_per_s": written / took,
        "rss_mb": memory,
        "first_paint_s": first_paint,
        "first_data_s": first_data,
        "exit_code": os.waitstatus_to_exitcode(status),
        "restored": float(b"\x1b[?1049l" in tail),
    }


def _read(terminal: int, until: float, begun: float) -> tuple[int, float, float, bytes]:
    """(bytes, first paint, first snapshot on the screen, what came) until a moment or the end of the child."""
    written, painted, fed, seen = 0, math.nan, math.nan, b""
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            break
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        written += len(data)
        seen += data
        if math.isnan(painted) and (b"people" in seen or b"guests" in seen):
            painted = time.monotonic() - begun
        if math.isnan(fed) and FIRST_DATA in seen:
            fed = time.monotonic() - begun
    return written, painted, fed, seen


def child(hz: float, idle: bool, screen: str, plain: bool, hold: bool) -> None:
    CockpitApp.DEFAULT_MODE = screen
    app = CockpitApp(MovingSource(1 / hz, idle), words="plain" if plain else "standard")
    if hold:
        app.call_later(app.set_timer, 2.0, app.action_baseline)
    app.run()
    sys.exit(app.return_code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--size", default="160x48")
    parser.add_argument("--hz", type=float, default=2.0)
    parser.add_argument("--screen", default="flow", choices=sorted(CockpitApp.MODES))
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--live", action="store_true", help="the console on the running stack, not a script")
    parser.add_argument("--plain", action="store_true", help="in plain words")
    parser.add_argument("--hold", action="store_true", help="against a baseline, every figure with its change")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.hz, options.idle, options.screen, options.plain, options.hold)
        return
    cells, rows = (int(part) for part in options.size.split("x"))
    looked = [f"--{name}" for name in ("plain", "hold") if getattr(options, name)]
    found = measure(options.seconds, cells, rows, options.hz, options.idle, options.live, options.screen, looked)
    what = (
        "the running stack" if options.live else f"scripted, {'idle' if options.idle else 'loaded'}, {options.hz:g} Hz"
    )
    print(f"console, {options.screen}, {options.size}, {what}, {options.seconds:g} s")
    print(f"  CPU                {found['cpu_share'] * 100:6.2f} % of one core")
    print(f"  to the terminal    {found['bytes_per_s'] / 1024:6.2f} KiB/s")
    print(f"  RSS                {found['rss_mb']:6.1f} MB")
    print(f"  first paint        {found['first_paint_s']:6.2f} s after exec")
    print(f"  first data         {found['first_data_s']:6.2f} s after exec")
    print(
        f"  left with          {found['exit_code']:6.0f}, terminal {'restored' if found['restored'] else 'NOT RESTORED'}"
    )


if __name__ == "__main__":
    main()
