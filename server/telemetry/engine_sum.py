"""Several engines as one: every figure of `EngineSeries`, over all that answer.

Counters and gauges are summed; KV use is the fullest one's, for that one preempts; figures of one GPU are averaged. Each
counter and histogram is first a difference over its own engine's window and then summed, so a restart of one spoils nothing.
Quantiles are not summed: the histograms are, and the quantiles are read off those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import msgspec

from server.telemetry.aging import absent, aged
from server.telemetry.dialects import CounterField, GaugeField, HistogramField
from server.telemetry.engine_series import EngineSeries
from server.telemetry.snapshot import Quantiles, Value
from server.telemetry.windows import Buckets, Gain

PER_GPU: frozenset[CounterField] = frozenset({"flops_per_gpu", "read_bytes_per_gpu", "write_bytes_per_gpu"})


class EngineSum(EngineSeries):
    """Over the `answering` of `known` engines."""

    def __init__(self, answering: Sequence[EngineSeries], known: int) -> None:
        super().__init__()
        self._members = answering
        self._note = "" if len(answering) == known else f"{len(answering)} of {known} replicas"

    def gauge(self, field: GaugeField, now: float) -> Value:
        fold = max if field == "kv_usage" else math.fsum
        return self._together([member.gauge(field, now) for member in self._members], fold, now)

    def growth(self, field: CounterField, window_s: float) -> Gain[float] | None:
        gains = [gain for member in self._members if (gain := member.growth(field, window_s))]
        if not gains:
            return None
        amount = math.fsum(gain.amount for gain in gains)
        return Gain(amount, max(gain.seconds for gain in gains), min(gain.at for gain in gains))

    def observed(self, field: HistogramField, window_s: float) -> Gain[Buckets] | None:
        gains = [gain for member in self._members if (gain := member.observed(field, window_s))]
        if not gains:
            return None
        amount = reduce(Buckets.plus, (gain.amount for gain in gains))
        return Gain(amount, max(gain.seconds for gain in gains), min(gain.at for gain in gains))

    def counts(self, field: CounterField) -> bool:
        return any(member.counts(field) for member in self._members)

    def observes(self, field: HistogramField) -> bool:
        return any(member.observes(field) for member in self._members)

    def stands_at_zero(self, fields: list[CounterField]) -> bool:
        return bool(self._members) and all(member.stands_at_zero(fields) for member in self._members)

    def heartbeat_age_s(self, now: float) -> float | None:
        """Of the liveliest: together they stand still only when each that has work does."""
        ages = [age for member in self._members if (age := member.heartbeat_age_s(now)) is not None]
        return min(ages, default=None)

    def _lacking(self) -> str:
        return "not reported by these engines" if self._members else "no replica answers"

    def _rate(self, fields: list[CounterField], window_s: float, now: float, scale: float = 1.0) -> Value:
        rates = [member._rate(fields, window_s, now, scale) for member in self._members]
        return self._together(rates, _mean if PER_GPU.issuperset(fields) else math.fsum, now)

    def _steps_per_s(self, now: float) -> Value:
        return self._together([member._steps_per_s(now) for member in self._members], math.fsum, now)

    def _prefix_hit_share(self, now: float) -> Value:
        found = super()._prefix_hit_share(now)
        return found if found.v is None or found.why else msgspec.structs.replace(found, why=self._note)

    def _quantiles(self, field: HistogramField, now: float) -> Quantiles:
        found = super()._quantiles(field, now)
        if not self._note or not found.n:
            return found
        return msgspec.structs.replace(found, why="; ".join(part for part in (self._note, found.why) if part))

    def _together(self, values: list[Value], fold: Callable[[list[float]], float], now: float) -> Value:
        """One figure of them all; where some lack it, it says of how many it is."""
        known = [value for value in values if value.v is not None]
        if not known:
            why = next((value.why for value in values if value.why), "") or self._lacking()
            return absent("engine", why)
        note = self._note
        if len(known) < len(values):
            note = f"{len(known)} of {len(values)} that answer"
        age_s, windows = max(value.age_s for value in known), [v.window_s for v in known if v.window_s is not None]
        total = fold([value.v for value in known if value.v is not None])
        window_s = max(windows, default=None)
        return aged(total, "engine", at=now - age_s, now=now, window_s=window_s, why=note)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
