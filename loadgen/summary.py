"""What a run came to: exact quantiles of whole requests, and a table for a person."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from loadgen.records import OUTCOMES, IntervalRecord, Outcome, RequestRecord
from loadgen.slo import Attainment, Slo, attainment

P95_NEEDS = 100
P99_NEEDS = 500
"""Samples below which the quantile would be the story of a handful of requests; it is None then."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that at least `share` of all samples do not exceed. `ordered` is not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Distribution(msgspec.Struct, frozen=True):
    """Exact figures of one measure in the unit of its field's name; None where there are too few samples."""

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    """Needs n >= 100."""
    p99: float | None = None
    """Needs n >= 500."""
    max: float | None = None

    @classmethod
    def of(cls, samples: Sequence[float]) -> Distribution:
        if not samples:
            return cls()
        ordered = sorted(samples)
        n = len(ordered)
        return cls(
            n=n,
            mean=math.fsum(ordered) / n,
            p50=quantile(ordered, 0.50),
            p95=quantile(ordered, 0.95) if n >= P95_NEEDS else None,
            p99=quantile(ordered, 0.99) if n >= P99_NEEDS else None,
            max=ordered[-1],
        )


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run, from the client's side. Latencies count from the intended start."""

    url: str | None = None
    model: str | None = None
    duration_s: float
    requests: int
    outcomes: dict[Outcome, int]
    reasons: dict[str, int]
    """Why requests were not ok, most frequent first."""
    slo: Slo
    attainment: Attainment
    attainment_share: float | None
    """good / due, 0..1; None when nothing was due."""
    goodput_per_s: float
    """Good requests per second."""
    requests_per_s: float
    """Requests that finished ok per second."""
    tokens_per_s: float | None
    """Completion tokens per second of all requests with a usage; None when no server usage was seen."""
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft_s: Distribution
    """All requests with a first token."""
    tpot_s: Distribution
    """Requests that finished ok, slow readers left out (as in e2e_s): their pace is their own."""
    e2e_s: Distribution
    gap_ms: Distribution
    """Between token events, as they reached people who read as it comes; events in one read are 0 apart."""
    send_lag_ms: float | None
    """Largest delay between meaning to send and having sent."""
    loop_lag_ms: float | None
    """Largest delay of the load generator's own clock. When it nears the TTFT, believe neither."""
    cpu_share: float | None
    """Largest CPU share of a worker in one interval, 0..1."""


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def summarise(
    records: Sequence[RequestRecord],
    intervals: Sequence[IntervalRecord],
    slo: Slo,
    duration_s: float,
    *,
    url: str | None = None,
    model: str | None = None,
) -> Summary:
    """`duration_s` is the wall time in which the records came about, above 0."""
    counts = Counter(record.outcome for record in records)
    at_own_pace = [record for record in records if record.outcome == "ok" and record.behaviour != "slow"]
    completion_tokens = _total([record.completion_tokens for record in records])
    reached = attainment(records, slo)
    return Summary(
        url=url,
        model=model,
        duration_s=duration_s,
        requests=len(records),
        outcomes={outcome: counts[outcome] for outcome in OUTCOMES},
        reasons=dict(Counter(record.reason for record in records if record.reason).most_common()),
        slo=slo,
        attainment=reached,
        attainment_share=reached.share,
        goodput_per_s=reached.good / duration_s,
        requests_per_s=counts["ok"] / duration_s,
        tokens_per_s=None if completion_tokens is None else completion_tokens / duration_s,
        prompt_tokens=_total([record.prompt_tokens for record in records]),
        completion_tokens=completion_tokens,
        ttft_s=Distribution.of([record.ttft_s for record in records if record.ttft_s is not None]),
        tpot_s=Distribution.of([record.tpot_s for record in at_own_pace if record.tpot_s is not None]),
        e2e_s=Distribution.of([record.e2e_s for record in at_own_pace]),
        gap_ms=Distribution.of([gap for interval in intervals for gap in interval.gaps_ms]),
        send_lag_ms=max((i.send_lag_ms for i in intervals if i.send_lag_ms is not None), default=None),
        loop_lag_ms=max((i.loop_lag_ms for i in intervals), default=None),
        cpu_share=max((i.cpu_share for i in intervals if i.cpu_share is not None), default=None),
    )


def _figure(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits; a dash for what is absent."""
    if value is None:
        return "—"
    scaled = value * scale
    if scaled == 0:
        return "0"
    return f"{scaled:.{max(0, 2 - math.floor(math.log10(abs(scaled))))}f}"


def _row(name: str, spread: Distribution, scale: float = 1.0) -> str:
    figures = (spread.p50, spread.p95, spread.p99, spread.max, spread.mean)
    return f"{name:<14}" + "".join(f"{_figure(value, scale):>9}" for value in figures) + f"{spread.n:>9}"


def table(summary: Summary) -> str:
    """The summary as lines of text, under 80 columns."""
    outcomes = "   ".join(f"{name} {count}" for name, count in summary.outcomes.items())
    share = summary.attainment_share
    percent = "—" if share is None else f"{share:.1%}"
    lines = [
        f"{summary.url or ''}  {summary.model or ''}".strip(),
        f"requests {summary.requests} in {summary.duration_s:.1f} s   {outcomes}",
        f"good {summary.attainment.good} of {summary.attainment.due} due = {percent}   "
        f"({summary.slo.name}: TTFT <= {summary.slo.ttft_s:g} s, TPOT <= {summary.slo.tpot_s * 1e3:g} ms)",
        f"goodput {_figure(summary.goodput_per_s)} req/s   finished {_figure(summary.requests_per_s)} req/s   "
        f"tokens {_figure(summary.tokens_per_s)} /s",
        "",
        f"{'':<14}" + "".join(f"{head:>9}" for head in ("p50", "p95", "p99", "max", "mean", "n")),
        _row("TTFT s", summary.ttft_s),
        _row("TPOT ms", summary.tpot_s, 1e3),
        _row("gap ms", summary.gap_ms),
        _row("end to end s", summary.e2e_s),
        "",
        f"load generator: send lag {_figure(summary.send_lag_ms)} ms, loop lag {_figure(summary.loop_lag_ms)} ms, "
        f"CPU {_figure(summary.cpu_share, 100)} %",
    ]
    if summary.reasons:
        lines += ["", "not ok:", *(f"{count:>7}  {reason}" for reason, count in list(summary.reasons.items())[:10])]
    return "\n".join(lines)
