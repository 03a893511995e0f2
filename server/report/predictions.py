"""What a homework asks at every arrow and of the knee, what a run measured of it, and how far the two are apart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.report.rows import Run
from server.report.text import ABSENT, count, digits, md, plural, seconds, share, whole

Kind = Literal["waits", "fails", "measure", "knee"]
Unit = Literal["s", "%", "n", ""]
"""In what a prediction is compared: seconds, percent, a plain number; empty: in words only."""

CLOSE = 2.0
"""Within this factor a prediction is close."""
RIGHT = 1.1
RIGHT_POINTS, CLOSE_POINTS = 5.0, 15.0
"""The same for percentages, in points."""


@dataclass(frozen=True)
class Measured:
    """What a run says to one question."""

    text: str
    """For a person; `—` and why, where it is not known."""
    v: float | None = None
    """In the question's unit; None where it is not known."""
    low: float | None = None
    high: float | None = None
    """A band, where there is one."""


@dataclass(frozen=True)
class Asked:
    """One question and its place: section 1 to 6 are the arrows, 7 is the knee."""

    section: int
    kind: Kind
    text: str
    unit: Unit
    of: Callable[[Run], Measured]


@dataclass(frozen=True)
class Guess:
    """What somebody wrote, as far as it is a number: `low` and `high` are the same unless it is a range."""

    low: float
    high: float


# what was measured


def _unknown(why: str) -> Measured:
    return Measured(f"{ABSENT} ({why})")


def _stages(run: Run, *names: str) -> Measured:
    stages, e2e_s = run.tally.stages.means, run.tally.stages.e2e_s
    known = [stages[name] for name in names if name in stages]
    if not known or not e2e_s:
        return _unknown("no request was joined with this stage")
    total = sum(known)
    said = f"{seconds(total)} ({share(max(0.0, total) / e2e_s)} of a mean request's {seconds(e2e_s)}, "
    return Measured(f"{said}n={count(run.tally.stages.n)})", total)


def _left(run: Run) -> Measured:
    if run.requests is not None:
        v = run.requests.left
    elif run.ended:
        v = run.ended.get("abandoned", 0)
    else:
        return _unknown("none of our own clients was there")
    return Measured(f"{count(v)} of {plural(sum(run.ended.values()), 'request')}", float(v))


def _gateway(*names: str) -> Callable[[Run], Measured]:
    def of(run: Run) -> Measured:
        grown = run.tally.gateway.grown
        if not grown:
            return _unknown("the gateway told nothing")
        v = sum(grown.get(name, 0) for name in names)
        return Measured(f"{count(v)} of {plural(run.tally.arrived.total, 'request')} that arrived", float(v))

    return of


def _gauge(
    name: str, which: Literal["median", "mean", "most"], text: Callable[[float | None], str], scale: float = 1.0
) -> Callable[[Run], Measured]:
    def of(run: Run) -> Measured:
        gauge = run.tally.gauges.get(name)
        v = None if gauge is None else getattr(gauge, which)
        if gauge is None or v is None:
            return _unknown("it was not read")
        when = f" at {run.at(gauge.most_at)}" if which == "most" and v else ""
        return Measured(f"{text(v)}{when} ({which} of {plural(gauge.n, 'reading')})", v * scale)

    return of


def _not_serving(run: Run) -> Measured:
    words = run.tally.words.seconds
    said = [f"{word} {seconds(round(words[word]))}" for word in ("STARTING", "DOWN", "STALLED") if words.get(word)]
    total = sum(words.get(word, 0.0) for word in ("STARTING", "DOWN", "STALLED"))
    words_said = f" ({', '.join(said)})" if said else ""
    return Measured(f"{seconds(round(total))}{words_said}", total)


def _gpu_failed(run: Run) -> Measured:
    nvml = run.tally.sources.get("nvml")
    if nvml is None or not nvml.answered:
        return _unknown(md(run.facts.gpu_note) or "no GPU was read")
    return Measured(f"no reading for {seconds(nvml.seconds)}" if nvml.seconds else "nothing that the driver told")


def _tensor(run: Run) -> Measured:
    device = run.facts.device
    if device is None:
        return _unknown(md(run.facts.gpu_note) or "no GPU")
    return _gauge(f"gpu{device.index} tensor", "median", share, 100.0)(run)


def _not_good(run: Run) -> Measured:
    if not run.due:
        return _unknown("nothing was judged")
    v = (run.due - run.good) / run.due
    return Measured(f"{share(v)} ({count(run.due - run.good)} of {count(run.due)} were not good)", 100 * v)


