"""The stage clock of one request under way, and what is said of it at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from server.gateway.exchange import Exchange
from server.gateway.inbound import Ids
from server.gateway.order import Ticket
from server.gateway.records import GatewayOutcome, GatewayRecord
from server.gateway.sse import Told


@dataclass(slots=True)
class StageClock:
    """Stamps in monotonic seconds, set as the stages are passed; None where one never was."""

    ids: Ids
    route: str
    accepted: float
    stream: bool = False
    queued: float | None = None
    admitted: float | None = None
    upstream_sent: float | None = None
    ticket: Ticket | None = None
    behind: int = 0
    why: str = ""
    order: str = ""
    replica: str = ""
    outcome: GatewayOutcome = "failed"
    reason: str = "internal_error"

    def end(self, outcome: GatewayOutcome, reason: str = "") -> None:
        self.outcome, self.reason = outcome, reason

    def record(self, *, status: int | None, exchange: Exchange | None, told: Told) -> GatewayRecord:
        """The request is over now."""
        scanner = exchange.scanner if exchange is not None else None
        return GatewayRecord(
            request_id=self.ids.request_id,
            trace_id=self.ids.trace_id,
            route=self.route,
            stream=self.stream,
            accepted=self.accepted,
            queued=self.queued,
            admitted=self.admitted,
            upstream_sent=self.upstream_sent,
            first_token=scanner.first_token if scanner is not None else None,
            last_token=scanner.last_token if scanner is not None else None,
            upstream_done=exchange.ended if exchange is not None else None,
            done=time.monotonic(),
            paused_s=exchange.paused_s if exchange is not None else 0.0,
            outcome=self.outcome,
            reason=self.reason,
            status=status,
            prompt_tokens=told.prompt_tokens,
            completion_tokens=told.completion_tokens,
            finish_reason=told.finish_reason,
            engine_queue_s=told.engine_queue_s,
            prefill_s=told.prefill_s,
            decode_s=told.decode_s,
            user=self.ticket.user if self.ticket is not None else "",
            priority=self.ticket.priority if self.ticket is not None else 0,
            tokens=self.ticket.tokens if self.ticket is not None else None,
            behind=self.behind,
            why=self.why,
            order=self.order,
            replica=self.replica,
        )


def judge(status: int, told: Told, *, cut: bool) -> tuple[GatewayOutcome, str]:
    """Outcome and reason of a response that was relayed as far as it came. `[DONE]` alone is not success."""
    if status >= 500:
        return "failed", "upstream_error"
    if status >= 400:
        return "failed", "upstream_refused"
    if told.error:
        return "failed", "error_event"
    if told.finish_reason is not None:
        return "completed", ""
    return "failed", "stream_cut" if cut else "no_finish_reason"
