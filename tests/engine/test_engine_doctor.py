from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from server.config import Paths, StackSettings
from server.engine import doctor
from server.engine.device import Gpu, Machine
from server.engine.doctor import Finding, diagnose, render
from server.engine.environment import EngineEnvironment

NO_GPU = Machine(gpus=(), driver=None, why="no driver", cores=2)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = tmp_path / "hf" / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return Paths(data=tmp_path / "not" / "yet" / "data", state=tmp_path / "state", runtime=tmp_path / "run")


def look(monkeypatch: pytest.MonkeyPatch, paths: Paths, machine: Machine, **settings: object) -> dict[str, Finding]:
    monkeypatch.setattr(doctor, "find_machine", lambda: machine)
    findings = diagnose(paths, StackSettings(**settings))  # type: ignore[arg-type]
    assert all(bool(finding.todo) == (finding.level != "ok") for finding in findings)
    return {finding.what: finding for finding in findings}


def test_a_bare_machine(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        found = look(monkeypatch, paths, NO_GPU, engine_python="/no/such/python", gateway_port=port, engine_port=0)
    assert (found["GPU"].level, found["GPU"].detail) == ("warn", "no driver")
    assert (found["vLLM"].level, found["vLLM"].todo.startswith("/no/such/python cannot be run")) == ("bad", True)
    assert found["gateway port"].level == "warn"
    assert found["engine port"].level == "ok"
    assert found["cached models"].detail == "Qwen/Qwen3-0.6B"
    assert found["model hub"].level == "warn"


@pytest.mark.parametrize(
    ("version", "device", "machine", "level", "todo"),
    [
        ("0.32.0", "cpu", NO_GPU, "ok", ""),
        ("0.23.0", "cpu", NO_GPU, "bad", "0.24 or newer"),
        ("0.32.0", "cuda", NO_GPU, "bad", "install --cpu"),
        ("0.32.0", "cpu", Machine((Gpu(0, "H100", 1 << 36),), "580", "", 8), "warn", "install --cuda"),
    ],
)
def test_an_environment_and_its_device(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, version: str, device: str, machine: Machine, level: str, todo: str
) -> None:
    environment = EngineEnvironment(
        python=sys.executable,
        distribution="vllm",
        vllm_version=version,
        device=device,  # type: ignore[arg-type]
    )
    monkeypatch.setattr(doctor, "find_environment", lambda settings, paths: environment)
    found = look(monkeypatch, paths, machine, engine_port=0, gateway_port=0)
    assert found["vLLM"].level == level
    assert todo in found["vLLM"].todo
    assert found["vLLM import"].level == "bad"  # the interpreter that runs the tests has none
    assert "No module named 'transformers'" in found["vLLM import"].detail
    assert found["embedded model"].level == "warn"


def test_plain_text() -> None:
    text = render([Finding("ok", "Python", "3.12"), Finding("bad", "vLLM", "not there", "Install it.")])
    assert text == "✓ Python  3.12\n✗ vLLM    not there\n          → Install it."
