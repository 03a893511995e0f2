"""The report: a real recording, runs of known requests, states in which things are missing, and hostile words."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from loadgen.capacity import Answer, Block, Point, Progress, Question
from loadgen.records import RequestRecord
from loadgen.slo import CHAT, attainment
from loadgen.summary import Distribution
from server import commands
from server.compare.progress import CompareProgress
from server.config import Paths, StackSettings
from server.report import ReportError, report, report_of
from server.report.capacity import chart
from server.report.sections import HIDDEN, arguments
from server.report.series import Gauge, Growth, Tiles, Windowed
from server.report.sums import Judged
from server.report.tally import Tally
from server.report.text import count, digits, md, offset, seconds, share
from server.stack import Stack
from server.telemetry.experience import Experience
from server.telemetry.recording import Recorder, RecordingError, read, requests_beside
from server.telemetry.snapshot import (
    Engine,
    Event,
    Feel,
    Gpu,
    Little,
    People,
    Quantiles,
    Queue,
    Snapshot,
    SourceState,
    Value,
    Verdict,
    snapshot_encoder,
)

RECORDING = Path(__file__).parents[2] / "screenshots" / "h100.sparkrec"
TICK_S = 0.5
BEGIN = 5000.0


def moment(second: float, **more: Any) -> Snapshot:
    """A snapshot so many seconds into a scripted run of a stack that is an hour old."""
    more.setdefault("uptime_s", 3600.0 + second)
    more.setdefault("engine", Engine(phase="ready", model="m", device="CPU", version="0.32"))
    return Snapshot(seq=int(second / TICK_S), at=BEGIN + second, wall=1e9 + second, **more)


def ticks(until_s: float) -> list[float]:
    return [step * TICK_S for step in range(round(until_s / TICK_S) + 1)]


def request(
    scheduled: float, ttft_s: float, *, outcome: Any = "ok", tokens: int = 11, tpot_s: float = 0.01
) -> RequestRecord:
    first = scheduled + ttft_s
    ok = outcome == "ok"
    done = first + (tokens - 1) * tpot_s
    return RequestRecord(
        request_id=f"r{scheduled}",
        person="p",
        behaviour="patient",
        scheduled=scheduled,
        sent=scheduled,
        first_token=first if ok else None,
        last_token=done if ok else None,
        done=done,
        outcome=outcome,
        reason="" if ok else "the engine said <no>",
        completion_tokens=tokens if ok else None,
    )


def seen(records: list[RequestRecord], until_s: float) -> list[Snapshot]:
    """What the stack's own windows make of these requests, tick by tick."""
    experience = Experience("load", CHAT)
    experience.watch(BEGIN)
    left = sorted(records, key=lambda record: record.done)
    ended = {"ok": 0, "rejected": 0, "error": 0, "abandoned": 0}
    snapshots = []
    for second in ticks(until_s):
        now = BEGIN + second
        experience.watch(now)
        while left and left[0].done <= now:
            experience.on_load(left[0])
            ended[left.pop(0).outcome] += 1
        good, missed, _ = experience.judged(now)
        due = good + missed
        reached = Value(v=good / due, n=due, window_s=30.0) if due else Value()
        feel = experience.feel(reached, Quantiles(), now)
        people = People(mode="closed", people=Value(v=4.0), outcomes=dict(ended), sent_total=sum(ended.values()))
        snapshots.append(moment(second, feel=feel, people=people, uptime_s=second))
    return snapshots


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the tables of one section, heads and rulers left out."""
    part = text.split(f"\n## {heading}")[1].split("\n## ", maxsplit=1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    kept = [line for line in lines if not line.startswith("|---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


@pytest.fixture(scope="module")
def h100() -> str:
    return report_of(RECORDING)


def test_the_h100s_story_is_told(h100: str) -> None:
    assert h100.startswith("# Request log: qwen3-8b (random weights) on NVIDIA H100 80GB HBM3\n")
    assert "4 813 of 4 818 requests finished, with 200 people at most" in h100
    assert "spent most in `queue`" in h100
    assert "5 failed upstream" in h100
    assert "not serving: STARTING for 1 min 56 s" in h100
    assert "our clients sent 4 818 requests, the gateway saw 4 818" in h100
    assert "--max-num-seqs 64" in h100


@pytest.mark.parametrize("number", range(1, 7))
def test_every_arrow_says_what_waited_failed_and_was_measured(h100: str, number: int) -> None:
    section = h100.split(f"\n## {number}. ")[1].split("\n## ", maxsplit=1)[0]
    for word in ("Waited", "Failed", "Measured"):
        assert section.count(f"**{word}:**") == 1
    assert "|---|" in section


def test_the_run_bends_from_event_to_event(h100: str) -> None:
    stretches: dict[str, list[str]] = {}
    for row in rows(h100, "From event to event"):
        stretches.setdefault(row[1], row)
    assert stretches["engine ready after 68 s (process-cold)"][3:7] == ["1", "9", "0", "100 % of 7"]
    crowd, heavy = (stretches[f"{people} people"] for people in (64, 200))
    assert crowd[6].startswith("100 %")
    assert float(heavy[6].split()[0]) < 10
    assert (crowd[11], heavy[11]) == ("32", "63")
    burst = stretches["burst +200"]
    assert burst[6:9] == ["—", "—", "—"], "no window of 30 s lies whole within 11 s"
    assert burst[10] == "183"


def test_its_stages_add_up(h100: str) -> None:
    tally = Tally()
    for snapshot in read(RECORDING):
        tally.add(snapshot)
    assert sum(tally.stages.means.values()) == pytest.approx(tally.stages.e2e_s, rel=1e-6)
    assert "lies in no stage" in h100.split("Checked, and it held")[1]


def test_littles_law_is_not_asked_of_windows_with_an_event_in_them(h100: str) -> None:
    assert "held within 5 % in 2 steady windows" in h100


def test_nothing_is_said_in_the_languages_own_words(h100: str) -> None:
    assert not re.search(r"\b(None|nan|inf|True|False)\b", h100)
    assert len(h100.splitlines()) < 260


def test_snapshots_are_not_kept() -> None:
    def counted() -> Iterator[Snapshot]:
        before = sum(isinstance(thing, Snapshot) for thing in gc.get_objects())
        for index, snapshot in enumerate(read(RECORDING)):
            yield snapshot
            if index % 400 == 399:
                gc.collect()
                alive = sum(isinstance(thing, Snapshot) for thing in gc.get_objects())
                assert alive <= before + 5

    assert report(counted(), source="a test")


def known_run() -> list[RequestRecord]:
    """Two minutes: fast, then half of them late, then some refused."""
    made = []
    for index in range(1190):
        at = BEGIN + index * 0.1
        late = index >= 400 and index % 2 == 0
        refused = index >= 900 and index % 5 == 1
        made.append(request(at, 1.5 if late else 0.2, outcome="rejected" if refused else "ok"))
    return [record for record in made if record.done <= BEGIN + 120]


def test_windows_side_by_side_count_every_request_once() -> None:
    records = known_run()
    truth = attainment(records, CHAT)
    text = report(seen(records, 120.0), source="a test")
    judged = re.search(r"([\d ]+) of ([\d ]+) judged in (\d+) whole", text)
    assert judged is not None
    good, due = (int(number.replace(" ", "")) for number in judged.groups()[:2])
    # A request that ended in the very moment between two windows may be in both.
    assert (good, due) == (pytest.approx(truth.good, abs=8), pytest.approx(truth.due, abs=8))
    assert f"{share(truth.good / truth.due)} (chat" in text


def test_with_the_single_requests_everything_is_exact() -> None:
    records = known_run()
    truth, ttft = attainment(records, CHAT), Distribution.of([r.ttft_s for r in records if r.ttft_s is not None])
    text = report(seen(records, 120.0), source="a test", requests=records)
    assert f"{count(truth.good)} of {count(truth.due)} judged were good" in text
    row = next(row for row in rows(text, "6. streamed tokens") if row[0] == "TTFT")
    exact = [seconds(v) for v in (ttft.mean, ttft.p50, ttft.p95, ttft.p99, ttft.max)]
    assert row[1:7] == [*exact, count(ttft.n)]
    refused = sum(record.outcome == "rejected" for record in records)
    assert f"the engine said &lt;no> ({refused})" in text


def test_requests_that_ended_outside_the_run_are_left_out() -> None:
    before, after = request(BEGIN - 10, 0.1), request(BEGIN + 200, 0.1)
    text = report(seen(known_run(), 120.0), source="a test", requests=[before, *known_run(), after])
    assert text == report(seen(known_run(), 120.0), source="a test", requests=known_run())


def test_a_request_that_waits_past_its_limit_counts_once() -> None:
    judged = Judged()
    for _ in range(3):  # 10 good and 5 late ones ended in each window, 20 more are waiting past their limit
        reached = Value(v=10 / 35, n=35, window_s=30.0)
        judged.add(moment(0, feel=Feel(attainment=reached, goodput_per_s=Value(v=10 / 30, n=15))))
    assert (judged.good, judged.due) == (30, 45)


def test_figures_of_before_the_run_are_not_the_runs() -> None:
    def at(second: float) -> Snapshot:
        old = second < 30
        feel = Feel(ttft_s=Quantiles(n=10, p50=9.0 if old else 0.2, max=9.0 if old else 0.2))
        people = People(mode="closed", outcomes={"ok": 100_000 + int(second)}, sent_total=100_000 + int(second))
        events = [Event(at=BEGIN - 60, wall=1e9, kind="burst", text="long ago", mark="b")]
        return moment(second, feel=feel, people=people, events=events)

    text = report((at(second) for second in ticks(60)), source="a test")
    assert "60 of 60 requests finished" in text
    assert "9 s" not in text
    assert "long ago" not in text


def test_where_nothing_was_measured_nothing_is_zero() -> None:
    text = report([moment(0), moment(0.5)], source="a test")
    assert "No request ended." in text
    assert "0 %" not in text
    assert next(row for row in rows(text, "6. streamed tokens") if row[0] == "TTFT")[1:6] == ["—"] * 5
    assert text.count("**Failed:** —") == 5, "all but the model server, whose verdict is there"
    assert not re.search(r"\b0\b", text.split("```text")[1].split("```")[0]), "the picture"
    assert rows(text, "1. people")[1] == ["people", "—", "—", "—", "—", "none"]


def test_no_snapshot_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not one snapshot"):
        report([], source="a test")
    path = tmp_path / "run.sparkrec"
    Recorder(path).close()
    with pytest.raises(ReportError):
        report_of(path)
    path.write_text("no recording")
    with pytest.raises(RecordingError):
        report_of(path)


def test_requests_beside_a_recording_are_found(tmp_path: Path) -> None:
    path, records = tmp_path / "run.sparkrec", known_run()
    recorder = Recorder(path)
    for snapshot in seen(records, 120.0):
        recorder.write(snapshot)
    recorder.close()
    without = report_of(path)
    lines = [msgspec.json.encode(record) for record in records]
    requests_beside(path).write_bytes(b"\n".join([*lines[:5], b"{not json", *lines[5:], lines[0][:40]]))
    assert "single requests were not kept" in without
    assert f"from all {count(len(records))} requests" in report_of(path)


def test_words_of_others_mark_nothing_up() -> None:
    nasty = "a|b `c` <script> [x](y) \x1b]52;c;xx\x07\x1b[31mred\n# title"
    event = Event(at=BEGIN + 1, wall=1e9, kind="marker", text=nasty, mark="m")
    engine = Engine(phase="ready", model=nasty, device=nasty, argv=["vllm", "serve", "```", "--api-key", "s3cret"])
    text = report([moment(0), moment(2, events=[event], engine=engine)], source="a test")
    assert "\x1b" not in text
    assert "<script>" not in text
    assert "s3cret" not in text
    assert "\n# title" not in text
    assert all(len(row) == 4 for row in rows(text, "Events"))
    assert text.count("```") % 2 == 0


def test_secrets_of_a_command_line_are_hidden() -> None:
    argv = ["serve", "--api-key", "one", "--hf-token=two", "--max-num-batched-tokens", "2048", "--api-key", "--x"]
    assert (
        arguments(argv) == f"serve --api-key {HIDDEN} --hf-token={HIDDEN} --max-num-batched-tokens 2048 --api-key --x"
    )


def test_what_did_not_add_up_is_said() -> None:
    def at(second: float) -> Snapshot:
        lost = 40 <= second < 50
        return moment(
            second,
            little=Little(expected=12.0, counted=10.0, n=100),
            people=People(
                mode="closed",
                void="a worker took 99 % of a core" if second < 20 else "",
                outcomes={"ok": int(second)},
                sent_total=int(second) * 4,
            ),
            queue=Queue(outcomes={"completed": int(second)}, arrived_total=int(second)),
            sources={
                "engine": SourceState(ok=not lost, detail="nothing listens there" if lost else ""),
                "nvml": SourceState(ok=False, detail="no NVIDIA driver on this machine"),
                "host": SourceState(ok=True),
            },
        )

    seconds_in = [second for second in ticks(200) if not 100 < second < 130]
    off = report(map(at, seconds_in), source="a test").split("## What did not add up")[1].split("Checked, and it held")
    assert "Little's law (rate x time = people inside) was off by more than 5 %" in off[0]
    assert "12.0 expected, 10.0 counted (+20.0 %)" in off[0]
    assert "load generator was the limit for 19.5 s" in off[0]
    assert "source engine did not answer 1 time, 10 s in all: nothing listens there" in off[0]
    assert "source nvml never answered: no NVIDIA driver" in off[0]
    assert "nothing was written down for 30 s in 1 hole, the longest 30 s at +1:40" in off[0]
    assert "our clients sent 800 requests, the gateway saw 200: some never came there" in off[0]
    assert "always answered: host" in off[1]


def test_an_engine_that_is_down_is_no_source_that_failed() -> None:
    down = Engine(phase="starting", model="m")
    quiet = {"engine": SourceState(ok=False, detail="no engine to ask")}
    text = report([moment(second, engine=down, sources=quiet) for second in ticks(10)], source="a test")
    assert "source engine" not in text
    assert "Little's law" in text.split("Could not be checked:")[1]


def test_idle_time_does_not_water_the_gpu_down() -> None:
    def at(second: float) -> Snapshot:
        works = second < 10
        gpu = Gpu(
            index=0, name="H100", tensor=Value(v=0.6 if works else 0.0), power_w=Value(v=600.0 if works else 70.0)
        )
        engine = Engine(phase="ready", running=Value(v=8.0 if works else 0.0))
        return moment(second, engine=engine, gpus=[gpu])

    row = next(
        row for row in rows(report(map(at, ticks(60)), source="a test"), "5. GPU") if row[0].startswith("tensor")
    )
    assert row[1:4] == ["60 %", "60 %", "60 %"]


def test_very_many_events_are_cut_in_the_middle() -> None:
    def at(second: float) -> Snapshot:
        event = Event(at=BEGIN + second - 0.1, wall=1e9, kind="marker", text=f"note {second:g}", mark="m")
        return moment(second, events=[event] if second and second % 5 == 0 else [])

    text = report(map(at, ticks(2000)), source="a test")
    assert "200 events between them left out" in text
    assert len(rows(text, "Events")) == 201
    assert len(rows(text, "From event to event")) == 41
    assert "361 shorter ones left out" in text


QUESTION = Question(mix="128/64 tokens, 3 turns", cache="fresh salt", seed=7)
BLOCKS = [
    Block(
        people=people,
        phase="double",
        begin_s=30.0 * index,
        seconds=12.5,
        good=good,
        due=100,
        misses={"ttft": 100 - good},
        ttft_p95_s=0.4,
        ttft_n=99 if people == 8 else 100,
    )
    for index, (people, good) in enumerate([(8, 100), (64, 97), (256, 60)])
]
ANSWER = Answer(
    resolved=True, best=80.4, low=70.0, high=92.0, safe=70, clear_break=256, limit="TTFT", sentence="70 people."
)


def progress(answer: Answer | None = ANSWER, elapsed_s: float = 90.0, **more: Any) -> Progress:
    return Progress(
        question=QUESTION,
        phase="done" if answer else "refine",
        people=80,
        blocks=BLOCKS,
        elapsed_s=elapsed_s,
        answer=answer,
        **more,
    )


def test_a_capacity_search_of_the_run_is_in_it() -> None:
    def at(second: float) -> Snapshot:
        return moment(second, capacity=progress() if second >= 30 else progress(None, second))

    text = report(map(at, ticks(60)), source="a test")
    assert text.count("\n## Capacity") == 1
    assert "\n## Capacity, at +0:30" in text
    assert "95 % of their requests are good" in text
    assert "**Answer:** 70 people." in text
    answers, *blocks = (row for row in rows(text, "Capacity") if row[0] not in {"best estimate", "at"})
    assert answers[:5] == ["80", "70 to 92", "70", "256", "TTFT"]
    assert [block[2:7] for block in blocks][2] == ["256", "60", "100", "60 %", "ttft 40"]
    assert [block[7] for block in blocks] == ["—", "400 ms (n=100)", "400 ms (n=100)"], "a p95 needs 100 requests"


def test_a_search_that_was_over_before_or_is_not_yet_is_dated() -> None:
    text = report([moment(0, capacity=progress()), moment(5, capacity=progress(None, 2.0))], source="a test")
    assert "\n## Capacity, before this run" in text
    assert "\n## Capacity, at +0:05" in text
    assert "it was still looking after 2 s" in text


def test_a_comparison_of_policies_is_in_it() -> None:
    running = CompareProgress(
        message="run 2 of 4: shortest", said=1, lines=["  9.0 s  run 1 of 4  fifo"], elapsed_s=9.0
    )
    done = CompareProgress(
        phase="done",
        message="Yes: under fifo a short prompt waits 2 s for its first token behind long ones, under shortest 1 s. "
        * 9,
        lines=[*running.lines, " 20.0 s  run 2 of 4  shortest"],
        elapsed_s=40.0,
        saved="/somewhere/comparison-20261125-101017.json",
    )
    again = CompareProgress(message="what the people had asked is being finished", elapsed_s=1.0)
    text = report(
        [moment(0, comparison=running), moment(5, comparison=done), moment(9, comparison=again)], source="a test"
    )
    assert text.count("\n## Policies compared") == 2
    section = text.partition("\n## Policies compared, at +0:05")[2].partition("\n## ")[0]
    assert section.count("Yes: under fifo") == 9, "nothing of it is cut off"
    assert " 20.0 s  run 2 of 4  shortest" in section
    assert "`spark-serve compare --show comparison-20261125-101017.json`" in section
    assert "/somewhere" not in text
    assert "It was still going on." in text.partition("\n## Policies compared, at +0:09")[2]


def test_the_curve_is_drawn() -> None:
    curve = [
        Point(people=people, share=s, low=s - 0.1, high=min(1, s + 0.02))
        for people, s in ((8, 1.0), (64, 0.96), (256, 0.6))
    ]
    lines = chart(progress(curve=curve), width=31, height=11)
    assert lines[10].rstrip()[-1] == ":"
    assert lines[8].endswith("o")
    assert lines[0] == " 100 %|o" + "*" * 11 + ":" * 7
    assert lines[12].index("[") < lines[12].index("^") < lines[12].index("]")
    assert lines[13].split() == ["8", "80", "256"]
    assert all(line.isascii() for line in lines)
    assert chart(msgspec.structs.replace(progress(), blocks=BLOCKS[:1])) == []


def test_counters_that_begin_anew_are_not_subtracted() -> None:
    growth = Growth()
    for total in (10, 15, 3, 4):
        growth.look({"ok": total})
    growth.look({})
    assert growth.grown == {"ok": 9}


def test_windows_lie_side_by_side() -> None:
    tiles = Tiles(30.0, 0.0)
    taken = [second for second in ticks(100) if tiles.take(second)]
    assert taken == [30.0, 60.0, 90.0]


def test_a_quantile_that_only_the_worse_windows_knew_is_absent() -> None:
    windowed = Windowed()
    windowed.add(Quantiles(n=200, mean=0.1, exact=False, why="p95 in the first bucket"), 30.0)
    windowed.add(Quantiles(n=200, mean=0.3, p95=0.9, exact=False), 60.0)
    assert windowed.mean == pytest.approx(0.2)
    assert windowed.median("p95") is None
    assert windowed.worst("p95") == (0.9, 60.0)


def test_a_gauge_knows_median_mean_and_most() -> None:
    gauge = Gauge()
    for at, v in enumerate((64, 64, 64, 1, 3)):
        gauge.add(v, at)
    assert (gauge.n, gauge.median, gauge.most, gauge.most_at) == (5, 64, 64, 0)
    assert gauge.mean == pytest.approx(39.2)
    assert Gauge().median is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (seconds(24e-6), "24 µs"),
        (seconds(0.0731), "73 ms"),
        (seconds(3.874), "3.87 s"),
        (seconds(416.0), "6 min 56 s"),
        (seconds(7500.0), "2 h 5 min"),
        (seconds(0.99999), "1.00 s"),
        (share(0.9999), ">99.9 %"),
        (share(1.0), "100 %"),
        (share(0.0001), "<0.1 %"),
        (share(0.5), "50 %"),
        (digits(3749.6), "3 750"),
        (digits(0.314159), "0.314"),
        (digits(None), "—"),
        (digits(float("nan")), "—"),
        (offset(3723.9), "+1:02:03"),
        (md("*x* | y\tz"), "\\*x\\* \\| y z"),
    ],
)
def test_figures_as_text(text: str, wanted: str) -> None:
    assert text == wanted


def test_the_verdicts_seconds_are_told() -> None:
    words = [moment(second, verdict=Verdict(word="GOOD" if second <= 40 else "BROKEN")) for second in ticks(60)]
    assert "The verdict was GOOD 40 s, BROKEN 20 s." in report(words, source="a test")


def test_a_scripted_run_survives_its_encoding() -> None:
    made = seen(known_run(), 120.0)
    again = [msgspec.json.decode(snapshot_encoder.encode(snapshot), type=Snapshot) for snapshot in made]
    assert report(again, source="a test") == report(made, source="a test")


async def test_the_stack_has_its_report_written_by_a_process_of_its_own(tmp_path: Path) -> None:
    stack = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    path = tmp_path / "log.md"
    empty = await stack.execute(commands.Report(path=str(path)))
    assert (empty.ok, empty.message) == (
        False,
        "There is no report: There is nothing to report: not one snapshot was taken.",
    )
    assert not path.exists()
    await stack._feed.publish(Snapshot(seq=1, at=1.0, wall=1.0))
    written = await stack.execute(commands.Report(path=str(path)))
    assert (written.ok, written.message) == (True, f"Report written to {path}.")
    assert "the last minutes of the running stack" in path.read_text()
    nowhere = await stack.execute(commands.Report(path=str(tmp_path / "no" / "log.md")))
    assert "No such file" in nowhere.message
    assert not psutil.Process().children(), "its process is gone"
