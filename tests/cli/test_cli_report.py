"""`spark-serve report` and `homework` as a person or a notebook meets them, on recordings and on a running stack."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import psutil
import pytest

from console import cli
from server import commands
from server.config import Paths, StackSettings
from server.report.homework import blank, emptied
from server.reporting import order_of
from server.stack import Stack
from server.telemetry.snapshot import People, Snapshot, Value

SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
CPU, H100 = SCREENSHOTS / "cpu.sparkrec", SCREENSHOTS / "h100-cold.sparkrec"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        code = cli.main(["report", *map(str, argv)])
    except SystemExit as left:
        code = int(left.code or 0)
    return code, *capsys.readouterr()


def test_text_json_and_rows_are_printed(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = said(capsys, CPU)
    assert (code, err) == (0, "")
    assert out.startswith("# Request log: SmolLM2-135M-Instruct on CPU\n")
    document = json.loads(said(capsys, CPU, "--json", "--gpu-hour-price", "2.5EUR")[1])
    assert (document["format"], document["cost"]["price"]) == (
        "spark-serve-report",
        {"per_hour": 2.5, "currency": "EUR"},
    )
    rows = list(csv.DictReader(io.StringIO(said(capsys, CPU, "--csv", "--out", "-")[1])))
    assert len(rows) == 87
    requests = list(csv.DictReader(io.StringIO(said(capsys, CPU, "--requests")[1])))
    assert len(requests) == sum(document["requests"]["ended"].values())
    assert not os.listdir(folder)


def test_files_are_named_by_what_they_are(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert said(capsys, CPU, "--html")[1] == "Report written to request_log-cpu.html.\n"
    assert said(capsys, CPU, "--out", "run.csv")[1] == "Report written to run.csv and run.requests.csv.\n"
    assert said(capsys, H100, "--csv", "--out", "cold.csv")[1] == "Report written to cold.csv.\n"
    assert said(capsys, CPU, "--out", "run.json")[0] == 0
    assert json.loads((folder / "run.json").read_text())["schema_version"] == 1
    assert (folder / "request_log-cpu.html").read_text().startswith("<!doctype html>")
    assert said(capsys, CPU, "--html", "--out", "run")[0] == 0
    assert (folder / "run").read_text().startswith("<!doctype html>")
    assert sorted(os.listdir(folder)) == [
        *("cold.csv", "request_log-cpu.html", "run", "run.csv", "run.json", "run.requests.csv")
    ]


def test_homework_from_blank_to_filled(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert cli.main(["homework"]) == 0
    path = folder / "request_log.md"
    assert "spark-serve report [RECORDING] --homework request_log.md" in capsys.readouterr().out
    mine = (
        blank()
        .replace("prediction:\n", "prediction: 3 s\n")
        .replace("What surprised me\n", "What surprised me\nAll.\n")
    )
    path.write_text(mine)
    assert said(capsys, CPU, "--homework", path)[:2] == (0, f"Filled in {path}.\n")
    assert "predicted 3 s, measured 6.70 s: off, 2.2 times too low." in path.read_text()
    assert emptied(path.read_text()) == mine
    assert said(capsys, CPU, "--homework", path, "--out", "copy.md")[1] == "Filled in copy.md.\n"
    assert cli.main(["homework"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert "All." in path.read_text()


@pytest.mark.parametrize(
    ("argv", "code", "why"),
    [
        ((CPU, "--html", "--json"), 2, "not allowed with"),
        ((CPU, "--requests", "--html"), 2, "--requests goes with --csv"),
        ((CPU, "--gpu-hour-price", "2,5"), 2, "price like 2.5"),
        ((CPU, "--homework", "nowhere.md"), 2, "No such file"),
        ((CPU, "--homework", "notes.md"), 2, "no homework"),
        ((CPU, "--homework", "hw.md", "--json"), 2, "run report once more"),
        ((CPU, "--out", "hw.md"), 1, "somebody's homework"),
        (("copy.sparkrec", "--out", "copy.sparkrec"), 1, "the recording itself"),
        ((H100, "--requests"), 1, "not kept"),
        ((CPU, "--out", "no/where.md"), 1, "No such file"),
        (("notes.md",), 1, "not a recording"),
        (("nothing.sparkrec",), 1, "cannot be read"),
        ((), 1, "No stack is running"),
        (("--homework", "hw.md", "--out", "x.md"), 2, "leave --out away"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    capsys: pytest.CaptureFixture[str], folder: Path, argv: tuple[object, ...], code: int, why: str
) -> None:
    (folder / "notes.md").write_text("# notes\n")
    (folder / "hw.md").write_text(blank())
    (folder / "copy.sparkrec").write_bytes(CPU.read_bytes())
    found, out, err = said(capsys, *argv)
    assert (found, out) == (code, "")
    assert why in err
    assert err.count("\n") == 1
    assert (folder / "hw.md").read_text() == blank()
    assert (folder / "copy.sparkrec").read_bytes() == CPU.read_bytes()


def test_a_console_with_a_homework_names_it_or_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from console.report_verb import UsageError, named_homework  # noqa: PLC0415

    path = folder / "new.md"
    assert named_homework(path) == commands.Homework(str(path))
    assert path.read_text() == blank()
    (folder / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match="no homework"):
        named_homework(folder / "notes.md")
    assert cli.main(["console", "--homework", "new.md", "--replay", str(CPU)]) == 2
    assert "spark-serve report" in capsys.readouterr().err


# of a running stack


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    paths = Paths(data=tmp_path / "d", state=tmp_path / "s", runtime=tmp_path / "r")
    paths.reports.mkdir(parents=True)
    return Stack(StackSettings(), paths)


async def test_key_e_writes_text_and_page_and_fills_in_the_homework(stack: Stack, folder: Path) -> None:
    for second in range(3):
        people = People(people=Value(v=7.0))
        await stack._feed.publish(Snapshot(seq=second, at=1.0 + second, wall=1e9, people=people))
    answer = await stack.execute(commands.Report())
    assert answer.ok, answer.message
    text, page = (path for path in answer.message.removesuffix(".").removeprefix("Report written to ").split(" and "))
    assert Path(text).read_text().startswith("# Request log")
    assert Path(page).read_text().startswith("<!doctype html>")
    assert (Path(text).stem, Path(text).suffix, Path(page).suffix) == (Path(page).stem, ".md", ".html")
    assert Path(page).stat().st_mode & 0o077 == 0

    homework = folder / "mine.md"
    homework.write_text(blank().replace("prediction:\n", "prediction: 12\n", 1))
    assert (await stack.execute(commands.Homework(str(homework)))).ok
    answer = await stack.execute(commands.Report())
    assert answer.message.endswith(f"; filled in {homework}.")
    assert "# The run" in homework.read_text()
    before = homework.read_text()
    assert (await stack.execute(commands.Report(path=str(folder / "other.md")))).ok
    assert homework.read_text() == before, "who names a path means it"

    homework.write_text("emptied by hand")
    answer = await stack.execute(commands.Report())
    assert not answer.ok
    assert "no homework" in answer.message
    assert homework.read_text() == "emptied by hand"
    assert not psutil.Process().children(), "its process is gone"


async def test_every_format_can_be_had_of_a_running_stack(stack: Stack, folder: Path) -> None:
    await stack._feed.publish(Snapshot(seq=1, at=1.0, wall=1e9))
    answer = await stack.execute(
        commands.Report(
            path=str(folder / "run.csv"), formats=["csv", "json", "requests"], gpu_hour_price=2.0, currency="$"
        )
    )
    assert answer.message == f"Report written to {folder / 'run.csv'} and {folder / 'run.json'}."
    assert len((folder / "run.csv").read_text().splitlines()) == 2
    assert json.loads((folder / "run.json").read_text())["cost"]["price"] == {"per_hour": 2.0, "currency": "$"}
    refused = await stack.execute(commands.Report(formats=["pdf"]))
    assert refused.message == "There is no report: There is no format pdf; there are md, html, json, csv, requests."


def test_without_a_path_the_files_are_dated(tmp_path: Path) -> None:
    order = order_of(commands.Report(), folder=tmp_path, wall=1e9, recording=None, homework=None)
    assert sorted(order.outputs) == ["html", "md"]
    assert all(Path(path).parent == tmp_path and "2001" in path for path in order.outputs.values())
