"""The ways out of the terminal that are not keys: signals, a terminal that went away, one that takes no more bytes.

A signal asks the application to leave in good order. Where it cannot within `LEAVE_S`, because a terminal that nobody reads
holds its writes up, what is still to be written is thrown away, the terminal is set back and the process ends. Either way
the exit code is 128 + n, as a shell tells it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
LEAVE_S = 2.0
"""Seconds the application gets to leave by itself."""
FORCE_S = 0.5
"""Seconds to get the last bytes out of the way of a terminal that does not read."""
WRITER = "textual-output"
"""Textual's thread that writes to the terminal."""
RESET = (
    "\x18"  # ends a sequence that was cut off in its middle
    "\x1b[?2004l\x1b[?2048l"  # bracketed paste, sizes told in the input
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # the mouse
    "\x1b[?1004l\x1b[<u\x1b[?2026l"  # focus, kitty's keys, a frame begun
    "\x1b[?7h\x1b[0m\x1b[?1049l\x1b[?25h"  # wrapping, colours, the other screen, the cursor
)
"""Sets back every mode that Textual's driver sets."""


@contextlib.contextmanager
def leaving(leave: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Inside, each of `SIGNALS` calls `leave`, which has to bring the application to its end. For the main thread."""
    before = _attributes()
    asked: list[signal.Signals] = []

    def ask(number: int, _: FrameType | None) -> None:
        if not asked:
            asked.append(signal.Signals(number))
            signal.setitimer(signal.ITIMER_REAL, LEAVE_S)
        leave(asked[0])

    def force(_: int, __: FrameType | None) -> None:
        _force(asked[0], before)

    def broken(failure: threading.ExceptHookArgs) -> None:
        """A terminal that takes no writes at all has gone, whether or not the kernel told this process."""
        if failure.thread is not None and failure.thread.name == WRITER and isinstance(failure.exc_value, OSError):
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            hook(failure)

    hook, threading.excepthook = threading.excepthook, broken
    kept: dict[int, Any] = {number: signal.signal(number, ask) for number in SIGNALS}
    kept[signal.SIGALRM] = signal.signal(signal.SIGALRM, force)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in kept.items():
            signal.signal(number, handler)
        threading.excepthook = hook


def _attributes() -> list[Any] | None:
    try:
        return termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ is not None else None
    except (termios.error, OSError, ValueError):
        return None


def _force(number: signal.Signals, before: list[Any] | None) -> NoReturn:
    """What waits to be written goes nowhere; the terminal is set back; the end."""
    for ignored in (*SIGNALS, signal.SIGALRM, signal.SIGTTOU):
        signal.signal(ignored, signal.SIG_IGN if ignored != signal.SIGALRM else lambda *_: None)
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # it is gone
        os._exit(128 + number)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    rest, end = RESET.encode("ascii"), time.monotonic() + FORCE_S
    while rest and time.monotonic() < end:
        for thread in threading.enumerate():  # a write that hangs holds the terminal; a signal ends it
            if thread.name == WRITER and thread.ident is not None:
                signal.pthread_kill(thread.ident, signal.SIGALRM)
        with contextlib.suppress(termios.error, OSError):
            termios.tcflush(terminal, termios.TCOFLUSH)
        try:
            rest = rest[os.write(terminal, rest) :]
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            break
    if before is not None:
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    os._exit(128 + number)
