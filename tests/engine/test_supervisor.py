from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from server.supervisor import Supervisor, SupervisorError, port_in_use

TREE = """
import os, signal, sys, time
def say(text): os.write(1, (text + "\\n").encode())  # in one piece
def child(detach, deaf):
    pid = os.fork()
    if pid:
        return pid
    if detach:
        os.setsid()
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(f"born {os.getpid()}")
    while True:
        time.sleep(60)
child(detach=False, deaf=False)
child(detach=True, deaf=False)
child(detach=False, deaf="deaf" in sys.argv)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
say("ready")
while True:
    time.sleep(60)
"""


class Stage:
    """A supervisor, what it told, and a way to wait for it."""

    def __init__(self, tmp_path: Path) -> None:
        self.codes: list[int] = []
        self.log = tmp_path / "child.log"
        self.supervisor = Supervisor("child", self.log, self.codes.append)

    async def start(self, source: str, *arguments: str) -> None:
        await self.supervisor.start([sys.executable, "-c", textwrap.dedent(source), *arguments])

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text() if self.log.exists() else "no log"
            await asyncio.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def born(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"^born (\d+)\n", self.text(), re.M)]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    await stage.supervisor.stop(grace_s=0.0)


async def test_the_whole_tree_goes_detached_children_too(stage: Stage) -> None:
    await stage.start(TREE)
    await stage.until(lambda: len(stage.born()) == 3 and len(stage.supervisor.descendants) == 3)
    pid = stage.supervisor.pid
    assert pid is not None
    assert os.getsid(pid) == pid
    assert await stage.supervisor.stop(grace_s=10.0) == []
    assert [child for child in stage.born() if psutil.pid_exists(child) and not zombie(child)] == []
    assert stage.supervisor.returncode == -signal.SIGTERM
    assert stage.codes == []  # it was asked for


async def test_who_does_not_listen_is_killed(stage: Stage) -> None:
    await stage.start(TREE, "deaf")
    await stage.until(lambda: len(stage.born()) == 3 and len(stage.supervisor.descendants) == 3)
    deaf = [pid for pid in stage.born() if ignores_sigterm(pid)]
    assert await stage.supervisor.stop(grace_s=0.5) == deaf
    assert stage.supervisor.descendants == []


async def test_orphans_of_a_crash_are_known_and_swept(stage: Stage) -> None:
    await stage.start(TREE)
    await stage.until(lambda: len(stage.supervisor.descendants) == 3 and "ready" in stage.text())
    stage.supervisor.kill()
    await stage.until(lambda: stage.codes == [-signal.SIGKILL])
    assert len(stage.supervisor.descendants) == 3
    with pytest.raises(SupervisorError, match="runs already"):
        await stage.start("pass")
    await stage.supervisor.stop(grace_s=10.0)
    assert stage.supervisor.descendants == []


async def test_leaving_with_code_0_is_a_crash_too_told_once(stage: Stage) -> None:
    await stage.start("print('bye')")
    await stage.until(lambda: bool(stage.codes))
    await stage.supervisor.stop()
    assert stage.codes == [0]
    assert stage.text() == "bye\n"


async def test_it_can_be_started_again_and_the_log_goes_on(stage: Stage) -> None:
    await stage.start("print('one')")
    await stage.until(lambda: stage.codes == [0])
    await stage.supervisor.stop()
    await stage.start("import sys; print('two', file=sys.stderr); sys.exit(3)")
    await stage.until(lambda: stage.codes == [0, 3])
    assert stage.text() == "one\ntwo\n"


async def test_ready_waits_for_the_check_and_gives_up_with_the_child(stage: Stage) -> None:
    await stage.start("import time; print('up', flush=True); time.sleep(60)")

    async def up() -> bool:
        return "up" in stage.text()

    assert await stage.supervisor.wait_ready(up, timeout_s=20, poll_s=0.02)

    async def never() -> bool:
        return False

    assert not await stage.supervisor.wait_ready(never, timeout_s=0.1, poll_s=0.02)
    stage.supervisor.kill()
    assert not await stage.supervisor.wait_ready(never, timeout_s=30, poll_s=0.02)


