from __future__ import annotations

from pathlib import Path

import pytest

from server.engine.comparison import init_measured_s, remaining
from server.engine.starts import Starts
from server.telemetry.snapshot import StartStage


def stages(*parts: tuple[str, float | None]) -> list[StartStage]:
    """Stages one after another from their lengths; None runs."""
    made, begin = [], 0.0
    for name, length in parts:
        end = None if length is None else begin + length
        made.append(StartStage(name, begin, end))
        begin = end or begin
    return made


BEFORE = stages(("spawn and imports", 10.0), ("weights", 30.0), ("warm-up", 5.0), ("HTTP", 1.0), ("first token", 60.0))


@pytest.mark.parametrize(
    ("now", "elapsed_s", "left_s"),
    [
        ([], 0.0, 46.0),
        (stages(("spawn and imports", None)), 4.0, 42.0),
        (stages(("spawn and imports", None)), 25.0, 36.0),  # later than last time: the rest is still to come
        (stages(("spawn and imports", 12.0), ("weights", None)), 22.0, 26.0),
        (stages(("spawn and imports", 12.0), ("compile", None)), 22.0, 6.0),  # a stage that last time did not have
        (stages(("old engine leaves", None)), 2.0, 46.0),
        (stages(("old engine leaves", 2.0), ("clearing", None)), 2.5, 46.0),
        (stages(("weights", 30.0), ("warm-up", 5.0), ("HTTP", 1.0)), 36.0, 0.0),
    ],
)
def test_what_is_left_goes_by_the_stages_of_an_earlier_start(
    now: list[StartStage], elapsed_s: float, left_s: float
) -> None:
    assert remaining(now, BEFORE, elapsed_s) == pytest.approx(left_s)


def test_without_an_earlier_start_nothing_is_estimated() -> None:
    assert remaining(stages(("weights", None)), [], 3.0) is None
    assert remaining(stages(("weights", None)), stages(("weights", None)), 3.0) is None


def test_the_engines_sum_begins_where_its_model_is_set_up() -> None:
    assert init_measured_s(stages(("weights", 3.0), ("compile", 7.0), ("warm-up", 1.0))) == 8.0
    assert init_measured_s(stages(("weights", 3.0), ("model set-up", 2.0), ("warm-up", 1.0))) == 1.0
    assert init_measured_s(stages(("weights", 3.0), ("warm-up", None))) is None


def test_starts_are_kept_by_kind_and_command_line(tmp_path: Path) -> None:
    starts = Starts(tmp_path, ["serve", "a"])
    assert starts.like("disk-cold") == ("", [])
    starts.keep("process-cold", stages(("weights", 3.0)))
    starts.keep("compile-cold", stages(("weights", 4.0), ("HTTP", None)))
    again = Starts(tmp_path, ["serve", "a"])
    assert again.like("process-cold")[0] == "process-cold"
    assert again.like("process-cold")[1][0].end_s == 3.0
    assert again.like("disk-cold")[0] == "process-cold", "where there is none of the kind, one with as much warm"
    assert again.like("first start")[0] == "compile-cold", "else the latest"
    assert again.seconds() == {"process-cold": {"weights": 3.0}, "compile-cold": {"weights": 4.0}}
    assert Starts(tmp_path, ["serve", "b"]).seconds() == {}


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"revision": 1, "kinds": {"process-cold": []}}', b"\xff"])
def test_a_file_of_another_version_or_of_nonsense_is_no_start(tmp_path: Path, content: bytes) -> None:
    Starts(tmp_path, ["serve"]).keep("process-cold", stages(("weights", 3.0)))
    next(tmp_path.glob("*.json")).write_bytes(content)
    assert Starts(tmp_path, ["serve"]).seconds() == {}
