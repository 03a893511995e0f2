"""Replays: wherever somebody goes, everything is as if it had been played to there."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests_samples
import samples
from console_waiting import screen_text, until
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot

from console.app import CockpitApp, cockpit
from console.history import SERIES, History
from console.ink import Line, Span, line, plain, width
from console.panels.progress import Playing, Tick, progress
from console.replay_verb import RECORDINGS, SHIPPED
from console.replaying import ReplayApp
from console.sources import tape as tape_module
from console.sources.base import SourceGoneError
from console.sources.player import Moment, Player, moment
from console.sources.replay import LOOP_HOLD_S, ReplaySource
from console.sources.scripted import ScriptedSource
from console.sources.tape import Tape
from loadgen.records import RequestRecord
from server.telemetry import recording
from server.telemetry.recording import Recorder, RecordingError, read
from server.telemetry.snapshot import Event, Snapshot, Value

AT = samples.AT


def snapshot(seconds: float, **changes: Any) -> Snapshot:
    """The loaded sample at another time, without its events."""
    return samples.change(
        samples.LOADED, at=AT + seconds, seq=int(seconds * 10), wall=samples.WALL + seconds, events=[], **changes
    )


def event(seconds: float, text: str = "burst +5", mark: str = "b") -> Event:
    return Event(AT + seconds, samples.WALL + seconds, "burst", text, mark)


def course(seconds: int, *events: Event, hz: int = 2) -> list[Snapshot]:
    """A run in which the queue's depth is the second, and events stay in sight once they came."""
    return [
        msgspec.structs.replace(
            snapshot(n / hz, queue={"depth": Value(float(n // hz))}),
            events=[one for one in events if one.at <= AT + n / hz],
        )
        for n in range(seconds * hz + 1)
    ]


def write(path: Path, snapshots: list[Snapshot]) -> Path:
    recorder = Recorder(path)
    for one in snapshots:
        recorder.write(one)
    recorder.close()
    return path


def past(history: History) -> tuple[object, ...]:
    """All that a history holds, to compare."""
    events = [(one.at, one.text, one.mark) for one in history._events]
    return history.at, {name: list(buckets) for name, buckets in history._buckets.items()}, events


def played(snapshots: list[Snapshot]) -> History:
    history = History()
    for one in snapshots:
        history.append(one)
    return history


TAPES: list[Tape] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while TAPES:
        TAPES.pop().close()


def indexed(script: Path | list[Snapshot]) -> Tape:
    """Closed after the test."""
    TAPES.append(Tape(script))
    TAPES[-1].index()
    return TAPES[-1]


# the tape

SECONDS = st.floats(0.05, 700, allow_nan=False)
READINGS = st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False), st.just(float("inf")))


@st.composite
def runs(draw: st.DrawFn) -> list[Snapshot]:
    """Snapshots at odd distances (some not newer than the one before), with figures that come and go, and events that are seen
    late, or long before they happened."""
    found: list[Snapshot] = []
    at = 0.0
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 40))):
        at += draw(st.one_of(st.just(0.5), st.just(0.0), SECONDS))
        if draw(st.booleans()):
            events = [*events, event(at + draw(st.floats(-5, 5)))][-4:]
        found.append(
            msgspec.structs.replace(
                snapshot(at, queue={"depth": Value(draw(READINGS))}, engine={"running": Value(draw(READINGS))}),
                events=events,
            )
        )
    return found


