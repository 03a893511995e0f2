"""The one word over everything, from what people got in the last seconds."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.slo import Judgement, Slo, overdue
from server.gateway.records import GatewayRecord
from server.telemetry.join import gateway_tpot_s, gateway_ttft_s
from server.telemetry.snapshot import Phase, Source, Value, Verdict, VerdictWord

WINDOW_S = 30.0
NEEDS = 20
HOLD_S = 10.0
NO_STEP_S = 10.0
"""Requests run and the engine has made no step for so long: no verdict yet, but a thing to show."""
STALLED_S = 60.0
SILENT_S = 5.0
GOOD_SHARE = 0.95
BENDING_SHARE = 0.80

_STARTING: frozenset[Phase] = frozenset({"preparing", "starting"})
_JUDGED: frozenset[VerdictWord] = frozenset({"GOOD", "BENDING", "BROKEN"})
_HELD: frozenset[VerdictWord] = _JUDGED | {"UNKNOWN"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the word is made from."""

    now: float
    phase: Phase
    error: str = ""
    good: int = 0
    due: int = 0
    """Good, missed, and waiting past the limit, over the window."""
    inside: float = 0.0
    """Requests under way anywhere between the people and the engine."""
    running: float = 0.0
    """Requests in the engine's batch."""
    heartbeat_age_s: float | None = None
    attached: bool = False
    silent_s: float = 0.0
    """Seconds since the engine last answered anything at all."""
    gateway_silent_s: float = 0.0
    gateway_fault: str = ""
    """Why the gateway's process does not run; empty while it does."""
    bypassed: bool = False
    """The engine works, and nothing of it passes our gateway: nobody tells us how its requests end."""
    src: Source = "load"


@dataclass(frozen=True, slots=True)
class Held:
    """The word that stands, and since when another one is due."""

    word: VerdictWord = "UNKNOWN"
    since: float = 0.0
    differs_since: float | None = None


def verdict(evidence: Evidence, held: Held) -> tuple[Verdict, Held]:
    """The word now, and what to pass in next time.

    Words from attainment replace each other only after another one was due for `HOLD_S` on end; everything else, and the
    first judgement after it, shows at once.
    """
    due, reason = _due(evidence)
    if due == held.word:
        held = Held(held.word, held.since)
    elif {due, held.word} <= _HELD and held.word != "UNKNOWN":
        since = evidence.now if held.differs_since is None else held.differs_since
        held = Held(held.word, held.since, since)
        if evidence.now - since >= HOLD_S:
            held = Held(due, evidence.now)
    else:
        held = Held(due, evidence.now)
    if held.word != due:
        reason = f"{reason}; {due} in {HOLD_S - (evidence.now - (held.differs_since or evidence.now)):.0f} s"
    share = evidence.good / evidence.due if evidence.due else None
    attainment = Value(
        v=share,
        src=evidence.src,
        n=evidence.due,
        window_s=WINDOW_S,
        why="" if share is not None else "nothing was due in the window",
    )
    since_s = round(max(0.0, evidence.now - held.since), 3)
    return Verdict(word=held.word, reason=reason, since_s=since_s, attainment=attainment), held


def _due(evidence: Evidence) -> tuple[VerdictWord, str]:
    if evidence.phase in _STARTING:
        return "STARTING", "the engine is starting" if evidence.phase == "starting" else "the model is being prepared"
    if evidence.phase != "ready":
        phases = {"no_engine": "no engine is installed", "stopping": "the engine is stopping"}
        return "DOWN", evidence.error or phases.get(evidence.phase, "the engine is down")
    if evidence.gateway_fault:
        return "DOWN", f"the {evidence.gateway_fault}"
    if evidence.silent_s >= SILENT_S:
        word: VerdictWord = "DOWN" if evidence.attached else "STALLED"
        return word, f"the engine has answered neither /health nor /metrics for {evidence.silent_s:.0f} s"
    if evidence.gateway_silent_s >= SILENT_S:
        return "DOWN", f"the gateway has not answered for {evidence.gateway_silent_s:.0f} s"
    if evidence.running > 0 and (evidence.heartbeat_age_s or 0.0) >= STALLED_S:
        return "STALLED", f"{evidence.running:.0f} running, and no step for {evidence.heartbeat_age_s:.0f} s"
    if evidence.due == 0 and evidence.inside == 0 and evidence.running == 0:
        return "IDLE", f"nothing under way, nothing finished in {WINDOW_S:.0f} s"
    if evidence.bypassed:
        return "UNKNOWN", "these requests do not pass our gateway: the engine's own figures only"
    if evidence.due < NEEDS:
        return "UNKNOWN", f"{evidence.due} of {NEEDS} requests needed"
    share = evidence.good / evidence.due
    reason = f"{share:.0%} of {evidence.due} requests good in {WINDOW_S:.0f} s"
    if share >= GOOD_SHARE:
        return "GOOD", reason
    return ("BENDING" if share >= BENDING_SHARE else "BROKEN"), reason


_CLIENTS_FAULT = range(400, 500)
_TOO_MANY = 429


def judge_gateway(record: GatewayRecord, slo: Slo) -> Judgement:
    """As `loadgen.slo.judge`, for a client that is not ours, from the gateway's stamps.

    A request that was wrong in itself is excluded; so is one whose client left, unless it left a wait that was overdue.
    """
    ttft_s, tpot_s = gateway_ttft_s(record), gateway_tpot_s(record)
    wrong = record.outcome == "rejected" or record.reason == "upstream_refused"
    if wrong and record.status in _CLIENTS_FAULT and record.status != _TOO_MANY:
        return "excluded"
    if record.outcome == "cancelled":
        waited_s = ttft_s if ttft_s is not None else record.done - record.accepted
        return "miss" if overdue(waited_s, slo) else "excluded"
    if record.outcome != "completed":
        return "miss"
    if not record.stream and ttft_s is None:
        return "excluded"
    if ttft_s is None or overdue(ttft_s, slo):
        return "miss"
    return "good" if tpot_s is None or tpot_s <= slo.tpot_s else "miss"
