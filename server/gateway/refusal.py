"""Errors of our own instead of a response of the engine's: status, machine-readable reason and a sentence, in OpenAI's shape.

429 means that there was no place for it now, 503 that the engine does not serve, 504 that its own time was up.
"""

from __future__ import annotations

import json

import msgspec

from server.gateway.admission import RejectReason

ERROR_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
"""OpenAI's `error.type` by status; any other is an invalid_request_error."""

REASON_HEADER = b"x-spark-reason"
MAX_BODY_BYTES = 16 * 1024 * 1024


class Refusal(msgspec.Struct, frozen=True):
    """An error of ours."""

    status: int
    reason: str
    message: str
    retry_after_s: int | None = None
    """Whole seconds, at least 1."""


class RefusedError(Exception):
    """This request gets an error of ours. Raised anew each time: an exception that is raised again remembers every frame."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def rejected(reason: RejectReason, retry_after_s: int) -> Refusal:
    """As the admission decided."""
    status = 503 if reason.startswith("engine_") else 429
    return Refusal(status, reason, _REJECTIONS[reason], retry_after_s)


def error_document(status: int, reason: str, message: str) -> bytes:
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": reason}}).encode("utf-8")


def error_event(status: int, reason: str, message: str) -> bytes:
    """The same inside a stream that has begun."""
    return b"data: " + error_document(status, reason, message) + b"\n\n"


_REJECTIONS: dict[RejectReason, str] = {
    "queue_full": "The queue is full; try again later.",
    "estimated_wait": "The wait would be too long; try again later.",
    "shed": "A request of better priority took its place in the queue; try again later.",
    "queue_timeout": "It has waited for as long as the queue lets anybody wait; try again later.",
    "engine_starting": "The engine is starting; try again later.",
    "engine_down": "The engine is down; try again later.",
    "engine_asleep": "The engine is asleep; try again later.",
}

TOO_LARGE = Refusal(413, "body_too_large", f"The request body is larger than {MAX_BODY_BYTES >> 20} MiB.")
BODY_LATE = Refusal(408, "body_timeout", "The request body did not come.")
STOPPING = Refusal(503, "gateway_stopping", "The gateway is stopping.", 5)
INTERNAL = Refusal(500, "internal_error", "The gateway failed; its log says why.")
DEADLINE = Refusal(504, "deadline", "The request's deadline passed.")


def silent(seconds: float) -> Refusal:
    """Of an engine that was given up."""
    return Refusal(504, "upstream_silent", f"The engine sent nothing for {seconds:g} s.")
