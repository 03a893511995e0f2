"""How wrong is the load generator itself? It is driven against a server that stamps every write of its own.

Both processes read one monotonic clock, so the truth needs no model. A TTFT counts from the moment a request was meant to
be sent; the client's ends with its stamp of the first token, the true one with the server's write of it, and the error is
the difference of these two stamps. The error of a gap between tokens is the client's gap less the server's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from loadgen.known_client import TOKENS_PER_S, Came, Driven, Seen, arrive, drive, fetch_stamps, known_server
from loadgen.known_replies import Stamps, StreamStamps
from loadgen.summary import Distribution

STREAMS = (16, 64, 256)
STEP_S = 4.0
POISSON_PER_S = 50.0
POISSON_S = 2.0
SEEDS = (1, 2, 3, 4, 5)
KS_LIMIT = 1.63
"""Kolmogorov's distance times the root of n exceeds this in 1 % of samples that are what they should be."""
SIGMAS = 3.0


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Client less server, milliseconds."""

    ttft: Distribution
    gap: Distribution
    """Absolute: a token that is stamped late makes one gap too long and the next too short."""
    sent: Distribution
    """The server had read the request, less the client's stamp of having sent it."""
    unmatched: int
    """Requests that failed, or whose tokens are not those the server wrote: above 0, the rest means nothing."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One load and how well it was measured."""

    streams: int
    events_per_s: float
    cpu_ms: float
    """Of the client for 1,000 events."""
    cpu_share: float
    """Of one core, 0..1."""
    errors: Errors
    send_lag_ms: Distribution
    """Meant to send -> sent: the load generator's own share in every TTFT (it shows as `connect`)."""
    server_late_ms: Distribution
    """How late the server wrote by its own plan. It is no error: its stamps tell what it did."""


class Poisson(msgspec.Struct, frozen=True, kw_only=True):
    """Open-loop arrivals as the server saw them, over several seeds."""

    asked_per_s: float
    achieved_per_s: list[float]
    """By seed."""
    n: int
    sigmas: float
    """(arrivals - asked) over the root of asked: a Poisson count is within 3 nearly always."""
    ks: float
    """Kolmogorov's distance of the gaps from an exponential distribution times the root of their number."""
    late_ms: Distribution
    """Meant to send -> read by the server."""

    @property
    def holds(self) -> bool:
        return abs(self.sigmas) <= SIGMAS and self.ks <= KS_LIMIT


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """The load generator's own error on this machine, now."""

    steps: list[Step]
    poisson: Poisson

    @property
    def ttft_ms(self) -> float | None:
        """What to add to a TTFT in doubt: the worst p99 (the maximum where there are too few samples)."""
        return _worst([step.errors.ttft for step in self.steps])

    @property
    def gap_ms(self) -> float | None:
        return _worst([step.errors.gap for step in self.steps])

    @property
    def send_ms(self) -> float | None:
        """Meant to send -> sent: the largest median."""
        return max((step.send_lag_ms.p50 for step in self.steps if step.send_lag_ms.p50 is not None), default=None)


def _worst(spreads: Sequence[Distribution]) -> float | None:
    found = [spread.max if spread.p99 is None else spread.p99 for spread in spreads]
    return max((value for value in found if value is not None), default=None)


async def selftest(
    streams: Sequence[int] = STREAMS,
    step_s: float = STEP_S,
    seeds: Sequence[int] = SEEDS,
    on_step: Callable[[str], None] = lambda what: None,
) -> SelfTest:
    """Takes about half a minute with its defaults; to be run on uvloop, as the load is. `on_step` gets what comes next.

    Raises LoadError when the server of known timing does not start or answer.
    """
    steps = []
    async with known_server() as target:
        for count in streams:
            on_step(f"{count} streams of {TOKENS_PER_S:g} tokens/s")
            driven = await drive(target, count, step_s)
            steps.append(judge(count, driven, await fetch_stamps(target)))
        on_step(f"Poisson arrivals, {POISSON_PER_S:g} requests/s")
        came = [await arrive(target, seed, POISSON_PER_S, POISSON_S) for seed in seeds]
    return SelfTest(steps=steps, poisson=poisson_of(came, POISSON_PER_S, POISSON_S))


def errors_of(seen: Sequence[Seen], streams: Sequence[StreamStamps]) -> Errors:
    """Set each request beside the server's account of it."""
    server = {stream.request_id: stream for stream in streams}
    ttft: list[float] = []
    gap: list[float] = []
    sent: list[float] = []
    unmatched = 0
    for one in seen:
        true = server.get(one.record.request_id)
        if true is None or one.record.outcome != "ok" or len(one.token_at) != len(true.written):
            unmatched += 1
            continue
        late = [(client - wrote) * 1e3 for client, wrote in zip(one.token_at, true.written, strict=True)]
        ttft.append(late[0])
        gap += [abs(after - before) for before, after in pairwise(late)]
        if one.record.sent is not None:
            sent.append((true.read - one.record.sent) * 1e3)
    return Errors(ttft=Distribution.of(ttft), gap=Distribution.of(gap), sent=Distribution.of(sent), unmatched=unmatched)


