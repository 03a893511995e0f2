"""Cleaning up after a crashed stack, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from server import leftovers
from server.config import Paths, SettingError, default_paths
from server.supervisor import MARK, lives

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print(c.pid, flush=True); time.sleep(600)",
]

TWINS = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\nfor _ in range(2):\n    c = subprocess.Popen([sys.executable, '-c', 'import time;"
    " time.sleep(600)'], stdout=subprocess.DEVNULL)\n    print(c.pid, flush=True)\ntime.sleep(600)",
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
        assert leftovers.end_leftovers(paths) == [f"engine ({parent.pid})", f"engine child ({child.pid})"]
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


def test_orphans_are_found_by_what_was_noted_of_them_and_by_their_session(paths: Paths) -> None:
    """The API server is dead; one child was noted, its sister came later."""
    root = subprocess.Popen(TWINS, stdout=subprocess.PIPE, start_new_session=True)
    assert root.stdout is not None
    core, later = (psutil.Process(int(root.stdout.readline())) for _ in range(2))
    leftovers.note(paths.pidfile, {"stack": 2**22 - 1, "engine": root.pid, "engine core": core.pid})
    root.kill()
    root.wait()
    root.stdout.close()
    assert [(entry.name, process.pid) for entry, process in leftovers.find_leftovers(paths)] == [
        ("engine core", core.pid),
        ("engine child", later.pid),
    ]
    assert leftovers.end_leftovers(paths) == [f"engine core ({core.pid})", f"engine child ({later.pid})"]
    assert not any(lives(process) for process in (core, later))
    assert not paths.pidfile.exists()


def test_a_session_that_none_of_ours_is_known_to_be_in_is_a_strangers(paths: Paths) -> None:
    """The number of the engine's process, and so of its session, may have been used anew."""
    with subprocess.Popen(TWINS, stdout=subprocess.PIPE, start_new_session=True) as stranger:
        assert stranger.stdout is not None
        children = [psutil.Process(int(stranger.stdout.readline())) for _ in range(2)]
        entry = leftovers.Entry("engine", stranger.pid, psutil.Process(stranger.pid).create_time() - 100)
        paths.pidfile.write_bytes(msgspec.json.encode([entry]))
        assert leftovers.end_leftovers(paths) == []
        assert all(lives(process) for process in children)
        for process in (*children, stranger):
            process.kill()


def test_one_that_nobody_noted_is_found_by_its_mark_and_a_neighbours_is_not(paths: Paths) -> None:
    """Another stack's engine bears another mark."""
    ours = subprocess.Popen(SLEEPER, env={**os.environ, MARK: str(paths.pidfile)}, start_new_session=True)
    theirs = subprocess.Popen(SLEEPER, env={**os.environ, MARK: f"{paths.pidfile}2"}, start_new_session=True)
    assert leftovers.end_leftovers(paths) == [f"engine child ({ours.pid})"]
    assert ours.wait() == -15
    assert theirs.poll() is None
    theirs.kill()
    theirs.wait()


def test_who_ignores_sigterm_is_killed(paths: Paths) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        leftovers.note(paths.pidfile, {"engine": process.pid})
        assert leftovers.end_leftovers(paths, grace_s=0.2) == [f"engine ({process.pid})"]
        assert process.wait() == -9


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"name":"x"}]'])
def test_a_broken_pidfile_is_no_leftover(paths: Paths, content: bytes) -> None:
    paths.pidfile.write_bytes(content)
    assert leftovers.find_leftovers(paths) == []


def test_a_socket_path_that_is_too_long_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path / ("x" * 120)))
    with pytest.raises(SettingError, match="longer than 107 bytes"):
        default_paths().make()
