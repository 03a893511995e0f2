"""The command line of replicas and watchers."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from console import cli
from server.config import StackSettings
from server.engine.errors import EngineError
from server.engine.replicas import endpoints
from server.watch_place import group_id


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))


def settings(*arguments: str) -> StackSettings:
    return cli._settings(cli._parser().parse_args(["up", *arguments]))


def test_attach_is_repeated_for_each_replica() -> None:
    made = settings(
        "--attach", "http://a:1", "--attach", "http://b:1", "--balance", "round-robin", "--watchers", "staff"
    )
    assert (made.attach, made.replicas, made.balance) == ("http://a:1", ["http://b:1"], "round-robin")
    assert made.watchers == "staff"
    assert made.load.people == 0
    assert (settings().attach, settings().replicas, settings().balance) == (None, [], "least")


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        (["http://a:1", "a:1/v1"], "names http://a:1 twice"),
        ([f"http://a:{port}" for port in range(1, 18)], "17 times; 16 endpoints at most"),
        (["http://a:1", "ftp://b"], "is not http"),
        (["http://a:1", "http://me:secret@b:1"], "is refused"),
    ],
)
def test_endpoints_that_cannot_be_are_one_sentence(urls: list[str], why: str) -> None:
    with pytest.raises(EngineError, match=why) as caught:
        endpoints(urls)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["up", "--attach", "http://127.0.0.1:1", "--attach", "http://127.0.0.1:2"], 1, "Nothing answers"),
        (
            ["up", "--attach", "http://127.0.0.1:1", "--watchers", "no-such-group"],
            1,
            "There is no group 'no-such-group'",
        ),
        (["up", "--balance", "luck"], 2, "invalid choice"),
        (["console", "--watch", "no-such-user", "--once"], 1, "There is no user 'no-such-user'"),
        (["console", "--watch", "/nowhere/stack.sock", "--once"], 1, "There is no socket /nowhere/stack.sock"),
        (["watchers"], 1, "No stack is running"),
        (["watchers", "off"], 1, "No stack is running"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = cli.main(arguments)
    except SystemExit as left:
        found = int(left.code or 0)
    said = capsys.readouterr().err
    assert (found, why in said, said.count("\n")) == (code, True, 1), said


def test_a_group_of_ours_can_be_given() -> None:
    assert group_id(grp.getgrgid(os.getegid()).gr_name) == os.getegid()