async def test_what_cannot_be_started_is_one_sentence(stage: Stage) -> None:
    with pytest.raises(SupervisorError, match=r"^/no/such/python cannot be started \(No such file or directory\)\.$"):
        await stage.supervisor.start(["/no/such/python"])
    assert stage.supervisor.pid is None
    assert await stage.supervisor.stop() == []


async def test_other_children_of_ours_keep_their_exit_code(stage: Stage) -> None:
    """Only known pids are waited for: a child that asyncio started is asyncio's to reap."""
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", "import sys; sys.exit(7)")
    await stage.start(TREE)
    await stage.until(lambda: "ready" in stage.text())
    await stage.supervisor.stop()
    assert await other.wait() == 7


def test_a_subreaper_inherits_and_reaps_an_orphan_that_left_the_session(tmp_path: Path) -> None:
    """In a process of its own, since being a subreaper is for life."""
    source = f"""
    import asyncio, os, pathlib, sys, psutil
    from server.supervisor import Supervisor, become_subreaper
    TREE = {TREE!r}
    async def main():
        assert become_subreaper()
        log = pathlib.Path({str(tmp_path / "tree.log")!r})
        supervisor = Supervisor("child", log, lambda code: None)
        await supervisor.start([sys.executable, "-c", TREE])
        while len(supervisor.descendants) < 3:
            await asyncio.sleep(0.02)
        supervisor.kill()
        while supervisor.pid:
            await asyncio.sleep(0.02)
        orphans = [process.pid for process in supervisor.descendants]
        assert all(psutil.Process(pid).ppid() == os.getpid() for pid in orphans), orphans
        await supervisor.stop()
        assert not [pid for pid in orphans if psutil.pid_exists(pid)], "zombies are left"
        print("reaped", len(orphans))
    asyncio.run(main())
    """
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=root,
    )
    assert done.stdout == "reaped 3\n", done.stderr


def test_an_orphan_that_nobody_saw_being_born_is_swept_by_its_mark_and_no_other_child_of_ours(tmp_path: Path) -> None:
    """It has a session of its own, and its parent was gone before anybody looked."""
    source = f"""
    import asyncio, os, pathlib, subprocess, sys
    from server.supervisor import Supervisor, become_subreaper
    HASTY = "import os, time\\nif not os.fork():\\n os.setsid()\\n print(os.getpid(), flush=True)\\n time.sleep(600)"
    async def main():
        assert become_subreaper()
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        log, ended = pathlib.Path({str(tmp_path / "hasty.log")!r}), asyncio.Event()
        supervisor = Supervisor("child", log, lambda code: ended.set())
        supervisor._look = lambda: None  # whatever it could have seen in time
        await supervisor.start([sys.executable, "-c", HASTY])
        await ended.wait()
        while not log.read_text():
            await asyncio.sleep(0.02)
        del supervisor._look
        orphan = int(log.read_text())
        assert os.path.exists(f"/proc/{{orphan}}")
        await supervisor.stop()
        assert not os.path.exists(f"/proc/{{orphan}}")
        assert other.poll() is None
        other.kill()
        print("swept")
    asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=root,
    )
    assert done.stdout == "swept\n", done.stderr


def test_a_free_port_and_a_listening_one() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.listen()
        holder = port_in_use("127.0.0.1", port)
        assert holder is not None
        assert f"({os.getpid()})" in holder
    assert port_in_use("127.0.0.1", port) is None


def test_a_port_that_is_bound_by_a_server_still_loading() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        assert port_in_use("127.0.0.1", server.getsockname()[1]) == "a server that is still starting"


def test_a_port_with_old_connections_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.listen()
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # this side closes first: TIME_WAIT is here
        assert client.recv(1) == b""
        client.close()
    assert port_in_use("127.0.0.1", port) is None


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(SupervisorError, match=r"Nothing can listen on 192\.0\.2\.1:0"):
        port_in_use("192.0.2.1", 0)


def zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ignores_sigterm(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
