"""Requests beside a recording: read as far as it has been played, joined from what everybody saw, judged."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from loadgen.records import RequestRecord
from loadgen.slo import CHAT
from loadgen.trace import read_trace
from server.config import Paths, StackSettings
from server.gateway.records import GatewayRecord
from server.report import requests as report_requests
from server.stack import Stack
from server.telemetry.join import EngineTimes
from server.telemetry.judged import judged
from server.telemetry.recorded import SEAL_EVERY, RecordedRequests
from server.telemetry.recording import Recorder, RecordingError, requests_beside
from server.telemetry.snapshot import JoinedRequest


def client(n: int, **parts: object) -> RequestRecord:
    """The n-th request, begun n seconds after 100 and done a second later."""
    at = 100.0 + n
    known: dict[str, object] = {
        "request_id": f"r{n}",
        "person": f"p{n}",
        "behaviour": "patient",
        "scheduled": at,
        "sent": at + 0.01,
        "first_token": at + 0.3,
        "last_token": at + 0.9,
        "done": at + 1.0,
        "outcome": "ok",
        "prompt_tokens": 20,
        "completion_tokens": 7,
    }
    return RequestRecord(**{**known, **parts})  # type: ignore[arg-type]


def gateway(n: int, **parts: object) -> GatewayRecord:
    at = 100.0 + n
    known: dict[str, object] = {
        "request_id": f"r{n}",
        "trace_id": f"{n:032x}",
        "route": "/v1/completions",
        "stream": True,
        "accepted": at + 0.02,
        "queued": at + 0.03,
        "admitted": at + 0.13,
        "first_token": at + 0.29,
        "last_token": at + 0.89,
        "upstream_done": at + 0.98,
        "done": at + 0.99,
        "outcome": "completed",
        "status": 200,
        "completion_tokens": 7,
        "user": "somebody",
    }
    return GatewayRecord(**{**known, **parts})  # type: ignore[arg-type]


def times(n: int) -> EngineTimes:
    return EngineTimes(trace_id=f"{n:032x}", queue_s=0.01, prefill_s=0.1, decode_s=0.6)


def written(folder: Path, *parts: object) -> Path:
    recording = folder / "run.sparkrec"
    requests_beside(recording).write_bytes(b"".join(msgspec.json.encode(part) + b"\n" for part in parts))
    return recording


def all_of(recording: Path, until: float = 1e6, keep: int = 4_000) -> list[JoinedRequest]:
    """One look at the whole file."""
    with closing(RecordedRequests(recording, CHAT, keep=keep)) as recorded:
        return recorded.upto(until, -math.inf, 1000)


def test_what_everybody_saw_is_joined(tmp_path: Path) -> None:
    recording = written(tmp_path, gateway(0), client(0), times(0))
    (request,) = all_of(recording, until=200.0)
    assert request.exact
    assert request.stages["queue"] == pytest.approx(0.1)
    assert request.stages["decode"] == 0.6
    assert math.fsum(request.stages.values()) == pytest.approx(1.0)
    assert (request.who, request.user, request.judged, request.sealed_at) == ("p0", "somebody", "good", 200.0)


def test_requests_come_as_the_recording_goes_on(tmp_path: Path) -> None:
    recording = written(tmp_path, *(part for n in range(10) for part in (gateway(n), client(n))))
    recorded = RecordedRequests(recording, CHAT)
    first = recorded.upto(103.5, -math.inf, 100)
    assert [request.request_id for request in first] == ["r0", "r1", "r2"]
    assert recorded.upto(103.5, 103.5, 100) == []
    assert [request.request_id for request in recorded.upto(105.0, 103.5, 100)] == ["r3", "r4"]
    assert len(recorded.upto(1000.0, -math.inf, 100)) == 10
    assert [request.request_id for request in recorded.upto(1001.0, -math.inf, 2)] == ["r8", "r9"]
    recorded.close()


def test_times_that_come_later_make_a_request_known_better(tmp_path: Path) -> None:
    recording = written(tmp_path, gateway(0), client(0), gateway(5), client(5), times(0))
    recorded = RecordedRequests(recording, CHAT)
    assert [request.exact for request in recorded.upto(102.0, -math.inf, 10)] == [False]
    later = {request.request_id: request.exact for request in recorded.upto(110.0, 102.0, 10)}
    recorded.close()
    assert later == {"r0": True, "r5": False}


def test_only_clients_records_show_at_once_what_they_know(tmp_path: Path) -> None:
    recording = written(tmp_path, client(0), client(1, outcome="error", reason="refused"))
    found = all_of(recording, until=102.1)
    assert [list(request.stages) for request in found] == [["connect", "unattributed"]] * 2
    assert [(request.judged, request.missed) for request in found] == [("good", ""), ("miss", "error")]


def test_long_recordings_keep_the_latest_only(tmp_path: Path) -> None:
    recording = written(tmp_path, *(client(n) for n in range(SEAL_EVERY + 100)))
    found = all_of(recording, keep=50)
    assert [request.request_id for request in found] == [f"r{n}" for n in range(SEAL_EVERY + 50, SEAL_EVERY + 100)]


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    recording = written(tmp_path, {"type": "interval"}, client(0))
    with requests_beside(recording).open("ab") as file:
        file.write(b"\xff\xfe\n" + msgspec.json.encode(client(1))[:40])
    assert [request.request_id for request in all_of(recording)] == ["r0"]


def test_a_recording_without_requests_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no requests beside it \(run.sparkrec.requests.jsonl.gz\)"):
        RecordedRequests(tmp_path / "run.sparkrec", CHAT)


def test_the_other_readers_of_the_file_see_the_clients_records_alone(tmp_path: Path) -> None:
    path = requests_beside(written(tmp_path, gateway(0), client(0), times(0), gateway(1), client(1)))
    assert [record.request_id for record in report_requests.read(path)] == ["r0", "r1"]
    assert [row.output_tokens for row in read_trace(str(path))] == [7, 7]


@pytest.mark.parametrize(
    ("seen", "load", "expected"),
    [
        (None, None, ("", "")),
        (gateway(0), None, ("good", "")),
        (gateway(0, first_token=102.0, last_token=102.5, done=103.0), None, ("miss", "ttft")),
        (gateway(0, last_token=109.0, done=109.0), None, ("miss", "tpot")),
        (gateway(0, outcome="rejected", status=429, reason="queue_full"), None, ("miss", "refused")),
        (gateway(0, outcome="rejected", status=400, reason="bad_request"), None, ("excluded", "")),
        (gateway(0, outcome="failed", status=502, reason="upstream_error"), None, ("miss", "error")),
        (gateway(0, outcome="expired", admitted=None, reason="deadline"), None, ("miss", "refused")),
        (gateway(0, outcome="expired", reason="deadline"), None, ("miss", "error")),
        (gateway(0, outcome="cancelled", first_token=None, done=105.0), None, ("miss", "left")),
        (gateway(0, outcome="cancelled"), None, ("excluded", "")),
        (gateway(0, first_token=102.0), client(0), ("good", "")),
        (gateway(0), client(0, first_token=101.5), ("miss", "ttft")),
        (None, client(0, outcome="abandoned", reason="stopped"), ("excluded", "")),
        (None, client(0, outcome="abandoned", reason="out of patience"), ("miss", "left")),
    ],
)
def test_judged_by_whoever_saw_it_best(
    seen: GatewayRecord | None, load: RequestRecord | None, expected: tuple[str, str]
) -> None:
    assert judged(CHAT, seen, load) == expected


def test_a_stack_that_records_keeps_what_everybody_saw(tmp_path: Path) -> None:
    stack = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    stack._engine = SimpleNamespace(first_token=lambda at: None)  # type: ignore[assignment]
    deaf = SimpleNamespace(on_record=lambda record: None, on_load=lambda record: None, on_gateway=lambda record: None)
    stack._search = stack._comparer = deaf  # type: ignore[assignment]
    stack._recorder = Recorder(tmp_path / "run.sparkrec")
    stack._gateway_line(msgspec.json.encode(gateway(0)))
    stack._engine_times(times(0))
    stack._load_line(msgspec.json.encode(client(0)))
    stack._recorder.close()
    (request,) = all_of(tmp_path / "run.sparkrec")
    assert (request.who, request.user, request.stages["prefill"]) == ("p0", "somebody", 0.1)
