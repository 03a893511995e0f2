"""Files and addresses that are not what they should be: one sentence, the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from console import cli
from console.sources.base import SourceGoneError
from console.sources.live import decode
from loadgen.trace import TraceError, read_trace
from server import results
from server.compare import result as comparison
from server.config import Paths, default_paths
from server.engine.discover import base_url, probe
from server.engine.errors import EngineError
from server.engine.starts import Starts
from server.leftovers import find_leftovers, note
from server.saved import SavedError
from server.telemetry.recorded import RecordedRequests
from server.telemetry.recording import Recorder, RecordingError, read, requests_beside
from server.telemetry.snapshot import Snapshot
from tests.faults.hostile import HOSTILE, smuggled
from tests.faults.ledger import Row, enter
from tests.faults.pages import Pages, answer, pages

EMPTY = Snapshot(seq=1, at=1.0, wall=1.0)
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "garbage": lambda _: random.Random(7).randbytes(5000),
    "text": lambda _: b"hello\n" * 10,
    "half of it": lambda whole: whole[: len(whole) // 2],
    "a line of 10 MB": lambda _: b"x" * 10_000_000,
    "JSON of something else": lambda _: b'{"format": 1, "schema_version": []}\n',
    "numbers beyond all": lambda _: b"[" + b"9" * 5000 + b"]\n",
    "nested beyond all": lambda _: b"[" * 100_000,
    "not UTF-8": lambda _: b'{"format": "\xff\xfe", "schema_version": 1}\n',
    "hostile": lambda _: f'{{"format": "{HOSTILE}", "schema_version": 99}}\n'.encode(),
}


def recording(folder: Path, count: int = 3) -> Path:
    path = folder / "a.sparkrec"
    recorder = Recorder(path)
    for number in range(count):
        recorder.write(msgspec.structs.replace(EMPTY, seq=number, at=float(number)))
    recorder.close()
    return path


def test_a_recording_cut_at_any_byte_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = recording(tmp_path)
    whole = path.read_bytes()
    counts = []
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            counts.append(sum(1 for _ in read(path)))
        except RecordingError as error:
            counts.append(-1)
            said = str(error)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (-1, 3)
    enter(Row(fault=f"a recording cut at each of its {len(whole)} bytes", said=f"{said}; else what is whole", left=0))


READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "recording": (lambda path: list(read(path)), RecordingError),
    "capacity result": (results.load, SavedError),
    "comparison": (comparison.load, SavedError),
    "trace": (lambda path: list(read_trace(str(path))), TraceError),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_none_is_said_to_be_none(kind: str, tmp_path: Path) -> None:
    reader, raises = READERS[kind]
    path = tmp_path / "file"
    said = {}
    whole = recording(tmp_path).read_bytes()
    for name, damaged in DAMAGE.items():
        path.write_bytes(damaged(whole) if kind == "recording" or name != "half of it" else b'{"type": "req')
        if kind == "recording" and name == "half of it":
            assert len(reader(path)) < 3  # type: ignore[arg-type]
            continue
        with pytest.raises(raises) as caught:
            reader(path)
        said[name] = str(caught.value)
        assert "\n" not in said[name]
        assert len(said[name]) < 400
    for name, unreadable in (("nothing there", tmp_path / "none"), ("a folder", tmp_path)):
        with pytest.raises(raises) as caught:
            reader(unreadable)
        said[name] = str(caught.value)
    last = said["a folder"].replace(str(tmp_path), "FOLDER")
    enter(Row(fault=f"a {kind} that is {', '.join(said)}", said=last, left=0))


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_that_nobody_writes_to_holds_nobody_up(kind: str, tmp_path: Path) -> None:
    reader, raises = READERS[kind]
    path = tmp_path / "pipe"
    os.mkfifo(path)
    ended = threading.Event()

    def attempt() -> None:
        with contextlib.suppress(raises):
            reader(path)
        ended.set()

    threading.Thread(target=attempt, daemon=True).start()
    assert ended.wait(10), "it waits for a writer"


def test_what_a_stack_keeps_for_itself_may_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list of processes, earlier starts, requests beside a recording: as good as none."""
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    paths: Paths = default_paths()
    paths.pidfile.parent.mkdir(parents=True, exist_ok=True)
    note(paths.pidfile, {"us": os.getpid()})
    assert [entry.pid for entry, _ in find_leftovers(paths)] == [os.getpid()]
    whole = paths.pidfile.read_bytes()
    starts = tmp_path / "starts"
    starts.mkdir()
    Starts(starts, ["x"]).keep("process-cold", [])
    (kept,) = starts.iterdir()
    path = recording(tmp_path)
    for damaged in DAMAGE.values():
        paths.pidfile.write_bytes(damaged(whole))
        assert find_leftovers(paths) == []
        kept.write_bytes(damaged(whole))
        assert Starts(starts, ["x"]).like("process-cold") == ("", [])
        requests_beside(path).write_bytes(damaged(whole))
        requests = RecordedRequests(path, EMPTY.feel.slo)
        assert requests.upto(1e9, 0.0, 10) == []
        requests.close()
    for number in (-1, 0, 2**31, 2**63, 10**30):
        paths.pidfile.write_bytes(
            msgspec.json.encode([{"name": "x", "pid": 1, "started": 0.0}]).replace(b"1,", b"%d," % number)
        )
        assert find_leftovers(paths) == []


