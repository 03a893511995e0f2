"""What is to be written about a run, and writing it: one pass over the snapshots, each file whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, get_args

import msgspec

from server.report import ReportError, gather, gathered, markdown, source_of
from server.report import homework as homework_file
from server.report import requests as sidecar
from server.report.columns import requests_csv, series_csv
from server.report.cost import Price
from server.report.homework import HomeworkError
from server.report.rows import Run
from server.telemetry import recording
from server.telemetry.recording import LINE_LIMIT, RecordingError
from server.telemetry.snapshot import Snapshot, snapshot_decoder

Format = Literal["md", "html", "json", "csv", "requests"]
"""`csv` is the time series, `requests` are the single requests, as CSV too."""
FORMATS: tuple[Format, ...] = get_args(Format)
LIVE = "the last minutes of the running stack"
NO_REQUESTS = "the single requests were not kept: record the run"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written. Crosses to the process that writes it as JSON."""

    recording: str | None = None
    """None: the snapshots come on stdin."""
    outputs: dict[Format, str] = {}
    """What goes into which file."""
    price: Price | None = None
    homework: str | None = None
    """A homework to be filled in."""
    filled: str | None = None
    """Where the filled-in one goes instead of over the blank one."""


class Story:
    """A run and what can be told of it."""

    def __init__(self, order: Order, live: IO[bytes] | None = None) -> None:
        """`live`: snapshots as JSON lines, read once here. Raises ReportError, RecordingError and OSError."""
        self._order = order
        self._path = None if order.recording is None else Path(order.recording)
        self._kept: io.BytesIO | None = None
        self.source = LIVE
        if self._path is not None:
            self.source = source_of(self._path)
            self.run: Run = gathered(self._path)
            return
        assert live is not None
        self._kept = io.BytesIO() if "csv" in order.outputs else None
        self.run = gather(map(snapshot_decoder.decode, self._keeping(live)))

    def told(self, form: Format) -> str | None:
        """The text of one file; None where there is nothing for it (no single requests)."""
        if form == "md":
            return markdown(self.run, self.source, self._order.price)
        if form == "html":
            from server.report.page import page  # noqa: PLC0415  its parser is imported where it is needed

            return page(self.run, self.source, self._order.price)
        if form == "json":
            from server.report.document import encoded  # noqa: PLC0415

            return encoded(self.run, self.source, self._order.price)
        out = io.StringIO(newline="")
        if form == "csv":
            series_csv(self._snapshots(), out)
        elif (beside := None if self._path is None else sidecar.beside(self._path)) is not None:
            tally = self.run.tally
            requests_csv(sidecar.read(beside), out, begin=tally.begin, end=tally.end, slo=self.run.slo)
        else:
            return None
        return out.getvalue()

    def _keeping(self, live: IO[bytes]) -> Iterator[bytes]:
        for line in live:
            if self._kept is not None:
                self._kept.write(line)
            yield line

    def _snapshots(self) -> Iterable[Snapshot]:
        if self._path is not None:
            return recording.read(self._path)
        assert self._kept is not None
        self._kept.seek(0)
        return map(snapshot_decoder.decode, iter(lambda: self._kept.readline(LINE_LIMIT) if self._kept else b"", b""))


def carry_out(order: Order, live: IO[bytes] | None = None) -> list[str]:
    """Write everything, and the paths that were written.

    Raises ReportError with one sentence, and then what comes after in the order is not written.
    """
    check(order)
    try:
        story = Story(order, live)
        written = []
        for form, path in order.outputs.items():
            text = story.told(form)
            if text is not None:
                homework_file.replace(Path(path), text.encode("utf-8", "replace"))
                written.append(path)
        if order.homework is not None:
            out = None if order.filled is None else Path(order.filled)
            text = markdown(story.run, story.source, order.price)
            homework_file.fill(Path(order.homework), story.run, text, out)
            written.append(order.filled or order.homework)
    except OSError as error:
        raise ReportError(f"{error.strerror or error}.") from None
    except (RecordingError, HomeworkError, msgspec.DecodeError) as error:
        raise ReportError(str(error)) from None
    return written


def check(order: Order) -> None:
    """Nothing that somebody wrote or recorded is written over. Raises ReportError."""
    if order.homework is not None:
        try:
            homework_file.read(Path(order.homework))
        except HomeworkError as error:
            raise ReportError(str(error)) from None
    for path in map(Path, [*order.outputs.values(), *([order.filled] if order.filled else [])]):
        if order.recording is not None and _same(path, Path(order.recording)):
            raise ReportError(f"{path} is the recording itself; name another file.")
        if homework_file.is_homework(path):
            raise ReportError(
                f"{path} is somebody's homework; fill it in with --homework {path}, or name another file."
            )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def beside(path: str, form: Format) -> str:
    """Where the companion of a file goes: `run.csv` -> `run.requests.csv`, `log.md` -> `log.html`."""
    base = Path(path)
    suffix = ".requests.csv" if form == "requests" else f".{form}"
    return str(base.with_suffix(suffix)) if base.suffix else f"{path}{suffix}"
