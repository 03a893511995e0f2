"""`request_log.md`: what a run was, arrow by arrow, from its snapshots and, where they were kept, its single requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.records import RequestRecord
from server.report import arrows, capacity, cost, doubts, picture, sections
from server.report import requests as sidecar
from server.report.cost import Price
from server.report.rows import Run
from server.report.sums import LastSeen
from server.report.tally import Tally
from server.report.text import md, offset
from server.report.timeline import Timeline
from server.telemetry import recording
from server.telemetry.snapshot import Snapshot

ARROWS = (
    ("people", arrows.people),
    ("API endpoint (gateway)", arrows.gateway),
    ("queue", arrows.queue),
    ("model server", arrows.model_server),
    ("GPU", arrows.gpu),
    ("streamed tokens", arrows.tokens),
)


class ReportError(Exception):
    """One sentence on why there is no report."""


class Section(NamedTuple):
    """A part of the report under a heading of its own."""

    slug: str
    title: str
    lines: list[str]
    """Markdown."""


def gather(snapshots: Iterable[Snapshot], requests: Iterable[RequestRecord] | None = None) -> Run:
    """Everything that the figures of one run come from.

    `snapshots` are taken once, in order: a recording's as they are read, or the live stack's history. With `requests`,
    every request by itself (those that ended within the run count), figures of single requests are exact for the whole
    run. Raises ReportError when there are no snapshots, and whatever the iterables raise.
    """
    tally, timeline = Tally(), Timeline()
    for snapshot in snapshots:
        tally.add(snapshot)
        timeline.add(snapshot)
    if tally.first is None or tally.last is None:
        raise ReportError("There is nothing to report: not one snapshot was taken.")
    stretches = tally.closed_stretches()
    slo = tally.last.feel.slo
    known: sidecar.Requests | None = None
    if requests is not None:
        cuts = [stretch.begin for stretch in stretches]
        known = sidecar.Requests(slo, tally.begin, tally.end, cuts).take(requests)
        known = known if known.n else None
    return Run(
        tally=tally,
        first=tally.first,
        last=tally.last,
        slo=slo,
        stretches=stretches,
        requests=known,
        timeline=timeline,
    )


def parts(run: Run, price: Price | None = None) -> Iterator[Section]:
    """The sections after the head, in order."""
    tally = run.tally
    yield Section("picture", "The picture", picture.section(run))
    yield Section("stretches", "From event to event", sections.stretches(run))
    for number, (name, of) in enumerate(ARROWS, 1):
        yield Section(f"arrow-{number}", f"{number}. {name}", of(run))
    for number, search in enumerate(tally.searches, 1):
        title = f"Capacity, {_when(search, tally.begin)}"
        yield Section(f"capacity-{number}", title, capacity.section(search.progress))
    for number, compared in enumerate(tally.comparisons, 1):
        title = f"Policies compared, {_when(compared, tally.begin)}"
        yield Section(f"comparison-{number}", title, sections.comparison(compared.progress))
    if lines := cost.section(cost.cost(run, price)):
        yield Section("cost", "Cost and energy" if price else "Energy", lines)
    yield Section("doubts", "What did not add up", doubts.section(run))
    yield Section("events", "Events", sections.events(run))
    yield Section("configuration", "Configuration", sections.configuration(run))
    yield Section("legend", "How to read this", sections.legend(run))


def markdown(run: Run, source: str, price: Price | None = None) -> str:
    """The whole report. `source` says in words, as Markdown, where the snapshots come from."""
    lines = sections.head(run, source)
    for part in parts(run, price):
        lines += [f"## {part.title}", "", *part.lines]
    return "\n".join(lines).rstrip() + "\n"


def report(
    snapshots: Iterable[Snapshot],
    *,
    source: str,
    requests: Iterable[RequestRecord] | None = None,
    price: Price | None = None,
) -> str:
    """The Markdown of one run; see `gather` and `markdown`."""
    return markdown(gather(snapshots, requests), source, price)


def _when(seen: LastSeen[Any], begin: float) -> str:
    return "before this run" if seen.before else f"at {offset(seen.at - begin)}"


def gathered(path: Path) -> Run:
    """The run of a recording, with the requests that lie beside it.

    Raises RecordingError when it is none, and ReportError when there is nothing in it or the requests cannot be read.
    """
    beside = sidecar.beside(path)
    requests = None if beside is None else sidecar.read(beside)
    try:
        return gather(recording.read(path), requests)
    except OSError as error:
        raise ReportError(f"The requests beside {path} cannot be read ({error.strerror}).") from None


def source_of(path: Path) -> str:
    """A recording in words, as Markdown."""
    return f"recording `{md(path.name)}`"


def report_of(path: Path, price: Price | None = None) -> str:
    """The Markdown of a recording; raises as `gathered`."""
    return markdown(gathered(path), source_of(path), price)


def sentence(written: Sequence[str], homework: str | None = None) -> str:
    """What was written, for a person."""
    files = [path for path in written if path != homework]
    said = f"Report written to {' and '.join(files)}" if files else ""
    if homework is not None and homework in written:
        filled = f"filled in {homework}"
        said = f"{said}; {filled}" if said else f"{filled[:1].upper()}{filled[1:]}"
    return f"{said}." if said else "There was nothing to write."


def file_name(wall: float) -> str:
    """Where a report goes when nothing else was said: a dated name."""
    return f"request_log-{time.strftime('%Y%m%d-%H%M%S', time.localtime(wall))}.md"
