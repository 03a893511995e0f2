"""How people behave while they wait and read: patiently, slowly, until they have had enough, or again and again."""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from loadgen.records import Behaviour, RequestRecord


class Reading(msgspec.Struct, frozen=True):
    """How fast one person takes the bytes of a reply."""

    rcvbuf_bytes: int | None = None
    """SO_RCVBUF, set before the connect; None leaves the kernel's."""
    bytes_per_s: float | None = None
    """None: as they come."""
    pause_s: float = 0.0
    """A pause in which nothing is read ..."""
    pause_every_s: float = 0.0
    """... after so many seconds of reading; 0: no pauses."""


AT_ONCE = Reading()
SLOWLY = Reading(rcvbuf_bytes=4096, bytes_per_s=1024.0)
"""A chat event is 200 to 250 bytes, so this takes 4 to 5 tokens a second: a fifth of what even a small CPU engine
streams. The kernel doubles the buffer to 8 KiB; with it the backlog must wait on the server's side."""


STUCK = Reading(rcvbuf_bytes=4096)
"""Somebody who will stop: what the server still has for them does not fit on their side."""


class Pace:
    """When the next read is due so that no more than the reading's `bytes_per_s` are taken in the long run."""

    def __init__(self, reading: Reading) -> None:
        assert reading.bytes_per_s is not None
        self._bytes_per_s = reading.bytes_per_s
        self._pause_s, self._every_s = reading.pause_s, reading.pause_every_s
        self._due = 0.0
        self._pause_at: float | None = None

    def took(self, count: int, at: float) -> float:
        """`count` bytes were read at `at` (monotonic seconds): the stamp before which nothing more should be read."""
        self._due = max(self._due, at) + count / self._bytes_per_s
        if self._every_s:
            if self._pause_at is None:
                self._pause_at = at + self._every_s
            elif self._due >= self._pause_at:
                self._due += self._pause_s
                self._pause_at = self._due + self._every_s
        return self._due


class Patience(msgspec.Struct, frozen=True):
    """How long somebody waits before leaving, seconds; None waits for ever."""

    ttft_s: float | None = None
    """For the first token, from the moment the person meant to send."""
    stall_s: float | None = None
    """For each next token."""

    def drawn(self, rng: random.Random, sigma: float) -> Patience:
        """One person's: lognormal around these as medians."""

        def around(median_s: float | None) -> float | None:
            return None if median_s is None else median_s * rng.lognormvariate(0.0, sigma)

        return Patience(around(self.ttft_s), around(self.stall_s))


ENDLESS = Patience()

Moment = Literal["0", "1", "50%"]
"""Of a reply: before its first token, after it, at half of the tokens asked for."""
Way = Literal["fin", "rst", "half-close"]
"""How a connection is left: closed; reset (SO_LINGER 0); only its own direction closed (SHUT_WR), and read on."""

MOMENTS: dict[Moment, str] = {
    "0": "before the first token",
    "1": "after the first token",
    "50%": "at half of the reply",
}
WAYS: dict[Way, str] = {"fin": "by FIN", "rst": "by RST", "half-close": "by a half-close"}


class Leaving(msgspec.Struct, frozen=True):
    """Somebody leaves at this moment in this way. A reply that is over sooner is read to its end."""

    at: Moment
    how: Way

    def due(self, tokens: int, max_tokens: int | None) -> bool:
        """Whether it is time, with the response begun and so many token events read."""
        return tokens >= {"0": 0, "1": 1, "50%": max(1, (max_tokens or 2) // 2)}[self.at]

    def in_words(self) -> str:
        return f"{MOMENTS[self.at]} {WAYS[self.how]}"


RetryKind = Literal["naive", "jitter", "budget"]


class Retry(msgspec.Struct, frozen=True):
    """What a retrier does after a refusal, a failure, or a wait that lasted too long.

    - `naive`: asks again at once
    - `jitter`: waits a random time under a bound that doubles with each attempt ("full jitter")
    - `budget`: as jitter, and only while retries are under a share of all first attempts
    """

    kind: RetryKind = "naive"
    most: int = 5
    """Attempts of one request, the first included."""
    timeout_s: float | None = 10.0
    """An attempt without a first token for so long is given up and counts as failed."""
    at_once_s: float = 0.1
    base_s: float = 0.5
    cap_s: float = 20.0
    budget_share: float = 0.1
    honours_retry_after: bool = False
    """Waits at least as long as the server's Retry-After says."""


class Budget:
    """Retries allowed so far: a share of the first attempts, and `floor` to begin with."""

    def __init__(self, floor: float = 3.0) -> None:
        self._left = floor

    def earn(self, share: float) -> None:
        """A first attempt was made."""
        self._left += share

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def retry_after_s(retry: Retry, record: RequestRecord, rng: random.Random, budget: Budget) -> float | None:
    """Seconds from the end of a failed attempt to the next one; None when there is none.

    A request that the server called wrong (4xx other than 408 and 429) is not asked again.
    """
    wrong = record.status is not None and 400 <= record.status < 500 and record.status not in {408, 429}
    if record.outcome == "ok" or wrong or record.attempt >= retry.most:
        return None
    if retry.kind == "budget" and not budget.spend():
        return None
    if retry.kind == "naive":
        pause_s = retry.at_once_s
    else:
        pause_s = rng.uniform(0.0, min(retry.cap_s, retry.base_s * 2 ** (record.attempt - 1)))
    asked_s = record.retry_after_s if retry.honours_retry_after else None
    return max(pause_s, asked_s or 0.0)


class Manners(msgspec.Struct, frozen=True):
    """The figures behind each behaviour; all of them can be changed while people are there."""

    slow: Reading = SLOWLY
    patience: Patience = Patience(ttft_s=4.0, stall_s=4.0)
    """Medians of the abandoners'; people differ."""
    patience_sigma: float = 0.5
    retry: Retry = Retry()
    long_factor: float = 8.0
    """A long-prompt author's prompts against everybody's."""

    def reading(self, behaviour: Behaviour) -> Reading:
        """How somebody reads."""
        return self.slow if behaviour == "slow" else AT_ONCE

    def waits(self, behaviour: Behaviour, rng: random.Random) -> Patience:
        """How long somebody waits for one request."""
        if behaviour == "abandoner":
            return self.patience.drawn(rng, self.patience_sigma)
        if behaviour == "retrier":
            return Patience(ttft_s=self.retry.timeout_s)
        return ENDLESS


def pick(weights: dict[Behaviour, float], u: float) -> Behaviour:
    """Who a stranger is, from a number in 0..1. Patient where there are no weights."""
    left = u * sum(weights.values())
    for behaviour, weight in weights.items():
        left -= weight
        if left < 0:
            return behaviour
    return "patient"


def apportion(people: int, weights: dict[Behaviour, float]) -> dict[Behaviour, int]:
    """A number of people split by weights (largest remainder); all patient where there are none."""
    total = sum(weights.values())
    if total <= 0:
        return {"patient": people} if people else {}
    exact = {behaviour: people * weight / total for behaviour, weight in weights.items()}
    counts = {behaviour: int(share) for behaviour, share in exact.items()}
    by_rest = sorted(exact, key=lambda behaviour: exact[behaviour] - counts[behaviour], reverse=True)
    for behaviour in by_rest[: people - sum(counts.values())]:
        counts[behaviour] += 1
    return {behaviour: count for behaviour, count in counts.items() if count}
