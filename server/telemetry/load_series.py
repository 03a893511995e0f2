"""The load generator's intervals over time, all workers together, as the `People` figures of a Snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable

from loadgen.records import IntervalRecord
from loadgen.slo import Slo, overdue
from server.telemetry.aging import GONE_S, absent, aged, rounded_quantiles
from server.telemetry.snapshot import People, Quantiles, Value
from server.telemetry.windows import GrowthWindow, LogWindow, counter_window

RATE_S = 10.0
GAP_S = 30.0

NO_LOAD = "no load generator"


class LoadSeries:
    """Intervals in, `People` figures out. A worker that has been silent for 10 s is gone."""

    def __init__(self) -> None:
        self._latest: dict[int, IntervalRecord] = {}
        self._begun: dict[int, GrowthWindow[float]] = {}
        self._gaps = LogWindow(GAP_S)

    def on_interval(self, record: IntervalRecord) -> None:
        self._latest[record.worker] = record
        self._begun.setdefault(record.worker, counter_window(RATE_S)).add(record.at, record.scheduled_total)
        self._gaps.add(record.at, (gap / 1000 for gap in record.gaps_ms))

    def active(self, now: float) -> bool:
        """Does a worker report?"""
        return bool(self._workers(now))

    def busy(self, now: float) -> bool:
        """Does anybody send: people, slow readers, an open loop, or what is left of a burst?"""
        return any(
            record.people or record.slow_people or record.in_flight or record.mode == "open"
            for record in self._workers(now)
        )

    def last_at(self) -> float | None:
        return max((record.at for record in self._latest.values()), default=None)

    def in_flight(self, now: float) -> int:
        return sum(record.in_flight for record in self._workers(now))

    def overdue(self, slo: Slo, now: float) -> int:
        """Requests in flight whose first token came, or still comes, too late: misses already, however they end."""
        return sum(overdue(so_far_s, slo) for record in self._workers(now) for so_far_s in record.ttft_so_far_s)

    def gaps(self, now: float) -> Quantiles:
        last = self.last_at()
        return rounded_quantiles(self._gaps.quantiles(now), None if last is None else max(0.0, now - last))

    def people(self, now: float) -> People:
        workers = self._workers(now)
        if not workers:
            lacking = absent("load", NO_LOAD)
            return People(
                people=lacking,
                thinking=lacking,
                slow=lacking,
                in_flight=lacking,
                held=lacking,
                rate_asked_per_s=lacking,
                sent_per_s=lacking,
                loop_lag_ms=lacking,
                cpu_share=lacking,
            )
        at = min(record.at for record in workers)

        def total(of: Callable[[IntervalRecord], float | None], lacking: str = "not reported") -> Value:
            known = [v for record in workers if (v := of(record)) is not None]
            return aged(math.fsum(known), "load", at=at, now=now) if known else absent("load", lacking)

        def worst(of: Callable[[IntervalRecord], float | None]) -> Value:
            known = [v for record in workers if (v := of(record)) is not None]
            return aged(max(known), "load", at=at, now=now) if known else absent("load", "not reported")

        outcomes: dict[str, int] = {}
        for record in workers:
            for outcome, count in record.outcomes.items():
                outcomes[outcome] = outcomes.get(outcome, 0) + count
        mode = max(workers, key=lambda record: record.at).mode
        open_loop = absent("load", "open loop: nobody stays")
        return People(
            mode=mode,
            people=total(lambda r: r.people) if mode == "closed" else open_loop,
            thinking=total(lambda r: r.thinking) if mode == "closed" else open_loop,
            slow=total(lambda r: r.slow_people),
            in_flight=total(lambda r: r.in_flight),
            held=total(lambda r: r.held),
            rate_asked_per_s=total(lambda r: r.rate_asked, "closed loop"),
            sent_per_s=self._sent_per_s(workers, at, now),
            sent_total=sum(record.scheduled_total for record in workers),
            outcomes=outcomes,
            loop_lag_ms=worst(lambda r: r.loop_lag_ms),
            cpu_share=worst(lambda r: r.cpu_share),
        )

    def _sent_per_s(self, workers: list[IntervalRecord], at: float, now: float) -> Value:
        gains = [gain for record in workers if (gain := self._begun[record.worker].over(RATE_S))]
        if len(gains) < len(workers):
            return absent("load", "needs two readings")
        rate = math.fsum(gain.amount / gain.seconds for gain in gains)
        return aged(rate, "load", at=at, now=now, window_s=max(gain.seconds for gain in gains))

    def _workers(self, now: float) -> list[IntervalRecord]:
        for worker in [w for w, record in self._latest.items() if now - record.at > GONE_S]:
            del self._latest[worker], self._begun[worker]
        return list(self._latest.values())
