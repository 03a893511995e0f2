"""The log of a child that writes straight into a file, and a follower that reads it as it grows.

A pipe would freeze vLLM once nobody drains 64 KB of it; a file never does. The child's descriptor is in append mode, so
the file can be copied aside and truncated under it: its next line lands at the new end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

LINE_LIMIT_BYTES = 16 * 1024
"""A longer line is cut here; the rest of it is dropped."""
CHUNK_BYTES = 256 * 1024
BEHIND_BYTES = 4 * 1024 * 1024
"""What is written faster than it is read is passed over beyond this, and the gap is said."""
ROTATE_BYTES = 16 * 1024 * 1024
"""With one older copy, a log takes at most twice this (and what is written within one look)."""

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC, e.g. a clipboard write
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\|$)"  # DCS, SOS, PM, APC
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]"  # CSI and two-byte escapes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def clean(data: bytes) -> str:
    """Text that is safe in a terminal: valid, without escape sequences or control characters (tabs stay)."""
    text = data.decode("utf-8", "replace")
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def open_log(path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> int:
    """A descriptor to hand to a child as stdout and stderr: append mode, 0600; a large old log is moved aside first.

    The caller closes it after the child has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate(path, rotate_bytes)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def rotate(path: Path, limit_bytes: int = ROTATE_BYTES) -> bool:
    """If the log is over the limit, copy it to `NAME.1` and truncate it in place; lines written in between are lost."""
    try:
        if path.stat().st_size < limit_bytes:
            return False
    except FileNotFoundError:
        return False
    older = path.with_name(f"{path.name}.1")
    with contextlib.suppress(OSError):  # a full disk: then the room is worth more than the copy
        shutil.copyfile(path, older)
        older.chmod(0o600)
    os.truncate(path, 0)
    return True


class LogFollower:
    """Reads new lines of a log. Call `read` now and then; it never blocks longer than reading 256 KiB takes.

    `\\r` ends a line as `\\n` does: a progress bar is a sequence of lines.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0
        self._partial = b""
        self._overlong = False

    def read(self) -> list[str]:
        """The lines that became whole since the last call, cleaned, empty ones left out."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._offset:  # truncated by a rotation
                    self._offset, self._partial, self._overlong = 0, b"", False
                passed = self._pass_over(size)
                file.seek(self._offset)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        return passed + [text for piece in self._split(data) if (text := clean(piece)).strip()]

    def _pass_over(self, size: int) -> list[str]:
        """Go on near the end where it has grown too far ahead; what to say of it."""
        gap = size - CHUNK_BYTES - self._offset
        if gap <= BEHIND_BYTES - CHUNK_BYTES:
            return []
        self._offset, self._partial, self._overlong = self._offset + gap, b"", True  # the line it lands in is not whole
        return [f"({gap / 1024**2:.0f} MiB of log passed over: it grows faster than it is read)"]

    def finish(self) -> list[str]:
        """All that is left, a last line without an end included. For after the child's death."""
        lines: list[str] = []
        while True:
            before = self._offset
            lines += self.read()
            if self._offset == before:
                break
        if self._partial and (text := clean(self._partial)).strip():
            lines.append(text)
        self._partial = b""
        return lines

    def _split(self, data: bytes) -> Iterator[bytes]:
        pieces = data.replace(b"\r", b"\n").split(b"\n")
        for piece in pieces[:-1]:
            if not self._overlong:
                yield (self._partial + piece)[:LINE_LIMIT_BYTES]
            self._partial, self._overlong = b"", False
        rest = pieces[-1]
        if self._overlong:
            return
        self._partial += rest
        if len(self._partial) > LINE_LIMIT_BYTES:
            yield self._partial[:LINE_LIMIT_BYTES]
            self._partial, self._overlong = b"", True


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, cleaned; from at most its last 256 KiB."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - CHUNK_BYTES))
        data = file.read(CHUNK_BYTES)
    pieces = data.replace(b"\r", b"\n").split(b"\n")
    if size > CHUNK_BYTES:
        pieces = pieces[1:]
    found = [text for piece in pieces if (text := clean(piece[:LINE_LIMIT_BYTES])).strip()]
    return found[-lines:] if lines > 0 else []
