"""A capacity search as Markdown: the question, the answer, every block, and the curve drawn in characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from loadgen.capacity import Block, Point, Progress, Question
from loadgen.summary import P95_NEEDS
from server.report.text import ABSENT, count, digits, fenced, md, offset, seconds, share, table, whole

WIDTH, HEIGHT = 64, 11
MARGIN = 7
FLOORS = (0.8, 0.5, 0.0)
"""Where the chart may begin: as high as the measured shares allow."""


def question_text(question: Question) -> str:
    """What was asked, as plain text."""
    slo = question.slo
    asked = (
        f"How many people, who think for {seconds(question.think_s)} on average, can be there so that "
        f"{share(question.attainment)} of their requests are good ({slo.name}: first token within {seconds(slo.ttft_s)}, "
        f"then at most {seconds(slo.tpot_s)} a token)?"
    )
    terms = [question.mix, f"cache: {question.cache}" if question.cache else "", f"seed {question.seed}"]
    return f"{asked} {'; '.join(term for term in terms if term)}."


def section(progress: Progress) -> list[str]:
    """The search as lines of Markdown, without its heading."""
    answer = progress.answer
    lines = [f"**Asked:** {md(question_text(progress.question))}", ""]
    if answer is None:
        lines += [f"**Answer:** {ABSENT} (it was still looking after {seconds(progress.elapsed_s)})", ""]
    else:
        lines += [f"**Answer:** {md(answer.sentence) or ABSENT}", ""]
        band = ABSENT if answer.low is None or answer.high is None else f"{whole(answer.low)} to {whole(answer.high)}"
        lines += table(
            (
                "best estimate",
                "90 % band",
                "safe",
                "first clear break",
                "broke first",
                "confirmed",
                "recovered",
                "took",
            ),
            [
                (
                    _people(answer.best),
                    band,
                    _people(answer.safe),
                    _people(answer.clear_break),
                    md(answer.limit) or ABSENT,
                    _yes(answer.confirmed),
                    _yes(answer.recovered),
                    seconds(progress.elapsed_s),
                )
            ],
        )
        if answer.evidence:
            lines += [f"Seen of the engine where it broke: {md(answer.evidence)}.", ""]
        if not answer.resolved:
            lines += ["Unresolved: the band is wider than asked for. Believe the band, not the estimate.", ""]
    if picture := chart(progress):
        lines += [*fenced(picture), ""]
    return lines + table(
        (
            "at",
            "why",
            "people",
            "good",
            "of",
            "share",
            "not good",
            "TTFT p95",
            "TPOT p95",
            "good/s",
            "tokens/s",
            "engine",
        ),
        [_row(block) for block in progress.blocks],
    )


def _row(block: Block) -> tuple[str, ...]:
    return (
        f"{offset(block.begin_s)} ({seconds(round(block.seconds, 1))})",
        block.phase,
        count(block.people),
        count(block.good),
        count(block.due),
        share(block.share),
        md(", ".join(f"{name} {n}" for name, n in block.misses.items() if n)) or ABSENT,
        _quantile(block.ttft_p95_s, block.ttft_n),
        _quantile(block.tpot_p95_s, block.tpot_n),
        digits(block.goodput_per_s),
        digits(block.tokens_per_s),
        md(block.evidence) or ABSENT,
    )


def _quantile(v: float | None, n: int) -> str:
    return f"{seconds(v)} (n={count(n)})" if v is not None and n >= P95_NEEDS else ABSENT


def _people(v: float | None) -> str:
    return ABSENT if v is None else count(v)


def _yes(answer: bool | None) -> str:
    return ABSENT if answer is None else "yes" if answer else "no"


def chart(progress: Progress, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Share of good requests over people (log scale), in ASCII: measured blocks, the fitted curve, its band and the share
    asked for. Empty without two different numbers of people."""
    blocks = [block for block in progress.blocks if block.share is not None]
    known = [block.people for block in blocks] + [point.people for point in progress.curve]
    known = [people for people in known if people > 0]
    if len(set(known)) < 2:
        return []
    low, high = math.log(min(known)), math.log(max(known))
    cells = [[" "] * width for _ in range(height)]

    def column(people: float) -> int:
        return round((math.log(people) - low) / (high - low) * (width - 1))

    shares = [block.share or 0.0 for block in blocks]
    floor = next(floor for floor in FLOORS if floor < min([*shares, progress.question.attainment]) or not floor)

    def row(part: float) -> int:
        return height - 1 - round(min(1.0, max(0.0, (part - floor) / (1 - floor))) * (height - 1))

    asked = row(progress.question.attainment)
    cells[asked] = ["-"] * width
    fitted = _by_column(progress.curve, column, width)
    for where, (_, least, most) in fitted.items():
        for at in range(row(most), row(least) + 1):
            cells[at][where] = ":"
    for where, (middle, _, _) in fitted.items():
        cells[row(middle)][where] = "*"
    for block in blocks:
        cells[row(block.share or 0.0)][column(block.people)] = "c" if block.phase == "confirm" else "o"
    lines = []
    for index, cell in enumerate(cells):
        level = floor + (1 - floor) * (height - 1 - index) / (height - 1)
        label = f"{100 * level:.0f} %" if index % 5 == 0 else ""
        lines.append(f"{label:>{MARGIN - 1}}|{''.join(cell).rstrip()}")
    lines.append(" " * (MARGIN - 1) + "+" + "-" * width)
    lines += [" " * MARGIN + line for line in _axis(progress, known, column, width)]
    keys = ["o measured", "c confirmed with a fresh seed" if any(b.phase == "confirm" for b in blocks) else ""]
    if progress.curve:
        keys += ["* fitted", ": its 90 % band"]
    keys.append(f"- {share(progress.question.attainment)} asked for")
    return [*lines, "", "good requests over people (log scale): " + ", ".join(key for key in keys if key)]