@pytest.mark.parametrize("damaged", DAMAGE.values(), ids=DAMAGE)
def test_a_stack_that_sends_something_else_is_lost_in_a_clause(damaged: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SourceGoneError):
        decode(damaged(b'{"seq": 1, "at": 1.0, "wall": 1.0}')[:100_000])


VERBS = (("console", "--replay"), ("report",), ("compare", "--show"), ("capacity", "--compare"))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_verb_on_a_damaged_file_is_one_sentence(
    verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path / "h"))
    monkeypatch.setattr(cli, "_check_terminal", lambda: None)
    said = []
    for name, damaged in DAMAGE.items():
        if name == "half of it":
            continue
        path = tmp_path / "file\x1b]52;c;zQ\x07"
        path.write_bytes(damaged(b""))
        code = cli.main([*verb, *[str(path)] * (2 if verb[-1] == "--compare" else 1)])
        out, err = capsys.readouterr()
        assert code == 1, (name, out, err)
        assert err.count("\n") == 1, err
        assert smuggled((out + err).encode()) == []
        said.append(err.replace(str(tmp_path), "FOLDER").strip())
    enter(Row(fault=f"{' '.join(verb)} on a file that is {', '.join(DAMAGE)}", said=said[-1], left=0))


ADDRESSES = {
    "a password": ("http://user:s3cret@127.0.0.1:8000", "user or a password"),
    "a user": ("http://user@127.0.0.1", "user or a password"),
    "a password without a host": ("http://:s3cret@", "user or a password"),
    "a password in no scheme": ("user:s3cret@127.0.0.1:8000", "user or a password"),
    "a password and a bad port": ("http://user:s3cret@127.0.0.1:x", "user or a password"),
    "a password in ftp": ("ftp://user:s3cret@127.0.0.1", "user or a password"),
    "cloud metadata": ("http://169.254.169.254/", "link-local"),
    "cloud metadata, in hex": ("http://0xa9fea9fe", "link-local"),
    "cloud metadata, as one number": ("http://2852039166", "link-local"),
    "cloud metadata, in IPv6": ("http://[::ffff:169.254.169.254]", "link-local"),
    "link-local": ("http://[fe80::1]:8000", "link-local"),
    "link-local with a zone": ("http://[fe80::1%25eth0]:8000", "link-local"),
    "multicast": ("http://224.0.0.1:8000", "link-local"),
    "a file": ("file:///etc/passwd", "is not http"),
    "gopher": ("gopher://127.0.0.1:70/x", "is not http"),
    "a path": ("http://127.0.0.1:8000/admin", "behind the port"),
    "a query": ("http://127.0.0.1:8000/?a=b", "behind the port"),
    "no host": ("http://", "names no host"),
    "nothing": ("", "names no host"),
    "a port beyond": ("http://127.0.0.1:99999", "no URL"),
    "port 0": ("http://127.0.0.1:0", "no URL"),
    "a port of letters": ("http://127.0.0.1:http", "no URL"),
    "half a bracket": ("http://[::1", "no URL"),
    "blanks": ("http://127.0.0.1 :8000", "no URL"),
    "a line break": ("http://127.0.0.1\r\nX: y", "no URL"),
    "ESC": ("http://\x1b]52;c;zQ\x07/", "no URL"),
    "bidi": ("http://\u202e1.0.0.721/", "no URL"),
    "100 kB": ("http://" + "a" * 100_000, "no URL"),
    "a name that is none": ("http://" + "a." * 200 + "example", "no URL"),
}


