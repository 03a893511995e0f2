"""Exact quantiles, only where there are enough samples."""

import math

import pytest

from loadgen.counters import Counters
from loadgen.histogram import Histogram
from loadgen.records import IntervalRecord, RequestRecord
from loadgen.slo import CHAT, STOPPED, Attainment
from loadgen.summary import Distribution, quantile, spread, summarise, table


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
    assert (summary.fluidity, summary.amplification, summary.clipped_share, summary.server) == (None,) * 4
    assert spread(Histogram()) == Distribution()
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


def histogram(*values):
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def test_summary():
    records = [
        request(1),
        request(2, behaviour="slow", last_token=40.5, done=41.0),
        request(3, outcome="rejected", reason="HTTP 429", first_token=None, completion_tokens=None, prompt_tokens=None),
        request(4, outcome="error", reason="HTTP 500", first_token=None, completion_tokens=None, prompt_tokens=None),
        request(5, outcome="rejected", reason="HTTP 429", first_token=None, completion_tokens=None, prompt_tokens=None),
    ]
    counts = {"ok": 2, "rejected": 2, "error": 1, "abandoned": 0}
    intervals = [
        IntervalRecord(
            worker=worker, at=1.0, mode="closed", crowds={"patient": 1, "slow": 1}, in_flight=0, scheduled_total=5,
            outcomes=counts, gaps=histogram(0.001, 0.003), loop_lag_ms=2.0 - worker, cpu_share=0.1, send_lag_ms=4.0,
            start_lag_ms=0.5 + worker,
        )
        for worker in (0, 1)
    ]  # fmt: skip
    summary = summarise(records, intervals, CHAT, 10.0, url="http://x", model="m")
    assert summary.outcomes == counts
    assert list(summary.reasons.items()) == [("HTTP 429", 2), ("HTTP 500", 1)]
    assert summary.attainment == Attainment(2, 5)
    assert (summary.attainment_share, summary.goodput_per_s, summary.requests_per_s) == (0.4, 0.2, 0.2)
    assert (summary.completion_tokens, summary.tokens_per_s, summary.prompt_tokens) == (22, 2.2, 40)
    assert (summary.ttft_s.n, summary.ttft_s.p50) == (2, 0.5)
    assert (summary.tpot_s.n, summary.tpot_s.p50) == (1, 0.1)
    assert (summary.e2e_s.n, summary.e2e_s.max) == (1, 2.0)
    assert (summary.gap_ms.n, summary.gap_ms.mean, summary.gap_ms.max) == (4, pytest.approx(2.0), 3.0)
    assert summary.gap_ms.p50 == pytest.approx(1.0, rel=0.01)
    assert (summary.send_lag_ms, summary.loop_lag_ms, summary.cpu_share) == (4.0, 2.0, 0.1)
    assert (summary.start_lag_ms, summary.workers, summary.void) == (1.5, 2, "")
    assert summary.misses == {"refused": 2, "error": 1}
    text = table(summary)
    assert "good 2 of 5 due = 40.0%" in text
    assert "HTTP 429" in text
    assert "100" in text  # TPOT in ms
    assert max(map(len, text.splitlines())) < 100


def test_people_who_leave_and_come_again():
    records = [
        request(1, fluidity=1.0),
        request(2, fluidity=0.5, clipped=True),
        request(3, fluidity=0.0, behaviour="slow"),
        request(4, outcome="rejected", reason="HTTP 503", first_token=None, completion_tokens=None),
        request(5, attempt=2, intended=10.0, scheduled=10.2, fluidity=0.9),
        request(6, outcome="abandoned", reason="out of patience", completion_tokens=None, chunks=7, fluidity=0.0),
        request(7, outcome="abandoned", reason=STOPPED, completion_tokens=None, chunks=90),
        request(8, outcome="abandoned", reason="out of patience", completion_tokens=None, first_token=None),
    ]
    summary = summarise(records, [], CHAT, 10.0)
    assert summary.amplification == pytest.approx(8 / 7)
    assert (summary.left, summary.wasted_tokens) == (2, 7)
    assert summary.fluidity == pytest.approx((1.0 + 0.5 + 0.9 + 0.0) / 4)
    assert summary.clipped_share == 1 / 8
    assert summary.misses == {"left": 2, "refused": 1}
    text = table(summary)
    assert "2 left, 7 tokens had reached them" in text
    assert "clipped to the context: 12.5%" in text


def test_a_run_that_was_the_generators_own_is_void():
    lagging = IntervalRecord(
        worker=0, at=1.0, mode="open", in_flight=0, scheduled_total=1, outcomes={"ok": 1}, loop_lag_ms=400.0
    )
    summary = summarise([request(1)], [lagging], CHAT, 10.0, rate_asked_per_s=5.0, rate_begun_per_s=4.9)
    assert "400 ms late" in summary.void
    assert "VOID" in table(summary)
    assert "asked 5.00 /s, begun 4.90 /s" in table(summary)
    told = summarise([request(1)], [], CHAT, 10.0, trouble="asked for 5 requests/s and began 2")
    assert told.void == "asked for 5 requests/s and began 2"


def test_the_servers_own_account_is_shown_beside_ours():
    gain = Counters(generation_tokens=15, prompt_tokens=20, finished=1, ttft_sum_s=0.25, ttft_count=1)
    summary = summarise([request(1)], [], CHAT, 10.0, gain=gain)
    assert (summary.server.wasted_tokens, summary.server.agrees) == (4, False)
    assert "15 tokens (+4 against" in table(summary)
    assert "front end 250 ms" in table(summary)
