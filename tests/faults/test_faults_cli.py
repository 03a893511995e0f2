"""The verbs where what they stand on is missing: a reader, an output, an input, a home, a disk, a short path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server import config
from server.config import SettingError, default_paths
from tests.faults.ledger import Row, enter

CLI = [sys.executable, "-m", "console.cli"]
ROOT = str(Path(__file__).parents[2])


def run(home: Path | str, command: str) -> tuple[int, str, str]:
    """A verb in a shell: `$SPARK` stands for spark-serve. Code, stdout and stderr."""
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env={**os.environ, "SPARK_SERVE_HOME": str(home), "SPARK": " ".join(CLI), "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    variables = {**os.environ, "SPARK_SERVE_HOME": str(tmp_path), "PYTHONPATH": ROOT}
    done = subprocess.run(
        [*CLI, "--help"], env=variables, stdout=write, stderr=subprocess.PIPE, text=True, timeout=50, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    enter(Row(fault="a verb whose reader is gone (head)", said="nothing on stderr, exit code 0", left=0))


@pytest.mark.parametrize(
    ("fault", "command", "code", "says"),
    [
        ("verb > /dev/full", "$SPARK down > /dev/full", 1, "No space left on device."),
        ("verb with stdout closed", "$SPARK down >&-", 0, ""),
        ("verb with stdin closed", "$SPARK down <&-", 0, "No stack is running."),
        ("console with stdin closed", "$SPARK console <&-", 2, "The console needs a terminal"),
        ("console with stdout closed", "$SPARK console >&-", 2, "The console needs a terminal"),
        ("verb with everything closed", "$SPARK down <&- >&- 2>&-", 0, ""),
    ],
)
def test_missing_ends_are_lived_with(tmp_path: Path, fault: str, command: str, code: int, says: str) -> None:
    found, out, err = run(tmp_path, command)
    said = err or out
    assert (found, says in said) == (code, True), said
    assert len(said.splitlines()) <= 1
    enter(Row(fault=fault, said=said or f"nothing, exit code {found}", left=0))


@pytest.mark.parametrize(
    ("fault", "home", "says"),
    [
        ("up: the state folder cannot be made", "/proc/spark", "cannot be made (No such file or directory)"),
        ("up: the home is a file", "/dev/null", "cannot be made (Not a directory)"),
        ("up: the socket's path is too long", "/tmp/" + "x" * 120, "longer than 107 bytes"),
    ],
)
def test_a_home_that_cannot_be_used_is_said(
    fault: str, home: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SERVE_HOME", home)
        with pytest.raises(SettingError) as error:
            default_paths().make()
    assert says in str(error.value)
    assert "set SPARK_SERVE_HOME to a " in str(error.value)
    code, _, said = run(home, "$SPARK status")
    assert code == 1
    assert len(said.splitlines()) == 1
    enter(Row(fault=fault, said=str(error.value), left=0))


def test_without_home_the_users_own_is_taken(tmp_path: Path) -> None:
    code, _, said = run(tmp_path, "env -u HOME -u SPARK_SERVE_HOME $SPARK logs load")
    assert code in {0, 1}
    assert "Traceback" not in said


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_SERVE_HOME", raising=False)
    monkeypatch.setattr(config.platformdirs.PlatformDirs, "user_state_dir", "~/.local/state")
    with pytest.raises(SettingError, match="has no home folder; set SPARK_SERVE_HOME"):
        default_paths()


def test_signs_that_stdout_cannot_have_become_question_marks(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "PYTHONIOENCODING=ascii $SPARK --help; PYTHONIOENCODING=ascii $SPARK logs engine")
    assert code == 1
    assert out.isascii()
    assert err == "spark-serve: There is no log of engine yet."
