"""An engine of our own around a server that only logs and answers: its kinds of restart, its failures, its end."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.config import Paths, StackSettings
from server.engine.lifecycle import OwnEngine
from server.engine.shapes import saved_folder
from server.telemetry.snapshot import ColdStart
from tests.fakes.fake_vllm import make_package
from tests.fakes.waiting import until


class Case:
    """An engine, what it told, and what its server saw."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "note"
        self.folder.mkdir()
        self.paths = Paths(data=tmp_path / "data", state=tmp_path / "state", runtime=tmp_path / "run")
        self.paths.make()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = StackSettings(model="shape:tiny", engine_python=sys.executable, engine_port=port)
        self.told: list[str] = []
        self.engine = OwnEngine(settings, self.paths, "http://127.0.0.1:1/v1/traces", self.told.append)

    def starts(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "note").read_text().splitlines()]

    def seen(self) -> ColdStart:
        return self.engine.facts(time.monotonic()).start


@pytest.fixture
async def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    made = Case(tmp_path)
    monkeypatch.setenv("FAKE_VLLM_NOTE", str(made.folder / "note"))
    make_package(tmp_path / "packages")
    path = os.pathsep.join(filter(None, (str(tmp_path / "packages"), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "the user's own"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    yield made
    await made.engine.stop()


def names(start: ColdStart) -> list[str]:
    return [stage.name for stage in start.stages]


async def test_each_kind_of_restart_clears_what_it_says(case: Case, tmp_path: Path) -> None:
    engine = case.engine
    await engine.start()
    assert engine.phase == "ready", case.told
    first = case.seen()
    assert (first.kind, first.finished, first.previous, first.left_s) == ("first start", True, [], None)
    assert names(first)[:2] == ["preparation", "spawn and imports"]
    assert names(first)[-1] == "HTTP"
    assert any("Application startup complete" in line for line in engine.facts(time.monotonic()).log_tail)

    await engine.restart("process")
    process = case.seen()
    assert names(process)[:2] == ["old engine leaves", "spawn and imports"]
    assert process.previous_kind == "first start"
    assert process.init_s == 0.01

    await engine.restart("compile")
    cold = case.starts()[-1]
    caches = Path(str(cold["VLLM_CACHE_ROOT"]))
    assert caches.is_relative_to(tmp_path / "state")
    assert caches.exists(), "the engine that runs has its caches there"
    assert Path(str(cold["TRITON_CACHE_DIR"])).parent == caches.parent
    assert names(case.seen())[:3] == ["old engine leaves", "clearing", "spawn and imports"]

    await engine.restart("process")
    assert not caches.exists()
    assert case.starts()[-1]["VLLM_CACHE_ROOT"] == str(tmp_path / "the user's own")
    assert case.starts()[-1]["TRITON_CACHE_DIR"] is None
    again = case.seen()
    assert again.previous_kind == "process-cold", "compared with its like"
    assert set(again.kinds) == {"first start", "process-cold", "compile-cold"}
    assert case.told[-1].startswith("engine ready after")
    assert case.told[-1].endswith("(process-cold)")


async def test_a_disk_cold_restart_of_a_shape_saves_its_weights_once_and_evicts_them(case: Case) -> None:
    engine = case.engine
    await engine.start()
    assert "dummy" in case.starts()[-1]["argv"]
    engine_pid = engine.pids["engine"]
    await engine.restart("disk")
    folder = saved_folder("tiny", case.paths.models)
    start = case.seen()
    assert start.kind == "disk-cold"
    assert start.note.startswith("0.01 GiB evicted")
    assert engine.pids["engine"] != engine_pid
    assert "dummy" not in case.starts()[-1]["argv"]
    assert str(folder) in case.starts()[-1]["argv"]
    assert engine.ignores_eos, "the weights are random still"
    written = (folder / "config.json").stat().st_mtime_ns
    await engine.restart("disk")
    assert (folder / "config.json").stat().st_mtime_ns == written
    assert case.seen().previous_kind == "disk-cold"


async def test_a_shape_that_cannot_be_saved_stops_nothing(case: Case) -> None:
    engine = case.engine
    await engine.start()
    pid = engine.pids["engine"]
    saved_folder("tiny", case.paths.models).write_text("a file where a folder should be")
    await engine.restart("disk")
    assert engine.phase == "ready"
    assert engine.pids["engine"] == pid
    assert case.told[-1].startswith("no disk-cold restart: 0.0 GiB of random weights cannot be written")


async def test_stages_leave_no_gap_from_the_command_to_the_first_token(case: Case) -> None:
    engine = case.engine
    await engine.start()
    await engine.restart("compile")
    engine.first_token(time.monotonic())
    stages = case.seen().stages
    assert stages[0].begin_s == 0.0
    for one, other in itertools.pairwise(stages):
        assert one.end_s == other.begin_s
    assert stages[-1].name == "first token"
    served = next(stage.end_s for stage in stages if stage.name == "HTTP")
    assert served is not None
    assert served <= case.seen().elapsed_s < served + 1.0


async def test_a_failed_start_quotes_the_first_exception(case: Case) -> None:
    (case.folder / "fail").touch()
    await case.engine.start()
    facts = case.engine.facts(time.monotonic())
    assert facts.phase == "failed"
    assert facts.error.startswith("There are no weights in ./nowhere.")
    assert facts.error.endswith("It said: RuntimeError: Cannot find any model weights with `./nowhere`")
    assert facts.start.left_s is None
    (case.folder / "fail").unlink()
    await case.engine.restart("process")
    assert case.engine.phase == "ready"


async def test_an_engine_that_ends_by_itself_says_its_last_words(case: Case) -> None:
    await case.engine.start()
    (case.folder / "die").touch()
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(f"{case.engine.url}/health")
    await until(lambda: case.engine.phase == "down", "the end is noticed")
    error = case.engine.facts(time.monotonic()).error
    assert error.startswith("The engine ended by itself (exit code 0)")
    assert "the cards are on fire" in error
