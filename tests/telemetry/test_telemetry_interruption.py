from __future__ import annotations

from typing import Any

import pytest

from loadgen.records import IntervalRecord, RequestRecord
from loadgen.slo import CHAT
from server.gateway.records import GatewayRecord
from server.telemetry.interruption import Interruption
from server.telemetry.snapshot import Meanwhile, Queue, Value

WAITING = Queue(depth=Value(v=3.0), oldest_s=Value(v=12.5))


def request(scheduled: float, done: float, outcome: str = "ok", first_token: float | None = None) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        person="p",
        behaviour="patient",
        scheduled=scheduled,
        done=done,
        first_token=first_token,
        outcome=outcome,  # type: ignore[arg-type]
    )


def interval(at: float, so_far_s: list[float], people: int = 4) -> IntervalRecord:
    return IntervalRecord(
        worker=0,
        at=at,
        mode="closed",
        crowds={"patient": people},
        thinking=0,
        in_flight=len(so_far_s),
        waiting=[(at - waited_s, None) for waited_s in so_far_s],
        scheduled_total=9,
        outcomes={},
    )


def passed(accepted: float, done: float, outcome: Any = "completed", **more: Any) -> GatewayRecord:
    return GatewayRecord(
        request_id="r",
        trace_id="0" * 32,
        route="/v1",
        stream=True,
        accepted=accepted,
        done=done,
        outcome=outcome,
        **more,
    )


def test_what_people_felt_from_the_cut_to_the_last_late_answer() -> None:
    away = Interruption(CHAT, 100.0)
    away.on_load(request(90.0, 99.0, first_token=90.5))  # over before
    away.on_load(request(99.0, 100.2, "error", first_token=99.4))  # cut by the restart
    away.on_load(request(99.5, 100.1, first_token=99.9))  # just made it
    away.on_load(request(101.0, 101.0, "rejected"))
    away.on_load(interval(110.0, [9.0, 0.4, 7.0]))
    seen = away.read(WAITING)
    assert (seen.src, seen.waiting, seen.oldest_s) == ("load", 3, 12.5)
    assert (seen.finished, seen.refused, seen.cut, seen.missed) == (3, 1, 1, 4)
    away.end(130.0)
    away.on_load(interval(130.1, []))
    assert away.read(WAITING).missed == 4, "a miss does not become undone"
    for waited in (101.0, 103.0, 128.0):
        away.on_load(request(waited, 133.0, first_token=130.5))
    away.on_load(request(131.0, 140.0, first_token=139.0))  # sent when it was back
    after = away.read(WAITING)
    assert (after.waiting, after.oldest_s) == (0, None)
    assert (after.finished, after.missed) == (6, 5)


def test_clients_that_are_not_ours_are_seen_by_the_gateway() -> None:
    away = Interruption(CHAT, 100.0)
    away.on_load(interval(101.0, [], people=0))
    away.on_gateway(passed(99.0, 100.5, "failed", first_token=99.2))
    away.on_gateway(passed(101.0, 101.0, "rejected", status=503))
    away.on_gateway(passed(105.0, 131.0, first_token=130.0))
    seen = away.read(WAITING)
    assert (seen.src, seen.finished, seen.refused, seen.cut, seen.missed) == ("gateway", 3, 1, 1, 3)


@pytest.mark.parametrize("queue", [Queue(), Queue(depth=Value(v=0.0))])
def test_nobody_was_there(queue: Queue) -> None:
    seen = Interruption(CHAT, 100.0).read(queue)
    assert (seen.waiting, seen.finished, seen.refused, seen.cut, seen.missed) == (0, 0, 0, 0, 0)
    assert seen.oldest_s is None
    assert isinstance(seen, Meanwhile)
