"""Files and responses of any shape: a reader raises its own exception or none."""

from __future__ import annotations

import contextlib
import gzip
import math
from itertools import pairwise
from pathlib import Path

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen.http1 import Headers, Http1Connection
from loadgen.slo import CHAT
from loadgen.trace import HEADER, TraceError, read_trace
from server.telemetry.recorded import RecordedRequests
from server.telemetry.recording import FORMAT, RecordingError, read, requests_beside
from server.telemetry.snapshot import SCHEMA_VERSION
from tests.faults.ledger import Row, enter
from tests.faults.test_faults_input_fuzz import DEEP, DOCUMENTS

FILES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
STAMPS = st.sampled_from(
    ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:46", "20231116T181546Z", "2023-11-16T18:15:46+02:00", "9", ""]
)
ROWS = st.lists(st.tuples(STAMPS, st.text(max_size=5) | st.integers().map(str), st.integers().map(str)), max_size=4)


def _trace(path: Path) -> str:
    try:
        rows = list(read_trace(str(path)))
    except TraceError as error:
        return str(error)
    assert all(math.isfinite(row.at_s) for row in rows)
    assert [row.at_s for row in rows] == sorted(row.at_s for row in rows)
    return f"{len(rows)} rows"


@FILES
@given(ROWS)
def test_any_azure_trace(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(HEADER), *(",".join(row) for row in rows)]), encoding="utf-8", errors="replace")
    _trace(path)


def test_stamps_with_and_without_a_zone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{','.join(HEADER)}\n2023-11-16 18:15:46,1,1\n20231116T181547Z,1,1\n")
    assert _trace(path) == "2 rows"


@FILES
@given(st.lists(DOCUMENTS, max_size=3).map(b"\n".join))
def test_any_trace_of_records(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(data)
    _trace(path)


@pytest.mark.parametrize("data", DEEP, ids=range(len(DEEP)))
def test_documents_nested_beyond_all_measure(tmp_path: Path, data: bytes) -> None:
    trace, recording = tmp_path / "t.jsonl", tmp_path / "r.sparkrec"
    trace.write_bytes(data)
    said = _trace(trace)
    enter(Row(fault="a trace nested 50,000 deep or more", said=said, left=0))
    head = f'{{"format":"{FORMAT}","schema_version":{SCHEMA_VERSION},"wall":0}}\n'.encode()
    for lines in (data, head + data):
        recording.write_bytes(gzip.compress(lines + b"\n"))
        _recording(recording)


def _recording(path: Path) -> None:
    with contextlib.suppress(RecordingError):
        list(read(path))


@FILES
@given(st.lists(DOCUMENTS, max_size=3).map(b"\n".join), st.integers(0, 200), st.booleans())
def test_any_recording(tmp_path: Path, data: bytes, cut: int, headed: bool) -> None:
    path = tmp_path / "r.sparkrec"
    head = f'{{"format":"{FORMAT}","schema_version":{SCHEMA_VERSION},"wall":0}}\n'.encode() if headed else b""
    whole = gzip.compress(head + data + b"\n")
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    _recording(path)


class Got:
    """One response as its handler heard it."""

    def __init__(self) -> None:
        self.status = 0
        self.data = b""
        self.ends: list[str] = []

    def headers(self, status: int, headers: Headers, at: float) -> None:
        assert not self.ends
        self.status = status

    def body(self, data: bytes, at: float) -> None:
        assert not self.ends
        self.data += data

    def end(self, at: float) -> None:
        self.ends.append("end")

    def failed(self, reason: str, at: float) -> None:
        self.ends.append(reason)


def heard(pieces: list[bytes]) -> Got:
    """What a client hears of a response that comes in these pieces and then breaks off."""
    connection, got = Http1Connection(), Got()
    connection._handler = got
    connection._parser = httptools.HttpResponseParser(connection)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    return got


RESPONSES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ]
)


@settings(max_examples=150)
@given(RESPONSES, st.lists(st.integers(0, 90), max_size=4), st.integers(0, 90), st.binary(max_size=3))
def test_any_response_has_one_end_however_it_is_cut(data: bytes, cuts: list[int], torn: int, put: bytes) -> None:
    data = data[:torn] + put + data[torn:] if put else data
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(bounds)]
    whole, cut = heard([data]), heard(pieces)
    assert len(whole.ends) == len(cut.ends) == 1
    assert (whole.status, whole.data, whole.ends) == (cut.status, cut.data, cut.ends)


@pytest.mark.parametrize("data", [*DEEP, b"\xff\n", b"{}\n[]\n"], ids=range(len(DEEP) + 2))
def test_requests_beside_a_recording_may_be_anything(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.sparkrec"
    requests_beside(path).write_bytes(data + b"\n")
    with contextlib.closing(RecordedRequests(path, CHAT)) as recorded:
        assert recorded.upto(math.inf, -math.inf, 10) == []
