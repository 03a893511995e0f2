"""A run as CSV: one row a second, and one row a request where the records were kept.

Time series (`series_csv`). A figure is the latest of its second, as the console showed it then; those over a window say it
here. An empty cell is absent or older than 5 s, never zero; a second in which nothing was written down has no row.

    t_s                  whole seconds since the first snapshot
    time_unix_s          the host's wall clock, a label only
    verdict, limit       the words that stood: GOOD, BENDING, ..; what held the setup back
    engine_phase         ready, starting, down, ..
    people               people there are; slow_readers: those of them who read slower than the stream
    requests_in_flight   requests our own clients wait for
    sent_per_s           sent by our clients, over 10 s
    waiting              in the gateway's queue; oldest_wait_s: how long the first of them has waited
    arrivals_per_s       at the gateway, over 10 s; gateway_in_flight: handed on and not yet finished
    refused_share        refused / arrived, 0..1, over 30 s
    batch                requests in the engine's batch; engine_waiting: waiting inside the engine
    kv_share             of the KV cache in use, 0..1
    tokens_per_s         generated, over 10 s; prompt_tokens_per_s: read, over 10 s
    preemptions_per_min  over 60 s
    ttft_p50_s, ttft_p95_s, ttft_n, tpot_p50_s, tpot_p95_s   what people felt, over 30 s; a p95 needs n >= 100
    good_share, good_n   good / due, 0..1, and due, over 30 s; good_per_s: good requests a second
    sm_share, tensor_share, hbm_share, nvml_busy_share       0..1, of the first GPU that the engine uses
    power_w              of all GPUs that the engine uses; gpu_memory_bytes: used on the first of them
    engine_cpu_cores, gateway_cpu_cores, load_cpu_cores      1.0 = one core busy
    events               what happened in this second, `; ` between

Requests (`requests_csv`), in the order in which they ended, those that ended within the run. Times count from the moment
at which the person meant to send the request; empty is absent.

    request_id, person, behaviour, attempt, turn
    scheduled_s          when it was meant to be sent, since the first snapshot
    outcome, status, reason, finish_reason
    ttft_s, tpot_s, e2e_s, longest_gap_s
    prompt_tokens, completion_tokens     from the server's usage
    judged, missed       good, miss or excluded; which part of the promise was broken

Text that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from loadgen.records import RequestRecord
from loadgen.slo import Slo, judge, miss
from server.report.text import clean
from server.telemetry.aging import STALE_S
from server.telemetry.snapshot import Gpu, Quantiles, Snapshot, Value

Reading = tuple[float | None, float]
"""The figure, and its age in seconds."""
NOTHING: Reading = (None, 0.0)


def _read(value: Value) -> Reading:
    return value.v, value.age_s


def _quantile(found: Quantiles, name: str) -> Reading:
    return getattr(found, name), found.age_s


def engine_gpus(snapshot: Snapshot) -> list[Gpu]:
    """The devices that the engine uses; the first one where nobody knows which."""
    return [gpu for gpu in snapshot.gpus if gpu.engines] or snapshot.gpus[:1]


def _gpu(of: Callable[[Gpu], Value]) -> Callable[[Snapshot], Reading]:
    return lambda s: NOTHING if s.device is None else _read(of(s.device))


def power_w(snapshot: Snapshot) -> Reading:
    """Watts of all devices that the engine uses together; absent when one of them doesn't say."""
    watts = [gpu.power_w for gpu in engine_gpus(snapshot)]
    known = [reading.v for reading in watts if reading.v is not None]
    if not watts or len(known) < len(watts):
        return NOTHING
    return sum(known), max(reading.age_s for reading in watts)


