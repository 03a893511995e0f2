"""How one request ended, in words: outcome, reason, judgement. Pure; what came from outside is made safe for a terminal."""

from __future__ import annotations

from console import format as fmt
from loadgen.slo import STOPPED, Slo
from server.telemetry.join import UPSTREAM
from server.telemetry.snapshot import JoinedRequest

REASONS = {
    "queue_full": "the queue was full",
    "estimated_wait": "the estimated wait was too long",
    "shed": "one of better priority took its place in the queue",
    "queue_timeout": "it had waited as long as the queue lets anybody wait",
    "engine_starting": "the engine was starting",
    "engine_down": "the engine was down",
    "engine_asleep": "the engine was asleep",
    "gateway_stopping": "the gateway was stopping",
    "bad_request": "its body was no request",
    "body_timeout": "its body did not come",
    "body_too_large": "its body was too large",
    "upstream_error": "the engine broke off or answered with an error",
    "upstream_silent": "the engine sent nothing for too long",
    "upstream_refused": "the engine refused it",
    "stream_cut": "the engine's stream broke off",
    "error_event": "the engine sent an error inside the stream",
    "no_finish_reason": "the stream ended without a finish_reason",
    "internal_error": "the gateway failed",
    "client_left": "the client left",
    "client_stalled": "the client took nothing for 30 s and was cut off",
    "deadline": "its deadline passed",
    STOPPED: "its run was stopped",
}
"""The gateway's reasons (`server.gateway.relay`) and loadgen's own; any other is a sentence already."""

OUTCOMES = {"ok": "finished", "rejected": "rejected", "error": "failed", "abandoned": "abandoned"}

WAITED_FOR = {
    "engine": "an engine that serves",
    "slots": "a free slot",
    "adaptive": "a place under the adaptive limit",
    "tokens": "room in the token budget",
}


def reason(request: JoinedRequest, limit: int = 400) -> str:
    """Why it did not finish; empty when it did."""
    return fmt.sanitize(REASONS.get(request.reason, request.reason), limit)


def brief(request: JoinedRequest) -> tuple[str, str]:
    """The outcome in one or two words, and their style."""
    if request.outcome == "ok":
        late = {"ttft": "ok, late", "tpot": "ok, slow"}.get(request.missed)
        return (late, "warn") if late else ("ok", "label")
    word = OUTCOMES.get(request.outcome) or fmt.sanitize(request.outcome, 12) or fmt.ABSENT_TEXT
    return word, "warn" if request.outcome == "abandoned" else "bad"


def outcome(request: JoinedRequest) -> str:
    """The outcome and its reason in one clause."""
    word = OUTCOMES.get(request.outcome) or fmt.sanitize(request.outcome, 20) or "how it ended is not known"
    why = reason(request)
    return f"{word}: {why}" if why else word


def judgement(request: JoinedRequest, slo: Slo) -> tuple[str, str]:
    """Whether it counts as good and why, and the style of that."""
    if request.judged == "good":
        return f"good: {_first(request, slo)}{_pace(request, slo)}", "good"
    if request.judged == "excluded":
        return "not counted: it ended for reasons of its own client's or its run's", "label"
    if request.judged != "miss":
        return "nobody judged it", "label"
    if request.missed == "ttft":
        return f"a miss: {_first(request, slo)}", "warn"
    if request.missed == "tpot":
        return f"a miss: {fmt.seconds(request.tpot_s)} a token, over {fmt.seconds(slo.tpot_s)}", "warn"
    ends = {"refused": "refused", "error": "failed", "left": "its person had enough and left"}
    return f"a miss: {ends.get(request.missed, fmt.sanitize(request.missed, 20)) or 'it did not finish'}", "warn"


def _first(request: JoinedRequest, slo: Slo) -> str:
    first_s = request.ttft_s
    waited_s = (request.e2e_s or 0.0) + request.prior_s if first_s is None else first_s + request.prior_s
    since = f", {fmt.seconds(request.prior_s)} of it in attempts before" if request.prior_s > 0 else ""
    limit = f"{'over' if waited_s > slo.ttft_s else 'within'} {fmt.seconds(slo.ttft_s)}"
    if first_s is None:
        return f"no first token in {fmt.seconds(waited_s)}{since}, {limit}"
    return f"first token after {fmt.seconds(waited_s)}{since}, {limit}"


def _pace(request: JoinedRequest, slo: Slo) -> str:
    if request.behaviour == "slow":
        return "; a slow reader's pace is his own"
    if request.tpot_s is None:
        return ""
    return f"; {fmt.seconds(request.tpot_s)} a token, within {fmt.seconds(slo.tpot_s)}"


def who(request: JoinedRequest) -> str:
    """Who asked: our person, or whom the gateway counted it to."""
    return fmt.sanitize(request.who or request.user, 60)


def asker(request: JoinedRequest) -> str:
    """Who asked and how they behave."""
    name, behaviour = who(request), fmt.sanitize(request.behaviour, 20)
    return name if name.startswith(behaviour) else f"{name} {behaviour}".strip()


def waited(request: JoinedRequest) -> str:
    """What it waited for in the queue, and behind how many."""
    if "queue" not in request.stages:
        return "it never came to the queue" if request.stages.keys() - {"connect", "unattributed"} else ""
    others = "nobody" if not request.behind else f"{fmt.count(request.behind)} other{'s' * (request.behind != 1)}"
    what = WAITED_FOR.get(request.waited_for, fmt.sanitize(request.waited_for, 30))
    order = f", order {fmt.sanitize(request.order, 20)}" if request.order else ""
    if not request.stages.keys() & {"front end", UPSTREAM}:
        return f"behind {others}, and never got its turn{order}"
    if not what and not request.behind:
        return f"went at once{order}"
    return f"behind {others}, for {what or 'its turn'}{order}"


def tokens(request: JoinedRequest) -> str:
    """Prompt and reply as counted by the engine, and as the admission had reckoned."""
    prompt, reply = request.prompt_tokens, request.completion_tokens
    parts = [f"prompt {fmt.count(prompt)}, reply {fmt.count(reply)}"]
    if prompt is not None and reply is not None:
        parts.append(f"together {fmt.count(prompt + reply)}")
    if request.tokens is not None:
        parts.append(f"reckoned at most {fmt.count(request.tokens)}")
    return "; ".join(parts)
