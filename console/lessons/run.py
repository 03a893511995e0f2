"""One lesson under way: state + what happened -> state + commands. Pure; time is the snapshots' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from console.lessons.acts import ActError
from console.lessons.conditions import Condition, Seen, Watch
from console.lessons.figures import Found
from console.lessons.lesson import Check, Lesson, Question, Shown, Step
from server import commands
from server.commands import Answer, Command
from server.telemetry.snapshot import Snapshot

Phase = Literal["ask", "act", "wait", "told", "over"]
"""ask: the text is read and a prediction made; act: commands are under way; wait: until something is seen; told: the reveal;
over: everything is as it was."""

RENEW_S = 15.0
"""A lesson that lasts says so this often, so that the stack puts people back by itself when nobody is there any more."""
CLOSE = 1.5
"""A number that is off by less than this factor is a good prediction."""
NOTE_LIMIT = 60

Commands = tuple[Command, ...]


@dataclass(frozen=True)
class Row:
    """One figure of a reveal, written out."""

    label: str
    text: str
    why: str = ""
    """Why it is absent."""
    recorded: str = ""
    was: str = ""
    """At another moment; empty where that is not asked for or not known."""


@dataclass(frozen=True)
class Checked:
    """One thing to have seen; None: nobody can tell here."""

    says: str
    seen: bool | None
    because: str = ""


@dataclass(frozen=True)
class Guess:
    """What was predicted beside what happened."""

    ask: str
    predicted: str
    """Empty: nothing was."""
    happened: str
    right: bool | None
    """None: nothing was predicted, or nobody can tell."""
    note: str = ""
    recorded: bool = False
    """`happened` is a recorded figure, not this machine's."""
    value: float | None = None
    """What happened, in the question's unit."""


@dataclass(frozen=True)
class Told:
    """The reveal of one step."""

    step: str
    title: str
    guess: Guess | None = None
    rows: tuple[Row, ...] = ()
    checks: tuple[Checked, ...] = ()
    cut_short: str = ""
    """Why it was not seen to its end; empty when it was."""
    at_s: float = 0.0
    """Seconds since the action."""


