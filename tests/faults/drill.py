"""A drill on a real engine: `python -m tests.faults.drill [-- OPTIONS OF up]`. Every process of the stack is killed or
stopped in turn under streams, with a real console watching, and the GPU's memory read before and after.

Each step is a row of the ledger; the figures of a step stand below the table.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pynvml

from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.engine.processes import API_SERVER, ENGINE_CORE, WORKER, roles
from server.supervisor import lives
from server.telemetry.snapshot import Snapshot
from tests.faults.ledger import Row, Tally, people, table
from tests.faults.terminal import Terminal

STREAMS = 16
STOPPED_S = 70.0
BOUND_S = 600.0

# What the screen says; the verdict itself is drawn in large letters.
LIVE = r"live  \d\d:\d\d"
ENDED = r"(?m)^ +The engine ended by itself"
AMBER = r"no step for \d+"
STALLED = r"running, and no step for \d+"
LOST = r"lost .* ago"


def gpu_mib() -> float | None:
    """MiB in use on the first GPU, by whomever; None without one."""
    try:
        pynvml.nvmlInit()
        return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used) / 2**20
    except pynvml.NVMLError:
        return None


def shown_mib(mib: float | None) -> str:
    return "—" if mib is None else f"{mib:,.0f} MiB"


class Drill:
    """One stack, one console, and what was seen of them."""

    def __init__(self, home: Path, up: list[str]) -> None:
        self.home = home
        self.up_options = up
        self.client = StackClient(default_paths())
        self.rows: list[Row] = []
        self.figures: list[str] = []

    def verb(self, *arguments: str, timeout: float = BOUND_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, only: str) -> int:
        print(f"GPU memory before anything: {shown_mib(gpu_mib())}", flush=True)
        self._up()
        self.console = Terminal()
        try:
            self.console.until(LIVE, 60)
            for name, step in self._steps().items():
                if not only or name in only.split(","):
                    step()
                    print(self.figures[-1], flush=True)
        finally:
            self.console.end(signal.SIGTERM)
            self.verb("down")
        print(table(self.rows))
        print("\n".join(f"- {figure}" for figure in self.figures))
        print(f"GPU memory after everything: {shown_mib(gpu_mib())}")
        return 1 if any(row.requests.lost or row.left for row in self.rows) else 0

    def _steps(self) -> dict[str, Callable[[], None]]:
        def killed(role: str) -> Callable[[], None]:
            return lambda: self._kill(role)

        steps: dict[str, Callable[[], None]] = {f"kill {role}": killed(role) for role in (API_SERVER, ENGINE_CORE)}
        if WORKER in roles(self._ready().engine.pid or 0):
            steps[f"kill {WORKER}"] = killed(WORKER)
        return {**steps, "stop": self._stop_core, "console": self._kill_console, "stack": self._kill_stack}

    # the steps

    def _kill(self, role: str) -> None:
        before, account = self._loaded()
        doomed = [psutil.Process(pid) for pids in roles(before.engine.pid or 0).values() for pid in pids]
        used = gpu_mib()
        victim = roles(before.engine.pid or 0)[role][0]
        at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        self.console.until(ENDED, 60)
        seen_s, word = time.monotonic() - at, self._word(ENDED)
        self._wait("its tree is gone", lambda: not any(lives(process) for process in doomed), at)
        gone_s = time.monotonic() - at
        freed = gpu_mib()
        again = self._until(
            "it serves again", lambda s: s.engine.phase == "ready" and s.engine.pid != before.engine.pid, at
        )
        again_s = time.monotonic() - at
        start_s = _cold_start_s(again)
        self._enter(f"SIGKILL of the {role} under {STREAMS} streams", word, seen_s, account)
        self.figures.append(
            f"{role}: on screen after {seen_s:.2f} s, tree gone after {gone_s:.2f} s, serving after {again_s:.1f} s, of which "
            f"the start {start_s:.1f} s; GPU memory {shown_mib(used)} before, {shown_mib(freed)} when gone"
        )

    def _stop_core(self) -> None:
        before, account = self._loaded()
        found = roles(before.engine.pid or 0)
        frozen = (found.get(ENGINE_CORE) or found[API_SERVER])[0]
        used = gpu_mib()
        at = time.monotonic()
        os.kill(frozen, signal.SIGSTOP)
        try:
            self.console.until(AMBER, 40)
            amber_s, amber = time.monotonic() - at, self._word(AMBER)
            self.console.until(STALLED, 90)
            stalled_s, word = time.monotonic() - at, self._word(STALLED)
            while time.monotonic() < at + STOPPED_S:
                self.console.read(0.2)
        finally:
            os.kill(frozen, signal.SIGCONT)
        went_on = time.monotonic()
        self._until("it goes on", lambda s: s.verdict.word not in {"STALLED", "DOWN", "STARTING"}, went_on)
        self._enter(f"SIGSTOP of the {ENGINE_CORE} for {STOPPED_S:.0f} s", word, stalled_s, account)
        self.figures.append(
            f"stopped {ENGINE_CORE}: '{amber}' after {amber_s:.1f} s, STALLED after {stalled_s:.1f} s, going on "
            f"{time.monotonic() - went_on:.1f} s after SIGCONT; GPU memory {shown_mib(used)}, {shown_mib(gpu_mib())} after"
        )

    def _kill_console(self) -> None:
        before, account = self._loaded()
        used = gpu_mib()
        self.console.end(signal.SIGKILL)
        at = time.monotonic()
        self.console = Terminal()
        self.console.until(LIVE, 30)
        seen_s, word = time.monotonic() - at, self._word(LIVE)
        after = self._ready()
        left = 0 if after.engine.pid == before.engine.pid else 1
        errors = after.people.outcomes.get("error", 0) - before.people.outcomes.get("error", 0)
        self._enter("SIGKILL of the console", word, seen_s, account, left)
        self.figures.append(
            f"console: another one shows data after {seen_s:.2f} s, {errors} requests failed meanwhile; GPU memory "
            f"{shown_mib(used)}, {shown_mib(gpu_mib())} after"
        )

    def _kill_stack(self) -> None:
        before, _ = self._loaded()
        ours = self._processes()
        daemon = self.client.daemon()
        assert daemon is not None
        used = gpu_mib()
        at = time.monotonic()
        daemon.kill()
        self.console.until(LOST, 60)
        seen_s, word = time.monotonic() - at, self._word(LOST)
        time.sleep(3)
        orphaned = gpu_mib()
        again = self.verb("up", *self.up_options)
        down = self.verb("down")
        left = [process for process in ours if lives(process) and process.pid != self.console.pid]
        said = " ".join(again.stderr.split())
        self.rows.append(
            Row(
                fault=f"SIGKILL of the stack under {STREAMS} streams",
                said=f"{word} / up: {said} / down: {' '.join((down.stdout + down.stderr).split())}",
                after_s=seen_s,
                left=len(left),
                engine="vLLM",
            )
        )
        self.figures.append(
            f"stack: engine pid {before.engine.pid}; GPU memory {shown_mib(used)} before, {shown_mib(orphaned)} 3 s after, "
            f"{shown_mib(gpu_mib())} after `down`; left: {[process.pid for process in left]}"
        )

    # around them

    def _up(self) -> None:
        done = self.verb("up", "--wait", "--no-discover", "--people", "0", *self.up_options)
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}")

    def _ready(self) -> Snapshot:
        return self._until("it serves", lambda s: s.engine.phase == "ready", time.monotonic())

    def _loaded(self) -> tuple[Snapshot, Tally]:
        """The streams run; and the account of before."""
        account = people(self._ready())
        self.client.send(commands.People(count=STREAMS))
        loaded = self._until(
            "streams run", lambda s: (s.people.in_flight.v or 0) >= STREAMS // 2 and (s.engine.running.v or 0) > 0, None
        )
        return loaded, account

    def _enter(self, fault: str, said: str, after_s: float, account: Tally, left: int = 0) -> None:
        self.client.send(commands.People(count=0))
        last = self._until("nobody is under way", lambda s: s.people.in_flight.v == 0, None)
        row = Row(
            fault=fault, said=said, after_s=after_s, requests=people(last).since(account), left=left, engine="vLLM"
        )
        print(row, flush=True)
        self.rows.append(row)

    def _word(self, pattern: str) -> str:
        return self.console.line(pattern)[:160]

    def _until(self, what: str, reached: Callable[[Snapshot], bool], since: float | None) -> Snapshot:
        snapshot: list[Snapshot] = []

        def holds() -> bool:
            try:
                snapshot[:] = [self.client.snapshot()]
            except StackError:
                return False
            return reached(snapshot[0])

        self._wait(what, holds, since)
        return snapshot[0]

    def _wait(self, what: str, holds: Callable[[], bool], since: float | None) -> None:
        end = (since or time.monotonic()) + BOUND_S
        while not holds():
            if time.monotonic() > end:
                raise SystemExit(f"not within {BOUND_S:.0f} s: {what}\n{self.console.text}")
            self.console.read(0.05)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SPARK_SERVE_HOME") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


def _cold_start_s(snapshot: Snapshot) -> float:
    ends = [stage.end_s for stage in snapshot.engine.start.stages if stage.end_s is not None]
    return max(ends, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="steps by name, separated by commas")
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    up = options.up or [
        *("--model", "smollm2", "--max-num-seqs", str(STREAMS), "--think", "0.1", "--turns", "1"),
        *("--prompt-tokens", "24", "--output-tokens", "200"),
    ]
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        (Path(folder) / "data").symlink_to(default_paths().data)
        os.environ["SPARK_SERVE_HOME"] = folder
        return Drill(Path(folder), up).run(options.only)


if __name__ == "__main__":
    sys.exit(main())
