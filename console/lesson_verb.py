"""The verb `lesson`: list them, read one, go through one on the running stack, check files that others have written."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from console.lessons.shelf import SHIPPED
from console.verb import UsageError
from server.client import StackClient, StackError
from server.config import default_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.lessons.lesson import Lesson, Step
    from console.lessons.run import Run, Told
    from server.commands import Command

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
PEOPLE_S = 10.0
LOOK_S = 0.5
CELLS = 84
SIGNS = {True: "seen:", False: "not seen:", None: "not here:"}


def add(verb: VerbMaker, in_console: Callable[[Lesson], int]) -> None:
    """Add the verb. `in_console` opens a lesson in the cockpit."""
    lesson = verb("lesson", _list, "The course's day as lessons: predict, do, see, understand.")
    actions = lesson.add_subparsers(dest="action", metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        return parser

    what = f"{', '.join(SHIPPED)}, its number in the list, or a file"
    action("list", _list, "The lessons there are.")
    show = action("show", _show, "Read one without doing anything.")
    show.add_argument("name", metavar="NAME", help=what)
    run = action("run", _run, "Go through one: in the cockpit, or without a terminal as text.")
    run.add_argument("name", metavar="NAME", help=what)
    run.add_argument("--text", action="store_true", help="as text on a terminal too; asks for predictions")
    run.set_defaults(in_console=in_console)
    action("words", _words, "What a lesson may name: figures, moments, actions. For those who write one.")
    check = action("check", _check, "Say what is wrong with lessons that somebody wrote.")
    check.add_argument("files", metavar="FILE", nargs="+")


def _list(options: argparse.Namespace) -> int:
    del options
    for number, name in enumerate(SHIPPED, 1):
        lesson = _found(name)
        print(f"{number}  {name:<12} {lesson.minutes:>2g} min  {lesson.title}")
        print(f"{'':25}{lesson.says}")
    print("\nspark-serve lesson run NAME, or 6 in the console")
    return 0


def _show(options: argparse.Namespace) -> int:
    lesson = _found(options.name)
    print(f"{lesson.title}\n{lesson.says}. {lesson.minutes:g} minutes.")
    for number, step in enumerate(lesson.steps, 1):
        _say_step(lesson, number, step)
        if step.question is not None:
            for choice in range(step.question.size if step.question.choices else 0):
                print(f"  - {step.question.answer(choice)}")
        print()
        for act in step.acts:
            print(f"  does: {act.in_words}")
        if step.wait is not None:
            print(f"  waits for {step.wait.says}, {step.wait.seconds:g} s at most")
        if step.reveal:
            print()
            _say(step.reveal)
        for shown in step.figures:
            print(f"  shows: {shown.label}{f'; recorded {shown.recorded}' if shown.recorded else ''}")
    if lesson.origin:
        print(f"\nRecorded figures: {lesson.origin}.")
    return 0


def _words(options: argparse.Namespace) -> int:
    from console.lessons.acts import ACTS
    from console.lessons.conditions import WHENS
    from console.lessons.figures import FIGURES

    del options
    print("figures (FIGURE, FIGURE@MOMENT, FIGURE / FIGURE)")
    for figure in FIGURES.values():
        units = " or ".join(unit for unit in figure.units if unit)
        print(f"  {figure.name:<34}{figure.says}{f' ({units})' if units else ''}")
    print(f"\nmoments: now without an @, {', '.join(f'@{when}' for when in WHENS)}, @NAME of an earlier step")
    print("conditions: FIGURE >= 3, FIGURE < 0.5 * FIGURE, FIGURE is WORD or WORD")
    print("\nactions ([[step.act]] do = ...)")
    for name, kind in ACTS.items():
        settings = f": {', '.join(kind.settings)}" if kind.settings else ""
        print(f"  {name:<10}{kind.says}{settings}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from pathlib import Path

    from console.lessons.reading import LessonError, read

    wrong = 0
    for name in options.files:
        try:
            lesson = read(Path(name))
        except LessonError as error:
            wrong += len(error.mistakes)
            for mistake in error.mistakes:
                print(f"{name}: {mistake}", file=sys.stderr)
        else:
            print(f"{name}: a good lesson, {len(lesson.steps)} steps, {lesson.predictions} predictions.")
    if wrong:
        raise UsageError(f"{wrong} {'mistake' if wrong == 1 else 'mistakes'}; see above.")
    return 0


def _found(name: str) -> Lesson:
    from console.lessons.reading import LessonError
    from console.lessons.shelf import find

    try:
        return find(name)
    except LessonError as error:
        raise UsageError("; ".join(error.mistakes)) from None


def _run(options: argparse.Namespace) -> int:
    lesson = _found(options.name)
    if not options.text and sys.stdin.isatty() and sys.stdout.isatty():
        code: int = options.in_console(lesson)
        return code
    client = StackClient(default_paths())
    _await_people(client)  # says that there is no stack before anything is printed
    return Walk(client, lesson, asks=sys.stdin.isatty()).go()


def _await_people(client: StackClient) -> None:
    """A stack that has just come up knows its people a moment later. Raises StackError where there is none."""
    end = time.monotonic() + PEOPLE_S
    while True:
        snapshot = client.snapshot()
        if snapshot.read_only or snapshot.people.profile is not None or time.monotonic() > end:
            return
        time.sleep(0.2)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as ctrl+c does, so that what was changed is put back."""

    def leave(number: int, frame: Any) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Walk:
    """A lesson as text, on the running stack."""

    def __init__(self, client: StackClient, lesson: Lesson, *, asks: bool, look_s: float = LOOK_S) -> None:
        from console.lessons.run import begin

        self._client = client
        self._run: Run = begin(lesson)
        self._asks = asks
        self._look_s = look_s

    def go(self) -> int:
        """From its first step to its last. 0: all was gone through; raises StackError when the stack goes away or refuses."""
        lesson = self._run.lesson
        print(f"{lesson.title}\n{lesson.says}.")
        with _ended_by_signals():
            try:
                while self._run.phase != "over":
                    self._step()
            finally:
                self._run, undo = self._run.leave() if self._run.acted else (self._run, ())
                self._send(undo)
        return 0

    def _step(self) -> None:
        run = self._run
        _say_step(run.lesson, run.place + 1, run.step)
        if self._asks and run.step.question is not None:
            self._ask()
        snapshot = self._client.snapshot()
        why_not = snapshot.read_only
        self._run, sent = self._run.go_on(snapshot, why_not, asked=False)
        if self._run.refusal:
            raise StackError(self._run.refusal)
        if sent:
            for act in run.step.acts:
                print(f"  doing: {act.in_words}")
            self._run = self._run.answered(self._send(sent))
            if self._run.refusal:
                raise StackError(self._run.refusal)
        self._wait()
        if self._run.last is not None:
            _say_told(self._run.lesson, run.step, self._run.last)
        self._run, undo = self._run.go_on(None)
        self._send(undo)

    def _wait(self) -> None:
        wait = self._run.step.wait
        if self._run.phase == "wait" and wait is not None:
            print(f"  waiting for {wait.says}, {wait.seconds:g} s at most ...", flush=True)
        while self._run.phase == "wait":
            time.sleep(self._look_s)
            self._run, sent = self._run.look(self._client.snapshot())
            self._send(sent)

    def _ask(self) -> None:
        question = self._run.step.question
        assert question is not None
        for number in range(question.size):
            print(f"  {number + 1}  {question.answer(number)}")
        try:
            reply = input("  which? ").strip()
        except EOFError:
            print()
            return
        if reply.isdecimal():
            self._run = self._run.pick(int(reply) - 1)

    def _send(self, sent: Sequence[Command]) -> list[Any]:
        answers = []
        for command in sent:
            answers.append(self._client.send(command))
            if not answers[-1].ok:
                break
        return answers