@settings(max_examples=60)
@given(runs(), st.integers(1, 3))
def test_the_past_at_any_place_is_as_if_it_had_been_played_to_there(script: list[Snapshot], keep: int) -> None:
    """With little kept, so that what falls out of the past is tried as well."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("console.history", "console.sources.tape"):
            patch.setattr(f"{module}.KEEP_S", keep * 3)
            patch.setattr(f"{module}.KEEP_EVENTS", keep)
        tape = indexed(script)
        history = History()
        index = -1
        for one in script:
            index += history.append(one)
            assert past(tape.history(index)) == past(history)
        assert len(tape) == index + 1


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recording_can_be_entered_anywhere(name: str) -> None:
    path = RECORDINGS / f"{name}.sparkrec"
    script = list(read(path))
    tape = indexed(path)
    assert len(tape) == len(script)
    places = random.Random(1).sample(range(len(script)), 12)
    for index in places:
        assert msgspec.json.encode(tape.snapshot(index)) == msgspec.json.encode(script[index])
        assert past(tape.history(index)) == past(played(script[: index + 1]))


def test_snapshots_are_found_in_any_order_from_the_bookmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_CHUNK", 700)
    monkeypatch.setattr(tape_module, "MARK_EVERY", 7)
    script = course(40)
    tape = indexed(write(tmp_path / "run.sparkrec", script))
    assert len(tape._bookmarks) > 5
    order = [*range(len(script)), *random.Random(2).sample(range(len(script)), len(script))]
    assert [tape.snapshot(index).seq for index in order] == [script[index].seq for index in order]


def test_what_is_torn_at_its_end_is_played_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "run.sparkrec", course(5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 60])
    tape = indexed(path)
    assert 0 < len(tape) < 11
    assert tape.snapshot(len(tape) - 1).seq == 5 * (len(tape) - 1)


def test_a_file_that_changes_under_the_tape_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "run.sparkrec", course(5))
    tape = indexed(path)
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match="has changed"):
        tape.snapshot(3)


def test_a_recording_without_snapshots_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no snapshots"):
        Tape(write(tmp_path / "run.sparkrec", [])).wait()


# where it stands


def test_a_position_moves_with_the_clock_and_the_speed() -> None:
    player = Player(100.0)
    assert player.position_s(103.0) == 3.0
    player.faster(103.0, 1)
    assert (player.speed, player.position_s(104.0)) == (2.0, 5.0)
    player.pause(104.0, True)
    assert player.position_s(200.0) == 5.0
    assert player.due_s(200.0, 6.0) is None
    player.pause(200.0, False)
    assert player.due_s(200.0, 6.0) == 0.5
    player.seek(200.0, -7)
    assert player.position_s(200.0) == 0.0


def test_the_ladder_of_speeds_has_ends() -> None:
    player = Player(0.0)
    for _ in range(20):
        player.faster(0.0, -1)
    assert player.speed == 0.1
    for _ in range(20):
        player.faster(0.0, 1)
    assert player.speed == 60.0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("00:04:10", Moment(250.0)),
        ("4:10", Moment(250.0)),
        ("1:00:00.5", Moment(3600.5)),
        ("90", Moment(90.0)),
        ("64 people", Moment(0.0, "64 people")),
        ("64 people+78", Moment(78.0, "64 people")),
        ("burst +200+3", Moment(3.0, "burst +200")),
        (" cold restart (disk + 30 s ", Moment(30.0, "cold restart (disk")),
    ],
)
def test_a_moment_is_a_time_or_an_event(text: str, meant: Moment) -> None:
    assert moment(text) == meant


def test_no_moment() -> None:
    with pytest.raises(ValueError, match="00:04:10"):
        moment("  ")


def test_an_event_that_is_not_there_is_said_with_those_that_are() -> None:
    tape = indexed(course(9, event(3.0, "64 people"), event(5.0, "burst +5")))
    assert Moment(2.0, "BURST").position_s(tape.jumps(), tape.at[0]) == 7.0
    with pytest.raises(ValueError, match=r"contains 'cold'. It has: 64 people; burst \+5\."):
        Moment(0.0, "cold").position_s(tape.jumps(), tape.at[0])


# the line


def playing(**changes: Any) -> Playing:
    return Playing(**{"position_s": 60.0, "length_s": 240.0, "note": "a real H100, recorded 2026-11-23", **changes})


@pytest.mark.parametrize("cells", [60, 80, 120, 160, 200])
@pytest.mark.parametrize("changes", [{}, {"ended": True, "position_s": 240.0}, {"length_s": 0.0, "position_s": 0.0}])
def test_the_line_fills_its_cells_and_every_cell_of_the_bar_is_a_place(cells: int, changes: dict[str, Any]) -> None:
    spans = progress(playing(**changes), (), cells)
    assert width(spans) == cells
    places = [float(span.action[5:-1]) for span in spans if span.action.startswith("seek(")]
    assert len(places) >= 16
    assert places == sorted(places)
    assert places[0] == 0.0


def test_events_stand_on_the_bar_and_lead_to_where_they_are_shown() -> None:
    spans = progress(playing(ticks=(Tick(120.0, "b", "burst +5"), Tick(180.0, "é;", "odd"))), (), 80)
    (mark,) = [span for span in spans if span.style == "mark"]
    assert (mark.text, mark.action) == ("b", "seek(120.000)")
    assert "burst +5" in mark.note
    assert "╱" not in plain(spans)


def test_what_is_wrong_with_a_source_keeps_its_place() -> None:
    spans = progress(playing(), samples_trouble(), 80)
    assert width(spans) == 80
    text = plain(spans)
    assert "01:00 of 04:00  1x" in text
    assert "engine does not answer" in text


def samples_trouble() -> Line:
    return line(Span("engine does not answer", "warn"))


# the application


@asynccontextmanager
async def opened(
    script: Path | list[Snapshot], size: tuple[int, int] = (160, 48), **options: Any
) -> AsyncIterator[tuple[ReplayApp, ReplaySource, Pilot[Any]]]:
    """A replay whose clock stands still: it moves only when it is told to."""
    source = ReplaySource(script, stays=True, clock=lambda: 0.0, **options)
    app = cockpit(source)
    assert isinstance(app, ReplayApp)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: source.tape.whole and at_place(app, source))
        yield app, source, pilot


def at_place(app: CockpitApp, source: ReplaySource) -> bool:
    """What is drawn is what the source has come to, and it has come to where it should be."""
    return (
        not source._jump
        and app.snapshot is not None
        and source.shown >= 0
        and app.snapshot.at == source.tape.at[source.shown]
        and source.shown == source.tape.find(source._player.position_s(0.0))
    )


async def press(app: ReplayApp, source: ReplaySource, pilot: Pilot[Any], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await until(pilot, lambda: at_place(app, source))


EVENTS = (event(30.0, "burst +5"), event(60.0, "policy fair", "p"), event(90.0, "cold restart", "c"))


async def test_every_key_goes_where_it_says() -> None:
    async with opened(course(180, *EVENTS)) as (app, source, pilot):
        await press(app, source, pilot, "space")
        assert source.paused
        for key, position in (
            ("full_stop", 10.0),
            ("greater_than_sign", 70.0),
            ("comma", 60.0),
            ("left_square_bracket", 30.0),
            ("right_square_bracket", 60.0),
            ("right_square_bracket", 90.0),
            ("less_than_sign", 30.0),
            ("home", 0.0),
            ("comma", 0.0),
            ("right_square_bracket", 30.0),
        ):
            await press(app, source, pilot, key)
            assert source.position_s == position, key
        assert app.snapshot is not None
        assert [one.text for one in app.snapshot.events] == ["burst +5"]
        assert "paused" in screen_text(app)
        await press(app, source, pilot, "left_square_bracket")
        assert "no event before" in screen_text(app)
        await press(app, source, pilot, "right_parenthesis", "right_parenthesis", "left_parenthesis")
        assert source.speed == 2.0
        await press(app, source, pilot, "space")
        assert not source.paused


async def test_going_back_shows_what_playing_to_there_showed() -> None:
    script = course(120, *EVENTS)
    upto = 2 * 70
    async with opened(script[: upto + 1]) as (app, source, pilot):
        await press(app, source, pilot, "space")
        source.seek(70.0)
        await until(pilot, lambda: source.ended and at_place(app, source))
        expected = past(played(script[: upto + 1]))
        assert past(app.history) == expected
        straight = without_replay(screen_text(app))
    async with opened(script) as (app, source, pilot):
        await press(
            app, source, pilot, "space", "greater_than_sign", "greater_than_sign", "less_than_sign", "full_stop"
        )
        assert source.position_s == 70.0
        assert past(app.history) == expected
        assert without_replay(screen_text(app)) == straight


def without_replay(text: str) -> str:
    """The picture without the words on where the replay stands, and its keys."""
    return "\n".join(row for row in text.splitlines() if not re.search(r"replay|recorded|space", row))


async def test_the_end_is_said_and_left_again() -> None:
    async with opened(course(30)) as (app, source, pilot):
        source.seek(500.0)
        await until(pilot, lambda: source.ended and "at its end" in screen_text(app))
        assert source.position_s == 30.0
        await pilot.press("comma")
        await until(pilot, lambda: source.position_s == 20.0 and at_place(app, source))
        assert not source.ended
        source.seek(30.0)
        await until(pilot, lambda: source.ended)
        await pilot.press("space")
        await until(pilot, lambda: source.position_s == 0.0 and at_place(app, source))
        assert not source.paused


async def test_a_click_on_the_bar_goes_there() -> None:
    async with opened(course(100)) as (app, source, pilot):
        await press(app, source, pilot, "space")
        canvas = app.screen.query_one("#status")
        found = [x for x in range(160) if (span := canvas.span_at(x, 0)) and span.action.startswith("seek(")]
        middle = found[len(found) // 2]
        await pilot.click("#status", offset=(middle, 0))
        await until(pilot, lambda: source.position_s > 40 and at_place(app, source))
        assert source.position_s == pytest.approx(50.0, abs=1.0)


async def test_the_palette_jumps_to_every_event_and_offers_no_replay_where_there_is_none() -> None:
    async with opened(course(120, *EVENTS)) as (app, source, pilot):
        commands = {one.title: one for one in app.get_system_commands(app.screen)}
        assert {"jump to: burst +5", "jump to: policy fair", "jump to: cold restart"} <= commands.keys()
        assert "Replay: event before ([)" in commands
        commands["jump to: policy fair"].callback()
        await until(pilot, lambda: source.position_s == 60.0 and at_place(app, source))
    live = CockpitApp(samples_source())
    async with live.run_test():
        assert not [
            one for one in live.get_system_commands(live.screen) if one.title.startswith(("Replay:", "jump to"))
        ]


def samples_source() -> ScriptedSource:
    return ScriptedSource([samples.LOADED], kind="live")


async def test_a_loop_begins_again_where_it_began() -> None:
    now = [0.0]
    source = ReplaySource(course(20, event(5.0)), loop=True, at=moment("burst+2"), clock=lambda: now[0])
    shown: list[float] = []
    async for one in source.snapshots():
        shown.append(one.at - AT)
        if len(shown) == 1:
            now[0] += 60.0
        if source.shown == 40:
            source.seek(source._begin.seconds)  # what LOOP_HOLD_S of patience would do
        if shown.count(7.0) == 2:
            break
    assert shown[0] == 7.0
    assert 20.0 in shown
    assert LOOP_HOLD_S > 0


async def test_a_moment_that_is_not_there_is_a_lost_source() -> None:
    source = ReplaySource(course(3), at=Moment(0.0, "never"))
    with pytest.raises(SourceGoneError, match="none at all"):
        await anext(source.snapshots())


# requests


def requests_recording(folder: Path) -> Path:
    path = write(folder / "run.sparkrec", course(60))
    recorder = Recorder(folder / "other.sparkrec")
    for n in range(1, 60):
        record = RequestRecord(
            request_id=f"r{n:02d}", person="p", behaviour="patient", scheduled=AT + n - 0.5, done=AT + n, outcome="ok"
        )
        recorder.write_request(msgspec.json.encode(record))
    recorder.close()
    for beside in folder.glob("other.sparkrec.requests*"):
        beside.rename(folder / beside.name.replace("other", "run"))
    return path


async def test_the_requests_of_a_place_are_those_that_had_finished_by_then(tmp_path: Path) -> None:
    async with opened(requests_recording(tmp_path)) as (app, source, pilot):
        await press(app, source, pilot, "space", "2")
        source.seek(50.0)
        await until(pilot, lambda: len(app.kept) == 50)
        await pilot.press("down", "down")
        source.seek(20.0)
        await until(pilot, lambda: len(app.kept) == 20 and at_place(app, source))
        kept = [one.request_id for one in app.kept.newest()]
        assert kept == [f"r{n:02d}" for n in range(20, 0, -1)]
        await until(pilot, lambda: "r48" not in screen_text(app) and "20" in screen_text(app))
        source.seek(25.0)
        await until(pilot, lambda: len(app.kept) == 25)


async def test_an_answer_to_a_question_from_elsewhere_is_asked_again() -> None:
    release = asyncio.Event()

    class Slow(ReplaySource):
        asked = 0

        async def requests(self, since: float, until: float, limit: int) -> Any:
            del since, limit
            Slow.asked += 1
            if Slow.asked == 1:
                await release.wait()
                return requests_samples.FINISHED[:3]
            return requests_samples.FINISHED[:1] if until < AT + 15 else []

    source = Slow(course(60), stays=True, clock=lambda: 0.0, at=Moment(30.0))
    app = cockpit(source)
    assert isinstance(app, ReplayApp)
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: source.tape.whole and at_place(app, source))
        await press(app, source, pilot, "space", "2")
        await until(pilot, lambda: Slow.asked == 1)
        source.seek(10.0)
        await until(pilot, lambda: at_place(app, source))
        release.set()
        await until(pilot, lambda: Slow.asked == 2 and len(app.kept) == 1)


# both recordings that come along, from begin to end


@pytest.mark.parametrize(("name", "size"), [("h100", (160, 48)), ("cpu", (80, 24))])
async def test_a_shipped_recording_plays_to_its_end_on_every_screen(name: str, size: tuple[int, int]) -> None:
    now = [0.0]
    path = RECORDINGS / f"{name}.sparkrec"
    source = ReplaySource(path, stays=True, clock=lambda: now[0])
    app = cockpit(source)
    assert isinstance(app, ReplayApp)
    failures: list[str] = []
    app._failed = lambda what, error: failures.append(f"{what}: {error!r}")  # type: ignore[method-assign]
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: source.tape.whole and app.snapshot is not None)
        steps = 10
        for step in range(1, steps + 1):
            now[0] = source.tape.length_s * step / steps
            source._changed()
            await until(pilot, lambda: at_now(source, now[0]))
            await pilot.press(str(step % 5 + 1))
            text = screen_text(app)
            assert "this panel failed" not in text
        await until(pilot, lambda: source.ended)
        assert "at its end" in screen_text(app)
    assert failures == []
    assert past(app.history) == past(played(list(read(path))))


def at_now(source: ReplaySource, now: float) -> bool:
    return source.shown == source.tape.find(now)


def test_every_series_of_the_charts_is_on_the_tape() -> None:
    assert indexed(course(1))._columns.keys() == SERIES.keys()
