"""An engine of our own around a server that only logs and answers: its kinds of restart, its failures, its end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.config import Paths, StackSettings
from server.engine import lifecycle, recovery
from server.engine.lifecycle import OwnEngine
from server.engine.shapes import saved_folder
from server.supervisor import lives
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
        self.port = port
        self.told: list[str] = []
        self.change()

    def change(self, **settings: Any) -> None:
        """Before the start: an engine with other settings."""
        whole = StackSettings(model="shape:tiny", engine_python=sys.executable, engine_port=self.port, **settings)
        self.engine = OwnEngine(whole, self.paths, "http://127.0.0.1:1/v1/traces", self.told.append)

    async def die(self, how: str) -> None:
        """Its server ends; returns once that is noticed."""
        (self.folder / "die").write_text(how)
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.HTTPError):
                await http.get(f"{self.engine.url}/health")
        (self.folder / "die").unlink()
        await until(lambda: self.engine.phase == "down", "the end is noticed")

    def starts(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "note").read_text().splitlines()]

    def seen(self) -> ColdStart:
        return self.engine.facts(time.monotonic()).start


@pytest.fixture
async def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    monkeypatch.setattr(recovery, "DELAYS_S", (0.01,))
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


async def test_three_failed_starts_are_the_end_and_the_first_exception_is_quoted(case: Case) -> None:
    (case.folder / "fail").touch()
    await case.engine.start()
    assert case.engine.phase == "down"
    assert case.engine.comes_back
    assert "exit code 1); starting it again in 0.01 s, try 2 of 3. There are no weights in ./nowhere." in case.told[-1]
    await until(lambda: case.engine.phase == "failed", "three tries")
    facts = case.engine.facts(time.monotonic())
    assert facts.error.startswith("There are no weights in ./nowhere.")
    assert facts.error.endswith("`./nowhere` It ended so 3 times.")
    assert (facts.start.left_s, facts.again_in_s, len(case.starts())) == (None, None, 3)
    (case.folder / "fail").unlink()
    await case.engine.restart("process")
    assert case.engine.phase == "ready"


async def test_a_bad_flag_is_never_tried_again(case: Case) -> None:
    case.change(engine_args=["--no-such-flag"])
    await case.engine.start()
    facts = case.engine.facts(time.monotonic())
    assert facts.phase == "failed"
    assert facts.error.startswith("This vLLM does not know the argument --no-such-flag. Leave it out of --engine-arg.")
    assert len(case.starts()) == 1
    assert not case.engine.comes_back


@pytest.mark.parametrize(
    ("how", "code"), [("0", "exit code 0"), ("2", "exit code 2"), ("SIGKILL", "killed by SIGKILL")]
)
async def test_an_engine_that_ends_by_itself_says_its_last_words_and_comes_back(
    case: Case, how: str, code: str
) -> None:
    await case.engine.start()
    before = case.engine.pids["engine"]
    await case.die(how)
    error = case.engine.facts(time.monotonic()).error
    assert error.startswith(f"The engine ended by itself ({code}); starting it again in 0.01 s. ")
    assert "the cards are on fire" in error
    await until(lambda: case.engine.phase == "ready", "it is back")
    assert case.engine.pids["engine"] != before
    start = case.seen()
    assert start.kind == "after a crash"
    assert names(start)[:3] == ["old engine leaves", "pause after a crash", "spawn and imports"]
    for one, other in itertools.pairwise(start.stages):
        assert one.end_s == other.begin_s


async def test_what_a_crash_left_is_gone_before_the_next_start(case: Case) -> None:
    (case.folder / "core").write_text("deaf escapee")
    await case.engine.start()
    await until(lambda: {"engine core", "engine worker"} <= case.engine.pids.keys(), "its tree is known")
    old = [psutil.Process(pid) for pid in case.engine.pids.values()]
    root = case.engine.pids["engine"]
    assert os.getsid(case.engine.pids["engine worker"]) != root, "it left the session"
    (case.folder / "core").unlink()
    os.kill(root, signal.SIGKILL)
    await until(lambda: case.engine.phase == "starting", "it starts again")
    assert [process for process in old if lives(process)] == []
    await until(lambda: case.engine.phase == "ready", "it is back")


@pytest.mark.parametrize("kinds", ["", "linger"])
async def test_a_lost_engine_core_is_a_crash_though_the_api_server_answers(case: Case, kinds: str) -> None:
    (case.folder / "core").write_text(kinds)
    await case.engine.start()
    await until(lambda: "engine core" in case.engine.pids, "its core is known")
    pids = case.engine.pids
    os.kill(pids["engine core"], signal.SIGKILL)
    await until(lambda: case.engine.phase == "down", "the end is noticed")
    said = case.engine.facts(time.monotonic()).error
    if kinds:
        assert f"The engine ended by itself (its core ({pids['engine core']}) is gone); starting it again" in said
    await until(lambda: case.engine.phase == "ready", "it is back")
    assert not psutil.pid_exists(pids["engine"])


async def test_a_person_may_be_quicker_than_the_pause(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "DELAYS_S", (600.0,))
    await case.engine.start()
    await case.die("0")
    assert (case.engine.facts(time.monotonic()).again_in_s or 0) > 500
    await case.engine.restart("process")
    assert case.engine.phase == "ready"
    assert case.engine.facts(time.monotonic()).again_in_s is None
    assert case.seen().kind == "process-cold"


async def test_one_that_is_not_to_be_restarted_stays_as_it_is(case: Case) -> None:
    case.change(restart=False)
    (case.folder / "core").write_text("")
    await case.engine.start()
    await until(lambda: "engine core" in case.engine.pids, "its core is known")
    core = psutil.Process(case.engine.pids["engine core"])
    await case.die("SIGKILL")
    assert not case.engine.comes_back
    assert "(killed by SIGKILL); it is left as it is (--no-restart)" in case.engine.facts(time.monotonic()).error
    assert case.engine.pids == {"engine core": core.pid}, "to be looked at"
    await case.engine.restart("process")
    assert not lives(core)


async def test_a_port_that_was_taken_meanwhile_is_told_with_its_holder(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "PORT_FREE_S", 0.3)
    monkeypatch.setattr(recovery, "DELAYS_S", (1.0,))
    await case.engine.start()
    await case.die("0")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", case.port))
        other.listen()
        await until(lambda: case.engine.phase == "failed", "it gives up")
    assert f"Port {case.port} is in use by " in case.engine.facts(time.monotonic()).error
    assert f"({os.getpid()})" in case.engine.facts(time.monotonic()).error


async def test_no_start_comes_after_the_stop(case: Case) -> None:
    await case.engine.start()
    await case.die("SIGKILL")
    await case.engine.stop()
    assert case.engine.phase == "down"
    assert not case.engine.comes_back
    assert case.engine.pids == {}
    assert len(case.starts()) == 1
