"""What is decided about an engine that ended by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.recovery import BAD_ARGUMENTS, DELAYS_S, SERVED_S, TRIES, Death, Next, Row, after, ended

codes = st.one_of(st.none(), st.integers(-64, 255))
unready = st.builds(Death, code=codes, served_s=st.none())
ready = st.builds(Death, code=codes, served_s=st.floats(0, 1e6))
deaths = st.lists(st.one_of(unready, ready), max_size=30)


def run(history: list[Death], row: Row = Row()) -> list[Next]:  # noqa: B008 - frozen
    """What is decided of each, each start being made that was decided, or asked for by a person."""
    decided = []
    for death in history:
        decided.append(after(row, death))
        row = Row() if decided[-1].after_s is None else decided[-1].row
    return decided


@given(deaths)
def test_one_that_was_ready_is_always_started_again(history: list[Death]) -> None:
    for death, decided in zip(history, run(history), strict=True):
        if death.served_s is not None:
            assert decided.after_s is not None


@given(deaths)
def test_it_is_left_alone_after_bad_arguments_or_three_deaths_before_ready_and_at_no_other_time(
    history: list[Death],
) -> None:
    in_a_row = 0
    for death, decided in zip(history, run(history), strict=True):
        in_a_row = in_a_row + 1 if death.served_s is None else 0
        fatal = death.served_s is None and (death.code == BAD_ARGUMENTS or in_a_row == TRIES)
        assert (decided.after_s is None) == fatal
        if fatal:
            in_a_row = 0


@given(deaths)
def test_the_wait_grows_with_deaths_of_a_kind_and_begins_anew_after_one_that_served(history: list[Death]) -> None:
    before: dict[bool, float] = {}
    for death, decided in zip(history, run(history), strict=True):
        served = death.served_s is not None
        if served:
            before.pop(False, None)
        if decided.after_s is None:
            before.clear()
            continue
        assert decided.after_s in DELAYS_S
        if (death.served_s or 0.0) >= SERVED_S or served not in before:
            assert decided.after_s == DELAYS_S[0]
        else:
            assert decided.after_s > before[served] or before[served] == DELAYS_S[-1]
        before[served] = decided.after_s


@given(unready, ready)
def test_a_death_of_one_that_was_ready_ends_the_count_of_tries(early: Death, late: Death) -> None:
    assert after(after(Row(), early).row, late).row.unready == 0


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([Death(-9, 100.0)], "starting it again in 1 s"),
        ([Death(0, 1.0), Death(0, 1.0)], "starting it again in 2 s, death 2 in a row"),
        ([Death(1)], "starting it again in 1 s, try 2 of 3"),
        ([Death(1), Death(-9)], "starting it again in 2 s, try 3 of 3"),
        ([Death(0, 1.0), Death(0, 1.0), Death(1)], "starting it again in 1 s, try 2 of 3"),
        ([Death(1), Death(1), Death(1)], ""),
        ([Death(2)], ""),
        ([Death(2, 5.0)], "starting it again in 1 s"),
    ],
)
def test_what_is_said_of_it(history: list[Death], said: str) -> None:
    assert run(history)[-1].in_words == said


@pytest.mark.parametrize(
    ("code", "said"), [(0, "exit code 0"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63"), (2, "exit code 2")]
)
def test_an_exit_code_in_words(code: int, said: str) -> None:
    assert ended(code) == said


def test_one_that_lost_a_process_says_so() -> None:
    assert Death(None, 1.0).in_words == "a process of it was lost"