FIGURES: dict[str, Callable[[Snapshot], Reading]] = {
    "people": lambda s: _read(s.people.people),
    "slow_readers": lambda s: _read(s.people.slow),
    "requests_in_flight": lambda s: _read(s.people.in_flight),
    "sent_per_s": lambda s: _read(s.people.sent_per_s),
    "waiting": lambda s: _read(s.queue.depth),
    "oldest_wait_s": lambda s: _read(s.queue.oldest_s),
    "arrivals_per_s": lambda s: _read(s.queue.arrivals_per_s),
    "gateway_in_flight": lambda s: _read(s.queue.in_flight),
    "refused_share": lambda s: _read(s.queue.refused_share),
    "batch": lambda s: _read(s.engine.running),
    "engine_waiting": lambda s: _read(s.engine.waiting),
    "kv_share": lambda s: _read(s.engine.kv_usage),
    "tokens_per_s": lambda s: _read(s.engine.generation_tokens_per_s),
    "prompt_tokens_per_s": lambda s: _read(s.engine.prompt_tokens_per_s),
    "preemptions_per_min": lambda s: _read(s.engine.preemptions_per_min),
    "ttft_p50_s": lambda s: _quantile(s.feel.ttft_s, "p50"),
    "ttft_p95_s": lambda s: _quantile(s.feel.ttft_s, "p95"),
    "ttft_n": lambda s: (s.feel.ttft_s.n or None, s.feel.ttft_s.age_s),
    "tpot_p50_s": lambda s: _quantile(s.feel.tpot_s, "p50"),
    "tpot_p95_s": lambda s: _quantile(s.feel.tpot_s, "p95"),
    "good_share": lambda s: _read(s.feel.attainment),
    "good_n": lambda s: (s.feel.attainment.n, s.feel.attainment.age_s),
    "good_per_s": lambda s: _read(s.feel.goodput_per_s),
    "sm_share": _gpu(lambda gpu: gpu.sm_active),
    "tensor_share": _gpu(lambda gpu: gpu.tensor),
    "hbm_share": _gpu(lambda gpu: gpu.dram),
    "nvml_busy_share": _gpu(lambda gpu: gpu.busy),
    "power_w": power_w,
    "gpu_memory_bytes": _gpu(lambda gpu: gpu.mem_used_bytes),
    "engine_cpu_cores": lambda s: _read(s.host.engine_cpu_cores),
    "gateway_cpu_cores": lambda s: _read(s.host.gateway_cpu_cores),
    "load_cpu_cores": lambda s: _read(s.host.load_cpu_cores),
}
"""Column -> its reading of one snapshot."""

WORDS = ("verdict", "limit", "engine_phase")
SERIES = ("t_s", "time_unix_s", *WORDS, *FIGURES, "events")
REQUESTS = (
    "request_id",
    "person",
    "behaviour",
    "attempt",
    "turn",
    "scheduled_s",
    "outcome",
    "status",
    "reason",
    "finish_reason",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "longest_gap_s",
    "prompt_tokens",
    "completion_tokens",
    "judged",
    "missed",
)


def figure(name: str, snapshot: Snapshot) -> float | None:
    """One figure of a moment; None when it is absent or stale."""
    v, age_s = FIGURES[name](snapshot)
    return v if age_s <= STALE_S else None


def series_csv(snapshots: Iterable[Snapshot], out: IO[str]) -> int:
    """Write the time series; the number of its rows. Raises what the iterable raises, and OSError."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SERIES)
    rows = 0
    for second, snapshot, texts in _seconds(snapshots):
        limit = snapshot.limit_detail.name or ""
        words = (snapshot.verdict.word, limit, snapshot.engine.phase)
        figures = [_cell(figure(name, snapshot)) for name in FIGURES]
        writer.writerow([second, f"{snapshot.wall:.3f}", *map(_text, words), *figures, _text("; ".join(texts))])
        rows += 1
    return rows


def _seconds(snapshots: Iterable[Snapshot]) -> Iterator[tuple[int, Snapshot, list[str]]]:
    """The latest snapshot of each second that has one, with the texts of the events since the row before."""
    begin = event_at = float("nan")
    held: tuple[int, Snapshot] | None = None
    texts: list[str] = []
    for snapshot in snapshots:
        if held is None:
            begin = event_at = snapshot.at
        second = int(snapshot.at - begin)
        if held is not None and second != held[0]:
            yield *held, texts
            texts = []
        for event in snapshot.events:
            if event.at > event_at:
                texts.append(event.text)
                event_at = event.at
        held = (second, snapshot)
    if held is not None:
        yield *held, texts


def requests_csv(records: Iterable[RequestRecord], out: IO[str], *, begin: float, end: float, slo: Slo) -> int:
    """Write the requests that ended between `begin` and `end`, monotonic seconds; the number of its rows."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(REQUESTS)
    rows = 0
    for record in records:
        if not begin <= record.done <= end:
            continue
        rows += 1
        texts = [_text(text) for text in (record.request_id, record.person, record.behaviour)]
        writer.writerow(
            [
                *texts,
                record.attempt,
                record.turn,
                _cell(record.scheduled - begin),
                record.outcome,
                _cell(record.status),
                _text(record.reason),
                _text(record.finish_reason or ""),
                _cell(record.ttft_s),
                _cell(record.tpot_s),
                _cell(record.e2e_s),
                _cell(record.longest_gap_s),
                _cell(record.prompt_tokens),
                _cell(record.completion_tokens),
                judge(record, slo),
                miss(record, slo) or "",
            ]
        )
    return rows


def _cell(v: float | None) -> str:
    return "" if v is None else str(v) if isinstance(v, int) else f"{v:.9g}"


def _text(text: str) -> str:
    text = clean(text)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
