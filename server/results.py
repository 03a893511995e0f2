"""Capacity searches on disk: one JSON file each, to be listed, and compared when they asked the same question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from loadgen.capacity import Answer, Progress, Question
from server import saved
from server.report.text import ABSENT, clean, count, seconds, share
from server.saved import SavedError, columns
from server.telemetry.snapshot import Snapshot

FORMAT = "spark-serve-capacity"
SCHEMA_VERSION = 1
KIND = "capacity"
ResultError = SavedError
"""One sentence on why a result cannot be written or read."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What was searched, besides the question. Empty or None is unknown."""

    wall: float
    """Unix seconds of the answer, a label only."""
    engine: str = ""
    version: str = ""
    model: str = ""
    model_kind: str = ""
    device: str = ""
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    policy: str = ""
    max_in_flight: int | None = None
    max_queue: int | None = None

    @classmethod
    def of(cls, snapshot: Snapshot) -> About:
        """The setup that `snapshot` shows."""
        engine, queue = snapshot.engine, snapshot.queue
        return cls(
            wall=snapshot.wall,
            engine=engine.name,
            version=engine.version,
            model=engine.model,
            model_kind=engine.model_kind,
            device=engine.device,
            max_num_seqs=_whole(engine.max_num_seqs.v),
            max_model_len=_whole(engine.max_model_len.v),
            policy=queue.policy,
            max_in_flight=_whole(queue.max_in_flight.v),
            max_queue=_whole(queue.max_queue.v),
        )


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one file."""

    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION
    about: About
    progress: Progress

    @property
    def answer(self) -> Answer:
        assert self.progress.answer is not None
        return self.progress.answer


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A result and where it lies."""

    path: Path
    result: Result


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds."""

    saved: list[Saved]
    """Newest first."""
    unreadable: list[str]
    """One sentence a file."""


def save(folder: Path, progress: Progress, about: About) -> Path:
    """Write one finished search into `folder`, for its owner alone, under a name of its date that was not taken.

    Raises ResultError when it has no answer yet or cannot be written.
    """
    if progress.answer is None:
        raise ResultError("The capacity search has no answer yet; only a finished one is saved.")
    return saved.save(folder, KIND, about.wall, Result(about=about, progress=progress))


def load(path: Path) -> Result:
    """Read one result. Raises ResultError when it is none of this version, or damaged."""
    result = saved.load(path, FORMAT, SCHEMA_VERSION, KIND, Result)
    if result.progress.answer is None:
        raise ResultError(f"{path} is damaged: it has no answer.")
    return result


def listed(folder: Path) -> Listing:
    """All results in `folder`; a folder that is not there holds none. Raises ResultError when it cannot be read."""
    found, unreadable = saved.listed(folder, load, lambda result: result.about.wall)
    return Listing(saved=[Saved(path=path, result=result) for path, result in found], unreadable=unreadable)


def listing_lines(listing: Listing) -> list[str]:
    """A table for a person, newest first, and what could not be read."""
    head = ("when", "model", "device", "best", "safe", "breaks at", "limit", "file")
    rows = [
        (
            _when(result),
            result.about.model or ABSENT,
            result.about.device or ABSENT,
            _best(result),
            _people(result.answer.safe),
            _people(result.answer.clear_break),
            result.answer.limit or ABSENT,
            entry.path.name,
        )
        for entry in listing.saved
        for result in (entry.result,)
    ]
    lines = columns([head, *rows]) if rows else ["No capacity search has been saved yet."]
    return [clean(line) for line in (*lines, *listing.unreadable)]


_QUESTION: dict[str, Callable[[Question], str]] = {
    "TTFT limit": lambda q: seconds(q.slo.ttft_s),
    "TPOT limit": lambda q: seconds(q.slo.tpot_s),
    "attainment": lambda q: share(q.attainment),
    "think time": lambda q: seconds(q.think_s),
    "mix": lambda q: q.mix,
    "cache": lambda q: q.cache,
}
"""What makes it another question. The seed, the time cap and the width asked for only make it another try."""

_ABOUT: dict[str, Callable[[About], str]] = {
    "engine": lambda a: a.engine,
    "version": lambda a: a.version,
    "model": lambda a: f"{a.model} ({a.model_kind})" if a.model_kind else a.model,
    "device": lambda a: a.device,
    "max-num-seqs": lambda a: _people(a.max_num_seqs),
    "max-model-len": lambda a: _people(a.max_model_len),
    "queue policy": lambda a: a.policy,
    "max in-flight": lambda a: _people(a.max_in_flight),
    "max queue": lambda a: _people(a.max_queue),
}


def comparable(a: Result, b: Result) -> str:
    """Why the two did not ask the same question of the same setup, as `think time 8 s and 2 s, ..`; empty when they did."""
    texts = [(name, of(a.progress.question), of(b.progress.question)) for name, of in _QUESTION.items()]
    texts += [(name, of(a.about), of(b.about)) for name, of in _ABOUT.items()]
    return ", ".join(f"{name} {clean(x) or ABSENT} and {clean(y) or ABSENT}" for name, x, y in texts if x != y)


def agree(a: Result, b: Result) -> bool | None:
    """Does each best estimate lie in the other's 90 % band? None where one has no band."""
    x, y = _band(a.answer), _band(b.answer)
    if x is None or y is None:
        return None
    return y[0] <= x[1] <= y[2] and x[0] <= y[1] <= x[2]


def _band(answer: Answer) -> tuple[float, float, float] | None:
    """Low, best and high."""
    if answer.low is None or answer.best is None or answer.high is None:
        return None
    return answer.low, answer.best, answer.high


def compare(a: Result, b: Result) -> list[str]:
    """Both answers side by side, whether they agree, and what makes them different questions, as lines of text."""
    rows: list[tuple[str, Callable[[Result], str]]] = [
        ("", _when),
        ("best estimate (90 % band)", _best),
        ("safe", lambda r: _people(r.answer.safe)),
        ("first clear break", lambda r: _people(r.answer.clear_break)),
        ("what broke first", lambda r: r.answer.limit or ABSENT),
        ("evidence", lambda r: r.answer.evidence or ABSENT),
        ("resolved", lambda r: _yes(r.answer.resolved)),
        ("safe level confirmed", lambda r: _yes(r.answer.confirmed)),
        ("recovered", lambda r: _yes(r.answer.recovered)),
        ("seed", lambda r: str(r.progress.question.seed)),
        ("took", lambda r: seconds(r.progress.elapsed_s)),
    ]
    lines = columns([(name, of(a), of(b)) for name, of in rows])
    within = agree(a, b)
    lines += ["", f"within each other's bands: {ABSENT if within is None else _yes(within)}"]
    if why := comparable(a, b):
        lines.append(f"not the same question: {why}")
    return [clean(line) for line in (*lines, f"1: {a.answer.sentence}", f"2: {b.answer.sentence}")]


def _when(result: Result) -> str:
    return saved.when(result.about.wall)


def _best(result: Result) -> str:
    answer = result.answer
    if answer.best is None:
        return ABSENT
    band = f" ({answer.low:.0f} to {answer.high:.0f})" if answer.low is not None and answer.high is not None else ""
    return f"{answer.best:.0f}{band}{'' if answer.resolved else ' unresolved'}"


def _people(number: int | None) -> str:
    return ABSENT if number is None else count(number)


def _yes(answer: bool | None) -> str:
    return ABSENT if answer is None else "yes" if answer else "no"


def _whole(v: float | None) -> int | None:
    return None if v is None else round(v)
