"""The verb `requests`: the list, a filter that shows nobody, and one request as text and as JSON."""

from __future__ import annotations

import msgspec
import pytest

from console import cli
from server.client import StackClient
from server.telemetry.snapshot import JoinedRequest, Snapshot

STAGES = {"accept": 0.001, "queue": 0.4, "upstream": 1.5, "drain": 0.001, "unattributed": 0.0}


def finished(name: str, at: float, **parts: object) -> JoinedRequest:
    known: dict[str, object] = {
        "who": "p1",
        "outcome": "ok",
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "ttft_s": 0.5,
        "e2e_s": 1.902,
        "stages": STAGES,
        "judged": "good",
    }
    return JoinedRequest(request_id=name, at=at, **{**known, **parts})  # type: ignore[arg-type]


REQUESTS = [
    finished("aa-1", 10.0),
    finished("aa-2", 12.0, outcome="rejected", reason="queue_full", judged="miss", missed="refused"),
    finished("bb-1", 14.0, ttft_s=1.6, judged="miss", missed="ttft"),
    finished("bb-1", 16.0, key="bb-1 16.0"),
]


@pytest.fixture(autouse=True)
def _stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackClient, "snapshot", lambda _: Snapshot(seq=1, at=20.0, wall=1_795_445_000.0))
    monkeypatch.setattr(StackClient, "requests", lambda _, limit: REQUESTS[-limit:])


def said(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert cli.main(["requests", *words.split()]) == 0
    return capsys.readouterr().out


def test_the_list_is_newest_first_and_says_what_it_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    rows = said(capsys, "").splitlines()
    assert rows[0] == "4 requests, newest first, the last 8 s"
    assert "its time" in rows[1]
    assert ["ok, late" in row for row in rows[2:]] == [False, True, False, False]
    assert "rejected: the queue was full" in rows[4]
    assert "\x1b" not in "".join(rows)


def test_limit_and_filter(capsys: pytest.CaptureFixture[str]) -> None:
    rows = said(capsys, "--limit 1").splitlines()
    assert rows[0].startswith("1 of 4 requests")
    assert len(rows) == 3
    assert said(capsys, "--slow").startswith("1 slow requests of 4")
    assert "the queue was full" in said(capsys, "--failed")
    assert said(capsys, "--abandoned") == "nobody left early in the last 4 requests\n"


def test_one_request_is_a_waterfall(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "aa-1")
    for part in ("upstream", "1.902 s + 0.000 s unattributed = 1.902 s end to end ✓", "first token 500 ms", "judged"):
        assert part in text
    assert "rejected: the queue was full" in said(capsys, "aa-2")
    assert "first token after 500 ms" in said(capsys, "bb-1"), "of one id the latest"


def test_json_is_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    found = msgspec.json.decode(said(capsys, "--json --failed"), type=list[JoinedRequest])
    assert [request.request_id for request in found] == ["aa-2"]
    one = msgspec.json.decode(said(capsys, "--json aa-1"), type=JoinedRequest)
    assert one.stages == STAGES


@pytest.mark.parametrize(
    ("words", "says"),
    [("aa", "2 of the last 4 requests have ids that begin with 'aa'"), ("zz", "No request of the last 4")],
)
def test_an_id_that_names_none_or_many(capsys: pytest.CaptureFixture[str], words: str, says: str) -> None:
    assert cli.main(["requests", words]) == 1
    assert says in capsys.readouterr().err


def test_one_filter_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["requests", "--slow", "--failed"])
    assert left.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
