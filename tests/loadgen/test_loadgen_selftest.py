"""The self-test: errors are what they are, misfits void it, and the real thing agrees with its server."""

import math
import random
import time

import pytest

from loadgen.known_client import Came, Driven, Seen, arrive, drive, fetch_stamps, known_server
from loadgen.known_replies import Stamps, StreamStamps
from loadgen.records import RequestRecord
from loadgen.selftest import (
    Errors,
    Poisson,
    SelfTest,
    Step,
    errors_of,
    exponential_ks,
    judge,
    poisson_of,
    selftest,
    table,
    verdict,
)
from loadgen.summary import Distribution
from loadgen.waiting import sleep_until


def seen(name, token_at, outcome="ok", sent=0.01):
    record = RequestRecord(
        request_id=name,
        person="p",
        behaviour="patient",
        scheduled=0.0,
        sent=sent,
        done=token_at[-1],
        outcome=outcome,
    )
    return Seen(record, token_at)


def served(name, written, read=0.011):
    return StreamStamps(name, read=read, ttft_s=0.1, gap_s=0.02, tokens=len(written), written=written)


def test_errors_are_the_clients_stamps_less_the_servers():
    errors = errors_of([seen("a", [0.12, 0.15, 0.16])], [served("a", [0.119, 0.139, 0.159])])
    assert errors.ttft.mean == pytest.approx(1.0)
    assert errors.gap.n == 2
    assert errors.gap.mean == pytest.approx(10.0)  # one 10 ms too long, the next 10 ms too short
    assert errors.sent.mean == pytest.approx(1.0)
    assert errors.unmatched == 0


@pytest.mark.parametrize(
    "mine",
    [seen("b", [0.12, 0.14]), seen("a", [0.12]), seen("a", [0.12, 0.14], outcome="error")],
    ids=["unknown to the server", "a token short", "failed"],
)
def test_what_does_not_match_is_counted_and_not_measured(mine):
    errors = errors_of([mine], [served("a", [0.12, 0.14])])
    assert (errors.unmatched, errors.ttft.n, errors.gap.n) == (1, 0, 0)


def test_a_load_is_summed_up():
    driven = Driven([seen("a", [0.12, 0.14])], wall_s=0.5, cpu_s=0.01)
    step = judge(4, driven, Stamps([served("a", [0.1115, 0.1335])], at=1.0, cpu_s=1.0))
    assert (step.streams, step.events_per_s, step.cpu_share) == (4, 4.0, 0.02)
    assert step.cpu_ms == pytest.approx(5000)
    assert step.send_lag_ms.max == pytest.approx(10)
    assert step.server_late_ms.max == pytest.approx(2.5)


def came(seed, per_s, seconds, jitter_s=0.0):
    rng = random.Random(seed)
    at_s, now = [], 0.0
    while (now := now + rng.expovariate(per_s)) < seconds:
        at_s.append(now + rng.uniform(0, jitter_s))
    return Came(sorted(at_s), [0.001] * len(at_s))


def test_poisson_arrivals_pass_and_others_do_not():
    good = poisson_of([came(seed, 50, 20) for seed in range(3)], 50, 20)
    assert good.holds
    assert good.n == sum(round(rate * 20) for rate in good.achieved_per_s)
    assert not poisson_of([came(seed, 56, 20) for seed in range(3)], 50, 20).holds  # too many
    every = Came([(n + 1) / 50 for n in range(999)], [])
    steady = poisson_of([every], 50, 20)
    assert abs(steady.sigmas) < 1
    assert not steady.holds  # the right number, and no randomness
    same = came(1, 50, 2)
    assert not poisson_of([Came([at + gap for at in same.at_s for gap in (0, 1e-4)], [])], 100, 2).holds  # in pairs


def test_kolmogorovs_distance():
    assert exponential_ks([], 1.0) == 0.0
    assert exponential_ks([math.log(2)], 1.0) == pytest.approx(0.5)
    ranked = [-math.log(1 - (n + 0.5) / 100) for n in range(100)]
    assert exponential_ks(ranked, 1.0) == pytest.approx(0.005 * 10)


def result(unmatched=0, p99=2.0, sigmas=0.5):
    spread = Distribution(n=1000, mean=0.5, p50=0.3, p95=1.0, p99=p99, max=9.0)
    few = Distribution(n=80, mean=0.5, p50=0.3, p95=None, p99=None, max=1.5)
    errors = Errors(ttft=few, gap=spread, sent=few, unmatched=unmatched)
    step = Step(
        streams=256,
        events_per_s=12_345.6,
        cpu_ms=123.4,
        cpu_share=1.0,
        errors=errors,
        send_lag_ms=few,
        server_late_ms=spread,
    )
    poisson = Poisson(asked_per_s=50.0, achieved_per_s=[49.0] * 5, n=490, sigmas=sigmas, ks=0.9, late_ms=few)
    return SelfTest(steps=[step, step], poisson=poisson)


def test_the_table_fits_and_ends_with_what_it_means():
    text = table(result())
    assert max(len(line) for line in text.splitlines()) < 80
    assert "p99" in text
    assert "256 streams, 12,346 events/s" in text
    first, second, third = text.splitlines()[-3:]
    assert first == "Up to 256 streams, trust TTFT to +1.5 ms and gaps to ±2.0 ms (p99 or max)."
    assert second == "Every TTFT holds 0.3 ms (p50) of our own: connecting and sending."
    assert third == "Arrivals are Poisson at the asked rate, within their sampling error."


def test_a_verdict_does_not_cover_up():
    assert verdict(result(unmatched=3)).startswith("Void: 6 requests")
    assert "NOT" in verdict(result(sigmas=-3.5))
    assert verdict(SelfTest(steps=[], poisson=result().poisson)).startswith("Void")


async def test_the_client_sees_every_token_after_the_server_wrote_it():
    async with known_server() as target:
        driven = await drive(target, 4, 0.3, tokens_per_s=200.0, tokens=20)
        stamps = await fetch_stamps(target)
        one = await arrive(target, 3, 50.0, 0.5)
    step = judge(4, driven, stamps)
    assert step.errors.unmatched == 0
    assert step.errors.ttft.n == len(driven.seen) >= 4
    assert step.errors.gap.n == 19 * len(driven.seen)
    written = {stream.request_id: stream.written for stream in stamps.streams}
    for mine in driven.seen:
        pairs = list(zip(written[mine.record.request_id], mine.token_at, strict=True))
        assert all(wrote <= saw for wrote, saw in pairs)
    assert one.at_s == sorted(one.at_s)
    assert len(one.late_s) == len(one.at_s) > 10
    assert min(one.late_s) > 0


async def test_the_whole_test_in_small():
    said = []
    found = await selftest(streams=(2,), step_s=0.1, seeds=(1,), on_step=said.append)
    assert len(said) == 2
    assert [step.streams for step in found.steps] == [2]
    assert found.poisson.n > 50
    assert "trust TTFT" in table(found)


async def test_nobody_is_woken_early():
    for wait_s in (0.0004, 0.0017, 0.003):
        due = time.monotonic() + wait_s
        await sleep_until(due)
        assert time.monotonic() >= due
