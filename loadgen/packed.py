"""Files of lines, plain or packed (gzip), as they are: also while they are written, and cut anywhere."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\x1f\x8b"
_GZIP = 31
_CHUNK = 64 * 1024


def open_lines(path: Path) -> BinaryIO:
    """For reading. What is torn or damaged in a packed file is its end. Raises OSError."""
    file = path.open("rb")
    if file.peek(len(MAGIC))[: len(MAGIC)] != MAGIC:
        return file
    return io.BufferedReader(_Unpacked(file))


class _Unpacked(io.RawIOBase):
    """The content of a gzip stream that may go on growing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj(_GZIP)
        self._damaged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Up to as many bytes as there is room for; 0 at the end, which may have moved when it is asked for again."""
        while not self._damaged and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(_CHUNK)
            if not packed:
                break
            try:
                found = self._unpacker.decompress(packed, len(buffer))
            except zlib.error:
                self._damaged = True
                break
            if found:
                buffer[: len(found)] = found
                return len(found)
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()
