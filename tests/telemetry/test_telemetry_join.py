"""The join: every request once, and its stages add up."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.records import RequestRecord
from server.gateway.records import GatewayRecord
from server.telemetry.join import STAGES, UPSTREAM, WAIT_S, EngineTimes, Join, breakdown, joined

GATEWAY = GatewayRecord(
    request_id="r1",
    trace_id="a" * 32,
    route="/v1/chat/completions",
    stream=True,
    accepted=100.030,
    queued=100.032,
    admitted=100.432,
    upstream_sent=100.433,
    first_token=100.6,
    last_token=102.9,
    upstream_done=102.962,
    done=102.963,
    outcome="completed",
    status=200,
    completion_tokens=101,
)
LOAD = RequestRecord(
    request_id="r1",
    person="p7",
    behaviour="patient",
    scheduled=100.0,
    sent=100.025,
    first_token=100.61,
    last_token=102.91,
    done=102.970,
    outcome="ok",
    completion_tokens=101,
)
TIMES = EngineTimes(trace_id="a" * 32, queue_s=0.01, prefill_s=0.1, decode_s=2.39, ttft_s=0.13, e2e_s=2.52)


def test_the_stages_of_a_request() -> None:
    request = joined(GATEWAY, LOAD, TIMES)
    assert tuple(request.stages) == STAGES
    expected = {
        "connect": 0.025,
        "accept": 0.002,
        "queue": 0.4,
        "front end": 0.03,
        "engine queue": 0.01,
        "prefill": 0.1,
        "decode": 2.39,
        "drain": 0.008,
        "unattributed": 0.005,
    }
    assert request.stages == pytest.approx(expected)
    assert request.e2e_s == pytest.approx(2.97)
    assert math.fsum(request.stages.values()) == pytest.approx(2.97)
    assert (request.exact, request.who, request.outcome, request.at) == (True, "p7", "ok", 100.0)
    assert request.ttft_s == pytest.approx(0.61)
    assert request.tpot_s == pytest.approx(0.023)


def test_a_client_that_is_not_ours() -> None:
    request = joined(GATEWAY, None, TIMES)
    assert tuple(request.stages) == tuple(name for name in STAGES if name != "connect")
    assert request.e2e_s == pytest.approx(2.933)
    assert request.stages["unattributed"] == pytest.approx(0)
    assert request.ttft_s == pytest.approx(0.57)
    assert request.outcome == "ok"


def test_without_engine_times_their_stages_are_absent_and_it_adds_up() -> None:
    request = joined(GATEWAY, LOAD, None)
    assert tuple(request.stages) == ("connect", "accept", "queue", UPSTREAM, "drain", "unattributed")
    assert math.fsum(request.stages.values()) == pytest.approx(2.97)
    assert not request.exact


def test_in_band_times_win_over_spans() -> None:
    record = msgspec.structs.replace(GATEWAY, engine_queue_s=0.02, prefill_s=0.2, decode_s=2.0)
    assert joined(record, LOAD, TIMES).stages["prefill"] == 0.2


def test_a_slow_clients_pause_is_drain_and_not_decode() -> None:
    slow = msgspec.structs.replace(GATEWAY, upstream_done=132.962, done=133.0, paused_s=31.5)
    client = msgspec.structs.replace(LOAD, done=140.0, behaviour="slow")
    request = joined(slow, client, TIMES)
    assert request.stages["decode"] == 2.39
    # 32.53 s upstream, of which the engine was at work for 2.5: pausing cannot have held more than the rest.
    assert request.stages["front end"] == pytest.approx(0.0)
    assert request.stages["drain"] == pytest.approx(140.0 - 132.962 + 30.03)
    assert math.fsum(request.stages.values()) == pytest.approx(40.0)


def test_a_request_that_never_left_the_queue() -> None:
    waiting = msgspec.structs.replace(
        GATEWAY, admitted=None, upstream_sent=None, first_token=None, last_token=None, upstream_done=None, done=105.032
    )
    gone = msgspec.structs.replace(waiting, outcome="cancelled")
    request = joined(gone, None, None)
    assert request.stages == pytest.approx({"accept": 0.002, "queue": 5.0, "unattributed": 0.0}, abs=1e-9)
    assert request.exact
    assert request.outcome == "abandoned"


def test_a_client_without_a_gateway() -> None:
    refused = RequestRecord(
        request_id="r", person="p", behaviour="patient", scheduled=1.0, done=1.5, outcome="error", reason="refused"
    )
    request = joined(None, refused, None)
    assert request.stages == {"unattributed": 0.5}
    assert request.reason == "refused"


@given(st.lists(st.floats(0, 100), min_size=9, max_size=9), st.floats(0, 200), st.booleans(), st.booleans())
def test_stages_always_add_up(steps: list[float], paused_s: float, ours: bool, timed: bool) -> None:
    stamps = [math.fsum(steps[: i + 1]) for i in range(9)]
    record = GatewayRecord(
        request_id="r",
        trace_id="t",
        route="/",
        stream=True,
        accepted=stamps[2],
        queued=stamps[3],
        admitted=stamps[4],
        upstream_done=stamps[6],
        done=stamps[7],
        paused_s=min(paused_s, stamps[6] - stamps[4]),
        outcome="completed",
    )
    client = RequestRecord(
        request_id="r",
        person="p",
        behaviour="slow",
        scheduled=stamps[0],
        sent=stamps[1],
        done=stamps[8],
        outcome="ok",
    )
    work = stamps[5] - stamps[4]
    times = EngineTimes(trace_id="t", queue_s=work / 4, prefill_s=work / 4, decode_s=work / 2)
    request = joined(record, client if ours else None, times if timed else None)
    assert request.e2e_s is not None
    assert math.fsum(request.stages.values()) == pytest.approx(request.e2e_s, abs=1e-9)
    named = {name: v for name, v in request.stages.items() if name != "unattributed"}
    assert all(v >= -1e-9 for v in named.values()), named


def numbered(i: int) -> tuple[GatewayRecord, RequestRecord, EngineTimes]:
    trace = f"{i:032x}"
    return (
        msgspec.structs.replace(GATEWAY, request_id=f"r{i}", trace_id=trace),
        msgspec.structs.replace(LOAD, request_id=f"r{i}"),
        msgspec.structs.replace(TIMES, trace_id=trace),
    )


@given(st.permutations(range(9)))
def test_parts_come_in_any_order_and_every_request_comes_out_once(order: list[int]) -> None:
    join = Join()
    join.expects_load = join.expects_times = True
    fresh = []
    for step, index in enumerate(order):
        gateway, load, times = numbered(index // 3)
        if index % 3 == 0:
            join.on_gateway(gateway, step / 10)
        elif index % 3 == 1:
            join.on_load(load, step / 10)
        else:
            join.on_times(times, step / 10)
        fresh += join.seal(step / 10)
    assert sorted(parts.key for parts in fresh) == ["r0", "r1", "r2"]
    assert [tuple(request.stages) for request in join.requests(10)] == [STAGES] * 3
    assert join.pending == 0


def test_a_missing_part_is_waited_for_ten_seconds() -> None:
    join = Join()
    join.expects_load = True
    join.on_gateway(GATEWAY, 0.0)
    assert join.seal(WAIT_S - 0.1) == []
    assert join.pending == 1
    assert [parts.key for parts in join.seal(WAIT_S)] == ["r1"]
    assert join.requests(1)[0].who == ""


def test_a_late_part_replaces_and_does_not_count_twice() -> None:
    join = Join()
    join.expects_load = True
    join.on_gateway(GATEWAY, 0.0)
    assert len(join.seal(WAIT_S)) == 1
    join.on_load(LOAD, 25.0)
    assert join.seal(25.0) == []
    assert [request.who for request in join.requests(10)] == ["p7"]
    join.on_times(TIMES, 26.0)
    assert join.seal(26.0) == []
    assert [request.exact for request in join.requests(10)] == [True]


def test_without_a_load_generator_nobody_waits_for_it() -> None:
    join = Join()
    join.on_gateway(GATEWAY, 0.0)
    assert len(join.seal(0.0)) == 1


def test_an_id_that_is_used_again_is_another_request() -> None:
    join = Join()
    for i in range(3):
        join.on_gateway(msgspec.structs.replace(numbered(i)[0], request_id="same", accepted=100.0 + i / 100), 0.0)
    assert len(join.seal(0.0)) == 3
    assert [request.request_id for request in join.requests(10)] == ["same"] * 3


def test_two_requests_of_one_trace_get_no_times_rather_than_each_others() -> None:
    join = Join()
    for i in range(2):
        join.on_gateway(msgspec.structs.replace(numbered(i)[0], trace_id="f" * 32), 0.0)
    for _ in range(2):
        join.on_times(msgspec.structs.replace(TIMES, trace_id="f" * 32), 1.0)
    join.seal(1.0)
    assert [request.exact for request in join.requests(10)] == [False, False]


def test_times_of_strangers_are_bounded() -> None:
    join = Join(limit=100)
    for i in range(1000):
        join.on_times(numbered(i)[2], float(i))
    assert len(join._times) == 100


def test_memory_is_bounded() -> None:
    join = Join(keep=10, keep_s=5.0, limit=50)
    join.expects_load = True
    for i in range(500):
        join.on_gateway(numbered(i)[0], 0.0)
        join.seal(0.0)
    assert join.pending <= 50
    assert len(join.requests(1000)) <= 50
    join.seal(20.0)
    join.seal(40.0)
    assert join.pending == 0
    assert len(join.requests(1000)) == 10


def test_breakdown_means_add_up() -> None:
    requests = [
        joined(
            msgspec.structs.replace(GATEWAY, done=GATEWAY.done + extra),
            msgspec.structs.replace(LOAD, done=LOAD.done + extra),
            TIMES,
        )
        for extra in (0.0, 1.0, 2.0)
    ]
    found = breakdown(requests, 30.0)
    assert (found.n, found.window_s, found.why) == (3, 30.0, "")
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert found.e2e_s == pytest.approx(3.97)
    assert math.fsum(stage.mean_s or 0 for stage in found.stages) == pytest.approx(3.97)
    assert all(stage.exact and stage.n == 3 for stage in found.stages)


def test_breakdown_leaves_failures_out() -> None:
    failed = joined(GATEWAY, msgspec.structs.replace(LOAD, outcome="error"), TIMES)
    found = breakdown([failed], 30.0)
    assert (found.n, found.e2e_s, found.stages) == (0, None, [])
    assert found.why


def test_breakdown_from_windowed_means_says_so() -> None:
    requests = [joined(GATEWAY, LOAD, None)] * 4
    means = {"engine queue": (0.02, 9), "prefill": (0.1, 9), "decode": (2.3, 9)}
    found = breakdown(requests, 30.0, means)
    assert [stage.name for stage in found.stages] == list(STAGES)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["decode"].mean_s == 2.3
    assert by_name["decode"].n == 9
    assert by_name["front end"].mean_s == pytest.approx(2.53 - 2.42)
    assert {name for name, stage in by_name.items() if not stage.exact} == {
        "front end",
        "engine queue",
        "prefill",
        "decode",
    }
    assert math.fsum(stage.mean_s or 0 for stage in found.stages) == pytest.approx(found.e2e_s)
    assert "windowed" in found.why


def test_breakdown_without_any_engine_times_keeps_the_piece_whole() -> None:
    found = breakdown([joined(GATEWAY, LOAD, None)], 30.0)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["decode"].mean_s is None
    assert by_name[UPSTREAM].mean_s == pytest.approx(2.53)
    assert math.fsum(stage.mean_s or 0 for stage in found.stages) == pytest.approx(found.e2e_s)


def test_breakdown_averages_like_with_like() -> None:
    requests = [joined(GATEWAY, LOAD, TIMES)] * 3 + [joined(GATEWAY, None, TIMES)]
    found = breakdown(requests, 30.0)
    assert found.n == 3
    assert found.why.startswith("3 of 4 requests")
    assert found.stages[0].name == "connect"
    assert found.stages[0].mean_s is not None


def test_requests_are_found_by_what_became_known_since() -> None:
    join = Join()
    for n, now in enumerate((1.0, 2.0, 3.0)):
        join.on_gateway(msgspec.structs.replace(GATEWAY, request_id=f"r{n}", trace_id=f"{n}" * 32), now)
        join.seal(now)
    assert [request.sealed_at for request in join.requests(10)] == [1.0, 2.0, 3.0]
    assert [request.request_id for request in join.requests(10, since=1.0)] == ["r1", "r2"]
    assert [request.request_id for request in join.requests(1, since=1.0)] == ["r2"]
    assert join.requests(10, since=3.0) == []
    join.on_times(msgspec.structs.replace(TIMES, trace_id="0" * 32), 4.0)
    join.seal(4.0)
    (better,) = join.requests(10, since=3.0)
    assert (better.request_id, better.exact, better.sealed_at) == ("r0", True, 4.0)


def test_a_request_whose_id_was_used_before_has_a_key_of_its_own() -> None:
    join = Join()
    for n in range(2):
        join.on_gateway(msgspec.structs.replace(GATEWAY, accepted=100.0 + n, trace_id=f"{n}" * 32), float(n))
        join.seal(float(n))
    assert [request.key for request in join.requests(10)] == ["", "r1 101.0"]


def test_an_attempt_says_how_long_its_person_had_waited_before() -> None:
    again = msgspec.structs.replace(LOAD, intended=97.0, attempt=2)
    request = joined(GATEWAY, again, TIMES)
    assert (request.attempt, request.prior_s) == (2, 3.0)
    assert joined(GATEWAY, LOAD, TIMES).prior_s == 0.0


@pytest.mark.parametrize("in_band", [True, False])
def test_traces_are_forgotten_with_their_requests(in_band: bool) -> None:
    join = Join(keep=5, keep_s=0.0)
    for i in range(50):
        gateway, _, _ = numbered(i)
        times = {"engine_queue_s": 0.1, "prefill_s": 0.1, "decode_s": 0.1} if in_band else {}
        join.on_gateway(msgspec.structs.replace(gateway, **times), float(i))
        join.seal(i + WAIT_S + 1.0)
    assert len(join.requests(50)) == 5
    assert len(join._by_trace) == (0 if in_band else 5)
