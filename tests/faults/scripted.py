"""A real stack, gateway and people, and a real console on it: before a scripted engine for faults that need no model, or
before the real one."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from server import commands
from server.client import StackClient
from server.commands import Command
from server.config import default_paths
from server.telemetry.snapshot import Snapshot
from tests.e2e.conftest import free_port
from tests.fakes.scripted_vllm import make_package
from tests.faults.ledger import Row, Tally, enter, people
from tests.faults.terminal import Terminal

SNAPSHOT_S = 0.5
ROOT = Path(__file__).parents[2]


class FaultyStack:
    """`home` is a short folder of its own; `engine`: options of `up`."""

    engine_named = ""
    """The engine, as a row of the ledger names it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, str]) -> None:
        self.home = home
        self._engine = engine
        home.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("SPARK_SERVE_HOME", str(home))
        self.paths = default_paths()
        self.client = StackClient(self.paths)
        self._people = 0
        self._before = (Tally(), Tally())

    def up(self, count: int = 4, think_s: float = 0.5, limit_s: float = 50.0) -> None:
        self._people = count
        options = {
            **self._engine,
            "engine-port": free_port(),
            "port": free_port(),
            "max-num-seqs": 8,
            "people": count,
            "think": think_s,
            "prompt-tokens": 20,
            "output-tokens": 12,
        }
        named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "console.cli", "up", "--wait", "--no-discover", *named]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        self.until("the engine serves and people ask", lambda s: s.engine.phase == "ready" and s.people.sent_total > 2)

    def send(self, command: Command) -> str:
        """The answer; it must have been carried out."""
        answer = self.client.send(command)
        assert answer.ok, answer.message
        return answer.message

    def provoke(self, name: str, seconds: float | None = None, **settings: int | float | str) -> str:
        return self.send(commands.Fault(name, settings, seconds))

    def until(self, what: str, reached: Callable[[Snapshot], object], limit_s: float = 60.0) -> Snapshot:
        """The first snapshot for which it holds; fails after `limit_s`."""
        end = time.monotonic() + limit_s
        while True:
            snapshot = self.client.snapshot()
            if reached(snapshot):
                return snapshot
            if time.monotonic() > end:
                pytest.fail(f"not within {limit_s:.0f} s: {what}\n{snapshot.people}\n{snapshot.events}")
            time.sleep(0.05)

    def settled(self, *, by_gateway: bool = False) -> Tally:
        """Everybody's requests since the last time, once nobody is under way; who went home comes back after it.

        As people count them, or as the gateway does, which outlives them.
        """
        self.send(commands.People(count=0))
        told = time.monotonic() + 2 * SNAPSHOT_S
        quiet = self.until(
            "nobody is under way", lambda s: s.at > told and s.people.in_flight.v == 0 and not s.people.people.v
        )
        totals = (people(quiet), self._passed())
        before, self._before = self._before, totals
        self.send(commands.People(count=self._people))
        total, was = totals[by_gateway], before[by_gateway]
        return total.since(was) if total.sent >= was.sent else total

    def _passed(self) -> Tally:
        """All that the gateway read, whoever asked."""
        page = httpx.get(f"{self.client.snapshot().queue.url}/metrics", trust_env=False).text
        read = int(float(re.search(r"_requests_total (\d\S*)", page)[1]))  # type: ignore[index]
        ends = dict.fromkeys(("completed", "rejected", "failed", "cancelled", "expired"), 0)
        for outcome, count in re.findall(r'_requests_finished_total{outcome="(\w+)".*} (\S+)', page):
            ends[outcome] += int(float(count))
        failed = ends["rejected"] + ends["failed"] + ends["expired"]
        return Tally(read, ends["completed"], failed, ends["cancelled"])

    def serves(self) -> None:
        """Somebody who begins to ask now is served."""
        begun = self.client.snapshot().people.outcomes.get("ok", 0)
        self.until("people are served", lambda s: s.people.outcomes.get("ok", 0) > begun + 2)

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything below it or left of it; zombies do not count."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != os.getpid()
                    and process.environ().get("SPARK_SERVE_HOME") == str(self.home)
                    and process.status() != psutil.STATUS_ZOMBIE
                    and "console.cli" not in process.cmdline()
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kinds(self) -> list[str]:
        """What runs and whether it stands still, so that what a fault leaves behind is seen."""
        kinds = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                stands = "stopped " if process.status() == psutil.STATUS_STOPPED else ""
                kinds.append(stands + " ".join(process.cmdline()[:3]))
        return sorted(kinds)

    def left(self, usual: list[str], limit_s: float = 15.0) -> int:
        """How many processes more than usual there still are once the fault has had time to go."""
        end = time.monotonic() + limit_s
        while (kinds := self.kinds()) != usual and time.monotonic() < end:
            time.sleep(0.05)
        return 0 if kinds == usual else max(1, len(kinds) - len(usual))

    def enter(
        self,
        answer: str,
        said: str,
        after_s: float,
        usual: list[str],
        requests: Tally | None = None,
    ) -> None:
        """The row of a fault that was answered so, once nothing of it is under way or left."""
        requests = self.settled() if requests is None else requests
        left = self.left(usual)
        fault = answer.rstrip(".")
        enter(Row(fault=fault, said=said, after_s=after_s, requests=requests, left=left, engine=self.engine_named))

    def down(self) -> None:
        if self.client.running():
            daemon = self.client.daemon()
            self.client.send(commands.Down())
            self.client.stopped(daemon, 30.0)
        for process in self.processes():
            process.kill()


class ScriptedStack(FaultyStack):
    """Before a scripted engine of two processes."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(home, monkeypatch, {"model": "shape:tiny", "engine-python": sys.executable, "device": "cpu"})
        make_package(home / "packages")
        known = filter(None, (str(home / "packages"), str(ROOT), os.environ.get("PYTHONPATH")))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(known))
        monkeypatch.setenv("SCRIPTED_GAP_S", "0.03")


class RealStack(FaultyStack):
    """Before vLLM with SmolLM2; the engine's environment and the model are this machine's."""

    engine_named = "vLLM"

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = default_paths().data
        home.mkdir(parents=True, exist_ok=True)
        shared.mkdir(parents=True, exist_ok=True)
        (home / "data").symlink_to(shared)
        super().__init__(home, monkeypatch, {"model": "smollm2"})


def console(cells: int = 160, rows: int = 48) -> Terminal:
    """A real console on the running stack."""
    terminal = Terminal(cells=cells, rows=rows)
    terminal.until("● live")
    return terminal


def clause(screen: Terminal, pattern: str = r"fault: .* left") -> str:
    """The head's words of a fault that lasts."""
    line = screen.line(pattern)
    return line[line.index("fault: ") :].split(" left")[0] + " left"
