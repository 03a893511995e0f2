"""The fault kit without processes: what is refused, what lasts and for how long, and that everything is undone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server import commands
from server.config import Paths, StackSettings
from server.faults.catalogue import CATALOGUE, LONGEST_S, FaultError, FaultKind, Settings, fault_named
from server.faults.host import HostEdge
from server.faults.kit import Begun, FaultKit
from server.faults.network import toxic_of
from server.faults.process import ProcessEdge
from server.stack import Stack
from server.telemetry.recording import Recorder
from tests.fakes.waiting import until


class Edge:
    """Whatever is begun on it."""

    def __init__(self) -> None:
        self.on: list[str] = []
        self.alive = True
        self.stuck = ""

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun:
        if self.stuck:
            raise FaultError(self.stuck)
        self.on.append(kind.name)

        async def undo() -> None:
            self.on.remove(kind.name)

        return Begun(undo, lambda: self.alive)


class Case:
    def __init__(self) -> None:
        self.edge = Edge()
        self.events: list[str] = []
        every = {"client": self.edge, "network": self.edge, "process": self.edge, "host": self.edge}
        self.kit = FaultKit(every, lambda kind, text: self.events.append(f"{kind}: {text}"))  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.kit.active(time.monotonic())]


@pytest.fixture
def case() -> Case:
    return Case()


async def test_a_fault_ends_by_itself_and_says_so(case: Case) -> None:
    begun = await case.kit.begin("latency", {"ms": 200}, 0.05)
    assert (begun.ok, begun.kind, begun.text) == (True, "fault", "latency 200 ms on engine for 0.05 s")
    active = case.kit.active(time.monotonic())[0]
    assert (active.text, active.settings["ms"]) == ("latency 200 ms on engine", 200.0)
    assert active.left_s is not None
    assert 0 <= active.left_s <= 0.05
    await until(lambda: not case.names)
    await until(lambda: case.events == ["fault: latency 200 ms on engine: over"])
    assert case.edge.on == []


async def test_one_is_undone_by_name_and_all_without_one(case: Case) -> None:
    for name, settings in (("latency", {}), ("latency", {"on": "people"}), ("fds", {}), ("pause", {})):
        assert (await case.kit.begin(name, settings)).ok
    undone = await case.kit.stop("latency")
    assert undone.text == "undone: latency 500 ms on engine; latency 500 ms on people."
    assert case.names == ["fds", "pause"]
    assert (await case.kit.stop(None)).ok
    assert case.edge.on == []
    assert len(case.events) == 4
    assert (await case.kit.stop(None)).text == "No fault lasts now."
    assert (await case.kit.stop("fds")).text == "The fault fds does not last now."
    assert "nothing to undo" in (await case.kit.stop("burst")).text
    assert (await case.kit.stop("fog")).text.startswith("There is no fault 'fog'")


async def test_of_a_kind_there_is_one_at_each_place(case: Case) -> None:
    assert (await case.kit.begin("pause", {"process": "gateway"})).ok
    assert (await case.kit.begin("pause", {"process": "load"})).ok
    second = await case.kit.begin("pause", {"process": "gateway"})
    assert second.text == "There is pause on gateway already; `spark-serve fault --stop pause` ends it."
    await case.kit.close()


async def test_what_is_done_at_once_does_not_last(case: Case) -> None:
    assert (await case.kit.begin("burst", {"count": 200})).text == "burst +200"
    assert case.names == []
    refused = await case.kit.begin("kill", {}, 3.0)
    assert refused.text == "The fault kill is done at once; it does not last."


async def test_what_an_edge_cannot_do_lasts_not(case: Case) -> None:
    case.edge.stuck = "There is no such process."
    refused = await case.kit.begin("pause", {})
    assert (refused.ok, refused.text, case.names) == (False, "There is no such process.", [])


async def test_a_fault_of_a_process_that_is_gone_is_over(case: Case) -> None:
    await case.kit.begin("pause", {}, 600)
    case.edge.alive = False
    await until(lambda: case.events == ["fault: engine core paused: over: the process is gone"])


async def test_a_stack_that_goes_undoes_all_and_begins_none(case: Case) -> None:
    for name in ("latency", "pause", "fds"):
        await case.kit.begin(name, {})
    await case.kit.close()
    assert case.edge.on == case.names == []
    assert (await case.kit.begin("fds", {})).text == "The stack is going down."


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.name)
def test_every_fault_says_what_it_does_with_every_step(kind: FaultKind) -> None:
    settings = kind.settled({})
    assert kind.words(settings)
    for parameter in kind.parameters:
        assert parameter.default in parameter.steps
        for step in parameter.steps:
            assert kind.words({**settings, parameter.name: parameter.taken(step)})
            assert parameter.taken(str(step)) == step
            assert parameter.shown(step)
    assert kind.seconds is None or kind.seconds in kind.lengths
    if kind.edge == "network":
        for stream in ("up", "down"):
            assert toxic_of(kind.name, {**settings, "stream": stream}).stream == stream


@pytest.mark.parametrize(
    ("name", "given", "seconds", "why"),
    [
        ("latency", {"ms": -1}, None, "ms must be at least 0 and at most 60000, not -1"),
        ("latency", {"ms": "nan"}, None, "ms must be at least 0"),
        ("latency", {"ms": "soon"}, None, "ms must be a number, not 'soon'"),
        ("latency", {"lag": 1}, None, "has no 'lag'; it has ms, jitter, on, stream, toxicity"),
        ("latency", {"on": "moon"}, None, "on must be one of engine, people, not moon"),
        ("latency", {"toxicity": 2}, None, "toxicity must be at least 0 and at most 1, not 2"),
        ("burst", {"count": 0}, None, "count must be at least 1"),
        ("fds", {}, LONGEST_S + 1, "lasts up to 3600 s"),
        ("fds", {}, float("nan"), "lasts up to 3600 s"),
        ("disk-full", {"x": 1}, None, "it has nothing to set"),
    ],
)
def test_what_cannot_be_set_is_said(name: str, given: dict[str, int | str], seconds: float | None, why: str) -> None:
    kind = fault_named(name)
    with pytest.raises(FaultError, match=why):
        kind.lasts(seconds if kind.settled(given) else None)


def test_a_toxic_that_cannot_be_is_a_refusal() -> None:
    settings = fault_named("slicer").settled({"bytes": 4, "variation": 4})
    with pytest.raises(FaultError, match="The average size must be larger than its variation"):
        toxic_of("slicer", settings)


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


async def test_a_paused_process_goes_on_when_undone() -> None:
    child = sleeper()
    process = psutil.Process(child.pid)
    try:
        begun = await ProcessEdge(lambda _: [child.pid]).begin(fault_named("pause"), {"process": "load"})
        await until(lambda: process.status() == psutil.STATUS_STOPPED)
        assert begun.lives()
        await begun.undo()
        assert process.status() != psutil.STATUS_STOPPED
    finally:
        child.kill()
        child.wait()
    assert not begun.lives()


async def test_a_paused_process_goes_on_when_nobody_is_there_to_undo_it() -> None:
    child = sleeper()
    process = psutil.Process(child.pid)
    try:
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.faults.guard", f"{child.pid}:{process.create_time()!r}", "1:0.0"),
            stdin=asyncio.subprocess.PIPE,
        )
        os.kill(child.pid, signal.SIGSTOP)
        await until(lambda: process.status() == psutil.STATUS_STOPPED)
        assert guard.stdin is not None
        guard.stdin.close()
        assert await guard.wait() == 0
        assert process.status() != psutil.STATUS_STOPPED
    finally:
        child.kill()
        child.wait()


async def test_a_full_disk_takes_the_log_and_a_recording_that_begins_meanwhile(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    edge = HostEdge(lambda: None, lambda: None, log)
    begun = await edge.begin(fault_named("disk-full"), {})
    with pytest.raises(OSError, match="No space left"):
        os.write(log, b"lost\n")
    recorder = Recorder(tmp_path / "run.sparkrec")
    edge.fill(recorder)
    with pytest.raises(OSError, match="No space left"):
        recorder._append(b"{}")
    recorder.close()
    await begun.undo()
    os.write(log, b"kept\n")
    os.close(log)
    assert (tmp_path / "log").read_bytes() == b"kept\n"


async def test_no_gateway_no_limit_of_its_files() -> None:
    with pytest.raises(FaultError, match="The gateway does not run"):
        await HostEdge(lambda: None, lambda: None).begin(fault_named("fds"), {"limit": 40})


class Measuring:
    def __init__(self, running: bool) -> None:
        self.running = running


async def test_a_watched_engine_is_left_alone(tmp_path: Path) -> None:
    paths = Paths(data=tmp_path, state=tmp_path, runtime=tmp_path)
    watching = Stack(StackSettings(attach="http://127.0.0.1:8000"), paths)
    assert (await watching.execute(commands.Fault("latency"))).message.endswith("--drive allows load.")
    driving = Stack(StackSettings(attach="http://127.0.0.1:8000", drive=True), paths)
    driving._engine = driving._make_engine("")
    driving._search, driving._comparer = Measuring(False), Measuring(False)  # type: ignore[assignment]
    for process in ("engine-core", "api-server", "worker"):
        for name in ("pause", "kill"):
            answer = await driving.execute(commands.Fault(name, {"process": process}))
            assert answer.message == "Somebody else started this engine; its processes are left alone."
    assert (await driving.execute(commands.Unfault())).message == "No fault lasts now."


async def test_while_something_is_measured_nothing_is_provoked(tmp_path: Path) -> None:
    stack = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    stack._search, stack._comparer = Measuring(True), Measuring(False)  # type: ignore[assignment]
    assert (await stack.execute(commands.Fault("burst"))).message.startswith("A capacity search runs")
    stack._search, stack._comparer = Measuring(False), Measuring(True)  # type: ignore[assignment]
    assert (await stack.execute(commands.Fault("burst"))).message.startswith("A comparison runs")
