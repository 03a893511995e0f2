"""Recordings: whole, torn anywhere, foreign, of another version."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from pathlib import Path

import msgspec
import pytest

from loadgen.packed import open_lines
from loadgen.records import RequestRecord
from loadgen.trace import TraceRow, read_trace
from server.telemetry.recording import FORMAT, Lines, Recorder, RecordingError, read, requests_beside
from server.telemetry.snapshot import SCHEMA_VERSION, Snapshot, Value, Verdict, snapshot_encoder


def snapshot(seq: int) -> Snapshot:
    verdict = Verdict(word="GOOD", attainment=Value(v=0.5 + seq / 1000, n=seq))
    return Snapshot(seq=seq, at=seq / 2, wall=1e9 + seq, verdict=verdict)


def content(path: Path) -> bytes:
    with open_lines(path) as file:
        return file.read()


def record(path: Path, count: int) -> None:
    recorder = Recorder(path)
    for seq in range(count):
        recorder.write(snapshot(seq))
    recorder.close()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    record(path, 50)
    assert [snapshot_encoder.encode(s) for s in read(path)] == [snapshot_encoder.encode(snapshot(i)) for i in range(50)]
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 51


def test_a_recording_is_readable_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    for seq in range(3):
        recorder.write(snapshot(seq))
        assert [s.seq for s in read(path)] == list(range(seq + 1))
    assert recorder.recorded_s == 1.0
    recorder.close()
    recorder.close()


def test_torn_at_every_byte(tmp_path: Path) -> None:
    path, torn = tmp_path / "run.rec", tmp_path / "torn.rec"
    record(path, 4)
    whole = path.read_bytes()
    counts = []
    for size in range(len(whole) + 1):
        torn.write_bytes(whole[:size])
        try:
            counts.append([s.seq for s in read(torn)])
        except RecordingError:
            counts.append([])
    assert all(seqs == list(range(len(seqs))) for seqs in counts)
    lengths = [len(seqs) for seqs in counts]
    assert lengths == sorted(lengths)
    assert set(lengths) == {0, 1, 2, 3, 4}


def test_garbage_after_the_end_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    record(path, 3)
    with path.open("ab") as file:
        file.write(b"\0" * 1000)
    assert len(list(read(path))) == 3


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_it_belongs_to_its_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "run.rec"
    before = os.umask(umask)
    try:
        Recorder(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    path.write_text("precious")
    with pytest.raises(RecordingError, match="exists already"):
        Recorder(path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        Recorder(tmp_path / "none" / "run.rec")
    with pytest.raises(RecordingError, match="cannot be read"):
        list(read(tmp_path / "none.rec"))


def test_a_full_disk_is_an_error_once_closing_is_none_and_what_was_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    recorder.write(snapshot(0))
    recorder.fill("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        recorder.write(snapshot(1))
    recorder.close()
    assert [one.seq for one in read(path)] == [0]


def test_a_disk_that_was_full_only_for_a_while_without_a_write_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    recorder.write_request(b"{}")
    recorder.fill("/dev/full")
    recorder.relieve()
    recorder.write(snapshot(0))
    recorder.close()
    assert [one.seq for one in read(path)] == [0]
    assert content(requests_beside(path)) == b"{}\n"


def test_another_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    path.write_bytes(gzip.compress(b'{"format":"%s","schema_version":99}\n' % FORMAT.encode()))
    with pytest.raises(RecordingError, match=f"schema version 99 and this spark-serve reads {SCHEMA_VERSION}"):
        list(read(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text\n",
        gzip.compress(b"not json\n", mtime=0),
        gzip.compress(b'{"format":"other","schema_version":1}\n', mtime=0),
        zlib.compress(b"x"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.rec"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"run\.rec is"):
        list(read(path))


def test_single_requests_lie_beside_it_and_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    recorder.write(snapshot(0))
    assert not requests_beside(path).exists()
    for number in (2, 1):
        request = RequestRecord(
            request_id=str(number), person="p", behaviour="patient", scheduled=10.0 * number, done=99.0, outcome="ok",
            prompt_tokens=number, completion_tokens=5,
        )  # fmt: skip
        recorder.write_request(msgspec.json.encode(request) + b"\n")
    recorder.flush()
    beside = requests_beside(path)
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert list(read_trace(str(beside))) == [TraceRow(0.0, 1, 5), TraceRow(10.0, 2, 5)]
    recorder.close()
    assert len(list(read_trace(str(beside)))) == 2


def test_requests_are_packed_and_readable_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    line = msgspec.json.encode({"type": "request", "scheduled": 1.25, "prompt_tokens": 3})
    for _ in range(200):
        recorder.write_request(line)
    recorder.flush()
    beside = requests_beside(path)
    assert beside.name == "run.rec.requests.jsonl.gz"
    assert beside.stat().st_size < 200 * len(line) / 20
    with open_lines(beside) as reading:
        assert reading.read() == (line + b"\n") * 200
        recorder.write_request(b"{}")
        recorder.flush()
        assert reading.readline() == b"{}\n", "who reads goes on where the file does"
    recorder.close()
    assert gzip.decompress(beside.read_bytes()).endswith(b"}\n{}\n")


def test_with_a_snapshot_every_two_seconds_of_requests_are_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    recorder = Recorder(path)
    recorder.write_request(b"{}")
    recorder.write(snapshot(0))
    beside = requests_beside(path)
    assert content(beside) == b"{}\n"
    recorder.write_request(b"[]")
    recorder.write(snapshot(1))
    assert content(beside) == b"{}\n"
    recorder.write(snapshot(4))
    assert content(beside) == b"{}\n[]\n"
    recorder.close()


def test_packed_requests_torn_at_every_byte_are_a_begin_of_them(tmp_path: Path) -> None:
    path, torn = tmp_path / "run.rec", tmp_path / "torn"
    recorder = Recorder(path)
    for number in range(30):
        recorder.write_request(b'{"n":%d}' % number)
    recorder.close()
    packed = requests_beside(path).read_bytes()
    whole = gzip.decompress(packed)
    for size in range(len(packed) + 1):
        torn.write_bytes(packed[:size])
        with open_lines(torn) as reading:
            found = reading.read()
        assert whole.startswith(found) or size == 1
    assert found == whole


def test_requests_that_somebody_unpacked_are_found(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    plain = tmp_path / "run.rec.requests.jsonl"
    plain.write_bytes(b"{}\n")
    assert requests_beside(path) == plain
    assert content(plain) == b"{}\n"


def test_reading_goes_on_from_any_bookmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.telemetry.recording._CHUNK", 40)
    path = tmp_path / "run.rec"
    record(path, 60)
    marks = []
    with Lines(path) as lines:
        whole = []
        for line in lines:
            whole.append(line)
            marks.append(lines.bookmark)
    assert len({mark.offset for mark in marks}) > 10
    for mark in marks[::7]:
        with Lines(path, mark) as again:
            assert list(again) == whole[mark.lines :]
