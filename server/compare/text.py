"""A comparison as lines of text: what was asked, a table of the arms, the verdict. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from server.compare.figures import ArmFigures, KindFigures, Waits, figures
from server.compare.plan import Question
from server.compare.result import Comparison
from server.compare.verdict import verdicts
from server.report.text import ABSENT, clean, count, digits, plural, seconds, share
from server.saved import columns, when

CELLS = 100
_Cell = Callable[[ArmFigures], str]


def lines(comparison: Comparison) -> list[str]:
    """Everything but the chart."""
    arms = figures(comparison)
    said = [*_wrapped(asked(comparison)), "", *table(arms)]
    if comparison.question.alone_s is not None:
        said.append(f"slowdown: end to end against {seconds(comparison.question.alone_s)} for a short one alone")
    said += ["", *_wrapped(verdicts(arms))]
    if comparison.ended:
        said += ["", *_wrapped([f"It ended early: {comparison.ended} {counts_of_runs(comparison)}"])]
    return [clean(line) for line in said]


def _wrapped(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in textwrap.wrap(sentence, CELLS, break_on_hyphens=False)]


def asked(comparison: Comparison) -> list[str]:
    """The setup and the load."""
    about, question = comparison.about, comparison.question
    kind = f" ({about.model_kind})" if about.model_kind else ""
    setup = " · ".join(
        part
        for part in (f"{about.model}{kind}", about.device, f"{about.engine} {about.version}", when(about.wall))
        if part
    )
    runs = len(question.order)
    shape = " ".join(letter(arm) for arm in question.order)
    return [
        setup,
        f"{plural(runs, 'run')} ({shape}) of {seconds(question.seconds)}, Poisson {load(question)}, seed {question.seed}: "
        f"{question.mixture.words}",
        in_flight(question),
        *([f"in common: {question.base}"] if question.base else []),
    ]


def load(question: Question) -> str:
    """The rate, and against what: `3.4 requests/s (1.2 x the 2.8 it served)`."""
    served = question.served_per_s
    against = "" if not served else f" ({question.rate_per_s / served:.2g} x the {digits(served)} it served)"
    return f"{digits(question.rate_per_s)} requests/s{against}"


def in_flight(question: Question) -> str:
    why = f" ({question.why_in_flight})" if question.why_in_flight else ""
    return f"at most {question.max_in_flight} in flight{why}, so that the waiting is in the gateway's queue"


def letter(arm: int) -> str:
    return chr(ord("A") + arm)


def table(arms: Sequence[ArmFigures]) -> list[str]:
    """Figures down, arms across."""
    rows: list[tuple[str, _Cell]] = [
        ("", lambda arm: arm.name),
        ("runs", lambda arm: str(arm.runs)),
        ("requests planned", lambda arm: count(arm.planned)),
        ("  = ok + refused", lambda arm: f"{count(arm.outcomes['ok'])} + {count(arm.outcomes['rejected'])}"),
        ("  + failed + left", lambda arm: f"{count(arm.outcomes['error'])} + {count(arm.outcomes['abandoned'])}"),
    ]
    for name, of in (("short", lambda arm: arm.short), ("long", lambda arm: arm.long)):
        rows += _kind_rows(name, of, arms)
    rows += [
        ("TPOT p50", lambda arm: seconds(arm.tpot_s.p50)),
        ("requests/s", lambda arm: digits(arm.requests_per_s)),
        ("tokens/s", lambda arm: digits(arm.tokens_per_s)),
        ("prefix hits, each run", lambda arm: ", ".join(map(share, arm.prefix_hit_shares)) or ABSENT),
    ]
    if any(arm.preemptions for arm in arms):
        rows.append(("preemptions", lambda arm: count(arm.preemptions)))
    if any(arm.others for arm in arms):
        rows.append(("others' requests", lambda arm: count(arm.others)))
    return columns([(name, *(cell(arm) for arm in arms)) for name, cell in rows])


def _kind_rows(
    name: str, of: Callable[[ArmFigures], KindFigures], arms: Sequence[ArmFigures]
) -> list[tuple[str, _Cell]]:
    """The tail is the p95 where every arm has one, else the p90, if they have that."""
    firsts = [of(arm).ttft_s for arm in arms]
    tails: dict[str, Callable[[Waits], float | None]] = {"p95": lambda w: w.p95, "p90": lambda w: w.p90}
    tail = next((word for word, value in tails.items() if all(value(waits) is not None for waits in firsts)), "p95")
    rows: list[tuple[str, _Cell]] = [
        (f"{name}: TTFT p50", lambda arm: f"{seconds(of(arm).ttft_s.p50)} (n={of(arm).ttft_s.n})"),
        (f"  {tail}", lambda arm: seconds(tails[tail](of(arm).ttft_s))),
        ("  mean", lambda arm: seconds(of(arm).ttft_s.mean)),
        ("  mean of each run", lambda arm: ", ".join(map(seconds, of(arm).ttft_s.runs)) or ABSENT),
        ("  longest", lambda arm: seconds(of(arm).ttft_s.longest)),
        ("  mean in the queue", lambda arm: seconds(of(arm).wait_s.mean)),
    ]
    if name == "short":
        rows.append(("  slowdown", lambda arm: ABSENT if arm.slowdown is None else f"x{digits(arm.slowdown, 2)}"))
    return rows


def counts_of_runs(comparison: Comparison) -> str:
    """Which runs count: `What counts: 2 of 4 runs (fifo 1, shortest 1).`"""
    question = comparison.question
    each = ", ".join(
        f"{arm.name} {sum(run.arm == index for run in comparison.runs)}" for index, arm in enumerate(question.arms)
    )
    return f"What counts: {len(comparison.runs)} of {len(question.order)} runs ({each})."


def listing(found: Sequence[tuple[Path, Comparison]], unreadable: Sequence[str]) -> list[str]:
    """A table for a person, newest first, and what could not be read."""
    head = ("when", "model", "device", "arms", "short TTFT mean", "runs", "file")
    rows = [
        (
            when(comparison.about.wall),
            comparison.about.model or ABSENT,
            comparison.about.device or ABSENT,
            " ".join(arm.name for arm in comparison.question.arms),
            ", ".join(seconds(arm.short.ttft_s.mean) for arm in figures(comparison)),
            f"{len(comparison.runs)} of {len(comparison.question.order)}",
            path.name,
        )
        for path, comparison in found
    ]
    said = columns([head, *rows]) if rows else ["No comparison has been saved yet."]
    return [clean(line) for line in (*said, *unreadable)]
