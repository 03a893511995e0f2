"""Host readings of this machine and a process tree of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from server.telemetry.host import TREE_S, HostReader
from tests.fakes.waiting import until

CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sum(range(4_000_000)); print(1, flush=True); sys.stdin.read()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    """A process with one child; both wait until their input closes."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_memory_and_cores() -> None:
    host = HostReader().read({}, 0.0)
    assert host.cores == os.cpu_count()
    assert host.mem_total_bytes.v == psutil.virtual_memory().total
    assert host.cpu_share.v is None
    assert host.cpu_share.why == "needs two readings"
    assert host.engine_cpu_cores.v is None


async def test_shares_come_with_the_second_reading() -> None:
    reader = HostReader()
    shares: list[float] = []

    def read() -> bool:
        value = reader.read({"stack": [os.getpid()]}, 1.0 + len(shares)).cpu_share
        if value.v is not None:
            shares.append(value.v)
        return bool(shares)

    await until(read)
    assert 0.0 <= shares[0] <= 1.0


def test_a_tree_counts_whole_and_a_named_root_is_not_its_parents(tree: subprocess.Popen[bytes]) -> None:
    reader = HostReader()
    pids = {"stack": [os.getpid()], "engine": [tree.pid]}
    first = reader.read(pids, 0.0)
    assert first.engine_cpu_cores.v is None
    second = reader.read(pids, 0.5)
    assert second.engine_cpu_cores.v is not None
    assert second.engine_cpu_cores.n == 2
    assert second.stack_cpu_cores.n == 1
    assert second.gateway_cpu_cores.v is None


def test_a_process_that_is_gone_is_absent() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    reader = HostReader()
    for at in (0.0, 1.0, 2.0 + TREE_S):
        value = reader.read({"engine": [process.pid]}, at).engine_cpu_cores
        assert (value.v, value.why) == (None, "no such process")
