"""A lesson's file, read and checked: every mistake with its place in one sentence. Pure but for `read`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from console.format import UNPRINTABLE
from console.lessons.acts import Act, ActError, checked
from console.lessons.conditions import Condition, ConditionError, Measure, parse_condition, parse_measure
from console.lessons.lesson import Check, Choice, Lesson, Question, Shown, Step, Wait

SIZE_LIMIT = 256 * 1024
"""Bytes of a file; a lesson has about 6 KB."""
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
TEXT, TITLE, LINE = 620, 60, 140
"""Characters at most of a step's texts, of a title, and of what stands on one line: what fits at 80x24."""
MOST_STEPS, MOST_CHOICES, MOST_STOPS, MOST_ROWS = 12, 5, 12, 6
LONGEST_WAIT_S = 900.0
RESERVED = frozenset({"before", "peak", "least", "gained", "now"})
_STEP = re.compile(r"^[ \t]*\[\[[ \t]*step[ \t]*\]\]", re.MULTILINE)
Table = dict[str, Any]


class LessonError(Exception):
    """A file is no lesson: its mistakes, one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


def read(path: Path) -> Lesson:
    """The lesson in a file, named after it. Raises LessonError."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise LessonError([f"it cannot be read ({error.strerror})"]) from None
    if len(data) > SIZE_LIMIT:
        raise LessonError([f"it is larger than {SIZE_LIMIT // 1024} KiB: that is no lesson"])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise LessonError([f"it is not UTF-8 text (byte {error.start})"]) from None
    return parse(text, path.stem)


