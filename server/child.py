"""A child of ours that speaks JSON lines: commands on its stdin, records on its stdout, prose on stderr into a log file.

The gateway and the load workers are such children. They leave when their stdin ends, so none outlives the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from server.engine.recovery import ended

LINE_LIMIT_BYTES = 16 * 1024 * 1024
DEATHS = 3
DEATHS_S = 60.0


async def piped(argv: Sequence[str], data: bytes) -> tuple[int, bytes, bytes]:
    """Run a child to its end with `data` on its stdin: exit code, stdout, stderr. Whoever stops waiting ends it."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        out, error = await child.communicate(data)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode is not None
    return child.returncode, out, error


class JsonChild:
    """One process. `on_line` gets every line of its stdout, `on_exit` its return code, once."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        on_line: Callable[[bytes], None],
        on_exit: Callable[[int], None],
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self._log = log
        self._on_line = on_line
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._encoder = msgspec.json.Encoder()

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    async def start(self) -> None:
        """Start it in a session of its own, so that a signal to our terminal does not reach it."""
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=descriptor,
                start_new_session=True,
                limit=LINE_LIMIT_BYTES,
            )
        finally:
            os.close(descriptor)
        self._reader = asyncio.create_task(self._read(self._process), name=f"{self.name} stdout")

    def send(self, message: msgspec.Struct) -> None:
        """Write one command. A child that is gone loses it; its exit has been told."""
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            return
        if not self._process.stdin.is_closing():
            self._process.stdin.write(self._encoder.encode(message) + b"\n")

    async def stop(self, timeout_s: float) -> None:
        """End its stdin, then SIGTERM, then SIGKILL, `timeout_s` seconds each at most; returns when it is reaped."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None and process.returncode is None:
                process.send_signal(number)
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
                break
            except TimeoutError:
                continue
        if self._reader is not None:
            await self._reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line over the limit: asyncio has dropped it
                continue
            if not line:
                break
            self._told(self._on_line, line)
        self._told(self._on_exit, await process.wait())

    def _told(self, hear: Callable[[Any], None], what: object) -> None:
        """A listener that fails must not leave the pipe undrained or the exit untold."""
        try:
            hear(what)
        except Exception as error:  # whatever it is, it is the listener's
            with contextlib.suppress(OSError):  # the daemon's log; the disk may be full
                print(f"{self.name}: {error!r}", file=sys.stderr, flush=True)  # noqa: T201


class KeptChild:
    """A JsonChild that is started again when it ends by itself, but not for ever: `DEATHS` within `DEATHS_S` are the end.

    `argv` is asked at every start, so that a new process begins with today's settings. `on_ended` gets one clause.
    """

    def __init__(
        self,
        name: str,
        argv: Callable[[], Sequence[str]],
        *,
        log: Path,
        on_line: Callable[[bytes], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self.name = name
        self._argv = argv
        self._log = log
        self._on_line = on_line
        self._on_ended = on_ended
        self._child: JsonChild | None = None
        self._deaths: list[float] = []
        self._again: asyncio.Task[None] | None = None
        self._asked = False
        self.fault = ""
        """Why it does not run, in one clause; empty while it does."""

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        child = JsonChild(self.name, self._argv(), log=self._log, on_line=self._on_line, on_exit=self._ended)
        await child.start()
        self._child, self.fault = child, ""

    def send(self, message: msgspec.Struct) -> bool:
        """Tell it; False when nobody is there to hear."""
        if self._child is None or self._child.pid is None:
            return False
        self._child.send(message)
        return True

    async def stop(self, timeout_s: float) -> None:
        """For good, as JsonChild.stop."""
        self._asked = True
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait({self._again})
        if self._child is not None:
            await self._child.stop(timeout_s)

    def _ended(self, code: int) -> None:
        if self._asked:
            return
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if at > now - DEATHS_S] + [now]
        if len(self._deaths) >= DEATHS:
            self._tell(f"{self.name} ended ({ended(code)}), the {DEATHS}rd time in a minute: it is left alone")
            return
        self._tell(f"{self.name} ended ({ended(code)}): starting it again")
        self._again = asyncio.create_task(self._start_again(float(len(self._deaths))), name=f"{self.name} again")

    async def _start_again(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            await self.start()
        except OSError as error:  # no process, descriptor or memory to be had
            self._tell(f"{self.name} cannot be started ({error.strerror}): it is left alone")

    def _tell(self, what: str) -> None:
        self.fault = what
        self._on_ended(what)
