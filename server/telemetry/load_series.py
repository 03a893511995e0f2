"""The load generator's intervals over time, all workers together, as the `People` figures of a Snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable

from loadgen.records import IntervalRecord
from loadgen.selfcheck import trouble
from loadgen.slo import Slo, overdue
from server.telemetry.aging import GONE_S, absent, aged, rounded_quantiles
from server.telemetry.snapshot import People, Quantiles, Value
from server.telemetry.windows import GrowthWindow, HistogramWindow, SampleWindow, counter_window

RATE_S = 10.0
GAP_S = 30.0
TROUBLE_S = 10.0
"""A trouble of the generator is shown for so long: what it measured then is still in the windows."""

NO_LOAD = "no load generator"

_COUNTERS: dict[str, Callable[[IntervalRecord], float]] = {
    "scheduled": lambda r: r.scheduled_total,
    "retries": lambda r: r.retries_total,
    "left": lambda r: r.left_total,
    "wasted": lambda r: r.wasted_tokens_total,
}


class LoadSeries:
    """Intervals in, `People` figures out. A worker that has been silent for 10 s is gone."""

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._latest: dict[int, IntervalRecord] = {}
        self._grown: dict[int, dict[str, GrowthWindow[float]]] = {}
        self._gaps = HistogramWindow(GAP_S)
        self._read_tokens = SampleWindow(GAP_S)
        self._trouble = ("", -math.inf)
        self._counted: dict[int, IntervalRecord] = {}
        """The latest of each worker, however long ago."""
        self._earlier_sent = 0
        self._earlier_outcomes: dict[str, int] = {}
        """Of processes that ended, in whose place others came."""

    def on_interval(self, record: IntervalRecord) -> None:
        before = self._counted.get(record.worker)
        if before is not None and record.scheduled_total < before.scheduled_total:
            self._keep(before)
        self._counted[record.worker] = record
        self._latest[record.worker] = record
        grown = self._grown.setdefault(record.worker, {name: counter_window(GAP_S) for name in _COUNTERS})
        for name, of in _COUNTERS.items():
            grown[name].add(record.at, of(record))
        self._gaps.add(record.at, record.gaps)
        if what := trouble(record, self._slo):
            self._trouble = (what, record.at)

    def _keep(self, last: IntervalRecord) -> None:
        """What a worker had counted when it ended. Who was under way went with it: to the server, they left."""
        self._earlier_sent += last.scheduled_total
        gone = last.scheduled_total - sum(last.outcomes.values())
        for outcome, count in (*last.outcomes.items(), ("abandoned", gone)):
            self._earlier_outcomes[outcome] = self._earlier_outcomes.get(outcome, 0) + count

    def on_tokens(self, at: float, tokens: int) -> None:
        """Tokens of one finished request, however it finished."""
        self._read_tokens.add(at, tokens)

    def active(self, now: float) -> bool:
        """Does a worker report?"""
        return bool(self._workers(now))

    def busy(self, now: float) -> bool:
        """Does anybody send: people, an open loop, or what is left of a burst or a crowd?"""
        return any(
            record.people or record.flash or record.in_flight or record.mode == "open" for record in self._workers(now)
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
                flash=lacking,
                amplification=lacking,
                left_per_min=lacking,
                wasted_tokens_per_s=lacking,
                wasted_share=lacking,
                clipped_share=lacking,
                send_lag_ms=lacking,
                start_lag_ms=lacking,
            )
        at = min(record.at for record in workers)

        def total(of: Callable[[IntervalRecord], float | None], lacking: str = "not reported") -> Value:
            known = [v for record in workers if (v := of(record)) is not None]
            return aged(math.fsum(known), "load", at=at, now=now) if known else absent("load", lacking)

        def worst(of: Callable[[IntervalRecord], float | None]) -> Value:
            known = [v for record in workers if (v := of(record)) is not None]
            return aged(max(known), "load", at=at, now=now) if known else absent("load", "nothing in the interval")

        outcomes = dict(self._earlier_outcomes)
        crowds: dict[str, int] = {}
        for record in workers:
            for outcome, count in record.outcomes.items():
                outcomes[outcome] = outcomes.get(outcome, 0) + count
            for behaviour, there in record.crowds.items():
                crowds[behaviour] = crowds.get(behaviour, 0) + there
        newest = max(workers, key=lambda record: record.at)
        open_loop = absent("load", "open loop: nobody stays")
        scheduled = sum(record.scheduled_total for record in workers)
        what, since = self._trouble
        return People(
            mode=newest.mode,
            people=total(lambda r: r.people) if newest.mode == "closed" else open_loop,
            thinking=total(lambda r: r.thinking) if newest.mode == "closed" else open_loop,
            slow=total(lambda r: r.crowds.get("slow", 0)),
            in_flight=total(lambda r: r.in_flight),
            held=total(lambda r: r.held),
            rate_asked_per_s=aged(newest.rate_asked, "load", at=at, now=now)
            if newest.rate_asked is not None
            else absent("load", "closed loop" if newest.mode == "closed" else "a trace has no rate"),
            sent_per_s=self._rate("scheduled", workers, at, now),
            sent_total=self._earlier_sent + scheduled,
            outcomes=outcomes,
            loop_lag_ms=worst(lambda r: r.loop_lag_ms),
            cpu_share=worst(lambda r: r.cpu_share),
            crowds=crowds,
            flash=total(lambda r: r.flash),
            workers=len(workers),
            amplification=self._amplification(workers, at, now),
            left_per_min=self._rate("left", workers, at, now, GAP_S, 60.0),
            wasted_tokens_per_s=self._rate("wasted", workers, at, now, GAP_S),
            wasted_share=self._wasted_share(workers, at, now),
            clipped_share=aged(
                sum(record.clipped_total for record in workers) / scheduled, "load", at=at, now=now, n=scheduled
            )
            if scheduled
            else absent("load", "nothing sent yet"),
            send_lag_ms=worst(lambda r: r.send_lag_ms),
            start_lag_ms=worst(lambda r: r.start_lag_ms),
            void=what if now - since <= TROUBLE_S else "",
        )

    def _gains(self, name: str, workers: list[IntervalRecord], window_s: float) -> tuple[float, float, float] | None:
        """What a counter gained at all workers: the amount, per second, and over how many seconds at most."""
        gains = [gain for record in workers if (gain := self._grown[record.worker][name].over(window_s))]
        if len(gains) < len(workers):
            return None
        per_s = math.fsum(gain.amount / gain.seconds for gain in gains)
        return math.fsum(gain.amount for gain in gains), per_s, max(gain.seconds for gain in gains)

    def _rate(
        self,
        name: str,
        workers: list[IntervalRecord],
        at: float,
        now: float,
        window_s: float = RATE_S,
        per: float = 1.0,
    ) -> Value:
        gained = self._gains(name, workers, window_s)
        if gained is None:
            return absent("load", "needs two readings")
        return aged(gained[1] * per, "load", at=at, now=now, window_s=gained[2])

    def _amplification(self, workers: list[IntervalRecord], at: float, now: float) -> Value:
        sent, retried = self._gains("scheduled", workers, GAP_S), self._gains("retries", workers, GAP_S)
        if sent is None or retried is None:
            return absent("load", "needs two readings")
        first = sent[0] - retried[0]
        if first <= 0:
            return absent("load", "nobody asked anything new in the window")
        return aged(sent[0] / first, "load", at=at, now=now, n=round(first), window_s=sent[2])

    def _wasted_share(self, workers: list[IntervalRecord], at: float, now: float) -> Value:
        wasted = self._gains("wasted", workers, GAP_S)
        read = self._read_tokens.values(now)
        if wasted is None or not read or not math.fsum(read):
            return absent("load", "no tokens in the window")
        share = min(1.0, wasted[0] / math.fsum(read))
        return aged(share, "load", at=at, now=now, n=len(read), window_s=GAP_S)

    def _workers(self, now: float) -> list[IntervalRecord]:
        for worker in [w for w, record in self._latest.items() if now - record.at > GONE_S]:
            del self._latest[worker], self._grown[worker]
        return list(self._latest.values())
