"""Processes that die, on a real stack with its real gateway, load generator and console; the engine is scripted."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from server.engine.processes import roles
from tests.e2e.conftest import Stack, spark
from tests.faults.ledger import Tally
from tests.faults.scene import CELLS, ROWS, Scene, ended, scripted, up
from tests.faults.terminal import Terminal

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = scripted(tmp_path_factory.mktemp("s"), monkeypatch)
        made.tell("gap", "0.03")
        made.tell("core", "deaf escapee linger")
        up(made)
        made.open()
        yield from ended(made)


def test_api_server_killed_under_streams(scene: Scene) -> None:
    """What it leaves ignores SIGTERM, and one of them has a session of its own."""
    scene.ready()
    before, old = scene.busy(), scene.tree()
    assert {"engine", "engine core", "engine worker"} <= old.keys()
    assert os.getsid(old["engine worker"].pid) != old["engine"].pid
    old["engine"].kill()
    said, after_s = scene.says(r"killed by SIGKILL")
    reaped_s = scene.gone(list(old.values()))
    scene.tell("core", "escapee linger")  # one that takes its time with SIGTERM is enough
    back = scene.until("it is back", lambda s: s.engine.phase == "ready" and s.engine.pid != old["engine"].pid)
    assert back.engine.start.kind == "after a crash"
    scene.settle()
    requests = scene.tally().since(before)
    assert 0 < requests.failed < 16, "those in the slots; the line was held"
    assert "DOWN" in said
    scene.row(f"API server SIGKILLed; its tree gone {reaped_s:.1f} s later", said, after_s, requests, old.values())


def test_engine_core_lost_while_the_api_server_lingers(scene: Scene) -> None:
    scene.ready()
    before, old = scene.busy(), scene.tree()
    old["engine core"].kill()
    said, after_s = scene.says(rf"its core \({old['engine core'].pid}\) is gone")
    scene.gone(list(old.values()))
    scene.until("it is back", lambda s: s.engine.phase == "ready" and s.engine.pid != old["engine"].pid)
    scene.settle()
    scene.row("engine core SIGKILLed, API server lingers", said, after_s, scene.tally().since(before), old.values())


@pytest.mark.faults
def test_leaving_with_code_0_under_streams(scene: Scene) -> None:
    scene.ready()
    before, old = scene.busy(), scene.tree()
    scene.tell("die", "0")
    said, after_s = scene.says("exit code 0")
    scene.tell("die", None)
    scene.gone(list(old.values()))
    scene.until("it is back", lambda s: s.engine.phase == "ready" and s.engine.pid != old["engine"].pid)
    scene.settle()
    scene.row("engine leaves with code 0 by itself", said, after_s, scene.tally().since(before), old.values())


@pytest.mark.faults
def test_three_deaths_before_ready_show_the_real_error_and_c_tries_again(scene: Scene) -> None:
    scene.ready()
    before, old = scene.busy(), scene.tree()
    scene.tell("die-early", "1")
    began = time.monotonic()
    old["engine"].kill()
    scene.says("try 2 of 3", 30)
    scene.until("it is given up", lambda s: s.engine.phase == "failed")
    said, _ = scene.says("It said: RuntimeError: the cards were never there", 30)
    after_s = time.monotonic() - began
    assert scene.now.engine.error.endswith("It ended so 3 times.")
    scene.until("who waited has been told", lambda s: not s.queue.depth.v)
    scene.tell("die-early", None)
    scene.settle()
    requests = scene.tally().since(before)
    assert scene.stack.verb("restart").returncode == 0
    scene.ready()
    scene.row("three deaths before ready", said, after_s, requests, old.values())


def test_gateway_killed_under_streams(scene: Scene) -> None:
    scene.ready()
    before, gateway = scene.busy(), scene.processes()["gateway"]
    gateway.kill()
    said, after_s = scene.says(r"gateway ended \(killed by SIGKILL\)")
    scene.until("another one serves", lambda s: s.verdict.word != "DOWN" and s.queue.in_flight.v)
    scene.settle()
    requests = scene.tally().since(before)
    assert requests.completed
    scene.row("gateway SIGKILLed", said, after_s, requests, [gateway])


@pytest.mark.faults
def test_load_worker_killed(scene: Scene) -> None:
    """Those who asked went with it: the gateway tells how their requests ended."""
    scene.ready()
    scene.settle()
    before = scene.arrived()
    scene.busy()
    worker = scene.processes()["load 0"]
    worker.kill()
    said, after_s = scene.says(r"load 0 ended \(killed by SIGKILL\)")
    scene.until("another one asks", lambda s: "load 0" in scene.processes() and s.people.sent_total and s.queue.depth.v)
    scene.settle()
    requests = scene.arrived().since(before)
    assert requests.cancelled, "those of the dead worker"
    scene.row("load worker SIGKILLed", said, after_s, requests, [worker])


@pytest.mark.faults
def test_console_killed_and_another_one_attaches(scene: Scene) -> None:
    scene.ready()
    before = scene.busy()
    failed = before.failed
    scene.close()
    began = time.monotonic()
    screen = scene.open()
    after_s = time.monotonic() - began
    said = screen.line("● live")
    scene.settle()
    requests = scene.tally().since(before)
    assert scene.tally().failed == failed, "streams untouched"
    scene.row("console SIGKILLed, another attaches", said, after_s, requests, [])


@pytest.mark.faults
def test_no_step_for_ten_seconds_is_amber(scene: Scene) -> None:
    """/health is green all the while."""
    scene.ready()
    before = scene.busy()
    began = time.monotonic()
    scene.tell("stuck")
    said, after_s = scene.says(r"no step for 1\d s {3}", 30)
    assert scene.now.engine.healthy
    assert time.monotonic() - began >= 9
    scene.tell("stuck", None)
    scene.until("it goes on", lambda s: s.engine.heartbeat_age_s is not None and s.engine.heartbeat_age_s < 3)
    scene.settle()
    scene.row("no step for 10 s while requests run", said, after_s, scene.tally().since(before), [])


@pytest.mark.faults
def test_no_step_for_a_minute_is_stalled(scene: Scene) -> None:
    scene.ready()
    before = scene.busy()
    scene.tell("stuck")
    said, after_s = scene.says("running, and no step for 6", 90)
    assert "STALLED" in said
    scene.tell("stuck", None)
    scene.until("it goes on", lambda s: s.verdict.word != "STALLED")
    scene.settle()
    scene.row("no step for a minute", said, after_s, scene.tally().since(before), [])


@pytest.mark.faults
def test_a_gateway_that_dies_three_times_in_a_minute_is_left_alone(scene: Scene) -> None:
    scene.ready()
    scene.settle()
    doomed: list[psutil.Process] = []
    for _ in range(3):
        scene.until("it serves", lambda s: "gateway" in scene.processes() and s.sources["gateway"].ok)
        doomed.append(scene.processes()["gateway"])
        doomed[-1].kill()
        scene.gone(doomed)
        scene.until("it is missed", lambda s: s.verdict.word == "DOWN")
    said, after_s = scene.says("it is left alone", 30)
    scene.row("gateway SIGKILLed three times in a minute", said, after_s, Tally(), doomed)
    assert scene.stack.verb("down", timeout=60).returncode == 0
    scene.close()
    up(scene)
    scene.open()


def test_stack_killed_and_its_leftovers_ended(scene: Scene) -> None:
    """Gateway and load generator leave with it; the engine, of which one ignores SIGTERM, is found and named."""
    scene.ready()
    everything = scene.processes()
    engine = scene.tree()
    everything["stack"].kill()
    others = [process for name, process in everything.items() if name not in engine]
    scene.gone(others)
    scene.close()
    refused = scene.stack.verb("up")
    assert refused.returncode == 1
    named = [f"{name} ({process.pid})" for name, process in engine.items()]
    assert all(name in refused.stderr for name in named), refused.stderr
    assert "`spark-serve down` ends them" in refused.stderr
    began = time.monotonic()
    done = scene.stack.verb("down", timeout=60)
    after_s = time.monotonic() - began
    assert done.returncode == 0
    assert all(name in done.stdout for name in named)
    scene.row("stack SIGKILLed, then `down`", done.stdout.strip(), after_s, Tally(), everything.values())


@pytest.mark.faults
def test_leftovers_are_asked_about_on_a_terminal(scene: Scene) -> None:
    up(scene)
    everything = scene.processes()
    everything["stack"].kill()
    scene.gone([everything["stack"], everything["gateway"]])
    argv = (sys.executable, "-m", "console.cli", "up", "--wait", "--no-discover", "--engine-python", sys.executable)
    ports = ("--engine-port", str(scene.stack.engine_port), "--port", str(scene.stack.gateway_port))
    asked = Terminal(*ports, "--model", "shape:tiny", "--people", "0", argv=argv, cells=CELLS, rows=ROWS)
    after_s = asked.until(r"End them\? \[Y/n\]")
    said = f"{asked.line('left processes behind')} {asked.line('End them')}"
    asked.press("\n")
    assert asked.end(None, 60) == 0
    scene.ready()
    scene.row("stack SIGKILLed, then `up` on a terminal", said, after_s, Tally(), everything.values())


@pytest.mark.faults
def test_a_bad_flag_is_told_after_one_start(scene: Scene) -> None:
    assert scene.stack.verb("down", timeout=60).returncode == 0
    starts = (scene.folder / "note").read_text().count("\n")
    began = time.monotonic()
    done = try_up(scene, "--engine-arg=--no-such-flag")
    after_s = time.monotonic() - began
    assert done.returncode == 1
    assert (scene.folder / "note").read_text().count("\n") == starts + 1
    assert "does not know the argument --no-such-flag" in done.stderr
    scene.row("a flag that vLLM does not know", done.stderr.strip(), after_s, Tally(), scene.stack.processes())


@pytest.mark.faults
def test_a_port_in_use_is_told_with_its_holder(scene: Scene) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", scene.stack.engine_port))
        other.listen()
        began = time.monotonic()
        done = try_up(scene)
        after_s = time.monotonic() - began
    assert done.returncode == 1
    assert f"({os.getpid()})" in done.stderr
    scene.row("the engine's port is taken", done.stderr.strip(), after_s, Tally(), scene.stack.processes())


@pytest.mark.faults
def test_an_engine_that_is_not_to_be_restarted_is_left_to_be_looked_at(scene: Scene) -> None:
    up(scene, "--no-restart")
    scene.open()
    old = scene.tree()
    old["engine"].kill()
    said, after_s = scene.says(r"it is left as it is \(--no-restart\)")
    assert set(roles(old["engine"].pid)) == {"engine-core"}
    assert old["engine worker"].is_running()
    scene.close()
    assert scene.stack.verb("down", timeout=60).returncode == 0
    scene.row("API server SIGKILLed under --no-restart", said, after_s, Tally(), old.values())


def try_up(scene: Scene, *arguments: str):  # type: ignore[no-untyped-def]
    stack: Stack = scene.stack
    ports = ("--engine-port", str(stack.engine_port), "--port", str(stack.gateway_port))
    model = ("--engine-python", sys.executable, "--model", "shape:tiny", "--people", "0")
    return spark(stack.home, "up", "--wait", "--no-discover", *ports, *model, *arguments)
