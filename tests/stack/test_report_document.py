"""The report as JSON and CSV, read with the standard library alone and held against the recordings themselves."""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from report_recordings import COLD, CPU, H100, LEVELS, requests, snapshots, summed, v

from loadgen.slo import CHAT
from server.report import columns, gathered, source_of
from server.report.columns import FIGURES, REQUESTS, SERIES, requests_csv, series_csv
from server.report.document import FORMAT, SCHEMA_VERSION, encoded
from server.report.requests import read as read_requests
from server.report.timeline import MOST_BINS, Timeline
from server.telemetry.recording import read
from server.telemetry.snapshot import Event, People, Snapshot, Value, Verdict


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded(gathered(path), source_of(path)))
    return found


@pytest.fixture(scope="module")
def h100() -> dict[str, Any]:
    return document(H100)


@pytest.fixture(scope="module")
def cpu() -> dict[str, Any]:
    return document(CPU)


@pytest.fixture(scope="module")
def h100_raw() -> list[dict[str, Any]]:
    return snapshots(H100)


@pytest.fixture(scope="module")
def cpu_raw() -> list[dict[str, Any]]:
    return snapshots(CPU)


def test_it_says_what_it_is(h100: dict[str, Any]) -> None:
    assert (h100["format"], h100["schema_version"]) == (FORMAT, SCHEMA_VERSION)
    assert list(h100["arrows"]) == ["people", "gateway", "queue", "model_server", "gpu", "tokens"]
    for arrow in h100["arrows"].values():
        assert set(arrow) == {"waited", "failed", "measured"}


@pytest.mark.parametrize("which", ["h100", "cpu"])
def test_its_figures_are_the_recordings(which: str, request: pytest.FixtureRequest) -> None:
    found, raw = request.getfixturevalue(which), request.getfixturevalue(f"{which}_raw")
    first, last = raw[0], raw[-1]
    run, arrows = found["run"], found["arrows"]
    assert run["snapshots"] == len(raw)
    assert run["seconds"] == pytest.approx(last["at"] - first["at"])
    people = [value for s in raw if (value := v(s, "people", "people")) is not None]
    depth = [value for s in raw if (value := v(s, "queue", "depth")) is not None]
    batch = [value for s in raw if (value := v(s, "engine", "running"))]
    assert arrows["people"]["measured"]["people"]["most"] == max(people)
    assert arrows["people"]["measured"]["people"]["readings"] == len(people)
    assert arrows["people"]["measured"]["people"]["mean"] == pytest.approx(statistics.fmean(people))
    assert arrows["queue"]["measured"]["waiting"]["most"] == max(depth)
    assert arrows["model_server"]["measured"]["batch"]["median"] == statistics.median_low(batch)
    tokens = summed(("engine", "generation_tokens_per_s"), raw)
    assert arrows["model_server"]["measured"]["generated_tokens"] == pytest.approx(tokens)
    words = [s.get("verdict", {}).get("word", "UNKNOWN") for s in raw[1:]]
    for word, stood_s in found["verdict_s"].items():
        assert stood_s == pytest.approx(
            sum(b["at"] - a["at"] for a, b, is_ in zip(raw, raw[1:], words, strict=False) if is_ == word), abs=0.01
        )
    known = {event["at"]: event["text"] for s in raw for event in s.get("events", []) if event["at"] > first["at"]}
    assert [event["text"] for event in found["events"]] == [known[at] for at in sorted(known)]


