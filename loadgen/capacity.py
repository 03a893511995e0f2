"""How many people a setup serves before the experience bends: the search, pure. Its caller sets people and measures."""

from __future__ import annotations

from typing import Literal

import msgspec

from loadgen.answer import INTERVAL, Answer, Block, Question, StepPhase, conclude, safe_level
from loadgen.logistic import Fit, Sample

__all__ = ["Answer", "Block", "Phase", "Point", "Progress", "Question", "Search", "Step", "StepPhase"]

Phase = Literal["double", "refine", "confirm", "recover", "done", "stopped"]

DOUBLE_DUE = 30
"""Requests that a doubling step waits for, if that takes between `DOUBLE_LEAST_S` and a third of a block."""
DOUBLE_LEAST_S = 8.0
LEAST_REFINED = 4
"""Blocks near the estimate before it may be called resolved early: two can agree by chance."""
SHORTEST = 0.5
"""A block may be this part of `block_s`, when the time is nearly over."""
NEAR = (0.35, 0.65)
"""Quantiles of the crossing between which the next block is measured. Further away a block would tell more if the curve
were of just this form, but it isn't."""
CANDIDATES = 8
SPARE_S = 4.0
"""Kept, because settling can take longer than expected."""
UNSEEN_E2E_S = 5.0
"""Assumed for planning until a request has finished."""
TYPICAL = 0.8
"""A typical E2E over its p95."""
OVERLOADED = 0.5
"""With less than this share good, a block shows the server's highest rate."""
LEAST_PEOPLE = 0.5
"""Where the crossing is looked for at least: below one person it means that not even one is served."""
CURVE_POINTS = 32


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next: this many people, then, once settled, one block of this length.

    Settled: one mean think time and the p95 E2E after a change of people; the same people again need no settling.
    """

    people: int
    phase: StepPhase
    measure_s: float
    fresh_seed: bool = False


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The fitted curve at one level, with its 90 % band; shares 0..1."""

    people: float
    share: float
    low: float
    high: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The search as it stands, for a screen and a file."""

    question: Question
    phase: Phase
    people: int
    """Of the present step, else of the last block; 0 before the first."""
    blocks: list[Block] = []
    curve: list[Point] = []
    """By people; empty before the first block."""
    best: float | None = None
    low: float | None = None
    high: float | None = None
    """The estimate so far; None until an overload was found."""
    answer: Answer | None = None
    elapsed_s: float
    message: str = ""
    """What goes on, for a person."""


class Search:
    """Steps out, blocks in. `next` is None when it is finished, and `answer` is there.

    The same blocks at the same times give the same steps. One `observe` takes some 20 ms.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer: Answer | None = None
        self._phase: Phase = "double"
        self._blocks: list[Block] = []
        self._step: Step | None = None
        self._fit: Fit | None = None
        self._curve: list[Point] = []
        self._resolved = False
        self._broke = False

    def next(self, elapsed_s: float) -> Step | None:
        """The step to take now; the same again until its block was observed."""
        if self.answer is None and self._step is None:
            self._step = self._decide(elapsed_s)
            if self._step is None:
                self._finish("done")
            else:
                self._phase = self._step.phase
        return self._step

    def observe(self, block: Block) -> None:
        """The block of the step that `next` gave. Nothing happens when the search is over."""
        if self.answer is not None:
            return
        self._blocks.append(block)
        self._step = None
        if block.phase in {"double", "refine"} and block.due:
            self._refit()

    def stop(self) -> None:
        """End it now, with an answer from what is known. Nothing happens when it is over."""
        if self.answer is None:
            self._step = None
            self._finish("stopped")

    def progress(self, elapsed_s: float) -> Progress:
        fit = self._fit if self._broke else None
        people = self._step.people if self._step is not None else self._blocks[-1].people if self._blocks else 0
        return Progress(
            question=self.question,
            phase=self._phase,
            people=people,
            blocks=list(self._blocks),
            curve=self._curve,
            best=None if fit is None else fit.quantile(0.5),
            low=None if fit is None else fit.quantile(INTERVAL[0]),
            high=None if fit is None else fit.quantile(INTERVAL[1]),
            answer=self.answer,
            elapsed_s=elapsed_s,
            message=self._message(people),
        )

    def _message(self, people: int) -> str:
        if self.answer is not None:
            return self.answer.sentence
        if self._step is None:
            return ""
        return {
            "double": f"doubling until it breaks: {people} people",
            "refine": f"closing in: {people} people",
            "confirm": f"trying {people} people, the safe level, with a fresh seed",
            "recover": f"back down to {people} people: does it recover?",
        }[self._step.phase]

    def _refit(self) -> None:
        question = self.question
        samples = [
            Sample(block.people, block.good, block.due, block.seconds)
            for block in self._blocks
            if block.due and block.phase in {"double", "refine"}
        ]
        self._fit = fit = Fit(samples, question.attainment, LEAST_PEOPLE, 2.0 * question.most, knee=self._knee())
        low, high = min(sample.people for sample in samples), max(sample.people for sample in samples)
        self._broke = self._broke or fit.above(high) <= 0.5
        width = fit.quantile(INTERVAL[1]) - fit.quantile(INTERVAL[0])
        self._resolved = self._broke and width / 2 <= question.half_width * fit.quantile(0.5)
        self._curve = []
        for step in range(CURVE_POINTS):
            people = low * (high / low) ** (step / (CURVE_POINTS - 1))
            under, share, over = fit.band(people)
            self._curve.append(Point(people=people, share=share, low=under, high=over))

    def _finish(self, phase: Literal["done", "stopped"]) -> None:
        self._phase = phase
        self.answer = conclude(
            self.question,
            self._blocks,
            self._fit,
            broke=self._broke,
            resolved=self._resolved,
            stopped=phase == "stopped",
        )

    def _decide(self, elapsed_s: float) -> Step | None:
        question = self.question
        if self._phase in {"double", "refine"}:
            return self._look(elapsed_s) or self._confirm(elapsed_s)
        if self._phase == "confirm" and self._broke and not self._blocks[-1].holds(question.attainment):
            return self._recover(elapsed_s)
        return None

    def _look(self, elapsed_s: float) -> Step | None:
        question, fit = self.question, self._fit
        if fit is None:
            tried = bool(self._blocks)
            measure_s = question.block_s if tried else self._double_s(question.first)
            measure_s = min(measure_s, question.cap_s - elapsed_s)
            return Step(people=question.first, phase="double", measure_s=measure_s) if measure_s > 1.0 else None
        if self._broke:
            nobody = fit.above(1.0) < INTERVAL[0]
            if nobody and any(block.people == 1 for block in self._blocks):
                self._resolved = True
                return None
            refined = sum(block.phase == "refine" for block in self._blocks)
            return None if self._resolved and refined >= LEAST_REFINED else self._refine(fit, elapsed_s)
        top = max(block.people for block in self._blocks)
        if top >= question.most:
            self._resolved = True
            return None
        people = min(2 * top, question.most)
        measure_s = self._double_s(people)
        if self._settle_s(people) + measure_s > self._left_s(elapsed_s, after=people):
            return None
        return Step(people=people, phase="double", measure_s=measure_s)

    def _double_s(self, people: int) -> float:
        last_e2e_s = self._e2e_s(self._blocks[-1].people) if self._blocks else UNSEEN_E2E_S
        wanted_s = DOUBLE_DUE * (self.question.think_s + last_e2e_s) / people
        return max(min(wanted_s, self.question.block_s / 3), DOUBLE_LEAST_S)

    def _refine(self, fit: Fit, elapsed_s: float) -> Step | None:
        """The block that is expected to tell most about the crossing for its time."""
        question = self.question
        low = max(1.0, fit.quantile(NEAR[0]))
        high = max(low, min(question.most, 2 * max(block.people for block in self._blocks), fit.quantile(NEAR[1])))
        levels = {round(low * (high / low) ** (step / (CANDIDATES - 1))) for step in range(CANDIDATES)}
        levels |= {self._blocks[-1].people} if low <= self._blocks[-1].people <= high else set()
        chosen, most = None, 0.0
        for people in sorted(levels):
            settle_s = self._settle_s(people)
            measure_s = min(question.block_s, self._left_s(elapsed_s, after=people) - settle_s)
            if measure_s < question.block_s * SHORTEST:
                continue
            due = max(1.0, measure_s * people / (question.think_s + TYPICAL * self._e2e_s(people)))
            worth = fit.information(people, measure_s, due) / (settle_s + measure_s)
            if chosen is None or worth > most:
                chosen, most = Step(people=people, phase="refine", measure_s=measure_s), worth
        return chosen

    def _confirm(self, elapsed_s: float) -> Step | None:
        safe = safe_level(self._fit, self._blocks) if self._fit is not None else 0
        measure_s = self._fitting_s(safe, self.question.block_s, elapsed_s)
        if not safe or measure_s is None:
            return None
        return Step(people=safe, phase="confirm", measure_s=measure_s, fresh_seed=True)

    def _recover(self, elapsed_s: float) -> Step | None:
        """Back to a level that was good before it broke, at most half of the safe one, if the time suffices."""
        known = [
            block.people
            for block in self._blocks
            if block.holds(self.question.attainment) and block.people <= self._blocks[-1].people / 2
        ]
        if not known:
            return None
        measure_s = self._fitting_s(max(known), self._double_s(max(known)), elapsed_s)
        return None if measure_s is None else Step(people=max(known), phase="recover", measure_s=measure_s)

    def _fitting_s(self, people: int, wanted_s: float, elapsed_s: float) -> float | None:
        """As much of `wanted_s` as the time allows; None when that is less than `SHORTEST` of it."""
        left_s = self.question.cap_s - SPARE_S - elapsed_s - self._settle_s(people)
        return min(wanted_s, left_s) if left_s >= SHORTEST * wanted_s else None

    def _knee(self) -> float | None:
        """Where people's demand would meet the rate of the overloaded server: rate x (think time + E2E), by Little's law.

        None while there was no overload, or where its rate contradicts what was good (the server broke, say).
        """
        bad = [block for block in self._blocks if block.good < OVERLOADED * block.due]
        good = [
            block for block in self._blocks if block.holds(self.question.attainment) and block.e2e_p95_s is not None
        ]
        if not bad or not good:
            return None
        top = max(good, key=lambda block: block.people)
        rate = sum(block.tpot_n for block in bad) / sum(block.seconds for block in bad)
        knee = rate * (self.question.think_s + TYPICAL * (top.e2e_p95_s or 0.0))
        return knee if knee > TYPICAL * top.people else None

    def _left_s(self, elapsed_s: float, *, after: int) -> float:
        """For looking, if the confirmation is to follow a step with `after` people and to fit."""
        safe = safe_level(self._fit, self._blocks) if self._fit is not None else self.question.first
        settle_s = self.question.think_s + max(self._e2e_s(safe), self._e2e_s(after))
        return self.question.cap_s - SPARE_S - elapsed_s - settle_s - self.question.block_s

    def _settle_s(self, people: int) -> float:
        """Expected; on the way down, those who still wait take as long as up there."""
        last = self._blocks[-1].people if self._blocks else 0
        if last == people:
            return 0.0
        return self.question.think_s + max(self._e2e_s(people), self._e2e_s(last))

    def _e2e_s(self, people: int) -> float:
        """The p95 E2E to expect: a straight line between measured levels, and above them what Little's law adds."""
        known = {block.people: block for block in self._blocks if block.e2e_p95_s is not None}
        below = [known[level] for level in sorted(known) if level <= people]
        above = [known[level] for level in sorted(known) if level > people]
        if not known:
            return UNSEEN_E2E_S
        if not below:
            return above[0].e2e_p95_s or UNSEEN_E2E_S
        under, under_s = below[-1], below[-1].e2e_p95_s or UNSEEN_E2E_S
        if above:
            over, over_s = above[0], above[0].e2e_p95_s or UNSEEN_E2E_S
            return under_s + (over_s - under_s) * (people - under.people) / (over.people - under.people)
        if under.good >= OVERLOADED * under.due or not under.tpot_n:
            return under_s
        return under_s + (people - under.people) * under.seconds / under.tpot_n
