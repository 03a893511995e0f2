"""A real stack with a real console on it in a pty, its engine scripted or vLLM: what supervision is tried on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from server.leftovers import noted
from server.supervisor import lives
from server.telemetry.snapshot import Snapshot
from tests.e2e.conftest import Stack
from tests.fakes.fake_vllm import make_package
from tests.faults.ledger import Row, Tally, enter, people
from tests.faults.terminal import Terminal

CELLS, ROWS = 130, 30


class Scene:
    """A stack, and the console that watches it. The console's screen is read whenever something is waited for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str = "") -> None:
        self.stack = Stack(folder / "h", monkeypatch)
        self.engine = engine
        self.folder = folder
        self.screen: Terminal | None = None

    def tell(self, what: str, how: str | None = "") -> None:
        """A scripted engine (see `make_package`); None: no more."""
        path = self.folder / what
        path.write_text(how) if how is not None else path.unlink(missing_ok=True)

    def open(self) -> Terminal:
        self.screen = Terminal(cells=CELLS, rows=ROWS, COLUMNS=str(CELLS), LINES=str(ROWS))
        self.screen.until("● live")
        return self.screen

    def close(self) -> None:
        if self.screen is not None:
            self.screen.end(signal.SIGKILL)
            self.screen = None

    @property
    def now(self) -> Snapshot:
        return self.stack.client.snapshot()

    def until(self, what: str, holds: Callable[[Snapshot], object], limit_s: float = 60.0) -> Snapshot:
        """The first snapshot of which it holds."""
        end = time.monotonic() + limit_s
        while not holds(snapshot := self.now):
            assert time.monotonic() < end, f"not within {limit_s:g} s: {what}\n{self.stack.verb('status').stdout}"
            self.look()
        return snapshot

    def look(self) -> None:
        """Take what the console has written, so that it never waits for us."""
        if self.screen is None:
            time.sleep(0.1)
        else:
            self.screen.read(0.1)

    def processes(self) -> dict[str, psutil.Process]:
        """Of the stack, by what they are, as it has written them down."""
        return {entry.name: process for entry, process in noted(self.stack.paths)}

    def tree(self) -> dict[str, psutil.Process]:
        """Of the engine."""
        return {name: process for name, process in self.processes().items() if name.startswith("engine")}

    def ready(self) -> Snapshot:
        """The engine is, and (where a start is cheap) no death before counts for the next one."""
        snapshot = self.until("the engine is ready", lambda s: s.engine.phase == "ready", 120)
        if self.engine or snapshot.engine.start.kind != "after a crash":
            return snapshot
        assert self.stack.verb("restart").returncode == 0
        return self.until(
            "it is ready again", lambda s: s.engine.phase == "ready" and s.engine.start.kind == "process-cold", 120
        )

    def busy(self, people: int = 16) -> Tally:
        """People come, and the slots and the queue fill. Returns how many requests there were before."""
        self.settle()
        before = self.tally()
        assert self.stack.verb("people", str(people)).returncode == 0
        self.until("the queue fills", lambda s: (s.queue.depth.v or 0) >= 4 and (s.engine.running.v or 0) >= 3)
        return before

    def settle(self) -> None:
        """Nobody asks any more, and all who asked have been told."""
        assert self.stack.verb("people", "0").returncode == 0
        # Twice: what the load generator last told may be half a second old.
        for _ in range(2):
            self._settled(self.now.seq)

    def _settled(self, seq: int) -> None:
        self.until(
            "all have been told", lambda s: s.seq > seq + 1 and s.people.in_flight.v == 0 and not s.people.crowds
        )

    def says(self, pattern: str, limit_s: float = 60.0) -> tuple[str, float]:
        """The console's verdict and the line with these words, and after how many seconds they were there."""
        assert self.screen is not None
        after_s = self.screen.until(pattern, limit_s)
        line = self.screen.line(pattern)
        word = self.now.verdict.word
        return f"{word}: {line}", after_s

    def tally(self) -> Tally:
        """Of the stack's own people."""
        return people(self.now)

    def arrived(self) -> Tally:
        """As the gateway counts."""
        queue = self.until("the gateway has told all", lambda s: not s.queue.in_flight.v).queue
        ends = queue.outcomes
        return Tally(
            sent=queue.arrived_total,
            completed=ends.get("completed", 0),
            failed=sum(ends.get(end, 0) for end in ("failed", "rejected", "expired")),
            cancelled=ends.get("cancelled", 0),
        )

    def row(
        self, fault: str, said: str, after_s: float | None, requests: Tally, doomed: Iterable[psutil.Process]
    ) -> None:
        left = sum(lives(process) for process in doomed)
        print(f"{fault}: {said!r} after {after_s if after_s is None else round(after_s, 2)} s, {requests}, {left} left")
        enter(Row(fault=fault, said=said, after_s=after_s, requests=requests, left=left, engine=self.engine))

    def gone(self, doomed: list[psutil.Process], limit_s: float = 20.0) -> float:
        """Seconds until none of them lives."""
        began = time.monotonic()
        while any(lives(process) for process in doomed):
            assert time.monotonic() - began < limit_s, f"left: {[p.pid for p in doomed if lives(p)]}"
            self.look()
        return time.monotonic() - began


def scripted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """With a package that claims to be vLLM; its control files are in the scene's folder."""
    make_package(folder / "packages")
    path = os.pathsep.join(filter(None, (str(folder / "packages"), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("FAKE_VLLM_NOTE", str(folder / "note"))
    return Scene(folder, monkeypatch)


def up(scene: Scene, *arguments: str) -> None:
    """Bring a scripted one up, with slots for four, nobody there yet."""
    scene.stack.up(
        *("--engine-python", sys.executable, "--model", "shape:tiny", "--max-num-seqs", "4", "--people", "0"),
        *("--think", "0.05", "--output-tokens", "8", *arguments),
        timeout=60,
    )


def ended(scene: Scene) -> Iterator[Scene]:
    """For a fixture: hand it out, and take everything down."""
    try:
        yield scene
    finally:
        scene.close()
        scene.stack.verb("down", timeout=120)
        for process in scene.stack.processes():
            process.kill()