def test_the_h100s_requests_and_gpu(h100: dict[str, Any], h100_raw: list[dict[str, Any]]) -> None:
    assert h100["requests"]["ended"] == h100_raw[-1]["people"]["outcomes"], "it begins with its stack"
    assert h100["requests"]["each_known"] is False
    working = [s for s in h100_raw if v(s, "engine", "running")]
    tensor = [s["gpus"][0]["tensor"]["v"] for s in working if s["gpus"][0].get("tensor", {}).get("v") is not None]
    found = h100["arrows"]["gpu"]["measured"]["gpu0"]["tensor_share"]
    assert found["mean"] == pytest.approx(statistics.fmean(tensor))
    assert found["readings"] == len(tensor)
    joules = sum(
        b["gpus"][0]["power_w"]["v"] * (b["at"] - a["at"])
        for a, b in itertools.pairwise(h100_raw)
        if v(b, "engine", "running")
    )
    made = h100["cost"]["made"]
    assert made["kwh_per_million"] == pytest.approx(joules / made["tokens"] / 3.6, rel=0.01)
    assert h100["cost"]["good"]["tokens"] is None
    assert "not kept" in h100["cost"]["good"]["why"]


def test_the_cpus_requests_are_exact(cpu: dict[str, Any], cpu_raw: list[dict[str, Any]]) -> None:
    within = [r for r in requests(CPU) if cpu_raw[0]["at"] <= r["done"] <= cpu_raw[-1]["at"]]
    ttft = sorted(r["first_token"] - r["scheduled"] for r in within if "first_token" in r)
    assert sum(cpu["requests"]["ended"].values()) == len(within) == 58
    found = cpu["arrows"]["tokens"]["measured"]["ttft_s"]
    assert (found["over"], found["n"]) == ("requests", len(ttft))
    assert found["mean"] == pytest.approx(statistics.fmean(ttft))
    assert found["largest"] == pytest.approx(ttft[-1])
    assert ttft[len(ttft) // 2 - 1] <= found["p50"] <= ttft[len(ttft) // 2]
    assert found["p95"] is None, "58 requests are too few for one"
    good = sum(t <= CHAT.ttft_s for t in ttft)
    assert (cpu["requests"]["good"], cpu["requests"]["due"]) == (good, 58)
    assert cpu["arrows"]["tokens"]["measured"]["completion_tokens"] == sum(r["completion_tokens"] for r in within)
    assert cpu["arrows"]["gpu"] == {
        "waited": cpu["arrows"]["gpu"]["waited"],
        "failed": None,
        "measured": {},
    }
    assert cpu["settings"]["max_in_flight"] == [4, 6, 4]
    assert cpu["settings"]["kv_cache_tokens"] == [23296]


@pytest.mark.parametrize("path", [LEVELS, COLD], ids=lambda path: path.stem)
def test_the_other_recordings_are_told_too(path: Path) -> None:
    found = document(path)
    raw = snapshots(path)
    assert found["run"]["snapshots"] == len(raw)
    grown = {
        name: n - raw[0].get("people", {}).get("outcomes", {}).get(name, 0)
        for name, n in raw[-1]["people"]["outcomes"].items()
    }
    assert sum(found["requests"]["ended"].values()) == sum(grown.values())


def test_no_figure_is_nan_and_shares_are_shares(h100: dict[str, Any], cpu: dict[str, Any]) -> None:
    def walk(name: str, found: Any) -> None:
        if isinstance(found, dict):
            for key, inner in found.items():
                walk(key if not isinstance(inner, float) or name == "" else f"{name}.{key}", inner)
        elif isinstance(found, list):
            for inner in found:
                walk(name, inner)
        elif isinstance(found, float) and name.endswith("_share"):
            assert 0 <= found <= 1, name

    for found in (h100, cpu):
        assert "NaN" not in json.dumps(found)
        walk("", found)


# CSV


def series(path: Path) -> list[dict[str, str]]:
    out = io.StringIO()
    series_csv(read(path), out)
    return list(csv.DictReader(io.StringIO(out.getvalue())))


@pytest.mark.parametrize("path", [H100, CPU], ids=lambda path: path.stem)
def test_a_row_is_the_latest_of_its_second(path: Path) -> None:
    rows, raw = series(path), snapshots(path)
    latest = {int(s["at"] - raw[0]["at"]): s for s in raw}
    assert [int(row["t_s"]) for row in rows] == sorted(latest)
    for row in rows:
        snapshot = latest[int(row["t_s"])]
        assert row["verdict"] == snapshot.get("verdict", {}).get("word", "UNKNOWN")
        for column, names in (
            ("people", ("people", "people")),
            ("waiting", ("queue", "depth")),
            ("batch", ("engine", "running")),
            ("kv_share", ("engine", "kv_usage")),
            ("tokens_per_s", ("engine", "generation_tokens_per_s")),
            ("good_share", ("feel", "attainment")),
        ):
            wanted = v(snapshot, *names)
            assert (row[column] == "") == (wanted is None), (column, row)
            if wanted is not None:
                assert float(row[column]) == pytest.approx(wanted)
        ttft = snapshot.get("feel", {}).get("ttft_s", {})
        assert row["ttft_p50_s"] == "" or float(row["ttft_p50_s"]) == pytest.approx(ttft["p50"])
    texts = "; ".join(row["events"] for row in rows if row["events"])
    for event in document(path)["events"]:
        assert event["text"] in texts


def test_there_is_no_gpu_in_the_cpus_rows() -> None:
    assert {row[name] for row in series(CPU) for name in ("sm_share", "power_w", "gpu_memory_bytes")} == {""}


def test_every_column_is_documented() -> None:
    doc = columns.__doc__ or ""
    assert [name for name in (*SERIES, *REQUESTS) if name not in doc] == []
    assert set(FIGURES) < set(SERIES)


def test_requests_are_rows(cpu_raw: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    begin, end = cpu_raw[0]["at"], cpu_raw[-1]["at"]
    path = Path(f"{CPU}.requests.jsonl")
    count = requests_csv(read_requests(path), out, begin=begin, end=end, slo=CHAT)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert len(rows) == count == 58
    by_id = {record["request_id"]: record for record in requests(CPU)}
    for row in rows:
        record = by_id[row["request_id"]]
        assert float(row["e2e_s"]) == pytest.approx(record["done"] - record["scheduled"])
        assert float(row["scheduled_s"]) == pytest.approx(record["scheduled"] - begin)
        assert int(row["completion_tokens"]) == record["completion_tokens"]
        assert row["judged"] == "miss"


def test_words_that_a_spreadsheet_would_run_are_text() -> None:
    nasty = '=HYPERLINK("http://x")\n"quoted", \x1b[31m'
    event = Event(at=2.0, wall=1e9, kind="marker", text=nasty, mark="m")
    out = io.StringIO()
    series_csv([Snapshot(seq=0, at=1.0, wall=1e9), Snapshot(seq=1, at=2.5, wall=1e9, events=[event])], out)
    assert "\x1b" not in out.getvalue()
    (_, row) = csv.DictReader(io.StringIO(out.getvalue()))
    assert row["events"].startswith("'=HYPERLINK")
    assert row["people"] == ""


def test_seconds_without_a_snapshot_have_no_row() -> None:
    out = io.StringIO()
    assert series_csv([Snapshot(seq=0, at=at, wall=1e9) for at in (5.0, 5.4, 8.1)], out) == 2
    assert [row["t_s"] for row in csv.DictReader(io.StringIO(out.getvalue()))] == ["0", "3"]


# bins


def test_a_spike_of_one_tick_survives_an_hour() -> None:
    timeline = Timeline()
    for tick in range(2 * 3600 + 1):
        at = 100.0 + tick / 2
        stale = tick == 77
        people = Value(v=900.0 if tick == 4321 else 5.0, age_s=9.0 if stale else 0.0)
        word = "BROKEN" if tick == 5000 else "GOOD"
        timeline.add(Snapshot(seq=tick, at=at, wall=1e9, people=People(people=people), verdict=Verdict(word=word)))  # type: ignore[arg-type]
    bins = [b for b in timeline.bins("people") if b is not None]
    assert len(bins) <= MOST_BINS
    (top,) = (b for b in bins if b.high == 900.0)
    assert abs(top.at_s - 4321 / 2) <= timeline.bin_s
    assert top.low == 5.0
    assert [span.word for span in timeline.verdicts()] == ["GOOD", "BROKEN", "GOOD"]
    assert timeline.bins("waiting") == []
