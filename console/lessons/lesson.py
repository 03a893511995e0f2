"""A lesson as it was read and checked: frozen, with every name resolved. See `console.lessons.reading` for its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from console.lessons.acts import Act
from console.lessons.conditions import Condition, Measure, Reading
from console.lessons.figures import ELAPSED


@dataclass(frozen=True)
class Choice:
    """One answer that can be predicted."""

    says: str
    when: tuple[Condition, ...] = ()
    """It was the right one where all of these hold; the first of several."""
    recorded: bool = False
    """It was the right one on the machine of the recorded figures."""


@dataclass(frozen=True)
class Question:
    """A prediction: one of a few answers, or a number."""

    ask: str
    choices: tuple[Choice, ...] = ()
    stops: tuple[float, ...] = ()
    """Of the scale, in `unit`, rising; empty for a choice."""
    unit: str = ""
    measure: Measure | None = None
    """What the number is held against."""
    factor: float = 1.0
    """`unit`s in one of what the measure is in."""
    recorded: float | None = None
    """The measure on the machine of the recorded figures, in `unit`."""

    @property
    def size(self) -> int:
        """How many answers there are."""
        return len(self.choices) or len(self.stops)

    def answer(self, chosen: int) -> str:
        """One of them in words."""
        if self.choices:
            return self.choices[chosen].says
        return self.written(self.stops[chosen])

    def written(self, value: float) -> str:
        """A number in the question's unit."""
        number = f"{value:,.0f}".replace(",", " ") if value >= 9.95 or value == int(value) else f"{value:.2g}"
        return f"{number} {self.unit}".rstrip()


@dataclass(frozen=True)
class Wait:
    """Until all of these hold, and no longer than `seconds`."""

    says: str
    """What is waited for."""
    until: tuple[Condition, ...]
    seconds: float


@dataclass(frozen=True)
class Shown:
    """A figure of the reveal."""

    label: str
    measure: Measure
    recorded: str = ""
    """What another machine showed; see `Lesson.origin`."""
    than: Measure | None = None
    """What it was at another moment, to stand beside it."""


@dataclass(frozen=True)
class Check:
    """Something to have seen."""

    says: str
    when: tuple[Condition, ...]
    otherwise: str = ""
    """Why it may not be seen here."""


@dataclass(frozen=True)
class Step:
    """One step: a text, perhaps a prediction, something done, a wait, and the reveal."""

    name: str
    title: str
    text: str
    plain: str = ""
    """The same as a restaurant."""
    question: Question | None = None
    acts: tuple[Act, ...] = ()
    wait: Wait | None = None
    reveal: str = ""
    reveal_plain: str = ""
    figures: tuple[Shown, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def readings(self) -> Iterator[Reading]:
        """All that it looks at."""
        measures = [shown.measure for shown in self.figures]
        measures += [shown.than for shown in self.figures if shown.than is not None]
        conditions = [condition for check in self.checks for condition in check.when]
        if self.question is not None:
            measures += [self.question.measure] if self.question.measure else []
            conditions += [condition for choice in self.question.choices for condition in choice.when]
        if self.wait is not None:
            conditions += self.wait.until
        for measure in measures:
            yield from measure.readings
        for condition in conditions:
            yield from condition.readings


@dataclass(frozen=True)
class Lesson:
    """A lesson."""

    name: str
    title: str
    says: str
    """What it is about, in one clause."""
    minutes: float
    steps: tuple[Step, ...]
    origin: str = ""
    """Where its recorded figures come from."""
    figures: frozenset[str] = field(init=False)
    """Names of all figures it looks at."""

    def __post_init__(self) -> None:
        names = {reading.figure.name for step in self.steps for reading in step.readings}
        object.__setattr__(self, "figures", frozenset(names | {ELAPSED}))

    @property
    def predictions(self) -> int:
        return sum(step.question is not None for step in self.steps)

    @property
    def acts(self) -> bool:
        """It changes something of the stack."""
        return any(step.acts for step in self.steps)
