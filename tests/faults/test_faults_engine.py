"""Processes of the real vLLM CPU engine that die, and of the stack around it, under 16 people: one stack, in this order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from server.engine.processes import roles
from tests.faults.ledger import Tally
from tests.faults.scene import Scene, ended

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SEQS, PEOPLE = 8, 16
ENGINE = ("--model", "smollm2", "--max-num-seqs", str(SEQS), "--people", "0", "--think", "0.2", "--turns", "1")
LENGTHS = ("--prompt-tokens", "24", "--output-tokens", "24")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Scene(tmp_path_factory.mktemp("s"), monkeypatch, engine="vLLM")
        made.stack.up(*ENGINE, *LENGTHS)
        made.open()
        yield from ended(made)


def crash(scene: Scene, fault: str, pid: int, pattern: str) -> None:
    """SIGKILL it under 16 people: the word on the screen, the tree gone, and the engine serving again."""
    cold_s = scene.now.engine.start.elapsed_s
    before, old, first = scene.busy(PEOPLE), list(scene.tree().values()), scene.now.engine.pid
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    said, after_s = scene.says(pattern)
    scene.gone(old)
    reaped_s = time.monotonic() - began
    scene.until("it serves again", lambda s: s.engine.phase == "ready" and s.engine.pid != first, 240)
    back_s = time.monotonic() - began
    scene.settle()
    requests = scene.tally().since(before)
    # Those in the slots, and whoever was sent on while its sockets were being closed; the line was held.
    assert requests.failed < PEOPLE
    figures = f"tree gone after {reaped_s:.1f} s, serving after {back_s:.1f} s (cold start {cold_s:.1f} s)"
    scene.row(f"{fault}: {figures}", said, after_s, requests, old)


def test_api_server_killed(scene: Scene) -> None:
    pid = scene.ready().engine.pid
    assert pid is not None
    crash(scene, "API server SIGKILLed", pid, "killed by SIGKILL")


def test_engine_core_killed(scene: Scene) -> None:
    pid = scene.ready().engine.pid
    assert pid is not None
    (core,) = roles(pid)["engine-core"]
    crash(scene, "engine core SIGKILLed", core, "ended by itself")


def test_gateway_killed(scene: Scene) -> None:
    scene.ready()
    before, gateway = scene.busy(), scene.processes()["gateway"]
    gateway.kill()
    said, after_s = scene.says(r"gateway ended \(killed by SIGKILL\)")
    scene.until("another one serves", lambda s: s.verdict.word != "DOWN" and s.queue.in_flight.v)
    scene.settle()
    scene.row("gateway SIGKILLed", said, after_s, scene.tally().since(before), [gateway])


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
    scene.row("load worker SIGKILLed", said, after_s, scene.arrived().since(before), [worker])


def test_console_killed(scene: Scene) -> None:
    scene.ready()
    before = scene.busy()
    scene.close()
    began = time.monotonic()
    said = scene.open().line("● live")
    after_s = time.monotonic() - began
    scene.settle()
    requests = scene.tally().since(before)
    assert requests.failed == 0, "streams untouched"
    scene.row("console SIGKILLed, another attaches", said, after_s, requests, [])


@pytest.mark.faults
def test_engine_core_stopped_for_more_than_a_minute(scene: Scene) -> None:
    pid = scene.ready().engine.pid
    assert pid is not None
    before = scene.busy()
    stopped = [process for role in ("engine-core", "worker") for process in roles(pid).get(role, [])]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        amber, amber_s = scene.says(r"no step for 1\d s {3}", 40)
        assert scene.now.engine.healthy
        said, after_s = scene.says("running, and no step for 6", 90)
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    assert "STALLED" in said
    scene.until("it goes on", lambda s: s.verdict.word != "STALLED")
    scene.settle()
    requests = scene.tally().since(before)
    scene.row(
        f"engine core SIGSTOPped for a minute; amber ({amber}) after {amber_s:.1f} s", said, after_s, requests, []
    )


@pytest.mark.faults
def test_a_bad_flag_by_a_restart_is_told_after_one_start(scene: Scene) -> None:
    assert scene.stack.verb("down", timeout=120).returncode == 0
    scene.close()
    began = time.monotonic()
    ports = ("--engine-port", str(scene.stack.engine_port), "--port", str(scene.stack.gateway_port))
    done = scene.stack.verb(
        "up", "--wait", "--no-discover", *ports, *ENGINE, "--engine-arg=--no-such-flag", timeout=120
    )
    after_s = time.monotonic() - began
    assert done.returncode == 1
    assert "does not know the argument --no-such-flag" in done.stderr
    scene.row("a flag that vLLM does not know", done.stderr.strip(), after_s, Tally(), scene.stack.processes())
    scene.stack.up(*ENGINE, *LENGTHS)


def test_stack_killed(scene: Scene) -> None:
    scene.ready()
    everything, engine = scene.processes(), scene.tree()
    everything["stack"].kill()
    scene.gone([process for name, process in everything.items() if name not in engine])
    scene.close()
    refused = scene.stack.verb("up")
    named = [f"{name} ({process.pid})" for name, process in engine.items()]
    assert refused.returncode == 1
    assert all(name in refused.stderr for name in named), refused.stderr
    began = time.monotonic()
    done = scene.stack.verb("down", timeout=60)
    after_s = time.monotonic() - began
    assert done.returncode == 0
    assert scene.stack.processes() == []
    scene.row("stack SIGKILLed, then `down`", done.stdout.strip(), after_s, Tally(), everything.values())
