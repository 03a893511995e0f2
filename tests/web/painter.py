"""A program that behaves on a terminal as the console does: whole paint at first and when it is continued, changes between.

    python painter.py EVERY_S BYTES

One change each EVERY_S, padded to BYTES of invisible sequences; what is typed appears on the third row.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import tty

every_s, padding = float(sys.argv[1]), int(sys.argv[2])
cells, rows = os.get_terminal_size()
count, typed, whole = 0, "", True


def again(*_: object) -> None:
    global whole  # noqa: PLW0603
    whole = True


def frame(text: str) -> None:
    data = b"\x1b[?2026h" + text.encode() + b"\x1b[0m\x1b[?2026l"
    while data:
        data = data[os.write(1, data) :]


def row(number: int) -> str:
    if number == 2:
        return f"\x1b[38;2;9;99;199mcount ▁▂▃ {count:08}"
    return f"\x1b[1;48;2;1;2;{number}mrow {number} {typed if number == 3 else '░' * 9}".ljust(cells)


signal.signal(signal.SIGCONT, again)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
tty.setraw(0)
os.write(1, b"\x1b[?1049h\x1b[?1000h\x1b[?25l\x1b[?2026$p")
while True:
    if whole:
        whole = False
        frame("".join(f"\x1b[{number};1H{row(number)}" for number in range(1, rows + 1)))
    end = time.monotonic() + every_s
    while (left := end - time.monotonic()) > 0 and not whole:
        if select.select([0], [], [], min(left, 0.05))[0]:
            typed = (typed + os.read(0, 100).decode(errors="replace"))[-30:].replace("\x1b", "^")
            frame(f"\x1b[3;1H{row(3)}")
    count += 1
    frame(f"\x1b[2;1H{row(2)}" + "\x1b[1m\x1b[0m" * (padding // 8))
