"""Where a replay stands and how fast it goes, and how a moment of it is named. Pure: the clock comes from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from console.sources.tape import Happened

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
GRACE_S = 1.5
"""An event as lately as this is not the one before while it plays, or one could never get past it."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"\d+(?:\.\d+)?")
_EVENT = re.compile(r"(?P<event>.*?\S)(?:\s*\+\s*(?P<after>\d+(?:\.\d+)?)\s*s?)?")


@dataclass(frozen=True)
class Moment:
    """A place in a recording: so many seconds from its begin, or after the first event whose text contains `event`."""

    seconds: float = 0.0
    event: str = ""

    def position_s(self, happened: Sequence[Happened], begin: float) -> float:
        """Seconds from the begin, which was at this monotonic second. Raises ValueError when there is no such event, with all
        there are in a sentence."""
        if not self.event:
            return self.seconds
        wanted = self.event.casefold()
        for one in happened:
            if wanted in one.event.text.casefold():
                return one.event.at - begin + self.seconds
        texts = list(dict.fromkeys(one.event.text for one in happened if one.event.text))
        known = "; ".join(texts[:20]) or "none at all"
        raise ValueError(f"No event of this recording contains {self.event!r}. It has: {known.rstrip('.')}.")


def moment(text: str) -> Moment:
    """`00:04:10`, `4:10`, `250`, `64 people`, `64 people+78`. Raises ValueError for nothing at all."""
    text = text.strip()
    if found := _CLOCK.fullmatch(text):
        hours, minutes, seconds = found.groups()
        return Moment(int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds))
    if _SECONDS.fullmatch(text):
        return Moment(float(text))
    if (found := _EVENT.fullmatch(text)) is None:
        raise ValueError("a moment is a time like 00:04:10 or an event like '64 people+78'")
    return Moment(float(found["after"] or 0.0), found["event"])


class Player:
    """A position that moves by itself, in seconds since the first snapshot."""

    def __init__(self, now: float, speed: float = 1.0, position_s: float = 0.0) -> None:
        self.speed = speed
        self.paused = False
        self._from = (now, position_s)

    def position_s(self, now: float) -> float:
        """Where it is."""
        since, position = self._from
        return position if self.paused else position + (now - since) * self.speed

    def due_s(self, now: float, position_s: float) -> float | None:
        """Seconds until it comes there, 0 if it has; None while it stands still."""
        left = position_s - self.position_s(now)
        return 0.0 if left <= 0 else None if self.paused else left / self.speed

    def seek(self, now: float, position_s: float) -> None:
        """Go there; what played plays on."""
        self._from = (now, max(0.0, position_s))

    def pause(self, now: float, still: bool) -> None:
        """Stand still, or go on from here."""
        self._from = (now, self.position_s(now))
        self.paused = still

    def run(self, now: float, speed: float) -> None:
        """At another speed from here on."""
        self._from = (now, self.position_s(now))
        self.speed = speed

    def faster(self, now: float, sign: int) -> None:
        """The next speed up the ladder, or down."""
        if sign > 0:
            self.run(now, next((speed for speed in SPEEDS if speed > self.speed), self.speed))
        else:
            self.run(now, next((speed for speed in reversed(SPEEDS) if speed < self.speed), self.speed))


def beside(
    happened: Sequence[Happened], index: int, sign: int, position_of: Sequence[float], paused: bool
) -> int | None:
    """The snapshot of the event after that of `index`, or before it; None where there is none.

    `position_of`: the moment of each snapshot, in any seconds.
    """
    if sign > 0:
        return next((one.index for one in happened if one.index > index), None)
    latest = position_of[index] - (0.0 if paused else GRACE_S)
    return next(
        (one.index for one in reversed(happened) if one.index < index and position_of[one.index] < latest), None
    )