def _nobody(*_: object) -> None:
    raise AssertionError("it would have been asked")


@pytest.mark.parametrize("what", ADDRESSES)
def test_an_address_that_is_no_engines_is_refused_in_a_sentence(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, word = ADDRESSES[what]
    monkeypatch.setattr("server.engine.discover._get", _nobody)
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    assert cli.main(["up", "--attach", address]) in {1, 2}
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    assert len(said) < 400
    assert "s3cret" not in said
    assert smuggled(said.encode()) == []
    enter(Row(fault=f"--attach {what}", said=said.strip(), left=0))


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://[::1]:8000/v1", "localhost", "http://Bücher.example:80"])
def test_an_address_that_may_be_one_is_taken(address: str) -> None:
    assert base_url(address).startswith("http://")


def test_who_sends_us_elsewhere_is_not_followed() -> None:
    with pages() as server, pages() as elsewhere:
        for path in ("/v1/models", "/version"):
            server.paths[path] = answer(b"", "307 Temporary Redirect", f"location: {elsewhere.url}{path}\r\n")
        with pytest.raises(EngineError) as caught:
            probe(server.url)
        assert elsewhere.asked == []
    enter(Row(fault="/v1/models of an attached engine sends us elsewhere", said=str(caught.value), left=0))


ENGINES: dict[str, Callable[[Pages], object]] = {
    "a list without end": lambda one: one.paths.update({"/v1/models": answer(b"[" * 5_000_000)}),
    "nested beyond all": lambda one: one.paths.update({"/v1/models": answer(b"[" * 100_000)}),
    "numbers beyond all": lambda one: one.paths.update({"/v1/models": answer(b'{"data": [' + b"9" * 5000 + b"]}")}),
    "not UTF-8": lambda one: one.paths.update({"/v1/models": answer(b'{"data": [{"id": "\xff"}]}')}),
    "models that are no objects": lambda one: one.paths.update({"/v1/models": answer(b'{"data": [1, null, "x"]}')}),
    "a charset that is none": lambda one: one.paths.update(
        {"/v1/models": answer(b'{"data": [{}]}', more="content-type: application/json; charset=zQ\r\n")}
    ),
}


@pytest.mark.parametrize("what", ENGINES)
def test_an_engine_that_answers_oddly_is_none(what: str) -> None:
    with pages() as server:
        ENGINES[what](server)
        with pytest.raises(EngineError) as caught:
            probe(server.url)
    assert len(str(caught.value)) < 400
    assert psutil.Process().memory_info().rss < 2**30


def test_a_version_beyond_all_is_no_version() -> None:
    for body in (b"9" * 5000, b"[" * 100_000, b'{"version": 3}', b'{"version": "\xff"}', b"[]", b"null"):
        with pages() as server:
            server.paths["/version"] = answer(body)
            assert probe(server.url).version in {"", "\ufffd"}
