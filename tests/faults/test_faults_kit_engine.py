"""The fault kit on a real vLLM: its engine core stands still, dies, and is a slow line away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.engine.processes import API_SERVER, ENGINE_CORE, roles
from tests.faults.scripted import RealStack, clause
from tests.faults.terminal import Terminal

pytestmark = [pytest.mark.engine, pytest.mark.faults, pytest.mark.timeout(600)]
START_S = 420.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = RealStack(tmp_path_factory.mktemp("r"), monkeypatch)
        try:
            made.up(4, 1.0, START_S)
            yield made
        finally:
            made.down()


def test_an_engine_core_that_stands_still_for_six_seconds(stack: RealStack, screen: Terminal, usual: list[str]) -> None:
    found = roles(int(stack.client.snapshot().engine.pid or 0))
    assert len(found[API_SERVER]) == len(found[ENGINE_CORE]) == 1
    stack.settled()
    stack.until("some are under way", lambda s: (s.people.in_flight.v or 0) > 0)
    answer = stack.provoke("pause", process="engine-core")
    after_s = screen.until(r"fault: engine core paused, \d s left")
    said = clause(screen)
    screen.until(lambda: not screen.shows("fault: "))
    stack.serves()
    stack.enter(answer, said, after_s, usual)


@pytest.mark.parametrize(
    ("name", "settings"), [("latency", {"ms": 500}), ("limit-data", {"bytes": 600}), ("timeout", {"ms": 1000})]
)
def test_a_bad_line_to_the_engine(
    stack: RealStack, screen: Terminal, usual: list[str], name: str, settings: dict[str, int]
) -> None:
    answer = stack.provoke(name, 5, **settings)
    after_s = screen.until(rf"fault: {name.replace('-', ' ')} .* on engine, \d s left")
    said = clause(screen)
    screen.until(lambda: not screen.shows("fault: "))
    stack.serves()
    requests = stack.settled()
    assert name == "latency" or requests.failed
    stack.enter(answer, said, after_s, usual, requests)


def test_a_killed_engine_core_and_the_way_back(stack: RealStack, screen: Terminal, usual: list[str]) -> None:
    stack.until("some are under way", lambda s: (s.people.in_flight.v or 0) > 0)
    answer = stack.provoke("kill", process="engine-core")
    after_s = screen.until("engine ended", 60)
    said = screen.line("engine ended")[:100]
    stack.until("it is seen", lambda s: s.engine.phase != "ready", 60)
    stack.until("it is back", lambda s: s.engine.phase == "ready", START_S)
    stack.serves()
    stack.enter(answer, said, after_s, usual)
