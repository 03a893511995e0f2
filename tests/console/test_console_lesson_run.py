"""The runner: state and snapshots in, state and commands out."""

from __future__ import annotations

import lesson_scenes
import pytest
import samples
from lesson_scenes import alone, later, together

from console.classroom import Classroom, summary
from console.lessons.lesson import Lesson
from console.lessons.reading import parse
from console.lessons.run import RENEW_S, Run, begin
from console.lessons.shelf import shipped
from server import commands
from server.commands import Answer
from server.telemetry.snapshot import Snapshot

BASE = lesson_scenes.CPU
FRIENDS = shipped("ten-friends")
DONE = [Answer(True, "Done.")]


def acted(run: Run, snapshot: Snapshot = BASE) -> Run:
    """The step's commands went through."""
    run, sent = run.go_on(snapshot)
    assert sent
    return run.answered(DONE * len(sent))


def at_ten() -> Run:
    """Ten friends, after the first step."""
    run = acted(begin(FRIENDS))
    run, _ = run.look(alone(BASE, 9.0, 62, 20.0))
    run, _ = run.go_on(None)
    assert (run.place, run.phase) == (1, "ask")
    return run


def test_a_step_says_what_it_does_and_drops_a_marker() -> None:
    run, sent = begin(FRIENDS).go_on(BASE)
    kinds = [type(command) for command in sent]
    assert kinds == [commands.Hold, commands.Marker, commands.People, commands.Ask]
    assert sent[1] == commands.Marker("lesson ten-friends 1/2: First one person, to compare with")
    assert (run.phase, run.acted) == ("act", True)


def test_a_prediction_is_asked_for_first() -> None:
    run, sent = at_ten().go_on(BASE)
    assert not sent
    assert (run.phase, run.refusal) == ("ask", "Say what you expect first: choose with the arrow keys.")
    run = run.choose(1).choose(1).choose(1)
    assert run.step.question is not None
    assert run.chosen == run.step.question.size // 2 + 2, "a scale begins in its middle"
    assert run.choose(1).choose(1).choose(1).choose(1).chosen == run.step.question.size - 1, "and ends at its end"


def test_it_waits_for_what_is_to_be_seen_and_reveals_it() -> None:
    run = acted(at_ten().pick(5), later(BASE, 9.0))
    run, _ = run.look(together(BASE, 15.0, 66, 60.0))
    assert run.phase == "wait", "twelve replies have not come yet"
    run, _ = run.look(together(BASE, 23.0, 76, 70.0))
    told = run.last
    assert told is not None
    assert told.guess is not None
    assert (told.guess.predicted, told.guess.happened, told.guess.right) == ("6 times", "3.5 times", False)
    assert told.guess.note == "less, by a factor of 1.7"
    assert [check.seen for check in told.checks] == [True, True]
    assert next(row for row in told.rows if row.label.startswith("time per token")).was == "45 ms"
    assert not told.cut_short


def test_a_wait_is_bounded_and_says_what_did_not_come() -> None:
    run = acted(begin(FRIENDS))
    run, _ = run.look(alone(BASE, 100.0, 59, 20.0))
    assert run.phase == "wait"
    run, _ = run.look(alone(BASE, 121.0, 59, 20.0))
    assert run.last is not None
    assert run.last.cut_short.startswith(
        "it did not come within 120 s: requests that finished well so far since then: 1"
    )


def test_whoever_does_not_wait_gets_what_is_known() -> None:
    run = acted(begin(FRIENDS))
    run, sent = run.look(alone(BASE, 2.0, 58, 20.0))
    run, sent = run.go_on(BASE)
    assert (run.phase, sent) == ("told", ())
    assert run.last is not None
    assert run.last.checks[0].seen is False
    assert run.last.checks[0].because.startswith("people of before were still being served (requests")


def test_the_end_puts_everything_back() -> None:
    run = acted(at_ten().pick(0), later(BASE, 9.0))
    run, _ = run.look(together(BASE, 40.0, 99, 70.0))
    run, sent = run.go_on(None)
    assert (run.phase, run.acted, sent) == ("over", False, (commands.Hold(on=False),))
    assert summary(run) == "seen 3 of 3, predicted 0 of 1"


def test_leaving_puts_back_what_was_changed_and_only_then() -> None:
    assert begin(FRIENDS).leave()[1] == ()
    assert acted(begin(FRIENDS)).leave()[1] == (commands.Hold(on=False),)


FAULTY = parse(
    """
title = "A fault"
says = "a pause"
minutes = 1
[[step]]
title = "Pause"
text = "Text."
[[step.act]]
do = "fault"
name = "pause"
[step.wait]
says = "some time"
until = ["elapsed_s >= 2"]
seconds = 5
""",
    "faulty",
)


def test_a_fault_is_undone_too() -> None:
    assert acted(begin(FAULTY)).leave()[1] == (commands.Unfault(), commands.Hold(on=False))


def test_a_refusal_is_shown_and_the_step_can_be_tried_again() -> None:
    run, _ = begin(FRIENDS).go_on(BASE)
    run = run.answered([*DONE, *DONE, Answer(False, "A capacity search runs.")])
    assert (run.phase, run.refusal) == ("ask", "A capacity search runs.")
    assert run.leave()[1] == (commands.Hold(on=False),), "the first commands went through"
    run = acted(run)
    assert run.phase == "wait"