@dataclass(frozen=True)
class Run:
    """A lesson and how far it is."""

    lesson: Lesson
    place: int = 0
    phase: Phase = "ask"
    chosen: int | None = None
    """The prediction: which answer of the question."""
    watch: Watch = field(default_factory=Watch)
    told: tuple[Told, ...] = ()
    """Of the steps that are over, and of the one whose reveal is shown."""
    refusal: str = ""
    """Why the last key did nothing."""
    acted: bool = False
    """Something of the stack was changed, and is to come back."""
    renewed: float = 0.0

    @property
    def step(self) -> Step:
        return self.lesson.steps[self.place]

    @property
    def last(self) -> Told | None:
        """The reveal that is shown."""
        return self.told[-1] if self.phase in {"told", "over"} and self.told else None

    # what a person does

    def choose(self, by: int) -> Run:
        """The next answer, or the one before."""
        question = self.step.question
        if self.phase != "ask" or question is None:
            return self
        if self.chosen is None:
            chosen = 0 if by > 0 else question.size - 1
            if question.stops:
                chosen = question.size // 2
        elif question.choices:
            chosen = (self.chosen + by) % question.size
        else:
            chosen = max(0, min(question.size - 1, self.chosen + by))
        return replace(self, chosen=chosen, refusal="")

    def pick(self, chosen: int) -> Run:
        """This answer."""
        question = self.step.question
        if self.phase != "ask" or question is None or not 0 <= chosen < question.size:
            return self
        return replace(self, chosen=chosen, refusal="")

    def go_on(self, snapshot: Snapshot | None, why_not: str = "", *, asked: bool = True) -> tuple[Run, Commands]:
        """What enter does. `why_not`: why nothing can be done with this stack; then the step is read only. `asked`: a
        prediction is waited for."""
        if self.phase == "ask":
            return self._act(snapshot, why_not, asked=asked)
        if self.phase == "wait":
            return self._reveal("you did not wait"), ()
        if self.phase == "told":
            return self._next()
        return self, ()

    def leave(self) -> tuple[Run, Commands]:
        """Whatever ends it: what was changed comes back."""
        return replace(self, phase="over", acted=False, refusal=""), self._undo()

    # what the stack says

    def look(self, snapshot: Snapshot) -> tuple[Run, Commands]:
        """One snapshot more."""
        run = self
        if run.phase in {"act", "wait"}:
            run = replace(run, watch=run.watch.look(snapshot))
        if run.phase == "wait":
            run = run._waited()
        if run.acted and run.phase != "over" and not 0 <= snapshot.at - run.renewed < RENEW_S:
            return replace(run, renewed=snapshot.at), (commands.Hold(),)
        return run, ()

    def answered(self, answers: Sequence[Answer]) -> Run:
        """What became of the commands of a step."""
        if self.phase != "act":
            return self
        refused = next((answer.message for answer in answers if not answer.ok), "")
        if refused:
            return replace(self, phase="ask", refusal=refused)
        run = replace(self, phase="wait")
        return run if self.step.wait is not None else run._reveal("")

    # parts

    def _act(self, snapshot: Snapshot | None, why_not: str, *, asked: bool) -> tuple[Run, Commands]:
        step = self.step
        if asked and step.question is not None and self.chosen is None:
            return replace(self, refusal="Say what you expect first: choose with the arrow keys."), ()
        if why_not and (step.acts or (self.lesson.acts and step.wait is not None)):
            run = replace(self, watch=self.watch.begin(self.lesson.figures, snapshot)) if snapshot else self
            return run._reveal(f"only read: {why_not}"), ()
        if snapshot is None:
            return (
                (self._reveal(""), ()) if not self._lives else (replace(self, refusal="No stack has answered yet."), ())
            )
        run = replace(self, watch=self.watch.begin(self.lesson.figures, snapshot), refusal="")
        if not step.acts:
            return (replace(run, phase="wait") if step.wait else run._reveal("")), ()
        try:
            made = tuple(act.command(snapshot) for act in step.acts)
        except ActError as error:
            return replace(self, refusal=f"{str(error)[:1].upper()}{str(error)[1:]}."), ()
        sent: Commands = (commands.Hold(), commands.Marker(self.note), *made)
        return replace(run, phase="act", acted=True, renewed=snapshot.at), sent

    @property
    def _lives(self) -> bool:
        return bool(self.step.acts or self.step.wait or self.step.figures)

    @property
    def note(self) -> str:
        """The marker of this step."""
        note = f"lesson {self.lesson.name} {self.place + 1}/{len(self.lesson.steps)}: {self.step.title}"
        return note if len(note) <= NOTE_LIMIT else note[: NOTE_LIMIT - 1] + "…"

    def _waited(self) -> Run:
        wait = self.step.wait
        if wait is None or all(condition.judge(self.watch).holds for condition in wait.until):
            return self._reveal("")
        if self.watch.elapsed_s >= wait.seconds:
            return self._reveal(f"it did not come within {wait.seconds:.0f} s: {_missing(wait.until, self.watch)}")
        return self

    def _reveal(self, cut_short: str) -> Run:
        step, watch = self.step, self.watch.tell(self.step.name)
        unseen = cut_short if cut_short.startswith("only read") else ""
        told = Told(
            step.name,
            step.title,
            None if step.question is None else guess(step.question, self.chosen, watch, unseen),
            tuple(_row(shown, watch, unseen) for shown in step.figures),
            tuple(_checked(check, watch, unseen) for check in step.checks),
            cut_short,
            watch.elapsed_s,
        )
        return replace(self, phase="told", watch=watch, told=(*self.told, told), refusal="")

    def _next(self) -> tuple[Run, Commands]:
        if self.place + 1 < len(self.lesson.steps):
            return replace(self, place=self.place + 1, phase="ask", chosen=None, refusal=""), ()
        return self.leave()

    def _undo(self) -> Commands:
        if not self.acted:
            return ()
        faulty = any(act.do == "fault" for step in self.lesson.steps[: self.place + 1] for act in step.acts)
        return (*((commands.Unfault(),) if faulty else ()), commands.Hold(on=False))


