"""What good means: a request is good when it finished and both its waits were short enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from loadgen.records import RequestRecord

STOPPED = "stopped"
"""The `reason` of a request that was abandoned only because its run was stopped."""

Judgement = Literal["good", "miss", "excluded"]
Miss = Literal["ttft", "tpot", "refused", "error", "left"]
"""Which part of the promise was broken: the first token or the pace came too late, the request was refused or failed, or
the person had enough."""


class Slo(msgspec.Struct, frozen=True):
    """Limits a good request keeps."""

    name: str
    ttft_s: float
    """Time to first token from the intended start, seconds."""
    tpot_s: float
    """Time per output token after the first, seconds."""


CHAT = Slo("chat", ttft_s=1.0, tpot_s=0.2)
"""Slower than people read."""
INTERACTIVE = Slo("interactive", ttft_s=0.5, tpot_s=0.05)
PRESETS = {slo.name: slo for slo in (CHAT, INTERACTIVE)}


def overdue(age_s: float, slo: Slo) -> bool:
    """True for a request without a first token whose limit has passed: a miss already, however it ends."""
    return age_s > slo.ttft_s


def miss(record: RequestRecord, slo: Slo) -> Miss | None:
    """Why a request was not good; None when it was, or when it is excluded (see `judge`)."""
    waited_s = (record.done if record.first_token is None else record.first_token) - record.waited_since
    if record.outcome == "abandoned" and record.reason == STOPPED:
        return "ttft" if overdue(waited_s, slo) else None
    if record.outcome == "rejected":
        return "refused"
    if record.outcome == "error":
        return "error"
    if record.outcome == "abandoned":
        return "left"
    if record.first_token is None or overdue(waited_s, slo):
        return "ttft"
    if record.behaviour == "slow" or record.tpot_s is None:
        return None
    return None if record.tpot_s <= slo.tpot_s else "tpot"


def judge(record: RequestRecord, slo: Slo) -> Judgement:
    """Refusals, errors and people driven away are misses. Slow readers are judged on TTFT alone, and so are replies whose
    TPOT is unknown (a single token, or a server that reports no usage). Each attempt of a retrier is judged for itself,
    and an attempt after the first from the moment its person first meant to ask.

    A request whose run was stopped is excluded, unless it was overdue by then.
    """
    if miss(record, slo) is not None:
        return "miss"
    return "excluded" if record.outcome == "abandoned" else "good"


def verdict_at(record: RequestRecord, slo: Slo) -> float:
    """The moment (monotonic seconds) at which its judgement became certain: when its first token was overdue, else at its
    end. So each request counts once, wherever the windows lie that are counted.

    An attempt after the first counts at its end: its person may have been overdue before it began, and from the outside,
    while it waits, it cannot be told from the attempt before it.
    """
    late = record.waited_since + slo.ttft_s
    first = record.done if record.first_token is None else record.first_token
    return late if first > late and record.attempt == 1 else record.done


def fluidity(waited_since: float, token_at: Sequence[float], tokens: int, slo: Slo) -> float | None:
    """Share of token deadlines met, 0..1: token k (from 0) is due `ttft_s + k * tpot_s` after the person meant to ask.

    `token_at` are the stamps of the token events. Where fewer events than `tokens` were seen (several tokens shared one),
    the tokens are spread evenly over the events and an event is due with its first one. After the fluidity index of
    Etalon (Agrawal et al. 2024), with deadlines that are never moved. None without any token.
    """
    if not token_at:
        return None
    each = max(1.0, tokens / len(token_at))
    due = waited_since + slo.ttft_s
    met = sum(at <= due + index * each * slo.tpot_s for index, at in enumerate(token_at))
    return met / len(token_at)


class Attainment(msgspec.Struct, frozen=True):
    """How many requests were good of those that were due."""

    good: int = 0
    due: int = 0

    @property
    def share(self) -> float | None:
        """good / due, 0..1; None when nothing was due."""
        return self.good / self.due if self.due else None


def attainment(records: Iterable[RequestRecord], slo: Slo, waiting_ages_s: Iterable[float] = ()) -> Attainment:
    """Count finished requests, and those still waiting that are overdue."""
    judgements = [judge(record, slo) for record in records]
    good = judgements.count("good")
    late = sum(overdue(age_s, slo) for age_s in waiting_ages_s)
    return Attainment(good=good, due=good + judgements.count("miss") + late)