def parse(text: str, name: str) -> Lesson:
    """The lesson that a text says. Raises LessonError with all that is wrong with it."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        said = str(error) or "nested without end"
        raise LessonError([f"it is not TOML: {said[:1].lower()}{said[1:]}"]) from None
    lines = [text.count("\n", 0, found.start()) + 1 for found in _STEP.finditer(text)]
    reader = _Reader(lines)
    lesson = reader.lesson(table, name)
    if reader.mistakes or lesson is None:
        raise LessonError(reader.mistakes or ["there is nothing in it"])
    return lesson


class _Reader:
    """Walks the tables; notes what is wrong and goes on."""

    def __init__(self, step_lines: Sequence[int]) -> None:
        self.mistakes: list[str] = []
        self._lines = step_lines
        self._names: list[str] = []
        """Of the steps so far, to be named behind @."""

    def lesson(self, table: Table, name: str) -> Lesson | None:
        if not NAME.fullmatch(name):
            self._wrong(
                "", f"the file's name {name!r} cannot name a lesson: small letters, digits and dashes, a letter first"
            )
        title, says = self._text(table, "", "title", TITLE), self._text(table, "", "says", LINE)
        minutes = self._number(table, "", "minutes", 0.5, 120.0)
        origin = self._text(table, "", "origin", LINE, needed=False)
        raw = self._tables(table, "", "step", 1, MOST_STEPS)
        steps = tuple(self._step(one, number) for number, one in enumerate(raw, 1))
        self._rest(table, "", "title", "says", "minutes", "origin", "step")
        lesson = Lesson(name, title, says, minutes, steps, origin)
        if not origin and any(self._recorded(step) for step in steps):
            self._wrong("", "`origin` is missing: recorded figures say where they were measured")
        return lesson

    @staticmethod
    def _recorded(step: Step) -> bool:
        question = step.question
        asked = question is not None and (question.recorded is not None or any(c.recorded for c in question.choices))
        return asked or any(shown.recorded for shown in step.figures)

    def _step(self, table: Table, number: int) -> Step:
        line = f" (line {self._lines[number - 1]})" if len(self._lines) >= number else ""
        place = f"step {number}{line}"
        name = self._text(table, place, "name", 30, needed=False) or f"step-{number}"
        if not NAME.fullmatch(name) or name in RESERVED or name in self._names:
            why = "stands twice" if name in self._names else "is small letters, digits and dashes, and not a word of @"
            self._wrong(place, f"name {name!r} {why}")
        question = self._question(table, place)
        acts = tuple(
            act
            for place_, one in self._each(table, place, "act", MOST_ROWS)
            if (act := self._act(one, place_)) is not None
        )
        wait = self._wait(table, place)
        if wait is None and acts and "wait" not in table:
            self._wrong(place, "it acts and does not `wait`: say until when, so that there is something to see")
        reveal, reveal_plain, figures = self._reveal(table, place)
        if question is not None and not reveal:
            self._wrong(place, "it asks for a prediction and has no `reveal`")
        checks = tuple(self._check(one, place_) for place_, one in self._each(table, place, "check", 3))
        step = Step(
            name=name,
            title=self._text(table, place, "title", TITLE),
            text=self._text(table, place, "text", TEXT),
            plain=self._text(table, place, "plain", TEXT, needed=False),
            question=question,
            acts=acts,
            wait=wait,
            reveal=reveal,
            reveal_plain=reveal_plain,
            figures=figures,
            checks=checks,
        )
        self._rest(table, place, "name", "title", "text", "plain", "predict", "act", "wait", "reveal", "check")
        self._names.append(name)
        return step

    def _question(self, table: Table, place: str) -> Question | None:
        raw = self._table(table, place, "predict")
        if raw is None:
            return None
        place = f"{place}, predict"
        ask = self._text(raw, place, "ask", LINE)
        if ("choice" in raw) == ("stops" in raw):
            self._wrong(place, "give either `choice` (answers to choose from) or `stops` (a scale of numbers)")
        if "choice" in raw:
            choices = tuple(self._choice(one, place_) for place_, one in self._each(raw, place, "choice", MOST_CHOICES))
            if len(choices) < 2:
                self._wrong(place, "one choice is no question: give at least two")
            self._rest(raw, place, "ask", "choice")
            return Question(ask, choices)
        measure = self._measure(raw, place, "measure")
        unit = self._text(raw, place, "unit", 12, needed=False)
        stops = self._stops(raw, place)
        recorded = self._number(raw, place, "recorded", 0.0, 1e12) if "recorded" in raw else None
        factor = 1.0
        if measure is not None:
            units = measure.units
            if unit not in units:
                known = " or ".join(repr(one) for one in units if one) or "no unit"
                self._wrong(place, f"unit {unit!r} does not fit {measure}: {known}")
            factor = units.get(unit, 1.0)
        self._rest(raw, place, "ask", "measure", "unit", "stops", "recorded")
        return Question(ask, (), stops, unit, measure, factor, recorded)

    def _choice(self, raw: Table, place: str) -> Choice:
        self._rest(raw, place, "says", "when", "recorded")
        recorded = raw.get("recorded", False)
        if not isinstance(recorded, bool):
            self._wrong(place, "recorded is true or false")
        return Choice(
            self._text(raw, place, "says", 70), self._conditions(raw, place, "when", least=0), recorded is True
        )

    def _stops(self, raw: Table, place: str) -> tuple[float, ...]:
        given = raw.get("stops")
        if given is None:
            return ()
        right = isinstance(given, list) and all(_is_number(one) for one in given)
        if not right or not 3 <= len(given) <= MOST_STOPS or sorted(set(given)) != given or given[0] < 0:
            self._wrong(place, f"stops are 3 to {MOST_STOPS} numbers of 0 and more, each larger than the one before")
            return ()
        return tuple(map(float, given))

    def _act(self, raw: Table, place: str) -> Act | None:
        try:
            return checked(raw.get("do"), {key: value for key, value in raw.items() if key != "do"})
        except ActError as error:
            self._wrong(place, str(error))
            return None

    def _wait(self, table: Table, place: str) -> Wait | None:
        raw = self._table(table, place, "wait")
        if raw is None:
            return None
        place = f"{place}, wait"
        wait = Wait(
            self._text(raw, place, "says", LINE),
            self._conditions(raw, place, "until", least=1),
            self._number(raw, place, "seconds", 1.0, LONGEST_WAIT_S),
        )
        self._rest(raw, place, "says", "until", "seconds")
        return wait

    def _reveal(self, table: Table, place: str) -> tuple[str, str, tuple[Shown, ...]]:
        raw = self._table(table, place, "reveal")
        if raw is None:
            return "", "", ()
        place = f"{place}, reveal"
        figures: list[Shown] = []
        for place_, one in self._each(raw, place, "figure", MOST_ROWS):
            measure = self._measure(one, place_, "show")
            label = self._text(one, place_, "label", 44)
            recorded = self._text(one, place_, "recorded", 40, needed=False)
            than = self._than(one, place_, measure)
            self._rest(one, place_, "show", "label", "recorded", "than")
            if measure is not None:
                figures.append(Shown(label, measure, recorded, than))
        self._rest(raw, place, "text", "plain", "figure")
        return (
            self._text(raw, place, "text", TEXT),
            self._text(raw, place, "plain", TEXT, needed=False),
            tuple(figures),
        )

    def _than(self, raw: Table, place: str, measure: Measure | None) -> Measure | None:
        """The same figure at another moment."""
        if "than" not in raw or measure is None:
            return None
        if measure.under is not None:
            self._wrong(place, "`than` goes with one figure, not with the quotient of two")
            return None
        return self._measure({"than": f"{measure.top.figure.name}@{raw['than']}"}, place, "than")

    def _check(self, raw: Table, place: str) -> Check:
        self._rest(raw, place, "says", "when", "otherwise")
        return Check(
            self._text(raw, place, "says", LINE),
            self._conditions(raw, place, "when", least=1),
            self._text(raw, place, "otherwise", 2 * LINE, needed=False),
        )

    # parts of any table

    def _wrong(self, place: str, what: str) -> None:
        self.mistakes.append(f"{place}: {what}" if place else what)

    def _text(self, table: Table, place: str, key: str, most: int, *, needed: bool = True) -> str:
        given = table.get(key)
        if given is None and not needed:
            return ""
        if not isinstance(given, str) or not given.strip():
            self._wrong(place, f"`{key}` is missing" if given is None else f"`{key}` is a text, and not empty")
            return ""
        if UNPRINTABLE.search(given.replace("\n", " ")):
            self._wrong(place, f"`{key}` has a control character in it")
        words = len(given.strip())
        if words > most:
            self._wrong(place, f"`{key}` has {words} characters; at most {most} fit on a small screen")
        return given.strip()

    def _number(self, table: Table, place: str, key: str, least: float, most: float) -> float:
        given = table.get(key)
        if given is None:
            self._wrong(place, f"`{key}` is missing")
            return least
        if not _is_number(given) or not least <= given <= most:
            self._wrong(place, f"`{key}` is a number from {least:g} to {most:g}, not {given!r}")
            return least
        return float(given)

    def _table(self, table: Table, place: str, key: str) -> Table | None:
        given = table.get(key)
        if given is not None and not isinstance(given, dict):
            self._wrong(place, f"`{key}` is a table: [step.{key}], once a step")
            return None
        return given

    def _tables(self, table: Table, place: str, key: str, least: int, most: int) -> list[Table]:
        given = table.get(key, [])
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            self._wrong(place, f"`{key}` is a list of tables, each beginning with [[..{key}]]")
            return []
        if not least <= len(given) <= most:
            have = f"there are {len(given)}" if given else "there is none"
            self._wrong(place, f"between {least} and {most} of [[{key}]] are wanted; {have}")
        return given[:most]

    def _each(self, table: Table, place: str, key: str, most: int) -> Iterable[tuple[str, Table]]:
        for number, one in enumerate(self._tables(table, place, key, 0, most), 1):
            yield f"{place}, {key} {number}", one

    def _conditions(self, table: Table, place: str, key: str, *, least: int) -> tuple[Condition, ...]:
        given = table.get(key, [])
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given) or len(given) < least:
            self._wrong(place, f'`{key}` is a list of conditions, e.g. ["queue.depth >= 1"]')
            return ()
        found = []
        for one in given:
            try:
                found.append(parse_condition(one, self._names))
            except ConditionError as error:
                self._wrong(place, f"`{key}`: {error}")
        return tuple(found)

    def _measure(self, table: Table, place: str, key: str) -> Measure | None:
        given = table.get(key)
        if not isinstance(given, str):
            self._wrong(place, f'`{key}` is a figure, e.g. "queue.depth"')
            return None
        try:
            return parse_measure(given, self._names)
        except ConditionError as error:
            self._wrong(place, f"`{key}`: {error}")
            return None

    def _rest(self, table: Table, place: str, *known: str) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
                self._wrong(place, f"`{key}` means nothing here; {hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
