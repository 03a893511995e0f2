"""The finished requests that the console holds, and what of them a person looks at. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from server.telemetry.snapshot import JoinedRequest

Only = Literal["all", "slow", "failed", "abandoned"]
"""Which requests are shown: every one; those that finished too late or too slowly for the SLO; those that were refused or
failed; those whose client left."""

ONLY: tuple[Only, ...] = get_args(Only)
ONLY_EXPLAINED: dict[Only, str] = {
    "all": "Every request that finished lately",
    "slow": "Those that missed the TTFT or TPOT that is promised",
    "failed": "Those that were refused or failed",
    "abandoned": "Those whose client left before the end",
}
KEEP = 2_000
"""Half of what the stack keeps: a console has to stay small."""


def of_interest(request: JoinedRequest, only: Only) -> bool:
    """Whether a filter shows it."""
    if only == "slow":
        return request.missed in {"ttft", "tpot"}
    if only == "failed":
        return request.outcome in {"rejected", "error"}
    return only in {"all", request.outcome}


def ended_at(request: JoinedRequest) -> float:
    """When it ended, in monotonic seconds."""
    return request.at + (request.e2e_s or 0.0)


def key_of(request: JoinedRequest) -> str:
    """By what it is told from any other."""
    return request.key or request.request_id


class Kept:
    """The latest finished requests, newest first."""

    def __init__(self, most: int = KEEP) -> None:
        self.why = ""
        """Why nothing can be known of requests, in one clause; empty when it can."""
        self.since = -math.inf
        """What became known by then is here: the next question is for what came after."""
        self.asked = False
        """The source has answered, be it that it cannot tell."""
        self._most = most
        self._by_key: dict[str, JoinedRequest] = {}
        self._sorted: list[JoinedRequest] = []
        self._shown: dict[Only, list[JoinedRequest]] = {}

    def take(self, found: Iterable[JoinedRequest], why: str = "") -> bool:
        """Take in what a source answered; False when it brought nothing new."""
        changed = why != self.why or not self.asked
        self.why, self.asked = why, True
        fresh = False
        for request in found:
            self._by_key[key_of(request)] = request
            self.since = max(self.since, request.sealed_at)
            fresh = True
        if not fresh:
            return changed
        self._sorted = sorted(self._by_key.values(), key=ended_at, reverse=True)
        if len(self._sorted) > self._most:
            for request in self._sorted[self._most :]:
                del self._by_key[key_of(request)]
            del self._sorted[self._most :]
        self._shown.clear()
        return True

    def __len__(self) -> int:
        return len(self._sorted)

    def newest(self, only: Only = "all") -> Sequence[JoinedRequest]:
        """Those that a filter shows, newest first."""
        if only == "all":
            return self._sorted
        if only not in self._shown:
            self._shown[only] = [request for request in self._sorted if of_interest(request, only)]
        return self._shown[only]

    @property
    def span(self) -> tuple[float, float] | None:
        """When the first and the last of them ended, in monotonic seconds."""
        return (ended_at(self._sorted[-1]), ended_at(self._sorted[0])) if self._sorted else None


@dataclass(frozen=True, eq=False)
class Listing:
    """What is shown of the kept ones at one moment."""

    shown: Sequence[JoinedRequest] = ()
    """Those of the filter, newest first."""
    only: Only = "all"
    kept: int = 0
    counts: Mapping[Only, int] = field(default_factory=dict)
    """How many each filter would show."""
    span: tuple[float, float] | None = None
    """When the first and the last kept one ended, in monotonic seconds."""
    chosen: JoinedRequest | None = None
    index: int = 0
    """Where the chosen one stands in `shown`, or would stand if it were still kept."""
    row: int = 0
    """On which line of the list it should stand, if there are enough on both sides of it."""
    following: bool = True
    """The chosen one is the newest, whatever comes."""
    asked: bool = False
    """The source has answered."""
    why: str = ""
    """Why nothing can be known of requests."""

    def window(self, rows: int) -> range:
        """Which of `shown` stand on so many lines."""
        first = max(0, min(self.index - self.row, len(self.shown) - rows))
        return range(first, min(first + max(0, rows), len(self.shown)))


@dataclass(frozen=True)
class Choice:
    """What a person looks at: a filter, and one request or always the newest."""

    only: Only = "all"
    chosen: JoinedRequest | None = None
    """None: the newest."""
    row: int = 0

    def listing(self, kept: Kept) -> Listing:
        """The choice among what is kept now. A request that was chosen stays, though it be known better by now or not be
        kept any more; under a filter that does not show it the newest is chosen."""
        shown = kept.newest(self.only)
        chosen = self.chosen
        index = 0
        if chosen is not None:
            index, chosen = _found(shown, chosen)
        following = chosen is None
        return Listing(
            shown=shown,
            only=self.only,
            kept=len(kept),
            counts={only: len(kept.newest(only)) for only in ONLY},
            span=kept.span,
            chosen=chosen or (shown[0] if shown else None),
            index=0 if following else index,
            row=0 if following else self.row,
            following=following,
            asked=kept.asked,
            why=kept.why,
        )

    def moved(self, listing: Listing, step: int, rows: int) -> Choice:
        """So many down (or up); beyond the newest it is followed again. `rows`: lines of the list."""
        if not listing.shown:
            return self
        if listing.index + step < 0:
            return Choice(self.only)
        return self.at(listing, listing.index + step, rows)

    def at(self, listing: Listing, index: int, rows: int) -> Choice:
        """The one that stands there."""
        if not listing.shown:
            return self
        index = max(0, min(index, len(listing.shown) - 1))
        row = listing.window(rows).start
        return Choice(self.only, listing.shown[index], max(0, min(index - row, rows - 1)))

    def filtered(self, only: Only) -> Choice:
        """Through another filter; what was chosen stays chosen where it is shown."""
        chosen = self.chosen if self.chosen is not None and of_interest(self.chosen, only) else None
        return Choice(only, chosen, self.row if chosen else 0)


def _found(shown: Sequence[JoinedRequest], chosen: JoinedRequest) -> tuple[int, JoinedRequest]:
    """Where it stands by now and what is known of it; beyond the end where it is kept no more."""
    key = key_of(chosen)
    for index, request in enumerate(shown):
        if key_of(request) == key:
            return index, request
    return max(0, len(shown) - 1), chosen
