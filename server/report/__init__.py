"""`request_log.md`: what a run was, arrow by arrow, from its snapshots and, where they were kept, its single requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadgen.records import RequestRecord
from server.report import arrows, capacity, doubts, picture, sections
from server.report import requests as sidecar
from server.report.rows import Run
from server.report.sums import LastSeen
from server.report.tally import Tally
from server.report.text import md, offset
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


def report(snapshots: Iterable[Snapshot], *, source: str, requests: Iterable[RequestRecord] | None = None) -> str:
    """The Markdown of one run.

    `snapshots` are taken once, in order: a recording's as they are read, or the live stack's history. `source` says in
    words where they come from. With `requests`, every request by itself (those that ended within the run count), figures
    of single requests are exact for the whole run. Raises ReportError when there are no snapshots, and whatever the
    iterables raise.
    """
    tally = Tally()
    for snapshot in snapshots:
        tally.add(snapshot)
    if tally.first is None or tally.last is None:
        raise ReportError("There is nothing to report: not one snapshot was taken.")
    stretches = tally.closed_stretches()
    slo = tally.last.feel.slo
    known: sidecar.Requests | None = None
    if requests is not None:
        cuts = [stretch.begin for stretch in stretches]
        known = sidecar.Requests(slo, tally.begin, tally.end, cuts).take(requests)
        known = known if known.n else None
    run = Run(tally=tally, first=tally.first, last=tally.last, slo=slo, stretches=stretches, requests=known)
    lines = [*sections.head(run, source), "## The picture", "", *picture.section(run)]
    lines += ["## From event to event", "", *sections.stretches(run)]
    for number, (name, of) in enumerate(ARROWS, 1):
        lines += [f"## {number}. {name}", "", *of(run)]
    for search in tally.searches:
        lines += [f"## Capacity, {_when(search, tally.begin)}", "", *capacity.section(search.progress)]
    for compared in tally.comparisons:
        lines += [f"## Policies compared, {_when(compared, tally.begin)}", "", *sections.comparison(compared.progress)]
    lines += ["## What did not add up", "", *doubts.section(run)]
    lines += ["## Events", "", *sections.events(run)]
    lines += ["## Configuration", "", *sections.configuration(run)]
    lines += ["## How to read this", "", *sections.legend(run)]
    return "\n".join(lines).rstrip() + "\n"


def _when(seen: LastSeen[Any], begin: float) -> str:
    return "before this run" if seen.before else f"at {offset(seen.at - begin)}"


def report_of(path: Path) -> str:
    """The report of a recording, with the requests that lie beside it.

    Raises RecordingError when it is none, and ReportError when there is nothing in it or the requests cannot be read.
    """
    beside = sidecar.beside(path)
    requests = None if beside is None else sidecar.read(beside)
    try:
        return report(recording.read(path), source=f"recording `{md(path.name)}`", requests=requests)
    except OSError as error:
        raise ReportError(f"The requests beside {path} cannot be read ({error.strerror}).") from None


def file_name(wall: float) -> str:
    """Where a report goes when nothing else was said: a dated name."""
    return f"request_log-{time.strftime('%Y%m%d-%H%M%S', time.localtime(wall))}.md"
