"""Recordings on the command line: demo in a real terminal, where to begin, record for a while, what is shipped."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cut
from console import cli, notes_verbs
from console.replay_verb import RECORDINGS, SHIPPED
from loadgen.packed import open_lines
from loadgen.records import RequestRecord
from server import commands
from server.telemetry.recording import Recorder, read, requests_beside
from server.telemetry.snapshot import Engine, Event, Snapshot
from tests.faults.terminal import Terminal

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2_000_000


def snapshot(at: float, *events: Event) -> Snapshot:
    engine = Engine(phase="ready", argv=["/home/me/python", "-m", "vllm"], log_tail=["loaded /home/me/model"])
    return Snapshot(seq=int(at), at=at, wall=1_795_445_000.0 + at, events=list(events), engine=engine)


def write(path: Path) -> Path:
    """Twenty seconds: 'go' at 5, 'stop' at 15, a request each second."""
    events = [Event(105.0, 0.0, "marker", "go", "m"), Event(115.0, 0.0, "marker", "stop", "m")]
    recorder = Recorder(path)
    for n in range(21):
        recorder.write(snapshot(100.0 + n, *(one for one in events if one.at <= 100.0 + n)))
        record = RequestRecord(
            request_id=f"{n:04d}{n:028d}",
            person="p",
            behaviour="patient",
            scheduled=99.123456789 + n,
            done=100.0 + n,
            outcome="ok",
        )
        recorder.write_request(msgspec.json.encode(record))
    recorder.close()
    return path


@pytest.mark.parametrize("cells", [160, 80])
def test_demo_shows_a_real_recording_and_says_that_it_is_one(tmp_path: Path, cells: int) -> None:
    terminal = Terminal(
        argv=(sys.executable, "-m", "console.cli", "demo"),
        cells=cells,
        rows=48 if cells == 160 else 24,
        SPARK_SERVE_HOME=str(tmp_path),
    )
    terminal.until(r"real H100, recorded \d{4}-\d\d-\d\d")
    terminal.until("replay")
    terminal.until(r"\d+ chatting")
    terminal.press(" ")
    terminal.until("paused")
    terminal.press("q")
    assert terminal.end(None) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["demo", "nosuch"], 2, "come along are h100 and cpu"),
        (["demo", "--at", "frobnication"], 2, "64 people"),
        (["demo", "--speed", "100"], 2, "0.1 to 60"),
        (["console", "--speed", "2"], 2, "goes with --replay"),
        (["console", "--at", "3:00"], 2, "goes with --replay"),
        (["demo", __file__], 1, "not a recording"),
        (["demo"], 2, "needs a terminal"),
        (["record", "--stop", "x.sparkrec"], 2, "go alone"),
        (["record", "--for", "0"], 2, "positive number"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_what_cannot_be_played_is_one_sentence(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_interactive", lambda: False)
    try:
        left = cli.main(arguments)
    except SystemExit as error:
        left = error.code
    error = capsys.readouterr().err
    assert (left, len(error.strip().splitlines())) == (code, 1)
    assert says in error


def test_record_for_a_while_stops_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(notes_verbs, "send", lambda command: sent.append(command) or 0)
    path = tmp_path / "run.sparkrec"
    assert cli.main(["record", str(path), "--for", "0.01"]) == 0
    assert sent == [commands.Record(path=str(path)), commands.Record(on=False)]


def test_recordings_are_listed_with_their_date(tmp_path: Path) -> None:
    assert "Nothing has been recorded" in notes_verbs.listing(tmp_path)[0]
    write(tmp_path / "run.sparkrec")
    (tmp_path / "odd.sparkrec").write_text("no recording")
    odd, run = notes_verbs.listing(tmp_path)
    assert run.endswith("run.sparkrec")
    assert "of requests" in run
    assert odd.endswith("odd.sparkrec")


# what is shipped


def test_what_comes_along_is_in_the_package_and_small() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["console"]
    packed = {path for pattern in patterns for path in (ROOT / "console").glob(pattern)}
    for name in SHIPPED:
        parts = list(RECORDINGS.glob(f"{name}.sparkrec*"))
        assert RECORDINGS / f"{name}.sparkrec" in parts
        assert packed.issuperset(parts)
        assert sum(part.stat().st_size for part in parts) <= MOST_BYTES


@pytest.mark.parametrize("name", SHIPPED)
def test_what_comes_along_names_no_place_of_the_machine_it_is_from(name: str) -> None:
    for one in list(read(RECORDINGS / f"{name}.sparkrec"))[::40]:
        said = " ".join([*one.engine.argv, *one.engine.log_tail])
        assert "/root/" not in said
        assert "/home/" not in said


# bench.cut


def test_a_piece_keeps_its_time_and_loses_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.sparkrec"
    whole = write(tmp_path / "run.sparkrec")
    monkeypatch.setattr(
        sys, "argv", ["cut", str(whole), str(out), "--from", "go-2", "--to", "stop+1", "--scrub", "/home/me/"]
    )
    assert cut.main() == 0
    snapshots = list(read(out))
    assert (snapshots[0].at, snapshots[-1].at) == (103.0, 116.0)
    assert snapshots[0].engine.argv == ["python", "-m", "vllm"]
    assert snapshots[0].engine.log_tail == ["loaded model"]
    assert notes_verbs.begun_at(out) == snapshots[0].wall
    with open_lines(requests_beside(out)) as file:
        requests = [msgspec.json.decode(line, type=RequestRecord) for line in file]
    assert [request.done for request in requests] == [103.0 + n for n in range(14)]
    assert requests[0].scheduled == 102.1235


def test_ids_that_would_become_one_are_refused() -> None:
    whole: dict[str, str] = {}
    assert cut._short("request_id", "a" * 32, whole) == "a" * cut.ID_CHARACTERS
    assert cut._short("request_id", "a" * 32, whole) == "a" * cut.ID_CHARACTERS
    with pytest.raises(ValueError, match="told apart"):
        cut._short("request_id", "a" * 31 + "b", whole)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_stamps_move_by_less_than_a_tenth_of_a_millisecond(stamp: float) -> None:
    short = cut._short("done", stamp, {})
    assert isinstance(short, float)
    assert abs(short - stamp) <= max(0.00005001, abs(stamp) * 1e-15)
