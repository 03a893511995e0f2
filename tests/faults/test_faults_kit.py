"""The fault kit on a real stack, gateway and people, before a scripted engine: what the console says of each fault."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import commands
from server.telemetry.recording import read
from tests.faults.ledger import Row, Tally, enter
from tests.faults.scripted import ScriptedStack, clause
from tests.faults.terminal import Terminal


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = ScriptedStack(tmp_path_factory.mktemp("k"), monkeypatch)
        try:
            made.up()
            yield made
        finally:
            made.down()


@pytest.mark.parametrize(
    ("name", "settings", "pattern"),
    [
        ("latency", {"ms": 300}, r"fault: latency 300 ms on engine, \d s left"),
        pytest.param(
            *("bandwidth", {"rate": 4, "on": "people"}, r"fault: bandwidth 4 KB/s on people, \d s left"),
            marks=pytest.mark.faults,
        ),
        pytest.param("reset-peer", {}, r"fault: reset peer on engine, \d s left", marks=pytest.mark.faults),
        pytest.param(
            *("slicer", {"bytes": 5, "gap": 0}, r"fault: slicer 5 bytes on engine, \d s left"),
            marks=pytest.mark.faults,
        ),
    ],
)
def test_a_fault_of_the_wire_is_on_the_screen_while_it_lasts_and_gone_with_its_proxy(
    stack: ScriptedStack,
    screen: Terminal,
    usual: list[str],
    name: str,
    settings: dict[str, int | str],
    pattern: str,
) -> None:
    answer = stack.provoke(name, 2, **settings)
    after_s = screen.until(pattern)
    said = clause(screen, pattern)
    assert any("-m server.faults" in kind for kind in stack.kinds())
    screen.until(lambda: not screen.shows("fault: "))
    assert any(event.text.endswith(": over") for event in stack.client.snapshot().events)
    left = stack.left(usual)
    stack.serves()
    requests = stack.settled()
    assert requests.failed if name == "reset-peer" else requests.completed
    enter(Row(fault=answer.rstrip("."), said=said, after_s=after_s, requests=requests, left=left))


@pytest.mark.parametrize(
    "process",
    [
        "engine-core",
        *(pytest.param(process, marks=pytest.mark.faults) for process in ("api-server", "gateway", "load")),
    ],
)
def test_a_process_that_stands_still_is_named_and_goes_on(
    stack: ScriptedStack, screen: Terminal, usual: list[str], process: str
) -> None:
    answer = stack.provoke("pause", 30, process=process)
    assert sum(kind.startswith("stopped ") for kind in stack.kinds()) == 1
    pattern = r"fault: .* paused, \d+ s left"
    after_s = screen.until(pattern)
    said = clause(screen, pattern)
    stack.send(commands.Unfault("pause"))
    screen.until(lambda: not screen.shows("fault: "))
    left = stack.left(usual)
    stack.serves()
    enter(
        Row(
            fault=answer.rstrip("."),
            said=said,
            after_s=after_s,
            requests=stack.settled(),
            left=left,
        )
    )


@pytest.mark.faults
def test_a_gateway_without_file_descriptors_gets_them_back(
    stack: ScriptedStack, screen: Terminal, usual: list[str]
) -> None:
    answer = stack.provoke("fds", 30, limit=16)
    pattern = r"fault: gateway at 16 file descriptors"
    after_s = screen.until(pattern)
    said = clause(screen, pattern)
    failed = stack.client.snapshot().people.outcomes.get("error", 0)
    stack.send(commands.Burst(40))
    stack.until("some of them cannot come in", lambda s: s.people.outcomes.get("error", 0) > failed, 10)
    assert stack.send(commands.Unfault("fds")) == "Undone: gateway at 16 file descriptors."
    screen.until(lambda: not screen.shows("fault: "))
    stack.serves()
    enter(
        Row(
            fault=f"{answer.rstrip('.')}, burst of 40",
            said=said,
            after_s=after_s,
            requests=stack.settled(),
            left=stack.left(usual),
        )
    )


def test_a_full_disk_ends_the_recording_says_so_and_keeps_what_was_written(
    stack: ScriptedStack, screen: Terminal, usual: list[str]
) -> None:
    path = stack.home / "full.sparkrec"
    stack.send(commands.Record(path=str(path)))
    screen.until(r"● REC")
    stack.until("it has snapshots", lambda s: (s.recording_s or 0) > 0)
    answer = stack.provoke("disk-full", 30)
    after_s = screen.until(r"recording ended: No space left on device")
    line = screen.line(r"recording ended: No space")
    said = line[line.index("recording ended") :].partition("device")[0] + "device"
    assert screen.shows("fault: disk full")
    assert len(list(read(path))) > 0
    second = stack.home / "second.sparkrec"
    stack.send(commands.Record(path=str(second)))
    ends = "recording ended: No space left on device"
    stack.until("one that begins meanwhile ends too", lambda s: sum(event.text == ends for event in s.events) == 2)
    stack.send(commands.Unfault())
    third = stack.home / "third.sparkrec"
    stack.send(commands.Record(path=str(third)))
    stack.until("one that begins after it goes on", lambda s: (s.recording_s or 0) > 1)
    stack.send(commands.Record(on=False))
    assert len(list(read(third))) > 2
    stack.enter(answer, said, after_s, usual)


def test_a_killed_gateway_comes_back_and_people_with_it(
    stack: ScriptedStack, screen: Terminal, usual: list[str]
) -> None:
    answer = stack.provoke("kill", process="gateway")
    words = r"gateway ended \(killed by SIGKILL\): starting it again"
    after_s = screen.until(words)
    said = re.findall(words, screen.text)[0]
    stack.serves()
    stack.enter(answer, said, after_s, usual)


@pytest.mark.faults
def test_killed_people_are_replaced_and_the_gateway_knows_how_each_request_ended(
    stack: ScriptedStack, screen: Terminal, usual: list[str]
) -> None:
    stack.settled()
    stack.until("some are under way", lambda s: (s.people.in_flight.v or 0) > 2)
    answer = stack.provoke("kill", process="load")
    words = r"load \d ended \(killed by SIGKILL\): starting it again"
    after_s = screen.until(words)
    said = re.findall(words, screen.text)[0]
    stack.until("others come", lambda _: stack.client.send(commands.People(count=4)).ok)
    stack.serves()
    requests = stack.settled(by_gateway=True)
    assert requests.cancelled > 0
    enter(
        Row(
            fault=f"{answer.rstrip('.')} (counted by the gateway)",
            said=said,
            after_s=after_s,
            requests=requests,
            left=stack.left(usual),
        )
    )


@pytest.mark.faults
def test_a_killed_engine_core_is_a_dead_engine_that_comes_back(
    stack: ScriptedStack, screen: Terminal, usual: list[str]
) -> None:
    answer = stack.provoke("kill", process="engine-core")
    after_s = screen.until("engine ended")
    said = screen.line("engine ended")[:100]
    stack.until("it is seen", lambda s: s.engine.phase != "ready")
    stack.until("it is back", lambda s: s.engine.phase == "ready")
    stack.serves()
    stack.enter(answer, said, after_s, usual)


def test_what_cannot_be_had_is_refused_in_a_sentence(stack: ScriptedStack, usual: list[str]) -> None:
    def refusal(name: str, **settings: int | float | str) -> str:
        answer = stack.client.send(commands.Fault(name, settings))
        assert not answer.ok
        return answer.message

    stack.provoke("latency", 20, ms=1)
    said = {
        "an unknown fault": refusal("flood"),
        "a fault of a process that is not there": refusal("kill", process="worker"),
        "the same fault twice": refusal("latency"),
        "a fault with a setting it does not have": refusal("pause", ms=3),
        "a fault undone that does not last": stack.client.send(commands.Unfault("fds")).message,
    }
    stack.send(commands.Unfault())
    assert said["an unknown fault"].startswith("There is no fault 'flood'; there are slow, stall, leave,")
    assert said["the same fault twice"].startswith("There is latency on engine already;")
    left = stack.left(usual)
    for fault, sentence in said.items():
        enter(Row(fault=fault, said=sentence, left=left))


@pytest.mark.faults
def test_a_stack_that_is_killed_leaves_nobody_standing_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = ScriptedStack(tmp_path / "s", monkeypatch)
    try:
        stack.up(2)
        stack.provoke("pause", 90, process="gateway")
        stack.provoke("pause", 90, process="engine-core")
        daemon = stack.client.daemon()
        assert daemon is not None
        began = time.monotonic()
        os.kill(daemon.pid, signal.SIGKILL)
        while any(kind.startswith("stopped ") or "gateway" in kind for kind in stack.kinds()):
            assert time.monotonic() - began < 15, stack.kinds()
            time.sleep(0.02)
        after_s = time.monotonic() - began
        from server.leftovers import end_leftovers  # noqa: PLC0415

        ended = end_leftovers(stack.paths)
        assert ended
        enter(
            Row(
                fault="stack killed while gateway and engine core stand still: all go on, the gateway leaves",
                said=f"`down` ended what it had left behind: {', '.join(ended)}",
                after_s=after_s,
                requests=Tally(),
                left=stack.left([]),
            )
        )
    finally:
        stack.down()


@pytest.mark.faults
def test_a_stack_that_is_told_to_go_while_everything_stands_still_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = ScriptedStack(tmp_path / "s", monkeypatch)
    try:
        stack.up(2)
        for process in ("gateway", "engine-core", "api-server", "load"):
            stack.provoke("pause", 90, process=process)
        daemon = stack.client.daemon()
        began = time.monotonic()
        said = stack.send(commands.Down())
        assert stack.client.stopped(daemon, 20)
        enter(
            Row(
                fault="down while gateway, engine core, API server and people stand still",
                said=said,
                after_s=time.monotonic() - began,
                left=stack.left([]),
            )
        )
    finally:
        stack.down()
