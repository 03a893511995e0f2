"""What to do about an engine that ended by itself: start it again, after how long, or leave it. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

DELAYS_S = (1.0, 2.0, 8.0, 30.0)
"""From a death to the next start, by how many of its kind (served, or never ready) there were in a row; the last one holds
for all that follow. The first is long enough for a snapshot to show that the engine is down."""
TRIES = 3
"""So many deaths in a row before it was ready are the end: a fourth start would not help."""
SERVED_S = 20.0
"""One that served for so long begins a new row."""
BAD_ARGUMENTS = 2
"""argparse leaves with it: the next start would be told the same."""


@dataclass(frozen=True)
class Death:
    """One end that nobody asked for."""

    code: int | None
    """Exit code of the API server, negative: the signal that ended it; None: another process of the engine was lost, and it
    lives still."""
    served_s: float | None = None
    """How long it had been ready, seconds; None: it never was."""

    @property
    def in_words(self) -> str:
        """e.g. `killed by SIGKILL`."""
        return ended(self.code) if self.code is not None else "a process of it was lost"


@dataclass(frozen=True)
class Row:
    """Deaths in a row."""

    served: int = 0
    """Of engines that had been ready, none of them for long."""
    unready: int = 0
    """Since one was last ready."""


@dataclass(frozen=True)
class Next:
    """What to do."""

    after_s: float | None
    """Start it again so many seconds after the death; None: leave it until a person asks for it."""
    row: Row

    @property
    def in_words(self) -> str:
        """Of a start to come, e.g. `starting it again in 2 s, try 2 of 3`; empty where there is none."""
        if self.after_s is None:
            return ""
        which = ""
        if self.row.unready:
            which = f", try {self.row.unready + 1} of {TRIES}"
        elif self.row.served > 1:
            which = f", death {self.row.served} in a row"
        return f"starting it again in {self.after_s:g} s{which}"


def after(row: Row, death: Death) -> Next:
    """Decide. `row` is that of the deaths before; the answer has the one to pass in next time."""
    if death.served_s is None:
        row = replace(row, unready=row.unready + 1)
        if death.code == BAD_ARGUMENTS or row.unready >= TRIES:
            return Next(None, row)
    else:
        row = Row(served=1 + (row.served if death.served_s < SERVED_S else 0))
    in_a_row = row.unready or row.served
    return Next(DELAYS_S[min(in_a_row, len(DELAYS_S)) - 1], row)


def ended(code: int) -> str:
    """An exit code in words: `exit code 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
