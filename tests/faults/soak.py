"""Hours under people and faults: `python -m tests.faults.soak --minutes 75 --seed 1`, one line a minute.

A real stack on the real engine, a real console on a pty beside it, and a fault every so often, drawn from the seed. At the
end every request must have ended in exactly one way, no process may be left, and after the warm-up the memory of stack,
gateway and console may not grow by more than 1 MB/h (least squares over the minutes; a process that was killed on purpose
begins a line of its own, so those are killed in the first 15 % and in the last tenth only). It is warm after a fifth of the
time and once the stack holds as many finished requests as it ever will.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import StatisticsError, linear_regression

import httpx
import msgspec
import psutil

from server.client import StackClient, StackError
from server.config import default_paths
from server.telemetry.snapshot import Snapshot
from tests.faults.ledger import people
from tests.faults.terminal import Terminal

WATCHED = ("stack", "gateway", "console")
"""Whose growth is judged."""
MOST_MB_PER_H = 1.0
SERVES_AGAIN_S = 240.0
QUIET_S = (5.0, 40.0)
"""Between two faults."""
PEOPLE = 6
KEPT_REQUESTS = 4_000
"""That the stack keeps: until then it grows."""


@dataclass(frozen=True)
class Fault:
    """One thing that may happen. `verb` as typed after `spark-serve`."""

    verb: str
    weight: float = 1.0
    rough: bool = False
    """Ends a process whose memory is watched."""


FAULTS = (
    Fault("burst 16", 3),
    Fault("burst 200", 0.5),
    Fault("slow"),
    Fault("abandon"),
    Fault("retry"),
    Fault("long"),
    Fault("flash 24", 0.5),
    Fault("people +3"),
    Fault("people 6"),
    Fault("policy shortest"),
    Fault("policy fair"),
    Fault("policy fifo"),
    Fault("limits --max-queue 8", 0.5),
    Fault("limits --max-queue 256"),
    Fault("marker soaking"),
    Fault("record", 1.5),
    Fault("record --stop", 1.5),
    Fault("report", 0.5),
    Fault("requests --json", 1),
    Fault("restart", 0.3),
    Fault("fault latency --for 10"),
    Fault("fault bandwidth --for 10"),
    Fault("fault slicer --for 10"),
    Fault("fault timeout --for 8", 0.5),
    Fault("fault reset-peer --for 5"),
    Fault("fault limit-data --for 5"),
    Fault("fault leave --count 8 --at 0 --how rst"),
    Fault("fault leave --count 8 --at 1 --how fin"),
    Fault("fault leave --count 8 --at 50% --how half-close"),
    Fault("fault stall --count 2", 0.5),
    Fault("fault pause engine-core --for 6", 0.7),
    Fault("fault fds --for 10", 0.5),
    Fault("fault disk-full --for 10", 0.5),
    Fault("fault kill engine-core", 0.3),
    Fault("fault kill api-server", 0.3),
    Fault("fault kill load", 0.5),
    Fault("fault kill gateway", 0.5, rough=True),
    Fault("console: SIGKILL", 0.5, rough=True),
    Fault("console: keys", 3),
    Fault("console: resize", 2),
)


@dataclass
class Course:
    """One process over the minutes: megabytes, descriptors and tasks by hours since the beginning."""

    pid: int
    at_h: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    def slope(self, of: list[float] | list[int]) -> float | None:
        """Per hour; None from fewer than ten minutes."""
        try:
            return linear_regression(self.at_h, of).slope if len(of) >= 10 else None
        except StatisticsError:
            return None


class Soak:
    """The stack, the console and the account of both."""

    def __init__(self, home: Path, minutes: float, seed: int, only: str, up: list[str]) -> None:
        self.home, self.minutes, self.seed = home, minutes, seed
        self.rng = random.Random(seed)
        self.faults = [fault for fault in FAULTS if only in fault.verb]
        self.client = StackClient(default_paths())
        self.up = up
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.courses: dict[str, list[Course]] = {name: [] for name in WATCHED}
        self._since: list[str] = []

    def verb(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self) -> int:
        done = self.verb("up", "--wait", "--no-discover", "--people", str(PEOPLE), *self.up, timeout=600)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            return 1
        self.console = Terminal()
        self.began = time.monotonic()
        end = self.began + self.minutes * 60
        next_minute, next_fault = 1, self.began + 10
        try:
            while (now := time.monotonic()) < end:
                if not self._draw(0.2):
                    self.troubles.append("the console left by itself")
                    self._new_console()
                if now >= next_fault:
                    self._provoke((now - self.began) / (self.minutes * 60))
                    next_fault = time.monotonic() + self.rng.uniform(*QUIET_S)
                if time.monotonic() >= self.began + 60 * next_minute:
                    self._minute(next_minute)
                    next_minute = int((time.monotonic() - self.began) // 60) + 1
            return self._settle()
        finally:
            self.console.end(signal.SIGTERM)
            self.verb("down")

    # what happens

    def _provoke(self, share: float) -> None:
        rough = share < 0.15 or share > 0.9
        choice = [fault for fault in self.faults if rough or not fault.rough]
        fault = self.rng.choices(choice, [one.weight for one in choice])[0]
        self._since.append(fault.verb)
        self.done[fault.verb] += 1
        if fault.verb == "console: SIGKILL":
            self.console.end(signal.SIGKILL)
            self._new_console()
        elif fault.verb == "console: keys":
            for key in self.rng.choices(["1", "2", "3", "4", "5", "?", "\x1b", "p", "\x1b", "m\x1b", "j"], k=6):
                self.console.press(key)
                self._draw(0.3)
            self.console.press("\x1b1")
        elif fault.verb == "console: resize":
            for _ in range(10):
                self.console.resize(self.rng.randint(20, 200), self.rng.randint(5, 60))
                self._draw(0.1)
            self.console.resize(160, 48)
        else:
            answer = self.verb(*fault.verb.split())
            if answer.returncode:
                self.refused[f"{fault.verb}: {answer.stderr.strip()}"] += 1
        self._serves()

    def _serves(self) -> None:
        """Wait until the engine serves again; that it does not is a trouble."""
        end = time.monotonic() + SERVES_AGAIN_S
        while time.monotonic() < end:
            self._draw(0.3)
            try:
                if self.client.snapshot().engine.phase == "ready":
                    return
            except StackError:
                continue
        self.troubles.append(f"did not serve again after {self._since[-1:]}")

    def _draw(self, seconds: float) -> bool:
        """Read what the console writes, as a terminal does."""
        end = time.monotonic() + seconds
        alive = True
        while alive and (left := end - time.monotonic()) > 0:
            alive = self.console.read(min(left, 0.1))
        del self.console.raw
        self.console.raw = b""
        return alive

    def _new_console(self) -> None:
        self.console = Terminal()

    # what is measured

    def _minute(self, minute: int) -> None:
        try:
            snapshot, tasks = self.client.snapshot(), self._tasks()
        except (StackError, httpx.HTTPError) as error:
            self.troubles.append(f"minute {minute}: {error}")
            return
        under_way = round(snapshot.people.in_flight.v or 0)
        account = people(snapshot)
        if account.lost != under_way:
            self.troubles.append(f"minute {minute}: {account} with {under_way} under way")
        marks = []
        for name, process in self._processes().items():
            try:
                mb, fds = process.memory_info().rss / 1e6, process.num_fds()
            except psutil.Error:
                continue
            marks.append(f"{name} {mb:.1f} MB {fds} fds" + (f" {tasks[name]} tasks" if name in tasks else ""))
            if name in WATCHED:
                self._mark(name, process.pid, mb, fds, tasks.get(name), account.sent - account.lost)
        verdict = snapshot.verdict.word
        print(
            f"{time.strftime('%H:%M')} {minute:4} | {verdict} | sent {account.sent} ok {account.completed} failed "
            f"{account.failed} left {account.cancelled} under way {under_way} | {', '.join(marks)} | "
            f"{'; '.join(self._since) or 'nothing'}",
            flush=True,
        )
        self._since.clear()

    def _mark(self, name: str, pid: int, mb: float, fds: int, tasks: int | None, finished: int) -> None:
        hours = (time.monotonic() - self.began) / 3600
        courses = self.courses[name]
        if not courses or courses[-1].pid != pid:
            courses.append(Course(pid))
        if hours * 60 < 0.2 * self.minutes or finished < KEPT_REQUESTS:
            return
        course = courses[-1]
        course.at_h.append(hours)
        course.mb.append(mb)
        course.fds.append(fds)
        if tasks is not None:
            course.tasks.append(tasks)

    def _processes(self) -> dict[str, psutil.Process]:
        """Ours by name."""
        found = {"console": psutil.Process(self.console.pid)}
        modules = {"server": "stack", "server.gateway": "gateway", "loadgen.worker": "load"}
        for process in self._left():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            name = modules.get(argv[2]) if len(argv) > 2 and argv[1] == "-m" else None
            if name:
                found[name] = process
        return found

    def _left(self) -> list[psutil.Process]:
        """Everything that runs with this home, but the console and ourselves."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SPARK_SERVE_HOME") == str(self.home)
            except (psutil.Error, OSError):
                continue
            if mine and process.pid not in {os.getpid(), self.console.pid}:
                found.append(process)
        return found

    def _tasks(self) -> dict[str, int]:
        transport = httpx.HTTPTransport(uds=str(default_paths().socket))
        with httpx.Client(transport=transport, base_url="http://stack", timeout=5, trust_env=False) as http:
            stack = sum(msgspec.json.decode(http.get("/v1/tasks").content, type=dict[str, int]).values())
        url = self.client.snapshot().queue.url
        if not url:
            return {"stack": stack}
        page = httpx.get(f"{url}/metrics", timeout=5, trust_env=False).text
        gateway = next(float(line.split()[1]) for line in page.splitlines() if line.startswith("spark_gateway_tasks "))
        return {"stack": stack, "gateway": round(gateway)}

    # the end

    def _settle(self) -> int:
        self.verb("fault", "--stop")
        for verb in ("slow 0", "abandon 0", "retry 0", "long 0", "people 0"):
            self.verb(*verb.split())
        last = self._until(lambda s: s.people.in_flight.v == 0 and s.people.people.v == 0, SERVES_AGAIN_S)
        account = people(last)
        self.verb("down")
        end = time.monotonic() + 20
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.2)
        print(
            f"\n{self.minutes:g} minutes, seed {self.seed}: {account}, lost {account.lost}, processes left {len(left)}"
        )
        print(f"what happened: {dict(self.done.most_common())}")
        print(f"refused: {dict(self.refused) or 'nothing'}")
        steep = self._slopes()
        for trouble in self.troubles:
            print(f"TROUBLE {trouble}")
        return 1 if account.lost or left or steep or self.troubles else 0

    def _slopes(self) -> bool:
        steep = False
        for name, courses in self.courses.items():
            for course in courses:
                slope = course.slope(course.mb)
                if slope is None:
                    continue
                steep |= slope > MOST_MB_PER_H
                fds, tasks = course.slope(course.fds), course.slope(course.tasks)
                print(
                    f"{name} ({len(course.mb)} minutes after the warm-up): {slope:+.2f} MB/h, {course.mb[0]:.1f} -> "
                    f"{course.mb[-1]:.1f} MB (most {max(course.mb):.1f}); fds {min(course.fds)}..{max(course.fds)} "
                    f"({fds or 0.0:+.1f}/h)"
                    + (
                        f"; tasks {min(course.tasks)}..{max(course.tasks)} ({tasks or 0.0:+.1f}/h)"
                        if course.tasks
                        else ""
                    )
                )
        return steep

    def _until(self, reached: Callable[[Snapshot], bool], limit_s: float) -> Snapshot:
        end = time.monotonic() + limit_s
        while True:
            self._draw(0.3)
            snapshot = self.client.snapshot()
            if reached(snapshot) or time.monotonic() > end:
                return snapshot


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose verb contains this")
    parser.add_argument("up", nargs="*", help="options for `spark-serve up`, after --")
    options = parser.parse_args()
    up = options.up or [
        *("--model", "smollm2", "--max-num-seqs", "8", "--think", "0.3", "--turns", "1"),
        *("--prompt-tokens", "24", "--output-tokens", "6"),
    ]
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = Path(folder)
        shared = default_paths().data
        (home / "data").symlink_to(shared)
        os.environ["SPARK_SERVE_HOME"] = str(home)
        return Soak(home, options.minutes, options.seed, options.only, up).run()


if __name__ == "__main__":
    sys.exit(main())
