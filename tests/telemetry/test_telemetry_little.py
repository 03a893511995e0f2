"""Little's law as a check of the instruments."""

from __future__ import annotations

import random

import pytest

from server.telemetry.little import LittleWindow


def simulate(window: LittleWindow, seconds: float, rate: float, *, loses_every: int = 0) -> None:
    """Poisson arrivals that stay for 1 to 3 s; each finish and a count twice a second reach the window, in time's order."""
    dice = random.Random(7)
    at, visits = -10.0, []
    while at < seconds:
        at += dice.expovariate(rate)
        visits.append((at, at + dice.uniform(1, 3)))
    events = [(leave, leave - enter) for enter, leave in visits if 0 <= leave <= seconds]
    if loses_every:
        events = [event for i, event in enumerate(events) if i % loses_every]
    stamps: list[tuple[float, float | None]] = [(leave, e2e_s) for leave, e2e_s in events]
    stamps += [(tick / 2, None) for tick in range(int(seconds * 2) + 1)]
    for stamp, e2e_s in sorted(stamps, key=lambda pair: pair[0]):
        if e2e_s is None:
            window.on_count(stamp, sum(enter <= stamp < leave for enter, leave in visits))
        else:
            window.on_finished(stamp, e2e_s)


def test_steady_load_agrees() -> None:
    window = LittleWindow()
    simulate(window, 100.0, 20.0)
    found = window.read(100.0)
    assert found.n > 1000
    assert found.error == pytest.approx(0.0, abs=0.03)


def test_records_that_get_lost_show_as_a_disagreement() -> None:
    window = LittleWindow()
    simulate(window, 100.0, 20.0, loses_every=5)
    error = window.read(100.0).error
    assert error is not None
    assert error < -0.1


def test_a_load_that_changes_is_said_to() -> None:
    window = LittleWindow()
    simulate(window, 100.0, 20.0)
    assert window.read(100.0).steady
    for tick in range(201, 261):
        window.on_count(tick / 2, 200.0)
    assert not window.read(130.0).steady


def test_nothing_before_the_window_is_full() -> None:
    window = LittleWindow()
    simulate(window, 59.0, 20.0)
    found = window.read(59.0)
    assert (found.expected, found.counted, found.error) == (None, None, None)


def test_nothing_from_few_requests() -> None:
    window = LittleWindow()
    simulate(window, 100.0, 0.2)
    found = window.read(100.0)
    assert 0 < found.n < 20
    assert found.expected is None


def test_nothing_when_the_counts_have_stopped() -> None:
    window = LittleWindow()
    simulate(window, 100.0, 20.0)
    assert window.read(110.0).expected is None


def test_without_counts_finishes_are_not_hoarded() -> None:
    window = LittleWindow(60.0)
    for i in range(10_000):
        window.on_finished(float(i), 1.0)
    assert len(window._finished) <= 122
    assert window.read(10_000.0).counted is None
