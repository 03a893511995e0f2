"""The process edge: signals to our own processes. One that stands still goes on in any case: a guard sees to it even if the
stack is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

import psutil

from server.faults.catalogue import FaultError, FaultKind, Settings
from server.faults.kit import Begun
from server.supervisor import lives

GUARD_S = 5.0


class ProcessEdge:
    """`pids` finds the processes that have a role now; it raises FaultError when they are not to be touched."""

    def __init__(self, pids: Callable[[str], list[int]]) -> None:
        self._pids = pids

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun:
        role = str(settings["process"])
        processes = []
        for pid in self._pids(role):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        if not processes:
            raise FaultError(f"There is no {role} process of its own now.")
        if kind.name == "kill":
            _signal(processes, signal.SIGKILL)
            return Begun()
        guard = await _guard(processes)
        _signal(processes, signal.SIGSTOP)

        async def undo() -> None:
            _signal(processes, signal.SIGCONT)
            await _dismiss(guard)

        return Begun(undo, lambda: any(lives(process) for process in processes))


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def _guard(processes: list[psutil.Process]) -> asyncio.subprocess.Process:
    """Whoever lets these go on at the end of its stdin, be it that we close it or that we are no more."""
    named = [f"{process.pid}:{process.create_time()!r}" for process in processes]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.faults.guard", *named),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _dismiss(guard: asyncio.subprocess.Process) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        async with asyncio.timeout(GUARD_S):
            await guard.wait()
    except TimeoutError:
        guard.kill()
        await guard.wait()
