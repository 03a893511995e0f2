"""Recordings: a header line and snapshots as JSON lines in one gzip stream, flushed after each, so that a crash costs the last.

The file is append-only and belongs to its owner alone (0600). Consecutive snapshots resemble each other, so one stream
for all of them is a quarter of the size of one gzip member each.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from loadgen.lines import UNREADABLE
from server.telemetry.snapshot import SCHEMA_VERSION, Snapshot, snapshot_decoder, snapshot_encoder

FORMAT = "spark-serve-recording"
LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one unpacked line; a snapshot has about 10 KB."""
_GZIP = 31
REQUESTS = (".requests.jsonl.gz", ".requests.jsonl")
"""What follows a recording's name in that of its requests: as they are written, and unpacked by somebody."""
FLUSH_S = 2.0
_LEVEL = 8
"""7 % smaller than 6 for 0.1 ms a snapshot; 9 gains nothing."""
_CHUNK = 16 * 1024


class RecordingError(Exception):
    """One sentence on why a recording cannot be written or read."""


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    format: str
    schema_version: int
    wall: float = 0.0
    """Unix seconds of the beginning, a label only."""


_header_decoder = msgspec.json.Decoder(Header)


class Recorder:
    """Writes one recording."""

    def __init__(self, path: Path, *, wall: float | None = None) -> None:
        """Create `path`; `wall`: Unix seconds at which it begins, None for now. Raises RecordingError when it exists or cannot
        be written."""
        self.path = path
        self._requests: BinaryIO | None = None
        self._requests_packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._requests_flushed_at = -math.inf
        self._kept: dict[int, int] = {}
        """Descriptor -> the one of the disk that it stood for, while `fill` holds."""
        self.snapshots = 0
        self._first_at: float | None = None
        self._last_at = 0.0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise RecordingError(f"{path} exists already; recordings are never written over.") from None
        except OSError as error:
            raise RecordingError(f"{path} cannot be written ({error.strerror}).") from None
        os.fchmod(descriptor, 0o600)  # a umask may have taken the owner's own bits
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._append(msgspec.json.encode(Header(FORMAT, SCHEMA_VERSION, time.time() if wall is None else wall)))

    @property
    def recorded_s(self) -> float:
        """Seconds from the first snapshot to the last."""
        return 0.0 if self._first_at is None else self._last_at - self._first_at

    def write(self, snapshot: Snapshot) -> None:
        """Append one snapshot. Raises OSError (a full disk)."""
        self._append(snapshot_encoder.encode(snapshot))
        if snapshot.at - self._requests_flushed_at >= FLUSH_S:
            self._requests_flushed_at = snapshot.at
            self.flush()
        if self._first_at is None:
            self._first_at = snapshot.at
        self._last_at = snapshot.at
        self.snapshots += 1

    def write_request(self, line: bytes) -> None:
        """Append what somebody saw of one request, a JSON line, to the file beside it (see `requests_beside`); a crash costs
        those of the last `FLUSH_S`. Raises OSError."""
        if self._requests is None:
            beside = self.path.with_name(self.path.name + REQUESTS[0])
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._requests = os.fdopen(descriptor, "wb")
        self._requests.write(self._requests_packer.compress(line.rstrip(b"\n") + b"\n"))

    def fill(self, device: str) -> None:
        """Let every write go to this device instead, e.g. one that is always full, until `relieve`. Raises OSError."""
        self.relieve()
        for file in self._files:
            number = file.fileno()
            instead = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
            self._kept[number] = os.dup(number)
            os.dup2(instead, number, inheritable=False)
            os.close(instead)

    def relieve(self) -> None:
        """Write to the disk again."""
        for number, kept in self._kept.items():
            os.dup2(kept, number, inheritable=False)
            os.close(kept)
        self._kept.clear()

    @property
    def _files(self) -> list[BinaryIO]:
        return [file for file in (self._file, self._requests) if file is not None and not file.closed]

    def flush(self) -> None:
        """Everything that was written can be read. Raises OSError."""
        if self._requests is not None:
            self._requests.write(self._requests_packer.flush(zlib.Z_SYNC_FLUSH))
            self._requests.flush()

    def close(self) -> None:
        """End the stream. On a full disk its end is missing, which costs nothing."""
        if self._requests is not None:
            with contextlib.suppress(OSError):
                self._requests.write(self._requests_packer.flush())
            with contextlib.suppress(OSError):
                self._requests.close()
            self._requests = None
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.write(self._packer.flush())
            self._file.close()
        for kept in self._kept.values():  # not put back: the end of a stream with a hole would spoil what is before it
            os.close(kept)
        self._kept.clear()

    def _append(self, line: bytes) -> None:
        packed = self._packer.compress(line + b"\n") + self._packer.flush(zlib.Z_SYNC_FLUSH)
        view = memoryview(packed)
        while view:
            view = view[self._file.write(view) :]


