"""What people got over the last seconds, as one observer saw it: our clients, or the gateway for clients that are not ours."""

from __future__ import annotations

import math
from collections import Counter, deque

from loadgen.records import RequestRecord
from loadgen.slo import STOPPED, Judgement, Miss, Slo, judge, miss
from server.gateway.records import GatewayRecord
from server.telemetry.aging import rounded, rounded_quantiles
from server.telemetry.join import gateway_tpot_s, gateway_ttft_s
from server.telemetry.snapshot import Feel, Quantiles, Source, Value
from server.telemetry.verdict import judge_gateway
from server.telemetry.windows import SampleWindow


class Experience:
    """Finished requests in, `Feel` and attainment out. Slow readers' own pace is left out of TPOT."""

    def __init__(self, src: Source, slo: Slo, window_s: float = 30.0) -> None:
        self._src = src
        self._slo = slo
        self._window_s = window_s
        self._since: float | None = None
        self._watched = 0.0
        self._ttft = SampleWindow(window_s)
        self._tpot = SampleWindow(window_s)
        self._e2e = SampleWindow(window_s)
        self._tokens = SampleWindow(window_s)
        self._fluid = SampleWindow(window_s)
        self._judged: deque[tuple[float, Judgement, Miss | None]] = deque()

    def watch(self, now: float) -> None:
        """Requests would be seen now: the first call begins what rates are over, the latest dates what is shown."""
        if self._since is None:
            self._since = now
        self._watched = max(now, self._watched)

    def on_load(self, record: RequestRecord) -> None:
        self._add(
            record.done,
            record.ttft_s,
            None if record.behaviour == "slow" else record.tpot_s,
            record.e2e_s if record.outcome == "ok" else None,
            record.completion_tokens,
            judge(record, self._slo),
            miss(record, self._slo),
        )
        if record.fluidity is not None and record.behaviour != "slow" and record.reason != STOPPED:
            self._fluid.add(record.done, record.fluidity)

    def on_gateway(self, record: GatewayRecord, at: float) -> None:
        """`at` is when it became clear that the client is not ours."""
        self._add(
            at,
            gateway_ttft_s(record),
            gateway_tpot_s(record),
            record.done - record.accepted if record.outcome == "completed" else None,
            record.completion_tokens,
            judge_gateway(record, self._slo),
        )

    def _add(
        self,
        at: float,
        ttft_s: float | None,
        tpot_s: float | None,
        e2e_s: float | None,
        tokens: int | None,
        judgement: Judgement,
        why: Miss | None = None,
    ) -> None:
        self.watch(at)
        for window, v in ((self._ttft, ttft_s), (self._tpot, tpot_s), (self._e2e, e2e_s), (self._tokens, tokens)):
            if v is not None:
                window.add(at, v)
        self._judged.append((at, judgement, why))
        while self._judged[0][0] < at - 2 * self._window_s:
            self._judged.popleft()

    def judged(self, now: float) -> tuple[int, int, int]:
        """Good, missed, and all that finished within the window."""
        while self._judged and self._judged[0][0] < now - self._window_s:
            self._judged.popleft()
        words = [judgement for _, judgement, _ in self._judged]
        return words.count("good"), words.count("miss"), len(words)

    def feel(self, attainment: Value, gaps: Quantiles, now: float) -> Feel:
        good, _, finished = self.judged(now)
        fluid = self._fluid.values(now)
        seen_s = 0.0 if self._since is None else min(self._window_s, now - self._since)
        age_s = max(0.0, now - self._watched)
        return Feel(
            ttft_s=rounded_quantiles(self._ttft.quantiles(now, self._src), age_s),
            tpot_s=rounded_quantiles(self._tpot.quantiles(now, self._src), age_s),
            gap_s=gaps,
            e2e_s=rounded_quantiles(self._e2e.quantiles(now, self._src), age_s),
            tokens_per_s=self._rate(math.fsum(self._tokens.values(now)), finished, seen_s),
            attainment=attainment,
            goodput_per_s=self._rate(good, finished, seen_s),
            fluidity=Value(
                v=rounded(math.fsum(fluid) / len(fluid)), src=self._src, n=len(fluid), window_s=self._window_s
            )
            if fluid
            else Value(src=self._src, why="no tokens read in the window"),
            misses=dict(Counter(why for _, _, why in self._judged if why is not None)),
            slo=self._slo,
        )

    def _rate(self, amount: float, n: int, seen_s: float) -> Value:
        """A rate over what was seen; under a second of it is no rate."""
        if seen_s < 1.0:
            return Value(src=self._src, why="nothing seen yet")
        return Value(v=rounded(amount / seen_s), src=self._src, n=n, window_s=round(seen_s, 3))
