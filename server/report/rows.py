"""The tables and sentences that every arrow of the picture is told with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.slo import Slo
from loadgen.summary import Distribution
from server.report.requests import Requests
from server.report.series import Windowed
from server.report.stretches import Stretch
from server.report.tally import Tally
from server.report.text import ABSENT, count, offset, seconds, share, table
from server.report.timeline import Timeline
from server.telemetry.snapshot import Snapshot

Text = Callable[[float | None], str]


@dataclass(frozen=True)
class Run:
    """Everything known of one run, ready to be told."""

    tally: Tally
    first: Snapshot
    last: Snapshot
    slo: Slo
    stretches: list[Stretch]
    requests: Requests | None
    """The single requests, where they were kept."""
    timeline: Timeline

    def at(self, monotonic_s: float | None) -> str:
        """A moment, as an offset from the beginning."""
        return ABSENT if monotonic_s is None else offset(monotonic_s - self.tally.begin)

    @property
    def facts(self) -> Snapshot:
        """The latest snapshot with a ready engine, or the latest."""
        return self.tally.ready or self.last

    @property
    def good(self) -> int:
        return self.tally.judged.good if self.requests is None else self.requests.good

    @property
    def due(self) -> int:
        return self.tally.judged.due if self.requests is None else self.requests.due

    @property
    def ended(self) -> dict[str, int]:
        """Requests that ended, by outcome, as our clients saw it; empty when none were ours."""
        return dict(self.requests.outcomes) if self.requests is not None else self.tally.outcomes.grown


def gauges(
    run: Run, wanted: Sequence[tuple[str, str, Text]], optional: Sequence[tuple[str, str, Text]] = ()
) -> list[str]:
    """A table of readings: (label, name, text). Optional ones are left out where they were never seen above 0."""
    rows = []
    for label, name, text in (*wanted, *optional):
        gauge = run.tally.gauges.get(name)
        if gauge is None:
            if (label, name, text) in wanted:
                rows.append((label, ABSENT, ABSENT, ABSENT, ABSENT, "none"))
            continue
        if gauge.most or (label, name, text) in wanted:
            over = "" if gauge.window_s is None or gauge.window_s < 1 else f", each over {gauge.window_s:.0f} s"
            median, mean, most = text(gauge.median), text(gauge.mean), text(gauge.most)
            at = run.at(gauge.most_at) if gauge.most else ABSENT
            rows.append((label, median, mean, most, at, f"{count(gauge.n)}{over}"))
    return table(("", "median", "mean", "most", "when", "readings"), rows)


def windows(run: Run, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """A table of distributions: (label, name). Exact for the whole run where the single requests are known."""
    exact: dict[str, Distribution] = {}
    if run.requests is not None:
        exact = {"ttft": run.requests.ttft_s, "tpot": run.requests.tpot_s, "e2e": run.requests.e2e_s}
    rows = []
    for label, name in wanted:
        found = run.tally.windows[name]
        whole = exact.get(name)
        known: Windowed | Distribution = found if whole is None or not whole.n else whole
        if not known.n:
            rows.append((label, *[ABSENT] * 5, "0", ABSENT))
            continue
        figures = [seconds(known.mean)]
        for quantile in ("p50", "p95", "p99"):
            figures.append(_quantile(known, quantile))
        most = known.most if isinstance(known, Windowed) else known.max
        rows.append((label, *figures, seconds(most), count(known.n), _worst(run, found)))
    return table(("", "mean", "p50", "p95", "p99", "largest", "n", "worst 30 s"), rows)


def _quantile(known: Windowed | Distribution, name: str) -> str:
    if isinstance(known, Distribution):
        return seconds(getattr(known, name))
    v = known.median(name)
    return ABSENT if v is None else f"{'' if known.exact else '~'}{seconds(v)} ({known.windows(name)} w)"


def _worst(run: Run, found: Windowed) -> str:
    for name in ("p95", "p50"):
        if (worst := found.worst(name)) is not None:
            return f"{name} {'' if found.exact else '~'}{seconds(worst[0])} at {run.at(worst[1])}"
    return ABSENT


def waited(run: Run, names: Sequence[str]) -> str:
    """How much of a mean request's time these stages took, as a sentence."""
    stages, e2e_s = run.tally.stages.means, run.tally.stages.e2e_s
    known = [(name, stages[name]) for name in names if name in stages]
    if not known or not e2e_s:
        return f"**Waited:** {ABSENT} (no request was joined with these stages)"
    parts = ", ".join(f"{name} {seconds(mean_s)} ({share(max(0.0, mean_s) / e2e_s)})" for name, mean_s in known)
    return f"**Waited:** {parts} of a mean request's {seconds(e2e_s)}, n={count(run.tally.stages.n)}"


def failed(parts: Sequence[str], *, known: bool) -> str:
    """What failed here, as a sentence; `known`: it would have been seen."""
    return "**Failed:** " + ("; ".join(part for part in parts if part) or ("nothing" if known else ABSENT))