def _ttft(run: Run) -> Measured:
    if run.requests is not None:
        found = run.requests.ttft_s
        if found.n:
            return Measured(f"{seconds(found.p50)} (n={count(found.n)})", found.p50)
    windowed = run.tally.windows["ttft"]
    if (v := windowed.median("p50")) is None:
        return _unknown("no request had a first token")
    windows = plural(windowed.windows("p50"), "window")
    return Measured(f"{seconds(v)} (median of {windows} of 30 s, n={count(windowed.n)})", v)


def _knee(run: Run) -> Measured:
    search = next((s for s in reversed(run.tally.searches) if s.progress.answer is not None), None)
    if search is None or search.progress.answer is None:
        return _unknown("no capacity search answered in this run: `spark-serve capacity`")
    answer = search.progress.answer
    if answer.best is None:
        return Measured(md(answer.sentence))
    band = "" if answer.low is None or answer.high is None else f" ({whole(answer.low)}–{whole(answer.high)})"
    before = ", searched before this run" if search.before else ""
    return Measured(f"{count(answer.best)} people{band}{before}", answer.best, answer.low, answer.high)


NAMES = {
    1: "people",
    2: "API endpoint (gateway)",
    3: "queue",
    4: "model server",
    5: "GPU",
    6: "streamed tokens",
    7: "the knee",
}
WORDS: dict[Kind, str] = {
    "waits": "What waits here?",
    "fails": "What fails here?",
    "measure": "What do we measure here?",
    "knee": "How many people?",
}
QUESTIONS: tuple[Asked, ...] = (
    Asked(
        1,
        "waits",
        "Until a person's request has reached the gateway: how many seconds?",
        "s",
        lambda r: _stages(r, "connect"),
    ),
    Asked(1, "fails", "How many requests are given up by people who leave?", "n", _left),
    Asked(1, "measure", "How many requests a second do they send, on average?", "n", _gauge("sent", "mean", digits)),
    Asked(
        2,
        "waits",
        "Parsing, template, tokenising, handing on: how many seconds of a mean request?",
        "s",
        lambda r: _stages(r, "accept", "front end", "upstream"),
    ),
    Asked(2, "fails", "How many requests fail behind the gateway, or are cut?", "n", _gateway("failed", "expired")),
    Asked(
        2,
        "measure",
        "How many cores does the gateway keep busy, on average?",
        "n",
        _gauge("gateway cpu", "mean", digits),
    ),
    Asked(3, "waits", "How many seconds does a mean request wait for its turn?", "s", lambda r: _stages(r, "queue")),
    Asked(3, "fails", "How many requests are refused?", "n", _gateway("rejected")),
    Asked(3, "measure", "How many requests wait at once, at most?", "n", _gauge("depth", "most", whole)),
    Asked(
        4,
        "waits",
        "Waiting inside the engine and reading the prompt: how many seconds of a mean request?",
        "s",
        lambda r: _stages(r, "engine queue", "prefill"),
    ),
    Asked(4, "fails", "For how many seconds does it not serve, restarts included?", "s", _not_serving),
    Asked(4, "measure", "How many requests are in its batch, typically?", "n", _gauge("running", "median", whole)),
    Asked(
        5,
        "waits",
        "Writing the reply token by token: how many seconds of a mean request?",
        "s",
        lambda r: _stages(r, "decode"),
    ),
    Asked(5, "fails", "What can go wrong here? (in words)", "", _gpu_failed),
    Asked(5, "measure", "How busy are the tensor cores while it works, in percent?", "%", _tensor),
    Asked(
        6,
        "waits",
        "From the engine's last byte to the last byte read: how many seconds?",
        "s",
        lambda r: _stages(r, "drain"),
    ),
    Asked(6, "fails", "How many percent of the requests are not good?", "%", _not_good),
    Asked(6, "measure", "How many seconds until the first token, for the median request?", "s", _ttft),
    Asked(7, "knee", "How many people can this setup serve before fewer than 95 % of requests are good?", "n", _knee),
)


# what was predicted

