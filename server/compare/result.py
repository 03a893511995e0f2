"""What a comparison has measured, run by run and request by request, and the file it is kept in."""

from __future__ import annotations

from pathlib import Path

import msgspec

from loadgen.records import Outcome, RequestRecord
from server import saved
from server.compare.plan import Question
from server.gateway.records import GatewayRecord
from server.results import About

FORMAT = "spark-serve-comparison"
SCHEMA_VERSION = 1
KIND = "comparison"


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """One request, seconds. None where it never came to that."""

    at_s: float
    """When it was due, from the run's beginning."""
    long: bool
    outcome: Outcome
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float
    wait_s: float | None
    """In the gateway's queue."""
    prompt_tokens: int | None
    completion_tokens: int | None

    @classmethod
    def of(cls, record: RequestRecord, passage: GatewayRecord | None, origin: float) -> Measured:
        """From the client's record and the gateway's."""
        return cls(
            at_s=_ms(record.scheduled - origin) or 0.0,
            long=record.behaviour == "long",
            outcome=record.outcome,
            ttft_s=_ms(record.ttft_s),
            tpot_s=None if record.tpot_s is None else round(record.tpot_s, 6),
            e2e_s=_ms(record.e2e_s) or 0.0,
            wait_s=None if passage is None else _ms(waited_s(passage)),
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
        )


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One arm on the whole load, once."""

    arm: int
    """Its place among the question's arms."""
    planned: int
    """Requests of the schedule; `requests` has one entry for each."""
    seconds: float
    """From the first one's due time to the last one's end."""
    requests: list[Measured]
    text_seed: int
    prefix_hit_share: float | None = None
    """Prompt tokens found in the engine's prefix cache, 0..1, by its counters; None where they cannot be had or others'
    requests are in them."""
    preemptions: int | None = None
    others: int = 0
    """Requests of other clients that ended at the gateway meanwhile."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one file. All runs in it count."""

    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION
    about: About
    question: Question
    runs: list[Run]
    elapsed_s: float
    ended: str = ""
    """Why runs are missing; empty when none is."""


def waited_s(passage: GatewayRecord) -> float | None:
    """Seconds in the queue, for those too who were turned away from it; None for one that never came so far."""
    if passage.queued is None:
        return None
    return (passage.done if passage.admitted is None else passage.admitted) - passage.queued


def save(folder: Path, comparison: Comparison) -> Path:
    """Raises SavedError."""
    return saved.save(folder, KIND, comparison.about.wall, comparison)


def load(path: Path) -> Comparison:
    """Raises SavedError when it is none of this version, or damaged."""
    found = saved.load(path, FORMAT, SCHEMA_VERSION, KIND, Comparison)
    arms = len(found.question.arms)
    if not arms or any(not 0 <= run.arm < arms for run in found.runs):
        raise saved.SavedError(f"{path} is damaged: it has a run of no arm.")
    return found


def listed(folder: Path) -> tuple[list[tuple[Path, Comparison]], list[str]]:
    """All in `folder`, newest first, and one sentence for each that cannot be read. Raises SavedError."""
    return saved.listed(folder, load, lambda comparison: comparison.about.wall)


def _ms(seconds: float | None) -> float | None:
    """To a tenth of a millisecond."""
    return None if seconds is None else round(seconds, 4)
