"""What good means: a request is good when it finished and both its waits were short enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from loadgen.records import RequestRecord

STOPPED = "stopped"
"""The `reason` of a request that was abandoned only because its run was stopped."""

Judgement = Literal["good", "miss", "excluded"]


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


def judge(record: RequestRecord, slo: Slo) -> Judgement:
    """Refusals, errors and people driven away are misses. Slow readers are judged on TTFT alone, and so are replies whose
    TPOT is unknown (a single token, or a server that reports no usage).

    A request whose run was stopped is excluded, unless it was overdue by then.
    """
    if record.outcome == "abandoned" and record.reason == STOPPED:
        waited_s = record.ttft_s if record.ttft_s is not None else record.e2e_s
        return "miss" if overdue(waited_s, slo) else "excluded"
    if record.outcome != "ok" or record.ttft_s is None or record.ttft_s > slo.ttft_s:
        return "miss"
    if record.behaviour == "slow" or record.tpot_s is None:
        return "good"
    return "good" if record.tpot_s <= slo.tpot_s else "miss"


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
