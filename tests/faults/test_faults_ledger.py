"""The ledger holds what it is told to the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import ledger
from tests.faults.ledger import Row, Tally, enter

FINE = Row(fault="a fault", said="a | word", after_s=1.25, requests=Tally(5, 2, 2, 1), left=0, engine="vLLM")


def test_a_row_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(ledger.LEDGER, str(path))
    enter(FINE)
    assert ledger.main(str(path)) == 0
    assert "| a fault | vLLM | a \\| word | 1.2 s | 5 | 2 | 2 | 1 | 0 | 0 |" in ledger.table([FINE])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row(fault="f", said="s", requests=Tally(5, 2, 2, 0), left=0), "Tally"),
        (Row(fault="f", said="s", left=1), "left"),
        (Row(fault="f", said="", left=0), "nothing was said"),
    ],
)
def test_what_is_lost_left_or_silent_fails(row: Row, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(ledger.LEDGER, str(path))
    with pytest.raises(AssertionError, match=why):
        enter(row)
    assert ledger.main(str(path)) == (0 if not row.said else 1)


def test_what_was_sent_between_two_readings() -> None:
    assert Tally(9, 5, 3, 1).since(Tally(4, 3, 1, 0)) == Tally(5, 2, 2, 1)
