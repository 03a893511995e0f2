"""Reads an OpenAI-style event stream while it is relayed: looks at bytes, decodes JSON only where something is said.

Ordinary events cost a handful of substring searches for a whole read. Decoded are: events up to the first token, and
those that may carry a finish_reason, a usage, an error or `[DONE]`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from loadgen.histogram import Histogram
from loadgen.lines import UNREADABLE

TELLING = (
    b'"finish_reason":"',
    b'"finish_reason": "',
    b'"usage":{',
    b'"usage": {',
    b'"error"',
    b"[DONE]",
)
"""An event with none of these says nothing but tokens. Inside a JSON string the quotes would be escaped."""

MAX_EVENT_BYTES = 1 << 20

_TEXT_KEYS = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call")


class Told(msgspec.Struct):
    """What an answer said of itself, from a stream or from one body. None where it said nothing."""

    finish_reason: str | None = None
    error: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    engine_queue_s: float | None = None
    prefill_s: float | None = None
    """Scheduled to first token: the engine calls it time_to_first_token_ms."""
    decode_s: float | None = None
    """First to last token: the engine calls it generation_time_ms."""

    @property
    def tokens(self) -> int | None:
        """Prompt and reply together."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    def hear(self, document: Any) -> None:
        """Take finish reason, usage, engine times and error from one decoded chunk or body, of whatever shape."""
        if not isinstance(document, dict):
            return
        if document.get("error") or document.get("object") == "error":
            self.error = True
        for choice in _choices(document):
            reason = choice.get("finish_reason")
            if isinstance(reason, str):
                self.finish_reason = reason
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _whole(usage.get("prompt_tokens"))
            self.completion_tokens = _whole(usage.get("completion_tokens"))
        metrics = document.get("metrics")
        if isinstance(metrics, dict):
            self.engine_queue_s = _seconds(metrics.get("queue_time_ms"))
            self.prefill_s = _seconds(metrics.get("time_to_first_token_ms"))
            self.decode_s = _seconds(metrics.get("generation_time_ms"))


class EventScanner:
    """Fed with what upstream sent, gives back what the client gets: whole events, bytes unchanged.

    `strip_usage` takes out the event that carries nothing but the usage; `gaps` gets those between events with tokens.
    """

    def __init__(self, *, strip_usage: bool, gaps: Histogram) -> None:
        self.told = Told()
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.paused = False
        """Reading stood still for the client since the last token: the next gap is not the engine's."""
        self._gaps = gaps
        self._strip_usage = strip_usage
        self._rest = b""

    def feed(self, data: bytes, at: float) -> bytes:
        """`at`: monotonic seconds of the read. Events still incomplete are kept back (up to 1 MiB)."""
        if self._rest:
            data = self._rest + data
        if not data.endswith((b"\n\n", b"\r\n\r\n")):
            end = _end_of_events(data)
            if not end and len(data) > MAX_EVENT_BYTES:
                end = len(data)
            self._rest = data[end:]
            if not end:
                return b""
            data = data[:end]
        elif self._rest:
            self._rest = b""
        if self.first_token is not None and data.startswith(b"data:") and not _tells(data):
            self.token(at)
            for _ in range(data.count(b"data:") - 1):
                self.token(at)
            return data
        return self._read(data, at)

    def token(self, at: float) -> None:
        """An event with one came."""
        if self.last_token is not None and not self.paused:
            self._gaps.add(at - self.last_token)
        self.paused = False
        self.last_token = at

    def only_tokens(self, data: bytes) -> bool:
        """Nothing in it is to be read, once the first token is past and no event is incomplete."""
        if self.first_token is None or self._rest:
            return False
        return not _tells(data) and data.find(b"data:") >= 0

    def flush(self, at: float) -> bytes:
        """What is left of a stream that ended without an empty line."""
        rest, self._rest = self._rest, b""
        return self._read(rest, at)

    def _read(self, data: bytes, at: float) -> bytes:
        kept: list[bytes] = []
        for event in _split(data):
            document = _document(event)
            self.told.hear(document)
            if _has_token(document):
                self.first_token = self.first_token or at
                self.token(at)
            if not (self._strip_usage and _only_usage(document)):
                kept.append(event)
        return b"".join(kept)


def read_body(body: bytes) -> Told:
    """What a whole, non-streamed answer says. A body that is not JSON says nothing."""
    told = Told()
    with contextlib.suppress(*UNREADABLE):
        told.hear(msgspec.json.decode(body))
    return told


def _tells(data: bytes) -> bool:
    find = data.find  # `in` takes twice as long: it first raises and drops an error about its operand
    for mark in TELLING:  # noqa: SIM110 - a generator costs as much again
        if find(mark) >= 0:
            return True
    return False


def _end_of_events(data: bytes) -> int:
    """Where the last whole event ends; 0 when none does."""
    newlines, returns = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(newlines + 2 if newlines >= 0 else 0, returns + 4 if returns >= 0 else 0)


def _split(data: bytes) -> list[bytes]:
    """Whole events with their ends; joined they are `data` again."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
    events = data.split(end)
    last = events.pop()
    return [event + end for event in events] + ([last] if last else [])


def _document(event: bytes) -> Any:
    """The decoded JSON of an event; None where there is none, as in comments and `[DONE]`."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    if not lines or lines[0] == b"[DONE]":
        return None
    try:
        return msgspec.json.decode(b"\n".join(lines))
    except UNREADABLE:
        return None


def _choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _has_token(document: Any) -> bool:
    if not isinstance(document, dict):
        return False
    for choice in _choices(document):
        delta = choice.get("delta")
        if choice.get("text") or (isinstance(delta, dict) and any(delta.get(key) for key in _TEXT_KEYS)):
            return True
    return False


def _only_usage(document: Any) -> bool:
    return isinstance(document, dict) and document.get("choices") == [] and isinstance(document.get("usage"), dict)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(milliseconds: Any) -> float | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    return milliseconds / 1e3
