"""Exact quantiles, only where there are enough samples."""

import math

import pytest

from loadgen.records import IntervalRecord, RequestRecord
from loadgen.slo import CHAT, Attainment
from loadgen.summary import Distribution, quantile, summarise, table


def test_nearest_rank():
    tens = [10.0 * n for n in range(1, 11)]
    assert [quantile(tens, share) for share in (0.5, 0.95, 0.9, 0.05, 1.0)] == [50, 100, 90, 10, 100]
    assert quantile([3.0], 0.99) == 3.0


@pytest.mark.parametrize(
    ("n", "has_p95", "has_p99"),
    [(1, False, False), (99, False, False), (100, True, False), (499, True, False), (500, True, True)],
)
def test_a_quantile_needs_its_samples(n, has_p95, has_p99):
    spread = Distribution.of([float(i) for i in range(n, 0, -1)])
    assert (spread.p95 is not None, spread.p99 is not None) == (has_p95, has_p99)
    assert (spread.n, spread.p50, spread.max) == (n, math.ceil(n / 2), n)
    assert spread.mean == (n + 1) / 2


def test_nothing_is_nothing():
    assert Distribution.of([]) == Distribution()
    summary = summarise([], [], CHAT, 1.0)
    assert (summary.attainment_share, summary.tokens_per_s, summary.loop_lag_ms) == (None, None, None)
    assert "—" in table(summary)


def request(number, **changes):
    fields = {
        "request_id": f"r{number}",
        "person": "p",
        "behaviour": "patient",
        "scheduled": 10.0,
        "first_token": 10.5,
        "last_token": 11.5,
        "done": 12.0,
        "outcome": "ok",
        "completion_tokens": 11,
        "prompt_tokens": 20,
    }
    return RequestRecord(**(fields | changes))


def test_summary():
    records = [
        request(1),
        request(2, behaviour="slow", last_token=40.5, done=41.0),
        request(3, outcome="rejected", reason="HTTP 429", first_token=None, completion_tokens=None, prompt_tokens=None),
        request(4, outcome="error", reason="HTTP 500", first_token=None, completion_tokens=None, prompt_tokens=None),
        request(5, outcome="rejected", reason="HTTP 429", first_token=None, completion_tokens=None, prompt_tokens=None),
    ]
    counts = {"ok": 2, "rejected": 2, "error": 1, "abandoned": 0}
    interval = IntervalRecord(
        worker=0, at=1.0, mode="closed", people=1, thinking=0, slow_people=1, in_flight=0, scheduled_total=5,
        outcomes=counts, gaps_ms=[1.0, 3.0], loop_lag_ms=2.0, cpu_share=0.1, send_lag_ms=4.0,
    )  # fmt: skip
    summary = summarise(records, [interval, interval], CHAT, 10.0, url="http://x", model="m")
    assert summary.outcomes == counts
    assert list(summary.reasons.items()) == [("HTTP 429", 2), ("HTTP 500", 1)]
    assert summary.attainment == Attainment(2, 5)
    assert (summary.attainment_share, summary.goodput_per_s, summary.requests_per_s) == (0.4, 0.2, 0.2)
    assert (summary.completion_tokens, summary.tokens_per_s, summary.prompt_tokens) == (22, 2.2, 40)
    assert (summary.ttft_s.n, summary.ttft_s.p50) == (2, 0.5)
    assert (summary.tpot_s.n, summary.tpot_s.p50) == (1, 0.1)
    assert (summary.e2e_s.n, summary.e2e_s.max) == (1, 2.0)
    assert (summary.gap_ms.n, summary.gap_ms.mean) == (4, 2.0)
    assert (summary.send_lag_ms, summary.loop_lag_ms, summary.cpu_share) == (4.0, 2.0, 0.1)
    text = table(summary)
    assert "good 2 of 5 due = 40.0%" in text
    assert "HTTP 429" in text
    assert "100" in text  # TPOT in ms
    assert max(map(len, text.splitlines())) < 100
