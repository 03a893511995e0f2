"""The generator asks itself whether it was the limit, and sets the server's account beside its own."""

import itertools
import math
from pathlib import Path

import msgspec
import pytest

from loadgen.arrivals import Constant, Gamma, schedule
from loadgen.counters import Counters, fetch_counters, read_counters
from loadgen.records import OUTCOMES, IntervalRecord, RequestRecord
from loadgen.selfcheck import shortfall, trouble, void
from loadgen.slo import CHAT, INTERACTIVE
from loadgen.summary import server_side
from loadgen.target import Target
from tests.fakes.known_server import KnownServer

DATA = Path(__file__).parent.parent / "data"


def interval(**changes):
    record = IntervalRecord(
        worker=0, at=1.0, mode="closed", in_flight=0, scheduled_total=0, outcomes=dict.fromkeys(OUTCOMES, 0),
        loop_lag_ms=5.0, cpu_share=0.4, start_lag_ms=2.0, send_lag_ms=500.0,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, ""),
        ({"cpu_share": None, "start_lag_ms": None}, ""),
        ({"loop_lag_ms": 100.0}, ""),
        ({"loop_lag_ms": 101.0}, "clock was 101 ms late"),
        ({"start_lag_ms": 250.0}, "began 250 ms late"),
        ({"cpu_share": 0.949}, ""),
        ({"cpu_share": 0.95}, "95% of a core"),
        ({"trouble": "The trace x cannot be read."}, "The trace x"),
    ],
)
def test_trouble_of_one_interval(changes, part):
    found = trouble(interval(**changes), CHAT)
    assert bool(found) == bool(part)
    assert part in found


def test_a_stricter_promise_needs_a_better_clock():
    assert trouble(interval(loop_lag_ms=60.0), INTERACTIVE)
    assert not trouble(interval(loop_lag_ms=60.0), CHAT)


def test_one_hiccup_is_not_a_void_run():
    late = interval(loop_lag_ms=300.0)
    assert void([], CHAT) == void([interval()] * 50, CHAT) == ""
    assert void([interval()] * 19 + [late], CHAT) == ""
    found = void([interval()] * 18 + [late] * 2, CHAT)
    assert "300 ms late" in found
    assert "2 of 20 intervals" in found
    assert void([late], CHAT)


@pytest.mark.parametrize(("process", "shape"), [(Gamma(20.0), 1.0), (Gamma(20.0, 0.25), 0.25), (Constant(20.0), 1e9)])
def test_a_schedule_that_was_kept_is_no_shortfall_and_half_of_it_is(process, shape):
    for seed, seconds in itertools.product(range(20), (30.0, 59.98)):
        begun = sum(1 for _ in itertools.takewhile(lambda a, s=seconds: a.at_s < s, schedule(process, seed)))
        assert shortfall(20.0, seconds, begun, shape) == ""
        assert "asked for 20 requests/s" in shortfall(20.0, seconds, begun // 2, shape)


def test_the_arrival_at_the_very_end_may_be_missing():
    assert shortfall(2.0, 30.0, 59, 1e9) == ""
    assert shortfall(3.0, 2.5, 7, 1e9) == ""
    assert shortfall(2.0, 30.0, 58, 1e9)
    assert shortfall(0.0, 30.0, 0) == ""


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (
            "vllm-0.24-h100-c64.prom",
            Counters(
                generation_tokens=30451,
                prompt_tokens=145408,
                finished=220,
                ttft_sum_s=None,
                ttft_count=284,
                prefix_queries=145408,
                prefix_hits=0,
                preemptions=0,
                running=64,
            ),
        ),
        ("vllm-0.32-cpu.prom", None),
    ],
)
def test_the_counters_of_vllms_own_pages(page, expected):
    text = (DATA / page).read_text()
    found = read_counters(text)
    plain = {}
    for line in text.splitlines():
        if line.startswith("vllm:"):
            name, value = line.partition("{")[0], float(line.rpartition(" ")[2])
            plain[name] = plain.get(name, 0.0) + value
    assert found.generation_tokens == plain["vllm:generation_tokens_total"] > 0
    assert found.finished == plain["vllm:request_success_total"] > 0
    assert found.ttft_count == plain["vllm:time_to_first_token_seconds_count"] > 0
    assert found.ttft_mean_s == pytest.approx(plain["vllm:time_to_first_token_seconds_sum"] / found.ttft_count)
    assert found.running == plain["vllm:num_requests_running"]
    assert found.prefix_hit_share == plain["vllm:prefix_cache_hits_total"] / plain["vllm:prefix_cache_queries_total"]
    if expected is not None:
        assert msgspec.structs.replace(found, ttft_sum_s=None) == expected


