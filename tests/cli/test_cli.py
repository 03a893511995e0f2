"""The command line as a person meets it: one sentence, the right exit code, nothing left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from console import cli
from server import leftovers
from server.engine import install
from server.engine.errors import EngineError


def spark(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env={**os.environ, "SPARK_SERVE_HOME": str(home), "HF_HUB_OFFLINE": "1", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>a wiki</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def web_page() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def fake_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that claims to have vLLM, so that what comes after that check can be tried without one."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").touch()
    (folder / "vllm" / "_version.py").write_text("__version__ = '0.32.0+cpu'\n")
    (folder / "vllm" / "entrypoints" / "openai" / "api_server.py").touch()
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["up", "--people", "-3"], 2, "'-3'"),
        (["up", "--port", "99999"], 2, "'99999'"),
        (["up", "--max-num-seqs", "0"], 2, "at least 1"),
        (["up", "--port", "8100"], 2, "must differ"),
        (["frobnicate"], 2, "invalid choice"),
        (["console"], 2, "needs a terminal"),
        (["console", "--json"], 2, "goes with --once"),
        (["console", "--once"], 1, "No stack is running"),
        (["status"], 1, "No stack is running"),
        (["burst", "3"], 1, "No stack is running"),
        (["requests", "--slow"], 1, "No stack is running"),
        (["rate", "fast"], 2, "positive number"),
        (["limits"], 2, "--max-in-flight"),
        (["restart", "--kind", "luke"], 2, "invalid choice"),
        (["restart", "--kind", "disk"], 1, "No stack is running"),
        (["up", "--no-discover", "--engine-python", "/nope"], 1, "cannot be run"),
        (["up", "--attach", "http://127.0.0.1:1"], 1, "Nothing answers"),
        (["up", "--attach", "ftp://x"], 1, "not http"),
        (["up", "--attach", "https://127.0.0.1:1"], 1, "https is not supported"),
        (["up", "--no-discover", "--record", __file__], 1, "exists already"),
        (["up", "--no-discover", "--record", "/nope/x.sparkrec"], 1, "no folder"),
        (["up", "--attach", "http://me:secret@127.0.0.1:1"], 1, "refused"),
        (["load", "--url", "http://127.0.0.1:1"], 1, "Nothing answers"),
        (["load", "--url", "nonsense"], 1, "not a URL"),
        (["load", "--url", "http://127.0.0.1:1", "--people", "2", "--rate", "3"], 2, "one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    done = spark(tmp_path, *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr
    assert not (tmp_path / "run").exists(), "nothing was started"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("shape:qwen3-9b", "the shapes are"),
        ("./nowhere", "no folder"),
        ("nobody/no-such-model", "cannot ask the model hub (ModuleNotFoundError"),
        (os.sep, "no config.json"),
    ],
)
def test_an_unknown_model_is_said_before_anything_starts(
    tmp_path: Path, fake_engine: Path, model: str, says: str
) -> None:
    done = spark(tmp_path, "up", "--no-discover", "--engine-python", str(fake_engine), "--model", model)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--port", "--engine-port"])
def test_a_busy_port_is_named_with_its_holder(tmp_path: Path, fake_engine: Path, flag: str) -> None:
    other_flag = "--port" if flag == "--engine-port" else "--engine-port"
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = str(other.getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shape = ["--engine-python", str(fake_engine), "--model", "shape:tiny"]
        done = spark(tmp_path, "up", "--no-discover", *shape, flag, port, other_flag, free)
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr
    assert str(os.getpid()) in done.stderr
    assert flag in done.stderr


def test_a_web_page_is_no_engine(tmp_path: Path, web_page: int) -> None:
    for verb in (["up", "--attach"], ["load", "--url"]):
        done = spark(tmp_path, *verb, f"http://127.0.0.1:{web_page}")
        assert done.returncode == 1
        assert "page" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_crashed_stacks_processes_are_named_before_another_is_started(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as orphan:
        run = tmp_path / "run"
        run.mkdir()
        leftovers.note(run / "stack.json", {"engine": orphan.pid})
        refused = spark(tmp_path, "up", "--no-discover")
        assert refused.returncode == 1
        assert f"engine ({orphan.pid})" in refused.stderr
        assert "spark-serve down" in refused.stderr
        down = spark(tmp_path, "down")
        assert down.returncode == 0
        assert f"engine ({orphan.pid})" in down.stdout
        assert orphan.wait(5) != 0


def test_no_verb_shows_the_help(tmp_path: Path) -> None:
    done = spark(tmp_path)
    assert done.returncode == 2
    assert "cockpit" in done.stdout


def test_only_the_console_imports_textual() -> None:
    statement = "import sys, console.cli, console.once, server.client; print('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"


def test_down_without_a_stack_is_fine(tmp_path: Path) -> None:
    done = spark(tmp_path, "down")
    assert (done.returncode, done.stdout.strip()) == (0, "No stack is running.")


def test_version(tmp_path: Path) -> None:
    done = spark(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("spark-serve ")


def test_the_line_that_an_install_shares_is_gone_before_its_error_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object, report: install.Report, **__: object) -> None:
        report(install.Progress(1.0, "a step", step=True))
        report(install.Progress(2.0, "what pip says"))
        raise EngineError("It does not fit.")

    monkeypatch.setattr(install, "install", fails)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.main(["engine", "install", "--cpu"]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("what pip says\r\x1b[2K")
    assert said.err == "spark-serve: It does not fit.\n"