def _say(text: str, indent: str = "  ") -> None:
    for place, paragraph in enumerate(text.replace("`", "").split("\n\n")):
        if place:
            print()
        print(textwrap.fill(" ".join(paragraph.split()), CELLS, initial_indent=indent, subsequent_indent=indent))


def _say_step(lesson: Lesson, number: int, step: Step) -> None:
    print(f"\n{number}/{len(lesson.steps)}  {step.title}\n")
    _say(step.text)
    if step.plain:
        print()
        _say(f"In the restaurant: {step.plain}")
    if step.question is not None:
        print()
        _say(f"? {step.question.ask}")


def _say_told(lesson: Lesson, step: Step, told: Told) -> None:
    print()
    if told.cut_short:
        _say(f"({told.cut_short})")
    if told.guess is not None:
        said = f"you said {told.guess.predicted}; " if told.guess.predicted else ""
        elsewhere = " (recorded)" if told.guess.recorded else ""
        note = f" ({told.guess.note})" if told.guess.note else ""
        _say(f"{said}it was {told.guess.happened}{elsewhere}{note}")
    for row in told.rows:
        absent = f"recorded {row.recorded}" if row.recorded else row.why
        print(f"  {row.label:<46}{row.text}{f'  {absent}' if row.why else f'  was {row.was}' if row.was else ''}")
    if any(row.recorded for row in told.rows):
        _say(f"recorded: {lesson.origin}")
    if step.reveal:
        print()
        _say(step.reveal)
    if told.checks:
        print()
    for check in told.checks:
        because = f", because {check.because}" if check.because and check.seen is not True else ""
        _say(f"{SIGNS[check.seen]} {check.says}{because}")
