"""What a capacity search asks, what it measured, and what that comes to in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from loadgen.logistic import Fit
from loadgen.slo import CHAT, Slo

StepPhase = Literal["double", "refine", "confirm", "recover"]

LIMITS = {"ttft": "TTFT", "tpot": "TPOT", "refused": "refusals", "error": "errors", "left": "TTFT"}
"""A person who leaves was kept waiting."""
INTERVAL = (0.05, 0.95)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, frozen before the first person comes."""

    slo: Slo = CHAT
    attainment: float = 0.95
    """The share of good requests that the answer keeps, 0..1."""
    think_s: float = 8.0
    """Mean think time of a person, seconds."""
    mix: str = ""
    """What they ask, in words: `chat 128/64 tokens, 3 turns`."""
    cache: str = ""
    """What the prefix cache may know, in words: `fresh salt`."""
    seed: int = 0
    careful: bool = False
    cap_s: float = 360.0
    """The whole search, its settling times, the confirmation and the way back end by then."""
    block_s: float = 30.0
    first: int = 4
    """People of the first step."""
    most: int = 4096

    @property
    def half_width(self) -> float:
        """Half of the 90 % interval over the estimate, at which the search stops."""
        return 0.10 if self.careful else 0.15


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at one level of people, in one go."""

    people: int
    phase: StepPhase
    begin_s: float
    """Since the search began."""
    seconds: float
    good: int
    due: int
    """Requests whose verdict fell in the block."""
    misses: dict[str, int] = {}
    """due - good by kind: ttft, tpot, refused, error, left."""
    ttft_p95_s: float | None = None
    ttft_n: int = 0
    tpot_p95_s: float | None = None
    tpot_n: int = 0
    """Requests that finished in the block, good or not: tpot_n / seconds is taken for the server's rate."""
    e2e_p95_s: float | None = None
    goodput_per_s: float | None = None
    """Good requests a second."""
    tokens_per_s: float | None = None
    evidence: str = ""
    """What was seen of the engine, in words: `64 of 64 slots, KV 13 %, queue 3.6 s`."""

    @property
    def share(self) -> float | None:
        """good / due; None when nothing was due."""
        return self.good / self.due if self.due else None

    def holds(self, attainment: float) -> bool:
        """Something was due, and no more misses than `attainment` allows, or a single one."""
        return self.due > 0 and self.due - self.good <= max(1.0, (1.0 - attainment) * self.due)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the search came to."""

    resolved: bool
    """The interval is as narrow as was asked, and the safe level did not fail."""
    best: float | None = None
    """People at whom the fitted attainment is the one asked for; None when nothing broke or nobody is served."""
    low: float | None = None
    high: float | None = None
    """The 90 % interval of `best`."""
    safe: int | None = None
    """Its lower end, rounded down, and never more than were measured; 0 when not even one person is served."""
    clear_break: int | None = None
    """The fewest people measured at whom attainment is clearly below the one asked for: they lie beyond the interval."""
    limit: str = ""
    """Which part of the SLO broke first: TTFT, TPOT, refusals, errors; empty when nothing broke."""
    evidence: str = ""
    """Of the engine, where it broke."""
    confirmed: bool | None = None
    """The safe level held with a fresh seed; None when it was not tried."""
    recovered: bool | None = None
    """After an overload the service was good again; None when it was not seen or nothing broke."""
    sentence: str


def conclude(
    question: Question, blocks: Sequence[Block], fit: Fit | None, *, broke: bool, resolved: bool, stopped: bool
) -> Answer:
    """`broke`: an overload was found, so that the fit has an upper end. `resolved`: as narrow as the question asks."""
    if fit is None:
        sentence = "Stopped before anything was measured." if stopped else "Unresolved: no request came to an end."
        return Answer(resolved=False, sentence=sentence)
    low, high = (fit.quantile(end) for end in INTERVAL)
    safe = safe_level(fit, blocks)
    clear = [block for block in blocks if block.due and not block.holds(question.attainment) and block.people >= high]
    clear_break = min((block.people for block in clear), default=None)
    first = [block for block in clear if block.people == clear_break] or _lowest_bad(question, blocks)
    misses = Counter[str]()
    for block in first if broke else ():
        misses.update(block.misses)
    confirmed = next((block.holds(question.attainment) for block in blocks if block.phase == "confirm"), None)
    answer = Answer(
        resolved=resolved and confirmed is not False,
        best=fit.quantile(0.5) if broke and safe else None,
        low=low if broke and safe else None,
        high=high if broke and safe else None,
        safe=safe,
        clear_break=clear_break,
        limit=LIMITS.get(misses.most_common(1)[0][0], "errors") if misses else "",
        evidence=next((block.evidence for block in first if broke and block.evidence), ""),
        confirmed=confirmed,
        recovered=_recovered(question, blocks, clear_break, safe),
        sentence="",
    )
    return msgspec.structs.replace(answer, sentence=_sentence(question, blocks, answer, broke=broke, stopped=stopped))


def safe_level(fit: Fit, blocks: Sequence[Block]) -> int:
    """The lower end of the interval, but never more people than were measured."""
    return min(int(fit.quantile(INTERVAL[0])), max(block.people for block in blocks))


def _lowest_bad(question: Question, blocks: Sequence[Block]) -> list[Block]:
    bad = [block for block in blocks if block.due and not block.holds(question.attainment)]
    return [block for block in bad if block.people == min(other.people for other in bad)]


def _recovered(question: Question, blocks: Sequence[Block], clear_break: int | None, safe: int) -> bool | None:
    """Judged by the last block at a safe level after an overload: to hold there, it has to be over."""
    if clear_break is None or not safe:
        return None
    overloads = [at for at, block in enumerate(blocks) if block.people >= clear_break]
    after = [block for block in blocks[overloads[0] :] if block.people <= safe]
    if not after or (after[-1].phase == "confirm" and not after[-1].holds(question.attainment)):
        return None
    return after[-1].holds(question.attainment)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(blocks: Sequence[Block], people: int) -> str:
    here = [block for block in blocks if block.people == people and block.due]
    return _percent(sum(block.good for block in here) / sum(block.due for block in here)) if here else "—"


def _sentence(question: Question, blocks: Sequence[Block], answer: Answer, *, broke: bool, stopped: bool) -> str:
    target = _percent(question.attainment)
    top, bottom = max(block.people for block in blocks), min(block.people for block in blocks)
    begun = "Stopped" if stopped else "Unresolved"
    if answer.best is not None and answer.low is not None and answer.high is not None:
        interval = f"90 % interval {answer.low:.0f} to {answer.high:.0f}"
        if answer.resolved:
            head = f"{answer.best:.0f} people ({interval}) before fewer than {target} of requests are good"
        else:
            is_wide = (answer.high - answer.low) / 2 > question.half_width * answer.best
            wide = f", wider than ±{_percent(question.half_width)}" if is_wide else ""
            head = f"{begun}: about {answer.best:.0f} people ({interval}{wide}) before fewer than {target} of requests are good"
    elif broke:
        verdict = "Not even one person is served well" if answer.resolved else f"{begun}, perhaps not even one person"
        head = f"{verdict}: {_share(blocks, bottom)} of requests are good at {bottom}, {target} are asked for"
    elif answer.resolved:
        head = f"More than {question.most} people: at {top} still {_share(blocks, top)} of requests are good"
    else:
        head = f"{begun}: nothing broke up to {top} people, where {_share(blocks, top)} of requests are good"
    parts = [head]
    if answer.safe and (broke or answer.confirmed is not None):
        parts.append(_safe_part(blocks, answer))
    if answer.limit:
        place = f"first clear break at {answer.clear_break}, " if answer.clear_break is not None and answer.safe else ""
        parts.append(f"{place}{answer.limit} broke first" + (f": {answer.evidence}" if answer.evidence else ""))
    if answer.recovered is not None:
        parts.append("after the overload it recovers" if answer.recovered else "after the overload it does NOT recover")
    return "; ".join(parts) + "."


def _safe_part(blocks: Sequence[Block], answer: Answer) -> str:
    confirm = [block for block in blocks if block.phase == "confirm"]
    if not confirm:
        return f"{answer.safe} should be safe (not tried with a fresh seed)"
    share = _percent(confirm[-1].share or 0.0)
    if answer.confirmed:
        return f"{answer.safe} are safe ({share} good with a fresh seed)"
    return f"{answer.safe} should be safe, but with a fresh seed only {share} were good"
