"""Measurements on disk: one JSON file each, for its owner alone, under a name of its date."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from loadgen.lines import UNREADABLE

SIZE_LIMIT = 16 * 1024 * 1024
"""Bytes; a capacity search of six minutes has about 10 KB, a comparison of four runs some 100."""
T = TypeVar("T")


class SavedError(Exception):
    """One sentence on why a result cannot be written or read."""


class _Head(msgspec.Struct, frozen=True):
    format: str
    schema_version: int


_head_decoder = msgspec.json.Decoder(_Head)


def save(folder: Path, kind: str, wall: float, result: object) -> Path:
    """Write one under a name that was not taken. `kind` is a word for it, `wall` the Unix seconds of its date. Raises
    SavedError."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(wall))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path, descriptor = _create(folder, f"{kind}-{stamp}")
    except OSError as error:
        raise SavedError(f"The result cannot be saved into {folder} ({error.strerror}).") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise SavedError(f"The result cannot be saved into {folder} ({error.strerror}).") from None
    return path


def _create(folder: Path, stem: str) -> tuple[Path, int]:
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            number += 1


def load(path: Path, form: str, version: int, kind: str, result: type[T]) -> T:
    """Read one of format `form` and schema version `version`. Raises SavedError when it is none, or damaged."""
    if path.exists() and not path.is_file():
        raise SavedError(f"{path} is not a file.")
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise SavedError(f"{path} cannot be read ({error.strerror}).") from None
    if len(data) > SIZE_LIMIT:
        raise SavedError(f"{path} is too large to be a {kind} result.")
    try:
        head = _head_decoder.decode(data)
    except UNREADABLE:
        raise SavedError(f"{path} is not a {kind} result of spark-serve, or it is damaged.") from None
    if head.format != form:
        raise SavedError(f"{path} is not a {kind} result of spark-serve.")
    if head.schema_version != version:
        raise SavedError(
            f"{path} has schema version {head.schema_version} and this spark-serve reads {version}; "
            "read it with the version that saved it."
        )
    try:
        return msgspec.json.decode(data, type=result)
    except UNREADABLE as error:
        raise SavedError(f"{path} is damaged: {error}.") from None


def listed(
    folder: Path, load: Callable[[Path], T], wall: Callable[[T], float]
) -> tuple[list[tuple[Path, T]], list[str]]:
    """All in `folder` that `load` can read, newest first by `wall` (Unix seconds), and one sentence for each that it cannot;
    a folder that is not there holds none. Raises SavedError when it cannot be read."""
    found: list[tuple[Path, T]] = []
    unreadable: list[str] = []
    try:
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    except OSError as error:
        raise SavedError(f"{folder} cannot be read ({error.strerror}).") from None
    for path in paths:
        try:
            found.append((path, load(path)))
        except SavedError as error:
            unreadable.append(str(error))
    found.sort(key=lambda entry: (wall(entry[1]), entry[0].name), reverse=True)
    return found, unreadable


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines, the columns to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def when(wall: float) -> str:
    """Local date and time of a Unix time; `—` for none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(wall))
    except (OverflowError, ValueError, OSError):
        return "—"