def requests_beside(path: Path) -> Path:
    """Where a recording keeps the records of single requests: JSON lines, packed (gzip) or plain, that `loadgen.trace` can
    replay. Beside the client's records stand the gateway's and the engine's times, of another `type`, as they came
    (`server.telemetry.recorded`)."""
    places = [path.with_name(path.name + suffix) for suffix in REQUESTS]
    return next((place for place in places if place.exists()), places[0])


def read(path: Path) -> Iterator[Snapshot]:
    """The snapshots of a recording, in order, up to its end or to where it was cut.

    Raises RecordingError, on the first step, when it is no recording of this version.
    """
    with Lines(path) as lines:
        check(path, next(lines, None))
        for line in lines:
            try:
                yield snapshot_decoder.decode(line)
            except UNREADABLE:
                return


def check(path: Path, first: bytes | None) -> Header:
    """The header in a file's first line. Raises RecordingError when it is none of this version."""
    if first is None:
        raise RecordingError(f"{path} is empty, cut before its header, or not a recording.")
    try:
        header = _header_decoder.decode(first)
    except UNREADABLE:
        raise RecordingError(f"{path} is not a recording of spark-serve.") from None
    if header.format != FORMAT:
        raise RecordingError(f"{path} is not a recording of spark-serve.")
    if header.schema_version != SCHEMA_VERSION:
        raise RecordingError(
            f"{path} has schema version {header.schema_version} and this spark-serve reads {SCHEMA_VERSION}; "
            "replay it with the version that recorded it."
        )
    return header


class Bookmark(NamedTuple):
    """Where reading can be taken up again, about 45 KB."""

    offset: int
    """Of the first packed byte that was not unpacked."""
    unpacker: zlib._Decompress
    rest: bytes
    """The begin of the line that goes on there."""
    lines: int
    """That came before."""


class Lines:
    """The whole lines of a recording; what is torn at its end is left out.

    `bookmark` is the state before the chunk that was unpacked last: whoever goes on from it gets some lines again, and counts
    them by `Bookmark.lines`.
    """

    def __init__(self, path: Path, at: Bookmark | None = None) -> None:
        """Raises RecordingError."""
        if path.exists() and not path.is_file():
            raise RecordingError(f"{path} is not a file.")
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RecordingError(f"{path} cannot be read ({error.strerror}).") from None
        self._path = path
        self._unpacker = zlib.decompressobj(_GZIP) if at is None else at.unpacker.copy()
        self._rest = b"" if at is None else at.rest
        self._offset = 0 if at is None else at.offset
        self._lines = 0 if at is None else at.lines
        """Unpacked so far."""
        self._packed = b""
        """Read and not unpacked."""
        self._whole: deque[bytes] = deque()
        self._over = False
        self._file.seek(self._offset)
        self.bookmark = self._mark()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        """Raises RecordingError."""
        while not self._whole:
            if self._over:
                raise StopIteration
            try:
                self._unpack()
            except OSError as error:
                raise RecordingError(f"{self._path} cannot be read ({error.strerror}).") from None
            except zlib.error:
                self._over = True
        return self._whole.popleft()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _unpack(self) -> None:
        if not self._packed:
            self.bookmark = self._mark()
            self._packed = self._file.read(_CHUNK)
            self._offset += len(self._packed)
            if not self._packed:
                self._over = True
                return
        *whole, self._rest = (self._rest + self._unpacker.decompress(self._packed, LINE_LIMIT)).split(b"\n")
        self._packed = self._unpacker.unconsumed_tail
        self._whole.extend(whole)
        self._lines += len(whole)
        self._over = len(self._rest) > LINE_LIMIT

    def _mark(self) -> Bookmark:
        return Bookmark(self._offset, self._unpacker.copy(), self._rest, self._lines)
