"""A comparison as a chart."""

from __future__ import annotations

from console.ink import plain, width
from console.panels.compared import compared
from server.compare.arm import parse_arms
from server.compare.mixture import Lengths, Mixture
from server.compare.plan import Question
from server.compare.result import Comparison, Measured, Run
from server.results import About


def comparison(*waits: tuple[int, bool, list[float]]) -> Comparison:
    """Of two arms; each of `waits` is an arm, a kind and its times to first token."""
    question = Question(
        arms=parse_arms(["fifo", "plain-shortest:overload=shed,max-queue=1"]),
        mixture=Mixture(short=Lengths(32, 16), long=Lengths(512, 48)),
        rate_per_s=3.0,
        seconds=60.0,
        max_in_flight=8,
    )
    runs = [
        Run(
            arm=arm,
            planned=len(ttfts),
            seconds=60.0,
            requests=[Measured(0.0, long, "ok", ttft, 0.05, ttft + 1.0, ttft, 32, 16) for ttft in ttfts],
            text_seed=1,
        )
        for arm, long, ttfts in waits
    ]
    return Comparison(about=About(wall=0.0), question=question, runs=runs, elapsed_s=1.0)


def test_each_arm_is_a_histogram_on_one_axis() -> None:
    made = comparison((0, False, [n / 100 for n in range(100)] + [3.9]), (1, False, [0.2] * 8))
    blank, *lines = (plain(line) for line in compared(made, 72))
    assert blank == ""
    left = 32
    assert lines[0] == "short requests: time to first token, share of each arm"
    assert lines[1].startswith("fifo")
    assert lines[2].startswith("| p50 500 ms  n=101")
    assert lines[2].rstrip().endswith("▂"), "one alone is to be seen"
    assert lines[3].startswith(": p95 950 ms")
    marks = lines[3][left:]
    assert (marks.index("|"), marks.index(":")) == (4, 8), "34 cells for 4 s"
    assert lines[4].startswith("plain-shortest:overload=shed,…")
    assert lines[5][left:].strip() == "█"
    assert lines[6].strip() == "|", "8 are too few for a p95 or a p90"
    assert lines[7].split() == ["0", "1", "s", "2", "s", "3", "s", "4", "s"]
    assert len(lines) == 8, "no long ones, no chart of them"
    assert max(width(line) for line in compared(made, 72)) <= 72


def test_without_runs_there_is_nothing() -> None:
    assert compared(comparison(), 80) == []
