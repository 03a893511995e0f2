"""A whole stack with keys, driven, recorded and reported: the keys are nowhere that somebody else could look."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from server import commands
from server.client import StackClient
from server.config import Paths
from server.supervisor import lives
from server.telemetry.snapshot import Snapshot
from tests.e2e.conftest import free_port
from tests.faults.ledger import Row, Tally, enter, people

ROOT = str(Path(__file__).parents[2])
ENGINE = str(Path(__file__).with_name("scripted_engine.py"))
BOUND_S = 30.0


class Home:
    """A home folder with two keys, and the verbs run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api_key, self.engine_key = (f"{name}-{secrets.token_hex(16)}" for name in ("gate", "engine"))
        self.paths = Paths(data=folder / "data", state=folder / "state", runtime=folder / "run")
        self.client = StackClient(self.paths)
        self.said = ""

    def variables(self, **more: str) -> dict[str, str]:
        return {**os.environ, "SPARK_SERVE_HOME": str(self.folder), "PYTHONPATH": ROOT, **more}

    def verb(self, *arguments: str, keys: bool = True) -> subprocess.CompletedProcess[str]:
        given = {"SPARK_SERVE_API_KEY": self.api_key, "SPARK_SERVE_ENGINE_KEY": self.engine_key} if keys else {}
        done = subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            env=self.variables(**given),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        self.said += done.stdout + done.stderr
        return done

    def until(self, reached: Callable[[Snapshot], bool]) -> Snapshot:
        end = time.monotonic() + BOUND_S
        while not reached(snapshot := self.client.snapshot()):
            assert time.monotonic() < end, snapshot
            time.sleep(0.05)
        return snapshot

    def processes(self) -> list[psutil.Process]:
        """The stack and all it started, however deep."""
        daemon = self.client.daemon()
        return [] if daemon is None else [daemon, *daemon.children(recursive=True)]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.verb("down")


@pytest.fixture
def engine(home: Home) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, ENGINE],
        env=home.variables(ENGINE_KEY=home.engine_key),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def asked(port: int, path: str, key: str | None) -> tuple[int, str]:
    """One request of a stranger."""
    body = '{"model": "known-model", "prompt": "a private question", "max_tokens": 3}'
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_keys_and_prompts_are_nowhere_to_be_found(home: Home, engine: subprocess.Popen[str]) -> None:
    assert engine.stdout is not None
    port, url = free_port(), f"http://127.0.0.1:{engine.stdout.readline().strip()}"
    recording, report = home.folder / "run.sparkrec", home.folder / "report.md"
    up = home.verb(
        *("up", "--wait", "--attach", url, "--drive", "--port", str(port)),
        *("--people", "4", "--think", "0.2", "--record", str(recording)),
    )
    assert up.returncode == 0, up.stderr
    home.until(lambda snapshot: snapshot.people.outcomes.get("ok", 0) >= 5)

    refused = [asked(port, "/v1/completions", key) for key in (None, "wrong", home.engine_key)]
    assert [status for status, _ in refused] == [401, 401, 401]
    assert asked(port, "/v1/completions", home.api_key)[0] == 200
    assert asked(port, "/sleep", home.api_key)[0] == 404

    for command in (commands.Burst(5), commands.People(0)):
        assert home.client.send(command).ok
    after = home.until(lambda snapshot: people(snapshot).lost == 0 and snapshot.people.people.v == 0)
    assert home.verb("report", "--out", str(report)).returncode == 0
    assert home.client.send(commands.Record(on=False)).ok
    assert "known-model" in home.verb("status", "--json").stdout
    home.said += repr(home.client.requests(200)) + repr([home.client.logs(child, 500) for child in ("gateway", "load")])

    running = home.processes()
    assert len(running) >= 3
    command_lines = [" ".join(process.cmdline()) for process in running]
    for process in running:  # `ps e` shows its owner alone what stands here
        assert stat.S_IMODE(os.stat(f"/proc/{process.pid}/environ").st_mode) == 0o400
    assert home.verb("down", keys=False).returncode == 0

    places = {
        "command lines": "\n".join(command_lines).encode(),
        "what the verbs said": home.said.encode(),
        "answers": repr(refused).encode(),
        **{str(path.relative_to(home.folder)): _unpacked(path) for path in home.folder.rglob("*") if path.is_file()},
    }
    assert {"run.sparkrec", "run.sparkrec.requests.jsonl.gz", "report.md"} <= places.keys()
    for where, data in places.items():
        for secret in (home.api_key, home.engine_key, "a private question"):
            assert secret.encode() not in data, where
    for path in home.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    assert engine.stdin is not None
    engine.stdin.close()
    right, wrong = engine.stdout.readline().split()
    assert (int(right) > 5, int(wrong)) == (True, 0)
    left = sum(map(lives, running))
    said = f"{refused[0][0]} {refused[0][1]}"
    enter(Row(fault="gateway: no key, a wrong one, the engine's", said=said, requests=Tally(3, 0, 3, 0), left=left))
    enter(
        Row(
            fault="a stack with two keys, driven, recorded and reported",
            said=f"keys and prompts in none of {len(places)} places",
            requests=people(after),
            left=left,
        )
    )


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    return zlib.decompressobj(31).decompress(data)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_for_other_machines_without_a_key_is_refused(
    home: Home, engine: subprocess.Popen[str], host: str
) -> None:
    assert engine.stdout is not None
    url = f"http://127.0.0.1:{engine.stdout.readline().strip()}"
    done = home.verb("up", "--attach", url, "--host", host, keys=False)
    assert done.returncode == 1
    said = done.stderr.strip()
    assert said.startswith(f"spark-serve: {host} can be reached from other machines: set SPARK_SERVE_API_KEY")
    assert not home.paths.runtime.exists()
    enter(Row(fault=f"up --host {host} without a key", said=said, left=len(home.processes())))


def test_a_secret_on_a_command_line_is_refused_without_repeating_it(home: Home) -> None:
    done = home.verb("up", "--no-discover", f"--engine-arg=--api-key={home.engine_key}", keys=False)
    assert done.returncode == 1
    assert "SPARK_SERVE_ENGINE_KEY" in done.stderr
    assert home.engine_key not in done.stderr
    enter(Row(fault="up --engine-arg=--api-key=...", said=done.stderr.strip(), left=len(home.processes())))
