"""The engine's readings over time, as the figures of a Snapshot."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from server.telemetry.aging import GONE_S, absent, aged, aged_quantiles
from server.telemetry.dialects import CounterField, EngineReading, GaugeField, HistogramField
from server.telemetry.snapshot import Breakdown, Engine, Quantiles, StageTime, Value
from server.telemetry.windows import Buckets, Gain, GrowthWindow, bucket_quantiles, bucket_window, counter_window

LATENCY_S = 30.0
RATE_S = 10.0
PREEMPTION_S = 60.0

NO_MFU = "needs --enable-mfu-metrics"


class EngineSeries:
    """Readings in, `Engine` figures out. A restart is seen in the counters, or told by `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: another process answers from here on."""
        self._at: float | None = None
        self._gauges: dict[GaugeField, tuple[float, float]] = {}
        self._counters: dict[CounterField, GrowthWindow[float]] = {}
        self._histograms: dict[HistogramField, GrowthWindow[Buckets]] = {}
        self._steps: float | None = None
        self._alive_at = 0.0

    def add(self, at: float, reading: EngineReading) -> None:
        self._at = at
        for gauge, v in reading.gauges.items():
            self._gauges[gauge] = (at, v)
        for counter, v in reading.counters.items():
            self._counters.setdefault(counter, counter_window(PREEMPTION_S)).add(at, v)
        for histogram, buckets in reading.histograms.items():
            self._histograms.setdefault(histogram, bucket_window(LATENCY_S)).add(at, buckets)
        steps = reading.histograms.get("step_tokens")
        idle = reading.gauges.get("running", 0.0) <= 0
        if idle or (steps is not None and steps.n != self._steps):
            self._alive_at = at
        if steps is not None:
            self._steps = steps.n

    def gauge(self, field: GaugeField, now: float) -> Value:
        found = self._gauges.get(field)
        if found is None:
            return absent("engine", self._lacking())
        return aged(found[1], "engine", at=found[0], now=now)

    def growth(self, field: CounterField, window_s: float) -> Gain[float] | None:
        """What a counter gained over a window; None without two readings."""
        window = self._counters.get(field)
        return window.over(window_s) if window is not None else None

    def observed(self, field: HistogramField, window_s: float) -> Gain[Buckets] | None:
        """What a histogram took over a window; None without two readings."""
        window = self._histograms.get(field)
        return window.over(window_s) if window is not None else None

    def counts(self, field: CounterField) -> bool:
        """Does the engine have this counter?"""
        return field in self._counters

    def observes(self, field: HistogramField) -> bool:
        """Does the engine have this histogram?"""
        return field in self._histograms

    def stands_at_zero(self, fields: list[CounterField]) -> bool:
        """The engine has these counters, and none of them ever moved."""
        latest = [window.latest for field in fields if (window := self._counters.get(field))]
        return bool(latest) and not any(reading[1] for reading in latest if reading)

    def heartbeat_age_s(self, now: float) -> float | None:
        """Seconds since the step counter moved while requests ran; None when nothing runs or nobody knows."""
        running = self.gauge("running", now).v
        if not running or self._steps is None or self._at is None:
            return None
        return round(max(0.0, self._at - self._alive_at), 3)

    def stage_means(self, now: float) -> dict[str, tuple[float, int]]:
        """Mean seconds and n of each engine stage over the window, from the engine's sums; empty when one is unknown."""
        means: dict[str, tuple[float, int]] = {}
        fields: Iterable[tuple[str, HistogramField]] = (
            ("engine queue", "queue"),
            ("prefill", "prefill"),
            ("decode", "decode"),
        )
        for stage, field in fields:
            mean = self._mean(field, now)
            if mean is None:
                return {}
            means[stage] = mean
        return means

    def own_breakdown(self, now: float) -> Breakdown | None:
        """Where a request's time goes by the engine's own account alone, for requests that pass no instrument of ours.

        Means over the window of what finished in it; None where one is unknown. `front end` is e2e - queue - inference,
        and what its parts leave of the engine's e2e is `unattributed`.
        """
        e2e, front_end, stages = self._mean("e2e", now), self._front_end(now), self.stage_means(now)
        if e2e is None or front_end.v is None or not stages:
            return None
        parts = {"front end": (front_end.v, e2e[1]), **stages}
        parts["unattributed"] = (e2e[0] - math.fsum(mean_s for mean_s, _ in parts.values()), e2e[1])
        return Breakdown(
            e2e_s=e2e[0],
            n=e2e[1],
            window_s=LATENCY_S,
            stages=[StageTime(name=name, mean_s=mean_s, n=n, exact=False) for name, (mean_s, n) in parts.items()],
            why="the engine's own means: these requests do not pass our gateway",
        )

    def fill(self, facts: Engine, now: float) -> Engine:
        """The facts with this moment's figures."""
        kv_tokens = self.gauge("kv_tokens", now)
        return msgspec.structs.replace(
            facts,
            heartbeat_age_s=self.heartbeat_age_s(now),
            kv_tokens=facts.kv_tokens if facts.kv_tokens.v is not None else kv_tokens,
            running=self.gauge("running", now),
            waiting=self.gauge("waiting", now),
            kv_usage=self.gauge("kv_usage", now),
            preemptions_per_min=self._rate(["preemptions"], PREEMPTION_S, now, scale=60.0),
            prompt_tokens_per_s=self._rate(["prompt_tokens"], RATE_S, now),
            generation_tokens_per_s=self._rate(["generation_tokens"], RATE_S, now),
            tokens_per_step=self._tokens_per_step(now),
            steps_per_s=self._steps_per_s(now),
            prefix_hit_share=self._prefix_hit_share(now),
            ttft_s=self._quantiles("ttft", now),
            itl_s=self._quantiles("itl", now),
            queue_s=self._quantiles("queue", now),
            prefill_s=self._quantiles("prefill", now),
            decode_s=self._quantiles("decode", now),
            front_end_s=self._front_end(now),
            flops_per_s=self._estimate(["flops_per_gpu"], now),
            bytes_per_s=self._estimate(["read_bytes_per_gpu", "write_bytes_per_gpu"], now),
        )

    def _lacking(self) -> str:
        return "no answer yet" if self._at is None else "not reported by this engine"

    def _rate(self, fields: list[CounterField], window_s: float, now: float, scale: float = 1.0) -> Value:
        """The gain of all `fields` together in a second, times `scale`."""
        total, seconds, at = 0.0, 0.0, 0.0
        for field in fields:
            if not self.counts(field):
                return absent("engine", self._lacking())
            gain = self.growth(field, window_s)
            if gain is None:
                return absent("engine", "needs two readings")
            total, seconds, at = total + gain.amount, gain.seconds, gain.at
        return aged(total / seconds * scale, "engine", at=at, now=now, window_s=seconds)

    def _estimate(self, fields: list[CounterField], now: float) -> Value:
        """A rate of one GPU. The counters exist but stand at 0 unless the engine was told to estimate."""
        return absent("engine", NO_MFU) if self.stands_at_zero(fields) else self._rate(fields, RATE_S, now)

    def _quantiles(self, field: HistogramField, now: float) -> Quantiles:
        if not self.observes(field):
            return Quantiles(src="engine", window_s=LATENCY_S, exact=False, why=self._lacking())
        return aged_quantiles(bucket_quantiles(self.observed(field, LATENCY_S), now, LATENCY_S))

    def _mean(self, field: HistogramField, now: float) -> tuple[float, int] | None:
        gain = self.observed(field, LATENCY_S)
        if gain is None or gain.amount.mean is None or now - gain.at > GONE_S:
            return None
        return gain.amount.mean, round(gain.amount.n)

    def _tokens_per_step(self, now: float) -> Value:
        gain = self.observed("step_tokens", RATE_S)
        if gain is None:
            return absent("engine", "needs two readings" if self.observes("step_tokens") else self._lacking())
        n = round(gain.amount.n)
        return aged(
            gain.amount.mean,
            "engine",
            at=gain.at,
            now=now,
            n=n,
            window_s=gain.seconds,
            why="" if n else "no step in the window",
        )

    def _steps_per_s(self, now: float) -> Value:
        gain = self.observed("step_tokens", RATE_S)
        if gain is None:
            return absent("engine", "needs two readings" if self.observes("step_tokens") else self._lacking())
        return aged(gain.amount.n / gain.seconds, "engine", at=gain.at, now=now, window_s=gain.seconds)

    def _prefix_hit_share(self, now: float) -> Value:
        if not (self.counts("prefix_queries") and self.counts("prefix_hits")):
            return absent("engine", self._lacking())
        asked, hit = self.growth("prefix_queries", LATENCY_S), self.growth("prefix_hits", LATENCY_S)
        if asked is None or hit is None:
            return absent("engine", "needs two readings")
        if asked.amount <= 0:
            return absent("engine", "no prompt in the window")
        return aged(hit.amount / asked.amount, "engine", at=asked.at, now=now, window_s=asked.seconds)

    def _front_end(self, now: float) -> Value:
        """Mean e2e - queue - inference: what the API server adds around its engine core."""
        e2e, queue, inference = (self._mean(f, now) for f in _FRONT_END)
        gain = self.observed("e2e", LATENCY_S)
        if e2e is None or queue is None or inference is None or gain is None:
            return absent("engine", "no request finished in the window" if self.observes("e2e") else self._lacking())
        mean_s = e2e[0] - queue[0] - inference[0]
        return aged(mean_s, "engine", at=gain.at, now=now, n=e2e[1], window_s=gain.seconds)


_FRONT_END: tuple[HistogramField, HistogramField, HistogramField] = ("e2e", "queue", "inference")
