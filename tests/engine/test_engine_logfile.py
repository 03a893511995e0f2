from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.logfile import CHUNK_BYTES, LINE_LIMIT_BYTES, LogFollower, clean, open_log, rotate, tail


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_lines_come_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path)
    assert follower.read() == []
    append(path, b"one\ntw")
    assert follower.read() == ["one"]
    append(path, b"o\n\n  \nthree")
    assert follower.read() == ["two"]
    assert follower.finish() == ["three"]


def test_progress_bars_are_sequences_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"\rCapturing: 0%\rCapturing: 50%\rCapturing: 100%\ndone\r\n")
    assert LogFollower(path).read() == ["Capturing: 0%", "Capturing: 50%", "Capturing: 100%", "done"]


def test_an_endless_line_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path)
    got: list[str] = []
    for _ in range(8):
        append(path, b"x" * (LINE_LIMIT_BYTES // 2))
        got += follower.read()
    append(path, b"tail of it\nnext\n")
    got += follower.read()
    assert got == ["x" * LINE_LIMIT_BYTES, "next"]


def test_a_terminal_is_safe_from_it() -> None:
    nasty = b"\x1b]52;c;ZXZpbA==\x07a\x1b[31mb\x1b[0m\x9bc\x00\x08\td\xff\x1b]0;title\x1b\\e\x1bcf\x85"
    assert clean(nasty) == "ab\ufffdc\td\ufffdef\ufffd"
    assert clean("\x9b31mx\x85y".encode()) == "xy"  # C1 controls as UTF-8


@given(st.binary(max_size=300))
def test_whatever_comes_no_control_character_gets_through(data: bytes) -> None:
    assert not [char for char in clean(data) if (ord(char) < 32 and char != "\t") or 0x7F <= ord(char) < 0xA0]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12))
def test_how_the_bytes_are_cut_does_not_matter(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        append(whole, b"".join(pieces))
        follower, got = LogFollower(cut), []
        for piece in pieces:
            append(cut, piece)
            got += follower.read()
        assert got + follower.finish() == LogFollower(whole).finish()


def test_a_rotation_under_the_writer_loses_no_later_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = open_log(path)
    try:
        follower = LogFollower(path)
        os.write(descriptor, b"old line\n" * 100)
        assert len(follower.read()) == 100
        assert rotate(path, limit_bytes=500)
        os.write(descriptor, b"new line\n")
        assert path.read_bytes() == b"new line\n"  # no hole of zero bytes before it
        assert follower.read() == ["new line"]
        assert (tmp_path / "log.1").stat().st_size == 900
        assert not rotate(path, limit_bytes=500)
    finally:
        os.close(descriptor)


def test_the_log_is_private_and_grows_bounded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log"
    for _ in range(5):
        descriptor = open_log(path, rotate_bytes=1000)
        os.write(descriptor, b"y" * 600)
        os.close(descriptor)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 2400


def test_following_from_the_end_skips_earlier_starts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"before\n")
    follower = LogFollower(path, from_end=True)
    append(path, b"after\n")
    assert follower.read() == ["after"]


@pytest.mark.parametrize(("count", "expected"), [(2, ["b", "c"]), (9, ["a", "b", "c"]), (0, [])])
def test_tail(tmp_path: Path, count: int, expected: list[str]) -> None:
    path = tmp_path / "log"
    append(path, b"a\n\x1b[1mb\x1b[0m\nc\n")
    assert tail(path, count) == expected


def test_tail_of_a_large_log_begins_with_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"0123456789\n" * 60_000)
    assert set(tail(path, 100_000)) == {"0123456789"}


def test_a_flood_is_passed_over_and_said(tmp_path: Path) -> None:
    """However much was written, a look costs no more, and the end of the log is there."""
    log = tmp_path / "e.log"
    follower = LogFollower(log)
    append(log, b"first\n" + b"flood of a line\n" * 1_000_000 + b"last\n")
    lines = follower.read()
    assert lines[0] == "(15 MiB of log passed over: it grows faster than it is read)"
    assert set(lines[1:-1]) == {"flood of a line"}
    assert lines[-1] == "last"
    assert len(lines) * 16 <= CHUNK_BYTES + 16
    append(log, b"after\n")
    assert follower.finish() == ["after"]


def test_a_line_of_a_megabyte_is_cut_and_costs_no_more_than_its_limit(tmp_path: Path) -> None:
    log = tmp_path / "e.log"
    append(log, b"x" * 1024 * 1024 + b"\nnext\n")
    assert [len(line) for line in LogFollower(log).finish()] == [LINE_LIMIT_BYTES, 4]


def test_a_full_disk_costs_the_older_copy_and_not_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "e.log"
    append(log, b"x" * 100)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    assert rotate(log, 10)
    assert log.stat().st_size == 0
