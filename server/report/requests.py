"""The requests that lie beside a recording, one by one: what windows can only estimate, exactly."""

from __future__ import annotations

import bisect
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from loadgen.lines import UNREADABLE
from loadgen.packed import open_lines
from loadgen.records import RequestRecord
from loadgen.slo import STOPPED, Slo, judge, miss
from loadgen.summary import Distribution
from server.report.sums import MOST_KEYS
from server.telemetry.recording import requests_beside

_FIGURE = re.compile(r"(?<!HTTP )(?<!\d)\d{2,}")
ALIKE = 80
"""Reasons that begin so far alike, figures aside, are one: their ends are often cut."""
LINE_LIMIT = 1024 * 1024

_decoder = msgspec.json.Decoder(RequestRecord)


def beside(recording: Path) -> Path | None:
    """The file of its requests, if there is one."""
    path = requests_beside(recording)
    return path if path.is_file() else None


def read(path: Path) -> Iterator[RequestRecord]:
    """The records in the file, in order; what is torn or not a request is left out. Raises OSError."""
    with open_lines(path) as file:
        while line := file.readline(LINE_LIMIT):
            try:
                yield _decoder.decode(line)
            except UNREADABLE:
                continue


class Requests:
    """All requests that ended within a run. Keeps three numbers of each."""

    def __init__(self, slo: Slo, begin: float, end: float, cuts: Sequence[float]) -> None:
        """`cuts`: where stretches begin, ascending, the first at `begin`; monotonic seconds."""
        self._slo = slo
        self._begin, self._end = begin, end
        self._cuts = list(cuts) or [begin]
        self._ttft = [array("d") for _ in self._cuts]
        self._tpot, self._e2e = array("d"), array("d")
        self._good = [0] * len(self._cuts)
        self._due = [0] * len(self._cuts)
        self._fluidity, self._fluid = 0.0, 0
        self.n = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        """Those that are alike count under the first of them."""
        self._kinds: dict[str, str] = {}
        self.misses: Counter[str] = Counter()
        self.firsts = 0
        self.left = 0
        self.wasted_tokens = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.good_tokens = 0
        """Completion tokens of those that were good, as far as the server told."""
        self.good_untold = 0
        """Good ones of which it told no tokens."""
        self.clipped = 0

    def take(self, records: Iterable[RequestRecord]) -> Requests:
        """Take all of them in; those that ended outside the run are left out."""
        for record in records:
            if self._begin <= record.done <= self._end:
                self._take(record)
        return self

    def _take(self, record: RequestRecord) -> None:
        self.n += 1
        self.outcomes[record.outcome] += 1
        if record.reason:
            kind = _FIGURE.sub("#", record.reason)[:ALIKE]
            if kind in self._kinds or len(self._kinds) < MOST_KEYS:
                self.reasons[self._kinds.setdefault(kind, record.reason)] += 1
        self.firsts += record.attempt == 1
        self.clipped += record.clipped
        self.prompt_tokens += record.prompt_tokens or 0
        self.completion_tokens += record.completion_tokens or 0
        if record.outcome == "abandoned" and record.reason != STOPPED:
            self.left += 1
            self.wasted_tokens += record.wasted_tokens
        which = max(0, bisect.bisect_right(self._cuts, record.scheduled) - 1)
        judged = judge(record, self._slo)
        if judged == "good":
            self._good[which] += 1
            self.good_tokens += record.completion_tokens or 0
            self.good_untold += record.completion_tokens is None
        self._due[which] += judged != "excluded"
        if (why := miss(record, self._slo)) is not None:
            self.misses[why] += 1
        if record.ttft_s is not None:
            self._ttft[which].append(record.ttft_s)
        if record.behaviour == "slow":
            return
        if record.outcome == "ok":
            self._e2e.append(record.e2e_s)
            if record.tpot_s is not None:
                self._tpot.append(record.tpot_s)
        if record.fluidity is not None and record.reason != STOPPED:
            self._fluidity += record.fluidity
            self._fluid += 1

    @property
    def good(self) -> int:
        return sum(self._good)

    @property
    def due(self) -> int:
        return sum(self._due)

    @property
    def fluidity(self) -> float | None:
        """Mean share of token deadlines met, 0..1."""
        return self._fluidity / self._fluid if self._fluid else None

    @property
    def amplification(self) -> float | None:
        """Requests sent per request that somebody meant to make."""
        return self.n / self.firsts if self.firsts else None

    @property
    def ttft_s(self) -> Distribution:
        whole = array("d")
        for part in self._ttft:
            whole.extend(part)
        return Distribution.of(whole)

    @property
    def tpot_s(self) -> Distribution:
        return Distribution.of(self._tpot)

    @property
    def e2e_s(self) -> Distribution:
        return Distribution.of(self._e2e)

    def stretch(self, which: int) -> tuple[int, int, Distribution]:
        """Good, due and TTFT of the requests that were meant to begin in one stretch."""
        return self._good[which], self._due[which], Distribution.of(self._ttft[which])

    @property
    def tokens_per_s(self) -> float | None:
        """Completion tokens of all requests over the run's time; None when no usage was seen."""
        seconds = self._end - self._begin
        return self.completion_tokens / seconds if seconds > 0 and self.completion_tokens else None
