"""What a lesson says about figures: `engine.running >= 0.8 * engine.max_num_seqs`, and what was seen to judge it by. Pure.

A figure stands for its value now; `@before` is the one when the step began to act, `@peak` and `@least` the extremes since,
`@gained` now less before, and `@NAME` the one at the reveal of an earlier step of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import ge, gt, le, lt

from console.lessons.figures import ELAPSED, FIGURES, UNITS, Figure, Found, times
from server.telemetry.snapshot import Snapshot

WHENS = ("before", "peak", "least", "gained")
_READING = re.compile(r"(?P<name>[a-z][a-z0-9_.]*)(?:@(?P<when>[a-z][a-z0-9-]*))?")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "over", "<": "under"}
_SAID = {"before": "before", "peak": "at its highest", "least": "at its lowest", "gained": "since then"}
Values = dict[str, Found]


class ConditionError(ValueError):
    """What is wrong with a condition or a measure, as one clause."""


@dataclass(frozen=True)
class Reading:
    """A figure at a moment."""

    figure: Figure
    when: str = ""
    """Empty: now."""

    def __str__(self) -> str:
        return self.figure.name + (f"@{self.when}" if self.when else "")


@dataclass(frozen=True)
class Measure:
    """A figure, or the quotient of two."""

    top: Reading
    under: Reading | None = None

    def __str__(self) -> str:
        return str(self.top) if self.under is None else f"{self.top} / {self.under}"

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.top,) if self.under is None else (self.top, self.under)

    @property
    def units(self) -> dict[str, float]:
        """In which units it may be predicted."""
        return self.top.figure.units if self.under is None else UNITS["times"]

    def written(self, value: float | str | None) -> str:
        """With its unit; `—` when absent."""
        if self.under is None:
            return self.top.figure.written(value)
        return times(value if not isinstance(value, str) else None)


@dataclass(frozen=True)
class Seen:
    """Whether a condition holds, and by which figures; None: a figure is absent, and `because` says why."""

    holds: bool | None
    because: str


@dataclass(frozen=True)
class Watch:
    """What was seen of a lesson's figures since a step began to act. Stamps are the snapshots' own."""

    begun: float = 0.0
    at: float = 0.0
    before: Values = field(default_factory=dict)
    now: Values = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    told: dict[str, Values] = field(default_factory=dict)
    """By the names of the steps that are over."""

    def begin(self, names: Iterable[str], snapshot: Snapshot) -> Watch:
        """A new action: what is now is what was before it."""
        now = read(names, snapshot, 0.0)
        return Watch(snapshot.at, snapshot.at, now, now, _numbers(now), _numbers(now), self.told)

    def look(self, snapshot: Snapshot) -> Watch:
        """One snapshot more."""
        now = read(self.before, snapshot, snapshot.at - self.begun)
        peak, least = dict(self.peak), dict(self.least)
        for name, value in _numbers(now).items():
            peak[name] = max(value, peak.get(name, value))
            least[name] = min(value, least.get(name, value))
        return Watch(self.begun, snapshot.at, self.before, now, peak, least, self.told)

    def tell(self, step: str) -> Watch:
        """A step is over: its figures can be named from now on."""
        return Watch(self.begun, self.at, self.before, self.now, self.peak, self.least, {**self.told, step: self.now})

    @property
    def elapsed_s(self) -> float:
        return self.at - self.begun

    def value(self, reading: Reading) -> Found:
        """What a reading comes to."""
        name = reading.figure.name
        absent = Found(None, "not known yet")
        now, before = self.now.get(name, absent), self.before.get(name, absent)
        match reading.when:
            case "":
                return now
            case "before":
                return before
            case "peak":
                return Found(self.peak[name]) if name in self.peak else now
            case "least":
                return Found(self.least[name]) if name in self.least else now
            case "gained":
                if isinstance(now.v, float) and isinstance(before.v, float):
                    return Found(now.v - before.v)
                return now if now.v is None else before
            case step:
                return self.told.get(step, {}).get(name, Found(None, f"the step `{step}` was left out"))

    def measured(self, measure: Measure) -> Found:
        """A figure or a quotient; a quotient by nothing is absent."""
        top = self.value(measure.top)
        if measure.under is None or top.v is None:
            return top
        under = self.value(measure.under)
        if under.v is None:
            return under
        if not isinstance(top.v, float) or not isinstance(under.v, float) or under.v == 0:
            return Found(None, f"{measure.under} is 0")
        return Found(top.v / under.v)


@dataclass(frozen=True)
class Condition:
    """Something that holds or does not."""

    text: str
    left: Measure
    operator: str
    factor: float = 1.0
    """The right side itself where there is no `right`."""
    right: Measure | None = None
    words: tuple[str, ...] = ()

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.left.readings + (self.right.readings if self.right else ())

    def judge(self, watch: Watch) -> Seen:
        """Whether it holds by what was seen."""
        left = watch.measured(self.left)
        if left.v is None:
            return Seen(None, f"{said(self.left)} is not known ({left.why})")
        shown = f"{said(self.left)}: {self.left.written(left.v)}"
        if self.operator == "is":
            return Seen(left.v in self.words, shown)
        bound = self._bound(watch)
        if bound.v is None or isinstance(bound.v, str) or isinstance(left.v, str):
            return Seen(None, f"{said(self.right or self.left)} is not known ({bound.why})")
        holds = _OPERATORS[self.operator](left.v, bound.v)
        return Seen(holds, f"{shown}, wanted: {_BOUNDS[self.operator]} {self.left.written(bound.v)}")

    def _bound(self, watch: Watch) -> Found:
        if self.right is None:
            return Found(self.factor)
        found = watch.measured(self.right)
        return Found(found.v * self.factor) if isinstance(found.v, float) else found


def said(measure: Measure) -> str:
    """In words: `requests in the batch`, `tensor cores at work before`."""
    top = _said(measure.top)
    if measure.under is None:
        return top
    same = measure.under.figure == measure.top.figure and measure.under.when not in {"", *WHENS}
    return f"{top} against `{measure.under.when}`" if same else f"{top} against {_said(measure.under)}"


def _said(reading: Reading) -> str:
    when = _SAID.get(reading.when, f"in `{reading.when}`" if reading.when else "")
    return f"{reading.figure.says} {when}".rstrip()


def read(names: Iterable[str], snapshot: Snapshot, elapsed_s: float) -> Values:
    """These figures of a snapshot."""
    return {name: Found(elapsed_s) if name == ELAPSED else FIGURES[name].read(snapshot) for name in names}


def _numbers(values: Values) -> dict[str, float]:
    return {name: found.v for name, found in values.items() if isinstance(found.v, float)}


# reading


def parse_measure(text: str, steps: Iterable[str] = ()) -> Measure:
    """`FIGURE` or `FIGURE / FIGURE`, each with an `@WHEN` if wanted; `steps` are names of earlier ones. Raises
    ConditionError."""
    return _measure(text.split(), tuple(steps))


def parse_condition(text: str, steps: Iterable[str] = ()) -> Condition:
    """`MEASURE >= NUMBER`, `MEASURE < NUMBER * MEASURE`, `FIGURE is WORD or WORD`. Raises ConditionError."""
    words = text.split()
    at = next((place for place, word in enumerate(words) if word in {*_OPERATORS, "is"}), None)
    if at is None:
        raise ConditionError(
            f"{text!r} compares nothing: it needs one of {', '.join(_OPERATORS)} or is, between blanks"
        )
    operator, known = words[at], tuple(steps)
    left, right = _measure(words[:at], known), words[at + 1 :]
    if not right:
        raise ConditionError(f"{text!r} has nothing behind `{operator}`")
    word = left.under is None and left.top.figure.kind == "word"
    if word != (operator == "is"):
        rather = "is" if word else "one of >=, <=, >, <"
        raise ConditionError(f"{left} is {'a word' if word else 'a number'}: compare it with {rather}, not {operator}")
    if operator == "is":
        return Condition(text, left, operator, words=tuple(part.strip() for part in " ".join(right).split(" or ")))
    number = _number(right[0])
    if number is None:
        return Condition(text, left, operator, 1.0, _numeric(_measure(right, known)))
    if len(right) == 1:
        return Condition(text, left, operator, number)
    if right[1] != "*" or len(right) < 3:
        raise ConditionError(f"{text!r}: behind a number stands nothing, or `* FIGURE`")
    return Condition(text, left, operator, number, _numeric(_measure(right[2:], known)))


def _numeric(measure: Measure) -> Measure:
    if any(reading.figure.kind == "word" for reading in measure.readings):
        raise ConditionError(f"{measure} is a word, not a number")
    return measure


def _number(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
    except ValueError:
        return None


def _measure(words: list[str], steps: tuple[str, ...]) -> Measure:
    match words:
        case [top]:
            return Measure(_reading(top, steps))
        case [top, "/", under]:
            return _numeric(Measure(_reading(top, steps), _reading(under, steps)))
    raise ConditionError(f"{' '.join(words)!r} is neither a figure nor the quotient of two")


def _reading(text: str, steps: tuple[str, ...]) -> Reading:
    found = _READING.fullmatch(text)
    name = found["name"] if found else text
    figure = FIGURES.get(name)
    if found is None or figure is None:
        near = get_close_matches(name, FIGURES, 1)
        raise ConditionError(f"there is no figure `{name}`{f'; did you mean {near[0]}?' if near else ''}")
    when = found["when"] or ""
    if when and when not in WHENS and when not in steps:
        earlier = f", or an earlier step: {', '.join(steps)}" if steps else ""
        raise ConditionError(f"`{text}`: behind @ stands one of {', '.join(WHENS)}{earlier}")
    if when in {"peak", "least", "gained"} and figure.kind == "word":
        raise ConditionError(f"`{text}`: {figure.name} is a word; it has no {when}")
    return Reading(figure, when)