def test_what_the_stack_does_not_tell_is_a_refusal_too() -> None:
    run, sent = begin(FRIENDS).go_on(samples.IDLE)
    assert not sent
    assert run.refusal == "What people ask is not known yet."


def test_the_hold_is_renewed_while_the_lesson_lasts() -> None:
    run = acted(begin(FRIENDS))
    run, sent = run.look(alone(BASE, RENEW_S - 1, 58, 20.0))
    assert sent == ()
    run, sent = run.look(alone(BASE, RENEW_S + 1, 58, 20.0))
    assert sent == (commands.Hold(),)
    run, sent = run.look(alone(BASE, RENEW_S + 2, 58, 20.0))
    assert sent == ()


def test_where_nothing_can_be_done_it_is_read() -> None:
    lesson = shipped("one-chat")
    run = begin(lesson).pick(1)
    run, sent = run.go_on(samples.READ_ONLY, "somebody else's engine")
    assert (run.phase, sent, run.acted) == ("told", (), False)
    told = run.last
    assert told is not None
    assert told.guess is not None
    assert (told.guess.happened, told.guess.recorded, told.guess.right) == ("2.3 %", True, True)
    assert told.rows[0].recorded == "85 %"
    assert told.rows[0].text == "—"
    assert {check.seen for check in told.checks} == {None}
    assert told.checks[0].because == "only read: somebody else's engine"
    run, _ = run.go_on(None)
    assert (run.place, run.phase) == (1, "ask")


def test_without_a_gpu_the_recorded_figure_stands_for_it_and_says_so() -> None:
    run = acted(begin(shipped("one-chat")).pick(8))
    run, _ = run.look(alone(BASE, 13.0, 62, 20.0))
    told = run.last
    assert told is not None
    assert told.guess is not None
    assert (told.guess.happened, told.guess.recorded, told.guess.right) == ("2.3 %", True, False)
    tensor = told.rows[1]
    assert (tensor.text, tensor.why, tensor.recorded) == ("—", BASE.gpu_note, "2.3 %")
    assert told.checks[0].seen is True
    assert told.checks[1].seen is None
    assert BASE.gpu_note in told.checks[1].because


def on_gpu(snapshot: Snapshot, tensor: float, dram: float) -> Snapshot:
    """The same on a GPU that does so much."""
    gpu = lesson_scenes.H100.gpus[0]
    value = lesson_scenes.Value
    return samples.change(
        snapshot, gpus=[lesson_scenes.with_(gpu, tensor=value(tensor, src="gpm"), dram=value(dram, src="gpm"))]
    )


def test_on_a_gpu_its_own_figures_are_what_happened() -> None:
    base = lesson_scenes.H100
    run = acted(begin(shipped("one-chat")).pick(1), on_gpu(base, 0.0, 0.0))
    for seconds, ok, tensor, dram in ((6.0, 60, 0.024, 0.63), (13.0, 62, 0.011, 0.4)):
        run, _ = run.look(on_gpu(alone(base, seconds, ok, 130.0), tensor, dram))
    told = run.last
    assert told is not None
    assert told.guess is not None
    assert (told.guess.predicted, told.guess.happened, told.guess.right) == ("2 %", "2.4 %", True)
    assert not told.guess.recorded
    assert [(row.label, row.text) for row in told.rows[1:3]] == [
        ("tensor cores at work, at most", "2 %"),
        ("memory bandwidth in use, at most", "63 %"),
    ]
    assert [check.seen for check in told.checks] == [True, True]


def rushed(lesson: Lesson, depth: float, waiting: float) -> str:
    """What the rush is said to have shown."""
    run = acted(begin(lesson))
    run, _ = run.look(alone(BASE, 21.0, 70, 20.0))
    run, _ = run.go_on(None)
    run = acted(run.pick(0), later(BASE, 21.0))
    crowd = together(BASE, 31.0, 75, 60.0, 8.0)
    queue = lesson_scenes.with_(crowd.queue, depth=lesson_scenes.Value(depth), max_in_flight=lesson_scenes.Value(8.0))
    engine = lesson_scenes.with_(crowd.engine, waiting=lesson_scenes.Value(waiting))
    run, _ = run.look(samples.change(crowd, queue=queue, engine=engine))
    if run.phase == "wait":
        run, _ = run.go_on(None)
    assert run.last is not None
    assert run.last.guess is not None
    return f"{run.last.guess.happened}: {run.last.guess.right}"


@pytest.mark.parametrize(
    ("depth", "waiting", "said"),
    [
        (20.0, 0.0, "In the queue before the engine: True"),
        (0.0, 9.0, "Inside the engine: False"),
        (0.0, 0.0, "Nowhere: the engine just gets slower: False"),
    ],
)
def test_live_figures_decide_which_answer_was_right(depth: float, waiting: float, said: str) -> None:
    assert rushed(shipped("lunch-rush"), depth, waiting) == said


def test_a_classroom_keeps_its_place_and_what_came_of_lessons() -> None:
    room = Classroom()
    room.move(-1)
    assert room.at == 7
    room.move(2)
    assert room.go_on(BASE, "") == ()
    assert room.run is not None
    assert room.run.lesson.name == "ten-friends"
    assert room.note == "lesson, step 1 of 2"
    sent = room.go_on(BASE, "")
    room.answered(DONE * len(sent))
    assert room.leave() == (commands.Hold(on=False),)
    assert (room.run, room.note) == (None, "")
