"""The console's byte stream cut where it can be cut, and the present screen for who comes later. Pure.

A terminal emulator here would read every byte to know a screen that is seldom asked for: pyte takes 1.3 ms a KiB, 0.5 % of a
core for a loaded console, twice what serving takes in all; cutting takes 0.01 ms. A console can paint all of itself when
asked, so a latecomer gets what has been written since it last did: a key frame and the differences after it. Only where those
have grown beyond `KEPT_BYTES` is the console asked again. Everybody gets that one frame more (41 KB at 160x48, a hundredth
of a second of the console's), and never more often than the audience's `REPAINT_S` lets it.
"""

from __future__ import annotations

import re

KEPT_BYTES = 128 * 1024
"""Of differences to the last whole repaint, for who comes later."""
HELD_BYTES = 1024 * 1024
"""Of a frame whose end does not come, before it is passed on without."""
BEGIN, END = b"\x1b[?2026h", b"\x1b[?2026l"
"""Around each frame, once the console was told that its terminal knows them."""
ANSWER = b"\x1b[?2026;2$y"
"""Tells it."""
FRAMES = b"\x1b[?2026$p"

_UNFINISHED = re.compile(
    rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)|"
    rb"[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)
_LONGEST = 512
"""Bytes of a sequence that are looked for at the end of what came."""
_OURS = re.compile(
    rb"\x1b\[\?(?:1000|1002|1003|1004|1006|1015|1016|1049|2004|2048)[hl]"  # modes: `opening` sets those that are needed
    rb"|\x1b\[\?[0-9;]+\$p|\x1b\[[<>=?][0-9;]*u"  # questions to the terminal, kitty's keys
    rb"|\x1b\](?:22|52);[^\x07\x1b]*(?:\x07|\x1b\\)"  # the pointer's shape, the clipboard
)
_ROW = re.compile(rb"\x1b\[([0-9]+);1H")
_TYPING = b"\x1b[?1000h\x1b[?1003h\x1b[?1006h\x1b[?2004h"
_OPENING = b"\x1bc\x1b[?1049h\x1b[?25l\x1b[?7l"


def opening(*, types: bool) -> bytes:
    """What makes any terminal one that the stream can be written to; `types` turns on its mouse and pasting."""
    return _OPENING + _TYPING if types else _OPENING


class Picture:
    """The stream of one console of `rows` rows, from its first byte on."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._rest = b""
        self._kept: list[bytes] | None = []
        self._since = 0
        self._painted: set[bytes] = set()
        self.whole = False
        """Does what is kept make the present screen?"""
        self.wants_frames = False
        """It asked whether its terminal knows frames; to be answered once."""

    def feed(self, data: bytes) -> bytes:
        """What can be passed on: whole frames, no sequence or character cut in two; without what is the terminal's own."""
        data = self._rest + data
        end = self._cut(data)
        self._rest, data = data[end:], data[:end]
        if FRAMES in data:
            self.wants_frames = True
        data = _OURS.sub(b"", data)
        if data:
            self._keep(data)
        return data

    def _cut(self, data: bytes) -> int:
        begun = data.rfind(BEGIN)
        if begun > data.rfind(END) and len(data) - begun < HELD_BYTES:
            return begun
        unfinished = _UNFINISHED.search(data, max(0, len(data) - _LONGEST))
        return unfinished.start() if unfinished else len(data)

    def _keep(self, data: bytes) -> None:
        if self._kept is None:
            return
        self._kept.append(data)
        if not self.whole:
            self._painted.update(_ROW.findall(data))
            self.whole = len(self._painted) >= self._rows
            return
        self._since += len(data)
        if self._since > KEPT_BYTES:
            self._kept, self.whole = None, False

    def begin(self) -> None:
        """Forget; keep from here on: the console has just been asked to paint all of itself."""
        self._kept, self._since, self.whole = [], 0, False
        self._painted.clear()

    def present(self, *, types: bool = False) -> bytes:
        """What draws the present screen on any terminal; for when it is `whole`."""
        assert self._kept is not None
        if len(self._kept) > 1:
            self._kept = [b"".join(self._kept)]
        return opening(types=types) + b"".join(self._kept)