def begin(lesson: Lesson) -> Run:
    """A lesson at its first step; nothing is done yet."""
    return Run(lesson)


def _missing(conditions: Sequence[Condition], watch: Watch) -> str:
    return "; ".join(seen.because for one in conditions if not (seen := one.judge(watch)).holds)


def _row(shown: Shown, watch: Watch, unseen: str) -> Row:
    found = watch.measured(shown.measure)
    if unseen or found.v is None:
        return Row(shown.label, shown.measure.written(None), unseen or found.why, shown.recorded)
    was = Found(None) if shown.than is None else watch.measured(shown.than)
    return Row(shown.label, shown.measure.written(found.v), was="" if was.v is None else shown.measure.written(was.v))


def _checked(check: Check, watch: Watch, unseen: str) -> Checked:
    if unseen:
        return Checked(check.says, None, unseen)
    judged = [condition.judge(watch) for condition in check.when]
    if all(seen.holds for seen in judged):
        return Checked(check.says, True, "; ".join(seen.because for seen in judged))
    wrong = next((seen for seen in judged if seen.holds is None), None) or next(s for s in judged if not s.holds)
    reason = wrong.because if wrong.holds is None or not check.otherwise else f"{check.otherwise} ({wrong.because})"
    return Checked(check.says, None if wrong.holds is None else False, reason)


def guess(question: Question, chosen: int | None, watch: Watch, unseen: str = "") -> Guess:
    """The prediction held against what was seen, or against what was recorded elsewhere."""
    predicted = "" if chosen is None else question.answer(chosen)
    if question.choices:
        return _choice(question, chosen, predicted, watch, unseen)
    assert question.measure is not None
    found = watch.measured(question.measure)
    value = found.v * question.factor if isinstance(found.v, float) and not unseen else None
    recorded = value is None and question.recorded is not None
    value = question.recorded if value is None else value
    if value is None:
        return Guess(question.ask, predicted, "cannot be told here", None, unseen or found.why)
    happened = question.written(value)
    if chosen is None:
        return Guess(question.ask, "", happened, None, recorded=recorded, value=value)
    right, note = _off(question.stops[chosen], value)
    return Guess(question.ask, predicted, happened, right, note, recorded, value)


def _off(predicted: float, value: float) -> tuple[bool, str]:
    low, high = sorted((predicted, value))
    if high == low or (low > 0 and high / low < CLOSE):
        return True, "well predicted"
    way = "less" if value < predicted else "more"
    if low <= 0:
        return False, f"it was {way}"
    factor = high / low
    return False, f"{way}, by a factor of {factor:.0f}" if factor >= 9.5 else f"{way}, by a factor of {factor:.1f}"


def _choice(question: Question, chosen: int | None, predicted: str, watch: Watch, unseen: str) -> Guess:
    why = unseen
    for place, choice in enumerate(question.choices):
        if not choice.when or unseen:
            continue
        judged: list[Seen] = [condition.judge(watch) for condition in choice.when]
        if all(seen.holds for seen in judged):
            right = None if chosen is None else place == chosen
            return Guess(question.ask, predicted, choice.says, right)
        why = why or next((seen.because for seen in judged if seen.holds is None), "")
    for place, choice in enumerate(question.choices):
        if choice.recorded and why:
            return Guess(
                question.ask, predicted, choice.says, None if chosen is None else place == chosen, recorded=True
            )
    note = why or "what was seen lies between the answers"
    return Guess(question.ask, predicted, "cannot be told here", None, note)