_NUMBER = r"(?:\d{1,3}(?:[ ,\u00a0\u202f']\d{3})+(?!\d)|\d+)(?:[.,]\d+)?|\.\d+"
_UNITS = r"(?:µs|us|ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|min|hours?|h|%|percent|k)(?![a-z])"
_GUESS = re.compile(
    rf"(?<![\w.])(?P<low>{_NUMBER})\s*(?P<lowunit>{_UNITS})?"
    rf"(?:\s*(?:-|–|—|\.\.\.?|to|bis|and)\s*(?P<high>{_NUMBER})\s*(?P<highunit>{_UNITS})?)?",
    re.IGNORECASE,
)
_NONE = re.compile(r"\W*(none|nothing|nobody|no one|zero|never|no)\b", re.IGNORECASE)
_SECONDS = {"µs": 1e-6, "us": 1e-6, "ms": 1e-3, "mi": 60.0, "ho": 3600.0, "h": 3600.0, "s": 1.0, "se": 1.0}
LONGEST = 2000
"""Characters of a prediction that are looked at."""


def guess(text: str, unit: Unit) -> Guess | None:
    """The first number in what was written, or the first range (`30 to 50`, `80-120 ms`); `none` is 0. None when there is
    nothing that could be compared."""
    if not unit:
        return None
    text = text[:LONGEST]
    found = _GUESS.search(text)
    if found is None or ((none := _NONE.match(text)) and none.end() <= found.start() and found.start() > 12):
        return Guess(0.0, 0.0) if _NONE.match(text) else None
    low, high = _plain(found["low"]), None if found["high"] is None else _plain(found["high"])
    high_unit = found["highunit"] or found["lowunit"] or ""
    low_v = low * _scale(found["lowunit"] or high_unit, unit)
    high_v = low_v if high is None else high * _scale(high_unit, unit)
    if not (math.isfinite(low_v) and math.isfinite(high_v)):
        return None
    return Guess(min(low_v, high_v), max(low_v, high_v))


def _plain(text: str) -> float:
    """`1 200`, `1,200` and `2,5` as people write them."""
    text = re.sub(r"[ \u00a0\u202f']", "", text)
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return float(text.replace(",", ".")) if text.count(",") <= 1 else math.inf


def _scale(written: str, unit: Unit) -> float:
    written = written.lower()
    if unit == "s":
        if written.startswith("milli"):
            return 1e-3
        return _SECONDS.get(written, _SECONDS.get(written[:2], 1.0))
    return 1000.0 if written == "k" else 1.0


def comparison(text: str, asked: Asked, measured: Measured) -> str:
    """What was predicted beside what happened, as a sentence of Markdown."""
    if not text.strip():
        return "no prediction was given."
    guessed = guess(text, asked.unit)
    if guessed is None:
        return "in words only: compare for yourself." if not asked.unit else "there is no number in the prediction."
    said = _said(guessed.low, asked) if guessed.low == guessed.high else _range(guessed, asked)
    if measured.v is None:
        return f"predicted {said}; not measured."
    return f"predicted {said}, measured {_measured(measured, asked)}: {_judged(guessed, measured, asked.unit)}."


def _said(v: float, asked: Asked) -> str:
    if asked.unit == "s":
        return seconds(v)
    if asked.unit == "%":
        return share(v / 100)
    text = count(v) if v == round(v) or v >= 100 else digits(v)
    return f"{text} people" if asked.kind == "knee" else text


def _range(guessed: Guess, asked: Asked) -> str:
    return f"{_said(guessed.low, asked).removesuffix(' people')} to {_said(guessed.high, asked)}"


def _measured(measured: Measured, asked: Asked) -> str:
    assert measured.v is not None
    if measured.low is not None and measured.high is not None:
        return f"{count(measured.v)} ({whole(round(measured.low))}–{whole(round(measured.high))})"
    return _said(measured.v, asked).removesuffix(" people")


def _judged(guessed: Guess, measured: Measured, unit: Unit) -> str:
    v = measured.v
    assert v is not None
    low, high = v if measured.low is None else measured.low, v if measured.high is None else measured.high
    if guessed.high >= low and guessed.low <= high:
        return "right"
    side, way = (guessed.high, "low") if guessed.high < low else (guessed.low, "high")
    edge = low if way == "low" else high
    if unit == "%":
        points = abs(side - edge)
        word = "right" if points <= RIGHT_POINTS else "close" if points <= CLOSE_POINTS else "off"
        return f"{word}, {digits(points, 2)} points too {way}"
    if not side or not edge:
        return f"too {way}"
    factor = max(side, edge) / min(side, edge)
    if factor <= RIGHT:
        return f"right, within {round((factor - 1) * 100) or 1} %"
    if factor <= CLOSE:
        return f"close, {factor:.1f} times too {way}"
    return f"off, {digits(factor, 2)} times too {way}"
