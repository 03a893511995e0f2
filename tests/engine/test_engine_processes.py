"""Who is who in an engine's tree, with real processes that are named as vLLM's are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from server.engine.errors import EngineError
from server.engine.processes import role_of, roles
from tests.fakes.waiting import until

# A title is the command line's first word: `exec -a` gives one without setproctitle.
CORE = """
import subprocess, sys, time
subprocess.Popen(["VLLM::Worker_TP0", "-c", "import time; time.sleep(600)"], executable=sys.argv[1])
time.sleep(600)
"""
TREE = f"""
import subprocess, sys, time
subprocess.Popen(["VLLM::EngineCore", "-c", {CORE!r}, sys.executable], executable=sys.executable)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", TREE], start_new_session=True) as root:
        yield root
        left = {pid for pids in roles(root.pid).values() for pid in pids}
        for pid in left:
            psutil.Process(pid).kill()
        root.wait()


async def test_each_process_has_its_role_and_keeps_it_when_the_api_server_is_gone(
    tree: subprocess.Popen[bytes],
) -> None:
    await until(lambda: {"engine-core", "worker", "other"} <= roles(tree.pid).keys(), "the tree stands")
    found = roles(tree.pid)
    assert {role: len(pids) for role, pids in found.items()} == {
        "api-server": 1,
        "engine-core": 1,
        "worker": 1,
        "other": 1,
    }
    assert found["api-server"] == [tree.pid]
    assert psutil.Process(found["worker"][0]).ppid() == found["engine-core"][0]
    tree.kill()
    tree.wait()
    assert roles(tree.pid) == {role: pids for role, pids in found.items() if role != "api-server"}


@pytest.mark.parametrize(
    ("command_line", "of_root", "role"),
    [
        (["VLLM::EngineCore"], True, "engine-core"),
        (["VLLM::EngineCore_DP0"], True, "engine-core"),
        (["VLLM::Worker_TP1"], False, "worker"),
        (["OURS::Worker"], False, "worker"),
        (["python", "-c", "from multiprocessing.spawn import spawn_main"], True, "engine-core"),
        (["python", "-c", "from multiprocessing.spawn import spawn_main"], False, "worker"),
        (["python", "-c", "from multiprocessing.resource_tracker import main"], True, "other"),
        (["python", "serve.py", "VLLM::EngineCore"], True, "other"),
        ([], True, "other"),
    ],
)
def test_a_role_by_its_command_line(command_line: list[str], of_root: bool, role: str) -> None:
    assert role_of(command_line, of_root) == role


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_init_is_no_engine(pid: int) -> None:
    with pytest.raises(EngineError, match="no engine's process"):
        roles(pid)
