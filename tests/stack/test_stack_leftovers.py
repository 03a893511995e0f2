"""Cleaning up after a crashed stack, with real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from server import leftovers
from server.config import Paths, SettingError, default_paths

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print(c.pid, flush=True); time.sleep(600)",
]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    paths = default_paths()
    paths.make()
    return paths


def test_ends_what_was_left_with_its_children(paths: Paths) -> None:
    with subprocess.Popen(PARENT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        leftovers.note(paths.pidfile, {"engine": parent.pid})
        assert leftovers.end_leftovers(paths) == [f"engine ({parent.pid})"]
        parent.wait(5)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not paths.pidfile.exists()


def test_a_pid_that_is_somebody_elses_now_is_left_alone(paths: Paths) -> None:
    with subprocess.Popen(SLEEPER) as process:
        entry = leftovers.Entry("engine", process.pid, psutil.Process(process.pid).create_time() - 100)
        paths.pidfile.write_bytes(msgspec.json.encode([entry]))
        assert leftovers.end_leftovers(paths) == []
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"name":"x"}]'])
def test_a_broken_pidfile_is_no_leftover(paths: Paths, content: bytes) -> None:
    paths.pidfile.write_bytes(content)
    assert leftovers.find_leftovers(paths) == []


def test_a_socket_path_that_is_too_long_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path / ("x" * 120)))
    with pytest.raises(SettingError, match="longer than 107 bytes"):
        default_paths().make()