def judge(streams: int, driven: Driven, stamps: Stamps) -> Step:
    """Sum one load up."""
    events = sum(len(one.token_at) for one in driven.seen)
    lags = [one.record.sent - one.record.scheduled for one in driven.seen if one.record.sent is not None]
    late = [late_s for stream in stamps.streams for late_s in stream.lateness_s]
    return Step(
        streams=streams,
        events_per_s=events / driven.wall_s,
        cpu_ms=driven.cpu_s / max(1, events) * 1e6,
        cpu_share=driven.cpu_s / driven.wall_s,
        errors=errors_of(driven.seen, stamps.streams),
        send_lag_ms=Distribution.of([lag * 1e3 for lag in lags]),
        server_late_ms=Distribution.of([late_s * 1e3 for late_s in late]),
    )


def poisson_of(came: Sequence[Came], per_s: float, seconds: float) -> Poisson:
    """Sum up what came in runs of so many seconds, one a seed."""
    counts = [sum(at <= seconds for at in run.at_s) for run in came]
    expected = per_s * seconds * len(came)
    gaps = [after - before for run in came for before, after in pairwise([0.0, *run.at_s])]
    return Poisson(
        asked_per_s=per_s,
        achieved_per_s=[count / seconds for count in counts],
        n=sum(counts),
        sigmas=(sum(counts) - expected) / math.sqrt(expected),
        ks=exponential_ks(gaps, per_s),
        late_ms=Distribution.of([late_s * 1e3 for run in came for late_s in run.late_s]),
    )


def exponential_ks(gaps: Sequence[float], per_s: float) -> float:
    """Kolmogorov's distance between the gaps and an exponential distribution of that rate, times the root of n."""
    n = len(gaps)
    share = [-math.expm1(-per_s * max(0.0, gap)) for gap in sorted(gaps)]
    distance = max((max((rank + 1) / n - below, below - rank / n) for rank, below in enumerate(share)), default=0.0)
    return distance * math.sqrt(n)


def _ms(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _row(name: str, spread: Distribution) -> str:
    figures = (spread.mean, spread.p50, spread.p99, spread.max)
    return f"{name:<30}" + "".join(f"{_ms(value):>9}" for value in figures) + f"{spread.n:>10,}"


def table(result: SelfTest) -> str:
    """Lines of text, under 80 columns, with a verdict at the end."""
    lines = [f"{'milliseconds':<30}" + "".join(f"{head:>9}" for head in ("mean", "p50", "p99", "max")) + f"{'n':>10}"]
    for step in result.steps:
        lines += [
            f"{step.streams} streams, {step.events_per_s:,.0f} events/s: {step.cpu_ms:.0f} ms of CPU per 1,000 events, "
            f"{step.cpu_share:.0%} of a core",
            _row("  TTFT error", step.errors.ttft),
            _row("  gap error (absolute)", step.errors.gap),
            _row("  sent -> read by the server", step.errors.sent),
            _row("  meant to send -> sent", step.send_lag_ms),
            _row("  server behind its own plan", step.server_late_ms),
        ]
    poisson = result.poisson
    achieved = ", ".join(f"{rate:.0f}" for rate in poisson.achieved_per_s)
    lines += [
        f"Poisson arrivals, {poisson.asked_per_s:g}/s asked: {achieved}/s by seed",
        f"  {poisson.n} in all, {poisson.sigmas:+.1f} sigma; Kolmogorov distance {poisson.ks:.2f} (limit {KS_LIMIT})",
        _row("  meant to send -> read", poisson.late_ms),
        "",
        verdict(result),
    ]
    return "\n".join(lines)


def verdict(result: SelfTest) -> str:
    """What the figures mean, in sentences of under 80 columns."""
    unmatched = sum(step.errors.unmatched for step in result.steps)
    if unmatched:
        return f"Void: {unmatched} requests failed, or saw other tokens than the server wrote."
    if result.ttft_ms is None or result.gap_ms is None:
        return "Void: nothing was measured."
    most = max(step.streams for step in result.steps)
    said = f"Up to {most} streams, trust TTFT to +{result.ttft_ms:.1f} ms and gaps to ±{result.gap_ms:.1f} ms (p99 or max)."
    if result.send_ms is not None:
        said += f"\nEvery TTFT holds {result.send_ms:.1f} ms (p50) of our own: connecting and sending."
    if result.poisson.holds:
        return said + "\nArrivals are Poisson at the asked rate, within their sampling error."
    return said + "\nArrivals are NOT what was asked for: do not trust open-loop rates here."
