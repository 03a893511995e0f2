"""`spark-serve console --web` as a person meets it: what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.terminal import Terminal

RECORDING = str(Path(__file__).parents[2] / "screenshots" / "cpu.sparkrec")
BOUND_S = 60


def spark(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "console.cli", "console", *arguments],
        env={**os.environ, "SPARK_SERVE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--web", "--once"], 2, "exclude each other"),
        (["--web-write"], 2, "go with --web"),
        (["--web", "--web-viewers", "0"], 2, "from 1 to 200"),
        (["--web", "--web-size", "10x10"], 2, "size from 60x16"),
        (["--web", "--web-host", "203.0.113.1", "--replay", RECORDING], 1, "Cannot serve on 203.0.113.1"),
        (["--web", "--replay", "/nowhere.sparkrec"], 1, "/nowhere.sparkrec"),
    ],
)
def test_what_cannot_be_served_gets_one_sentence(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = spark(tmp_path, *arguments)
    assert done.returncode == code, done
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def child_of(pid: int) -> psutil.Process:
    (child,) = psutil.Process(pid).children()
    return child


def test_on_a_terminal_it_says_who_watches_renews_its_ways_in_and_ends_with_ctrl_c() -> None:
    terminal = Terminal("--web", "--replay", RECORDING, "--web-size", "100x30")
    terminal.until("nobody watches, [1-9][0-9.]* KiB/s each")
    child = child_of(terminal.pid)
    links = re.findall(r"http://\S+/open/\S+", terminal.text)
    terminal.press("\r")
    terminal.until(lambda: len(re.findall(r"http://\S+/open/\S+", terminal.text)) == 2)
    links = re.findall(r"http://\S+/open/\S+", terminal.text)
    assert httpx.get(links[0]).status_code == 403
    assert httpx.get(links[1]).status_code == 303
    assert "127.0.0.1" in links[0]
    assert "plain HTTP" not in terminal.text
    terminal.press("\x03")
    assert terminal.end(None) == 130
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_whatever_ends_it_ends_its_console(number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "console.cli", "console", "--web", "--web-host", "0.0.0.0", "--replay", RECORDING],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ctrl+c" in line:
            break
    child = child_of(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == code
    assert errors.count("plain HTTP") == 1
    assert psutil.wait_procs([child], timeout=BOUND_S)[1] == []
