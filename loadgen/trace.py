"""Traces: when requests came and how long they were, from a file.

Two formats are read: the comma-separated one of the Azure LLM inference traces (`TIMESTAMP,ContextTokens,
GeneratedTokens`) and our own request records as JSON lines (`spark-serve load --out`, or beside a recording).
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from loadgen.lines import UNREADABLE
from loadgen.packed import open_lines

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceError(Exception):
    """The trace cannot be replayed; the text is one sentence that says what is wrong and what to do."""


class TraceRow(NamedTuple):
    """One request of a trace."""

    at_s: float
    """Seconds since the first one."""
    prompt_tokens: int
    output_tokens: int


class _Record(msgspec.Struct):
    """What a replay needs of our own records; `type` tells requests from intervals."""

    type: str
    scheduled: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    max_tokens: int | None = None
    attempt: int = 1


def read_trace(path: str) -> Iterator[TraceRow]:
    """The rows in order of time. An Azure trace is read as it is replayed, our own records whole (they are written in
    the order in which requests ended). Raises TraceError on the first step when the file is neither."""
    if Path(path).exists() and not Path(path).is_file():
        raise TraceError(f"The trace {path} is not a file.")
    try:
        with io.TextIOWrapper(open_lines(Path(path)), encoding="utf-8", newline="") as file:
            first = file.readline()
            if tuple(first.strip().lstrip("\ufeff").split(",")) == HEADER:
                yield from _azure(path, file)
            else:
                yield from _records(path, itertools.chain([first], file))
    except OSError as error:
        raise TraceError(f"The trace {path} cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error):
        raise TraceError(f"The trace {path} is not a text file.") from None


def _azure(path: str, file: TextIO) -> Iterator[TraceRow]:
    begin: datetime.datetime | None = None
    before_s = 0.0
    for number, row in enumerate(csv.reader(file), 2):
        if not row:
            continue
        try:
            at = _stamp(row[0])
            prompt, output = int(row[1]), int(row[2])
        except (ValueError, IndexError):
            raise TraceError(f"Line {number} of {path} is not `{','.join(HEADER)}`.") from None
        begin = begin or at
        before_s = max(before_s, (at - begin).total_seconds())
        yield TraceRow(before_s, max(1, prompt), max(1, output))
    if begin is None:
        raise TraceError(f"The trace {path} has no requests.")


def _stamp(text: str) -> datetime.datetime:
    """A stamp with up to seven digits of a second, with or without its zone."""
    head, dot, rest = text.strip().partition(".")
    digits = "".join(itertools.takewhile(str.isdigit, rest))
    return datetime.datetime.fromisoformat(head[:19] + (dot + digits[:6].ljust(6, "0") if dot else "")).replace(
        tzinfo=None
    )


def _records(path: str, lines: Iterator[str]) -> Iterator[TraceRow]:
    decoder = msgspec.json.Decoder(_Record)
    found: list[tuple[float, int, int]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except UNREADABLE:
            raise TraceError(
                f"Line {number} of {path} is neither a request record nor the header `{','.join(HEADER)}`."
            ) from None
        output = record.completion_tokens or record.max_tokens
        if record.type != "request" or record.attempt > 1 or not output:
            continue
        found.append((record.scheduled, record.prompt_tokens or 1, output))
    if not found:
        raise TraceError(f"The trace {path} has no requests whose lengths are known.")
    found.sort()
    begin = found[0][0]
    for at, prompt, output in found:
        yield TraceRow(at - begin, max(1, prompt), max(1, output))