def test_pages_of_others_and_broken_lines():
    assert read_counters("") is None
    assert read_counters("<html></html>\nvllm:prompt_tokens_total 5\n") is None
    page = 'vllm:generation_tokens_total{engine="0"} 5 1700000000\nvllm:generation_tokens_total{engine="1"} 6\n'
    assert read_counters(page + "vllm:generation_tokens_total{} x\nvllm:generation_tokens_total\n") == Counters(
        generation_tokens=11
    )
    assert read_counters("vllm:generation_tokens_total 7").generation_tokens == 7


async def test_a_server_without_counters_is_none():
    async with KnownServer() as server:
        assert await fetch_counters(Target.parse(server.url)) is None
    assert await fetch_counters(Target.parse(server.url)) is None


def test_gains():
    before = Counters(generation_tokens=10, finished=2, running=5)
    after = Counters(generation_tokens=30, finished=4, running=1)
    assert after.since(before) == Counters(generation_tokens=20, finished=2, running=1)
    assert before.since(after) is None
    assert (Counters().ttft_mean_s, Counters().prefix_hit_share) == (None, None)


def request(number, outcome="ok", tokens=10, ttft=0.5, **changes):
    fields = {
        "request_id": str(number), "person": "p", "behaviour": "patient", "scheduled": 100.0,
        "first_token": None if ttft is None else 100.0 + ttft, "done": 110.0, "outcome": outcome,
        "completion_tokens": tokens,
    }  # fmt: skip
    return RequestRecord(**(fields | changes))


GAIN = Counters(
    generation_tokens=20, prompt_tokens=50, finished=2, ttft_sum_s=0.8, ttft_count=2, prefix_queries=50, prefix_hits=10
)


def test_both_accounts_agree_exactly_where_nobody_left():
    found = server_side([request(1), request(2)], GAIN)
    assert (found.finished, found.generation_tokens, found.prompt_tokens, found.wasted_tokens) == (2, 20, 50, 0)
    assert found.agrees
    assert (found.ttft_mean_s, found.client_ttft_mean_s, found.prefix_hit_share) == (0.4, 0.5, 0.2)
    assert found.front_end_s == pytest.approx(0.1)
    assert server_side([request(1), request(2)], None) is None


@pytest.mark.parametrize(
    "gain", [msgspec.structs.replace(GAIN, generation_tokens=21), msgspec.structs.replace(GAIN, finished=3)]
)
def test_one_token_or_request_too_many_is_seen(gain):
    assert not server_side([request(1), request(2)], gain).agrees


def test_what_was_made_for_people_who_left_is_the_difference():
    gain = msgspec.structs.replace(GAIN, generation_tokens=20 + 17)
    left = request(3, "abandoned", tokens=None, chunks=12, reason="out of patience")
    found = server_side([request(1), request(2), left], gain)
    assert (found.wasted_tokens, found.agrees) == (17, True)
    assert left.wasted_tokens == 12 <= found.wasted_tokens


def test_nothing_measured_is_none():
    found = server_side([request(1, ttft=None)], Counters())
    assert (found.ttft_mean_s, found.client_ttft_mean_s, found.front_end_s, found.prefix_hit_share) == (None,) * 4
    assert not found.agrees
    assert math.isfinite(found.wasted_tokens)
