"""One child process and all it begets: started in a session of its own, watched, and taken down to the last descendant."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil

from server.config import given_umask
from server.engine.errors import EngineError
from server.engine.logfile import open_log

MARK = "SPARK_SERVE_TREE"
"""The variable by which a process of a tree is known that nobody saw being born: orphaned at once, in a session of its own.
One that gives itself a title may lose it (the title is written over its variables)."""
PR_SET_CHILD_SUBREAPER = 36
YOUNG_S = 180.0
LOOK_YOUNG_S, LOOK_S = 0.5, 5.0
"""Between two looks at the descendants, while the child is young and later. Who is orphaned between two looks is still
found by the session, unless it left that too."""
WAIT_POLL_S = 0.05
GRACE_S = 15.0
"""vLLM's engine core took up to 11 s to leave after SIGTERM."""
KILL_S = 10.0


class SupervisorError(EngineError):
    """The child cannot be started, or cannot be ended; its text is one sentence."""


def become_subreaper() -> bool:
    """Make orphans among our descendants our children (Linux); False where the kernel does not do it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def port_in_use(host: str, port: int) -> str | None:
    """None if a server could listen there, else who holds it, e.g. `python (4711)`, empty if that cannot be seen.

    Raises SupervisorError if the address is not this machine's at all.
    """
    if _can_listen(host, port, reuse=False):
        return None
    if not _can_listen(host, port, reuse=True):
        return _holder(port)
    # Old connections in TIME_WAIT do not hinder a server; a socket that is bound and does not listen yet is in no table.
    try:
        waning = any(connection.laddr and connection.laddr.port == port for connection in psutil.net_connections("tcp"))
    except psutil.Error:
        waning = True
    return None if waning else "a server that is still starting"


def _can_listen(host: str, port: int, *, reuse: bool) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno == errno.EACCES:
                raise SupervisorError(f"Port {port} is only for root; choose one above 1023.") from error
            raise SupervisorError(f"Nothing can listen on {host}:{port} ({error.strerror}).") from error
    return True


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} ({connection.pid})" if connection.pid else ""
    except psutil.Error:
        return ""
    return ""


class Supervisor:
    """One child with its tree. `on_exit` is called once for each start whose end nobody asked for, with the exit code.

    Every such end is a crash, code 0 too: vLLM's server leaves with 0 when its engine dies. `on_lost` is called once for the
    first of those in `vital` that ends while nobody asked for it.
    """

    def __init__(
        self,
        name: str,
        log: Path,
        on_exit: Callable[[int], None],
        on_lost: Callable[[psutil.Process], None] = lambda _: None,
        mark: str = "",
    ) -> None:
        """`mark`: what the whole tree bears in the variable `MARK`; by default nothing else bears it."""
        self.name = name
        self._log = log
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._mark = mark or f"{os.getpid()}.{id(self)}"
        self.vital: list[psutil.Process] = []
        """Descendants without which the child is of no use, to be named once they are there; forgotten with each start."""
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._seen: dict[int, psutil.Process] = {}
        """Every descendant ever seen, by pid; a pid that was used anew is replaced."""
        self._asked = False
        self.started_at: float | None = None
        """Monotonic second of the latest start."""

    @property
    def pid(self) -> int | None:
        """The child's pid while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def returncode(self) -> int | None:
        """Of the latest child, once it has ended; negative: the signal that ended it."""
        return None if self._process is None else self._process.returncode

    @property
    def seen(self) -> frozenset[int]:
        """The pids of all who ever were of the latest child's tree, its own included."""
        return frozenset(self._seen)

    @property
    def descendants(self) -> list[psutil.Process]:
        """Those that live, the child left out."""
        return [process for process in self._seen.values() if process.pid != self.pid and lives(process)]

    async def start(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the child, its output going straight to the log. Raises SupervisorError."""
        if self.pid is not None or self.descendants:
            raise SupervisorError(f"The {self.name} runs already.")
        descriptor = open_log(self._log)
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes milliseconds; its pid must stay ours to reap
                argv,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={**(os.environ if env is None else env), MARK: self._mark},
                start_new_session=True,
                umask=given_umask(),  # its caches of models may be shared, and are not ours to close
            )
        except OSError as error:
            raise SupervisorError(f"{argv[0]} cannot be started ({error.strerror}).") from error
        finally:
            os.close(descriptor)
        self._asked = False
        self._seen = {}
        self.vital = []
        self.started_at = time.monotonic()
        self._look()
        self._watch = asyncio.create_task(self._follow(self._process), name=f"{self.name} watch")

    async def wait_ready(self, check: Callable[[], Awaitable[bool]], timeout_s: float, poll_s: float = 0.25) -> bool:
        """True once `check` says so; False if the child ends first or the time is over."""
        deadline = time.monotonic() + timeout_s
        while self.pid is not None and time.monotonic() < deadline:
            if await check():
                return True
            await asyncio.sleep(poll_s)
        return False

    async def stop(self, grace_s: float = GRACE_S) -> list[int]:
        """End the whole tree: SIGTERM to all, `grace_s` to leave, SIGKILL to the rest; returns the pids that were killed.

        Raises SupervisorError if something outlives SIGKILL by 10 s (it hangs in the kernel).
        """
        self._asked = True
        self._look()
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that stands still would not hear it
        await self._gone(grace_s)
        killed: list[int] = []
        deadline = time.monotonic() + KILL_S
        while (alive := self._alive()) and time.monotonic() < deadline:
            killed += [process.pid for process in alive if process.pid not in killed]
            self._signal(signal.SIGKILL)
            await self._gone(0.5)
        if alive := self._alive():
            names = ", ".join(f"{_name(process)} ({process.pid})" for process in alive)
            raise SupervisorError(f"The {self.name} cannot be ended: {names} does not react to SIGKILL.")
        if self._watch is not None:
            await asyncio.wait({self._watch})  # not awaited itself: whoever cancels this stop must not cancel the watch
        return killed

    def kill(self) -> None:
        """SIGKILL to the child alone, as a crash: `on_exit` is told, and what it leaves behind is for `stop`."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    # the tree

    async def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Look at the tree until the child has ended and, if nobody asked for it, tell."""
        next_look = 0.0
        while process.poll() is None:
            if not self._asked and (gone := next((one for one in self.vital if not lives(one)), None)) is not None:
                self.vital = []
                self._on_lost(gone)
            if time.monotonic() >= next_look:
                self._look()
                young = time.monotonic() - (self.started_at or 0.0) < YOUNG_S
                next_look = time.monotonic() + (LOOK_YOUNG_S if young else LOOK_S)
            await asyncio.sleep(WAIT_POLL_S)
        self._look()
        if not self._asked:
            self._on_exit(process.returncode)

    def _look(self) -> None:
        """Note who belongs to the tree now: children of anyone noted, whoever is in the child's session, and orphans of it
        that came to us."""
        if self._process is None:
            return
        session = self._process.pid
        if session not in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen[session] = psutil.Process(session)
        parents = {pid for pid, process in self._seen.items() if process.is_running()}
        self._reap()
        newborn, us = True, os.getpid()
        table = {process.pid: process for process in psutil.process_iter()}
        kin = {pid: (_parent(process), _session(pid)) for pid, process in table.items() if pid not in parents}
        while newborn:
            found = [
                pid
                for pid, (parent, its_session) in kin.items()
                if parent in parents or its_session == session or (parent == us and bears(table[pid], self._mark))
            ]
            newborn = bool(found)
            for pid in found:
                self._seen[pid] = table[pid]
                parents.add(pid)
                del kin[pid]

    def _signal(self, number: signal.Signals) -> None:
        """To the group, and to each one noted that is not in it."""
        assert self._process is None or self._process.pid > 1
        if self._process is not None and any(_session(p.pid) == self._process.pid for p in self._alive()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
        for process in self._alive():
            if self._process is None or _group(process.pid) != self._process.pid:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)

    async def _gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            self._look()
            if not self._alive():
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(WAIT_POLL_S)

    def _alive(self) -> list[psutil.Process]:
        self._reap()
        return [process for process in self._seen.values() if lives(process)]

    def _reap(self) -> None:
        """Orphans came to us if we are their subreaper: wait for each by its known pid, never for any child."""
        if self._process is not None:
            self._process.poll()
        for pid, process in self._seen.items():
            if self._process is not None and pid == self._process.pid:
                continue
            if _status(process) == psutil.STATUS_ZOMBIE:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def lives(process: psutil.Process) -> bool:
    """Still the process it was, and no zombie."""
    return process.is_running() and _status(process) not in {None, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}


def bears(process: psutil.Process, mark: str) -> bool:
    """Was it begotten by a tree of this mark?"""
    try:
        return bool(process.environ().get(MARK) == mark)
    except psutil.Error:
        return False


def _status(process: psutil.Process) -> str | None:
    try:
        return str(process.status()) if process.is_running() else None
    except psutil.NoSuchProcess:
        return None


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "?"


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
