"""Single requests as the cockpit has to show them: of our own people and of others, known in full and in part."""

from __future__ import annotations

import math
from typing import Any

import samples

from server.gateway.records import FlyingRequest, QueuedRequest
from server.telemetry.snapshot import JoinedRequest

AT = samples.AT

STAGES = {
    "connect": 0.0012,
    "accept": 0.0009,
    "queue": 0.3980,
    "front end": 0.0301,
    "engine queue": 0.0021,
    "prefill": 0.1010,
    "decode": 2.3820,
    "drain": 0.0160,
    "unattributed": 0.0087,
}


def request(name: str, ended: float = AT, **parts: Any) -> JoinedRequest:
    """A good request of our own that ended then."""
    stages: dict[str, float] = parts.pop("stages", STAGES)
    e2e_s = math.fsum(stages.values())
    known: dict[str, Any] = {
        "at": ended - e2e_s,
        "who": "w0p17",
        "behaviour": "patient",
        "outcome": "ok",
        "prompt_tokens": 512,
        "completion_tokens": 128,
        "ttft_s": 0.551,
        "tpot_s": 0.0187,
        "e2e_s": e2e_s,
        "stages": stages,
        "exact": True,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "user": "w0p17",
        "tokens": 768,
        "behind": 9,
        "waited_for": "slots",
        "order": "fifo",
        "dispatch_s": 0.0013,
        "sealed_at": ended,
        "judged": "good",
    }
    return JoinedRequest(request_id=name, **{**known, **parts})


GOOD = request("w0p17-0004")
LATE = request(
    "w0p3-0011",
    AT - 1.4,
    who="w0p3",
    stages={**STAGES, "queue": 1.9},
    ttft_s=2.05,
    behind=31,
    judged="miss",
    missed="ttft",
)
SLOW = request("w1p8-0002", AT - 2.2, who="w1p8", tpot_s=0.231, judged="miss", missed="tpot")
REFUSED = request(
    "w0p40-0001",
    AT - 2.9,
    who="w0p40",
    behaviour="retrier",
    outcome="rejected",
    reason="HTTP 429: The queue is full; try again later.",
    completion_tokens=None,
    prompt_tokens=None,
    ttft_s=None,
    tpot_s=None,
    stages={"connect": 0.0012, "accept": 0.0009, "unattributed": 0.0004},
    tokens=700,
    behind=0,
    waited_for="",
    dispatch_s=None,
    attempt=3,
    prior_s=4.2,
    judged="miss",
    missed="refused",
)
FAILED = request(
    "w1p22-0007",
    AT - 4.1,
    who="w1p22",
    outcome="error",
    reason="error event: EngineCore encountered an issue",
    tpot_s=None,
    judged="miss",
    missed="error",
    stages={"connect": 0.001, "accept": 0.001, "queue": 0.2, "upstream": 0.9, "drain": 0.001, "unattributed": 0.002},
    exact=False,
)
LEFT = request(
    "w0p5-0003",
    AT - 5.6,
    who="w0p5",
    behaviour="abandoner",
    outcome="abandoned",
    reason="out of patience: no token in about 4 s",
    completion_tokens=None,
    prompt_tokens=None,
    ttft_s=None,
    tpot_s=None,
    stages={"connect": 0.0011, "accept": 0.0009, "queue": 3.998, "unattributed": 0.0},
    dispatch_s=None,
    judged="miss",
    missed="left",
)
FOREIGN = request(
    "chatcmpl-9d1f0a",
    AT - 6.3,
    who="",
    behaviour="",
    user="key 3fa91c22",
    stages={"accept": 0.0009, "queue": 0.0, "upstream": 1.73, "drain": 0.0002, "unattributed": 0.0},
    exact=False,
    waited_for="",
    behind=0,
    ttft_s=0.14,
)
HELD = request(
    "w0p90-0001",
    AT - 7.7,
    who="w0p90",
    behaviour="slow",
    stages={**STAGES, "front end": -0.0021, "drain": 31.2},
    tpot_s=0.29,
)
HOSTILE = request(
    "\x1b]52;c;aGk=\x07evil\u202eid",
    AT - 8.8,
    who="",
    user="[/red]\x1b[31mbob",
    behaviour="",
    outcome="error",
    reason="\x9b2Jboom\nnext",
    judged="miss",
    missed="error",
)

FINISHED = [
    GOOD,
    LATE,
    SLOW,
    REFUSED,
    FAILED,
    LEFT,
    FOREIGN,
    HELD,
    *(
        request(
            f"w0p{n}-{n:04}",
            AT - 9 - n * 0.7,
            who=f"w0p{n}",
            prompt_tokens=90 + 37 * n % 900,
            stages={**STAGES, "queue": 0.05 + 0.03 * (n % 17), "decode": 0.8 + 0.11 * (n % 23)},
        )
        for n in range(60)
    ),
]
"""Newest first."""

GOOD_ONLY = [one for one in FINISHED if one.judged == "good"]

WAITING = [
    QueuedRequest(
        request_id=f"w0p{n}-00{n:02}",
        user=f"w0p{n}",
        priority=0 if n else -1,
        prompt_tokens=300 + 41 * n,
        output_tokens=256,
        waited_s=round(1.1 - 0.1 * n, 2),
        aged=n == 0,
    )
    for n in range(10)
]

FLYING = [
    FlyingRequest("w0p90-0001", "w0p90", AT - 33.9, AT - 33.4, AT - 31.2),
    *(FlyingRequest(f"w1p{n}-000{n}", f"w1p{n}", AT - 3.2 + 0.4 * n, AT - 2.7 + 0.4 * n) for n in range(6)),
    FlyingRequest("w1p7-0007", "w1p7", AT - 0.2),
]

SERVING = samples.change(
    samples.LOADED,
    queue={"first": WAITING, "why": "slots", "first_age_s": 0.2, "flying": FLYING},
)
