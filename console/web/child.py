"""The one console, in a pty of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Callable, Mapping, Sequence

READ_BYTES = 65536
LEAVE_S = 5.0
"""Seconds it gets to leave by itself (twice what it needs at worst) before it is killed."""
SUSPEND = b"\x1a"
"""ctrl+z: there is no shell behind this terminal to come back from."""


class Child:
    """`argv` as a session leader in a pty of `cells` x `rows`; dies with this process, whose end hangs the pty up."""

    def __init__(self, argv: Sequence[str], cells: int, rows: int, variables: Mapping[str, str]) -> None:
        """Starts it. To be called before there are threads."""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cells, 0, 0))
                os.execve(argv[0], list(argv), variables)  # noqa: S606  # an argument list, no shell
            finally:
                os._exit(127)
        os.set_blocking(self._fd, False)
        self._ended = asyncio.Event()
        self._status: int | None = None

    def follow(self, came: Callable[[bytes], None]) -> None:
        """Call `came` with what it writes, on the running loop, until its terminal is closed."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:  # its last process has closed the terminal
                data = b""
            if data:
                came(data)
            else:
                loop.remove_reader(self._fd)
                self._ended.set()

        loop.add_reader(self._fd, read)

    async def ended(self) -> None:
        """Until it has closed its terminal."""
        await self._ended.wait()

    def type(self, data: bytes) -> None:
        """As if typed; what it does not take now is lost, as with a keyboard."""
        with contextlib.suppress(OSError):
            os.write(self._fd, data.replace(SUSPEND, b""))

    def repaint(self) -> None:
        """Ask for every cell: what the console does when it is brought to the foreground."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, ask: signal.Signals | None = signal.SIGTERM) -> int:
        """Its exit code, 128 + n for a signal; asked to leave, and killed where it does not within `LEAVE_S`."""
        if ask is not None:
            self._signal(signal.SIGCONT)  # a stopped one takes no other
            self._signal(ask)
        waited = 0.0
        while not self._reaped():
            if waited >= LEAVE_S:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(0.02)
            waited += 0.02
        if not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    def _reaped(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None
