"""A real stack on the real vLLM CPU engine, with folders of its own; engine environment and models are shared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from server.client import StackClient
from server.config import Paths, default_paths
from server.telemetry.snapshot import Snapshot


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spark(home: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one verb as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env={**os.environ, "SPARK_SERVE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Stack:
    """One stack under test."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = default_paths().data
        home.mkdir(parents=True, exist_ok=True)
        shared.mkdir(parents=True, exist_ok=True)
        (home / "data").symlink_to(shared)
        monkeypatch.setenv("SPARK_SERVE_HOME", str(home))
        self.home = home
        self.paths: Paths = default_paths()
        self.client = StackClient(self.paths)
        self.engine_port = free_port()
        self.gateway_port = free_port()
        self.foreign = 0
        """Requests that passed the gateway and were not the stack's own people's."""

    def verb(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return spark(self.home, *arguments, timeout=timeout)

    def up(self, *arguments: str, timeout: float = 420) -> None:
        ports = ["--engine-port", str(self.engine_port), "--port", str(self.gateway_port)]
        done = self.verb("up", "--wait", "--no-discover", *ports, *arguments, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.tail('stack')}\n{self.tail('engine')}"

    def tail(self, child: str) -> str:
        path = self.paths.logs / f"{child}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def until(self, what: str, reached: Callable[[Snapshot], bool], limit_s: float = 60) -> Snapshot:
        """The first snapshot for which it holds; fails after `limit_s`."""
        end = time.monotonic() + limit_s
        while True:
            snapshot = self.client.snapshot()
            if reached(snapshot):
                return snapshot
            if time.monotonic() > end:
                pytest.fail(f"not within {limit_s:.0f} s: {what}\n{self.verb('status').stdout}")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything below it."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and self.home == Path(process.environ().get("SPARK_SERVE_HOME", "/")):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Stack(tmp_path_factory.mktemp("s"), monkeypatch)
        yield made
        made.verb("down", timeout=120)
