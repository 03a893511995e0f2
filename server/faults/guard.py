"""`python -m server.faults.guard PID:START ..`: waits for the end of stdin and lets these processes go on (SIGCONT).

A pid alone may be somebody else's by then: START is its process's start time, Unix seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil


def main(named: list[str]) -> int:
    processes = []
    for name in named:
        pid, _, started = name.partition(":")
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.create_time() == float(started):
                processes.append(process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its stdin ends all the same
    while os.read(sys.stdin.fileno(), 1024):
        pass
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
