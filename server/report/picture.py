"""The picture of the course in characters: the arrows, a few figures under each, and where a mean request's time went."""

from __future__ import annotations

from server.report.rows import Run
from server.report.tally import Tally
from server.report.text import ABSENT, count, digits, fenced, seconds, share, whole

STAGE_WIDTH = 40


def columns(run: Run) -> list[tuple[str, str, str]]:
    """The six arrows, each with its two figures: name, what is in it, what became of it."""
    tally = run.tally

    def most(name: str) -> float | None:
        gauge = tally.gauges.get(name)
        return None if gauge is None else gauge.most

    def median(name: str) -> float | None:
        gauge = tally.gauges.get(name)
        return None if gauge is None else gauge.median

    slots = run.facts.engine.max_num_seqs.v
    ttft_s = tally.windows["ttft"].mean if run.requests is None else run.requests.ttft_s.mean
    return [
        (
            "people",
            f"{whole(most('people'))} at most",
            f"{count(sum(run.ended.values())) if run.ended else ABSENT} requests",
        ),
        (
            "gateway",
            f"{count(tally.arrived.total) if tally.arrived.grown else ABSENT} arrived",
            f"{_gateway(tally, 'failed')} failed",
        ),
        ("queue", f"{whole(most('depth'))} at most", f"{_gateway(tally, 'rejected')} refused"),
        (
            "model server",
            f"batch {whole(median('running'))}/{count(slots)}",
            f"KV {share(most('kv'))} at most",
        ),
        ("GPU", f"SM {share(median('gpu0 sm_active'))}", f"tensor {share(median('gpu0 tensor'))}"),
        (
            "tokens",
            f"{digits(median('tokens'))} /s",
            f"TTFT mean {seconds(ttft_s)}",
        ),
    ]


def section(run: Run) -> list[str]:
    """The arrows with a few figures under each, and where a mean request's time went."""
    tally, stages = run.tally, run.tally.stages.means
    named = columns(run)
    width = 18
    head = "".join(f"{name} ".ljust(width - 2, "-") + "> " for name, *_ in named[:-1]) + named[-1][0]
    lines = [head]
    lines += ["".join(column[row].ljust(width) for column in named).rstrip() for row in (1, 2)]
    if stages and (e2e_s := tally.stages.e2e_s):
        lines += ["", f"where a mean request's {seconds(e2e_s)} went (n={count(tally.stages.n)}):"]
        for name, mean_s in stages.items():
            part = max(0.0, mean_s) / e2e_s
            bar = "#" * round(part * STAGE_WIDTH)
            lines.append(f"  {name:<13}{seconds(mean_s):>9} {share(part):>7}  {bar}".rstrip())
    return [*fenced(lines), ""]


def _gateway(tally: Tally, outcome: str) -> str:
    return count(tally.gateway.grown.get(outcome, 0)) if tally.gateway.grown else ABSENT
