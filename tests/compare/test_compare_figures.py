"""What runs come to, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadgen.records import Outcome
from server.compare import text
from server.compare.arm import parse_arms
from server.compare.figures import Waits, difference, figures
from server.compare.mixture import Lengths, Mixture
from server.compare.plan import Question
from server.compare.result import Comparison, Measured, Run, listed, load, save
from server.compare.verdict import verdicts
from server.results import About
from server.saved import SavedError

QUESTION = Question(
    arms=parse_arms(["fifo", "shortest"]),
    mixture=Mixture(short=Lengths(32, 16), long=Lengths(512, 48)),
    rate_per_s=3.0,
    seconds=60.0,
    max_in_flight=8,
    why_in_flight="the engine's max-num-seqs",
    served_per_s=2.5,
    alone_s=0.5,
)


def one(ttft_s: float, *, long: bool = False, outcome: Outcome = "ok") -> Measured:
    ok = outcome == "ok"
    return Measured(
        at_s=0.0,
        long=long,
        outcome=outcome,
        ttft_s=ttft_s if ok else None,
        tpot_s=0.05 if ok else None,
        e2e_s=ttft_s + 1.0,
        wait_s=ttft_s - 0.1,
        prompt_tokens=32,
        completion_tokens=16 if ok else None,
    )


def run(arm: int, short: Sequence[float], long: Sequence[float] = (2.0,), *, refused: int = 0) -> Run:
    requests = [
        *(one(ttft) for ttft in short),
        *(one(ttft, long=True) for ttft in long),
        *(one(0.1, outcome="rejected") for _ in range(refused)),
    ]
    return Run(arm=arm, planned=len(requests), seconds=10.0, requests=requests, text_seed=1, prefix_hit_share=0.02)


def compared(*runs: Run, ended: str = "") -> Comparison:
    about = About(wall=1_795_445_000.0, engine="vLLM", version="0.32.0", model="m", device="CPU")
    return Comparison(about=about, question=QUESTION, runs=list(runs), elapsed_s=100.0, ended=ended)


def test_quantiles_need_enough_requests() -> None:
    few, some, many = (Waits.of([[float(n) for n in range(1, size + 1)]]) for size in (49, 50, 100))
    assert (few.n, few.p50, few.p90, few.p95) == (49, 25.0, None, None)
    assert (some.p90, some.p95) == (45.0, None)
    assert (many.p90, many.p95, many.longest, many.mean) == (90.0, 95.0, 100.0, 50.5)
    assert Waits.of([[], []]) == Waits(runs=[None, None])


def test_runs_of_an_arm_are_pooled_and_their_means_kept() -> None:
    first, later = figures(compared(run(0, [1.0, 3.0]), run(1, [0.5]), run(1, [1.5]), run(0, [4.0, 6.0], refused=2)))
    assert first.short.ttft_s.runs == [2.0, 5.0]
    assert (first.short.ttft_s.n, first.short.ttft_s.mean, first.short.ttft_s.spread) == (4, 3.5, 3.0)
    assert first.short.wait_s.mean == pytest.approx(3.4)
    assert (first.planned, first.outcomes) == (8, {"ok": 6, "rejected": 2, "error": 0, "abandoned": 0})
    assert sum(first.outcomes.values()) == first.planned
    assert first.slowdown == 9.0, "a mean of 4.5 s against 0.5 s alone"
    assert (first.requests_per_s, first.tokens_per_s) == (6 / 20, 6 * 16 / 20)
    assert (later.runs, later.short.ttft_s.mean, later.prefix_hit_shares) == (2, 1.0, [0.02, 0.02])


def test_a_difference_is_held_against_the_noise_between_runs() -> None:
    found = difference([2.0, 2.2], [1.0, 1.2])
    assert found is not None
    assert found.by == pytest.approx(-1.0)
    # two variances of 0.02, pooled, over two runs each: a standard error of 0.1414, and t = 4.303
    assert (found.low, found.high) == (pytest.approx(-1.6085, abs=1e-3), pytest.approx(-0.3915, abs=1e-3))
    assert found.beyond_noise
    noisy = difference([2.0, 3.0], [1.0, 2.0])
    assert noisy is not None
    assert not noisy.beyond_noise
    lonely = difference([2.0], [1.0, None])
    assert lonely is not None
    assert (lonely.by, lonely.low, lonely.beyond_noise) == (-1.0, None, False)
    assert difference([2.0], [None]) is None


@pytest.mark.parametrize(
    ("runs", "begins", "has"),
    [
        (
            [run(0, [1.9], [2.1]), run(1, [0.4], [3.0]), run(1, [0.42], [3.02]), run(0, [1.92], [2.12])],
            "Yes: under fifo a short prompt waits 1.91 s for its first token behind long ones, under shortest 410 ms",
            "long ones pay: 2.11 s -> 3.01 s",
        ),
        (
            [run(0, [1.9], [2.1]), run(1, [0.4], [2.11]), run(1, [0.42], [2.2]), run(0, [1.92], [2.22])],
            "Yes: ",
            "for long ones no difference beyond the noise (2.16 s and 2.16 s)",
        ),
        (
            [run(0, [1.0]), run(1, [1.1]), run(1, [0.8]), run(0, [1.2])],
            "No difference beyond the noise between runs: a short prompt waits 1.10 s for its first token under fifo "
            "and 950 ms under shortest",
            "95 % interval of the difference −9",
        ),
        (
            [run(0, [0.4], [3.0]), run(1, [1.9], [2.1]), run(1, [1.92], [2.12]), run(0, [0.42], [3.02])],
            "The other way round: under shortest a short prompt waits 1.91 s for its first token, under fifo only 410 ms",
            "long ones gain too: 3.01 s -> 2.11 s",
        ),
        ([run(0, [1.0]), run(1, [0.1])], "Not known: ", "one run each says nothing of the noise"),
        ([run(0, [1.0])], "Unknown: no run of shortest counts.", ""),
        (
            [run(0, [1.9]), run(1, [0.4], refused=3), run(1, [0.42]), run(0, [1.92])],
            "Yes: ",
            "But shortest turned away 3 of 5 short ones, who are in no waiting time.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(runs: list[Run], begins: str, has: str) -> None:
    (said,) = verdicts(figures(compared(*runs)))
    assert said.startswith(begins)
    assert has in said


def test_the_table_shows_what_there_is_and_a_dash_for_what_is_not() -> None:
    lines = text.lines(compared(run(0, [1.0] * 120), run(1, [0.5] * 60), ended="It was stopped by hand."))
    shown = "\n".join(lines)
    assert "4 runs (A B B A) of 60 s, Poisson 3.00 requests/s (1.2 x the 2.50 it served)" in shown
    assert "at most 8 in flight (the engine's max-num-seqs)" in shown
    rows = {line[:22].strip(): line[22:].split() for line in lines if line[:1] in {" ", "s", "l", "r"}}
    assert rows["short: TTFT p50"] == ["1", "s", "(n=120)", "500", "ms", "(n=60)"]
    assert rows["long: TTFT p50"][-1] == "(n=1)"
    assert [line.split() for line in lines if line.startswith("  p9")] == [
        ["p90", "1", "s", "500", "ms"],
        ["p95", "—", "—"],
    ]
    assert "What counts: 2 of 4 runs (fifo 1, shortest 1)." in shown


def test_a_comparison_is_kept_listed_and_read_again(tmp_path: Path) -> None:
    made = compared(run(0, [1.0]), run(1, [0.5]))
    path = save(tmp_path / "new", made)
    assert path.name.startswith("comparison-2026112")
    assert load(path) == made
    (tmp_path / "new" / "other.json").write_text('{"format": "spark-serve-capacity", "schema_version": 1}')
    found, unreadable = listed(tmp_path / "new")
    assert [entry for entry, _ in found] == [path]
    assert "is not a comparison result" in unreadable[0]
    assert "fifo shortest  1 s, 500 ms" in "\n".join(text.listing(found, unreadable))
    assert text.listing([], []) == ["No comparison has been saved yet."]


def test_a_run_of_no_arm_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, compared(run(2, [1.0])))
    with pytest.raises(SavedError, match="a run of no arm"):
        load(path)
