"""The host edge: a limit of open files, and a disk that is full, met for real and taken away again."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import psutil

from server.faults.catalogue import FaultError, FaultKind, Settings
from server.faults.kit import Begun
from server.supervisor import lives
from server.telemetry.recording import Recorder

FULL = "/dev/full"
STDERR = 2


class HostEdge:
    """`log`: the descriptor of the stack's own log."""

    def __init__(
        self, gateway: Callable[[], int | None], recorder: Callable[[], Recorder | None], log: int = STDERR
    ) -> None:
        self._gateway = gateway
        self._recorder = recorder
        self._log = log
        self._full = False

    async def begin(self, kind: FaultKind, settings: Settings) -> Begun:
        return self._limit_files(int(settings["limit"])) if kind.name == "fds" else self._fill_disk()

    def _limit_files(self, limit: int) -> Begun:
        pid = self._gateway()
        if pid is None:
            raise FaultError("The gateway does not run.")
        process = psutil.Process(pid)
        try:
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(limit, before[1]), before[1]))
        except OSError as error:
            raise FaultError(f"The gateway's limit of open files cannot be set ({error.strerror}).") from None

        async def undo() -> None:
            if lives(process):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

        return Begun(undo, lambda: lives(process))

    def _fill_disk(self) -> Begun:
        """Every write meets ENOSPC from now on, as on a disk that is full."""
        try:
            full = os.open(FULL, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FaultError(f"This machine has no {FULL} ({error.strerror}).") from None
        kept = os.dup(self._log)
        os.dup2(full, self._log)
        os.close(full)
        self._full = True
        recorder = self._recorder()
        if recorder is not None:
            self.fill(recorder)

        async def undo() -> None:
            self._full = False
            os.dup2(kept, self._log)
            os.close(kept)
            recorder = self._recorder()
            if recorder is not None:
                recorder.relieve()

        return Begun(undo)

    def fill(self, recorder: Recorder) -> None:
        """A recording that runs, or begins while it lasts."""
        if self._full:
            recorder.fill(FULL)