def _by_column(
    curve: Sequence[Point], column: Callable[[float], int], width: int
) -> dict[int, tuple[float, float, float]]:
    """Share, low and high at every column that the curve spans: between its points a straight line."""
    points = sorted(curve, key=lambda point: point.people)
    found = {column(point.people): (point.share, point.low, point.high) for point in points}
    for left, right in itertools.pairwise(points):
        a, b = column(left.people), column(right.people)
        for where in range(a + 1, b):
            part = (where - a) / (b - a)
            found[where] = (
                left.share + part * (right.share - left.share),
                left.low + part * (right.low - left.low),
                left.high + part * (right.high - left.high),
            )
    return {where: found[where] for where in sorted(found) if 0 <= where < width}


def _axis(progress: Progress, known: Sequence[float], column: Callable[[float], int], width: int) -> list[str]:
    """The band of the estimate as `[ ^ ]`, and the numbers of people at both ends and at the estimate."""
    marks, numbers = [" "] * width, [" "] * (width + 8)
    ends = (min(known), max(known))

    def write(people: float, where: int) -> None:
        text = f"{people:.0f}"
        begin = max(0, min(where - len(text) // 2, len(numbers) - len(text)))
        if all(cell == " " for cell in numbers[max(0, begin - 1) : begin + len(text) + 1]):
            numbers[begin : begin + len(text)] = text

    best = progress.best if progress.answer is None else progress.answer.best
    band = (progress.low, progress.high) if progress.answer is None else (progress.answer.low, progress.answer.high)
    for people, mark in ((band[0], "["), (band[1], "]"), (best, "^")):
        if people is not None and ends[0] <= people <= ends[1]:
            marks[column(people)] = mark
    if best is not None and ends[0] <= best <= ends[1]:
        write(best, column(best))
    write(ends[0], 0)
    write(ends[1], width - 1)
    return ["".join(line).rstrip() for line in (marks, numbers) if "".join(line).strip()]
