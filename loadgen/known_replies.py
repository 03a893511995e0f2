"""Replies of known timing: what is due when, the bytes that say it, and the stamps of what was done."""

from __future__ import annotations

import heapq
import math
import time
from array import array
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

TICK_S = 0.001
"""Tokens due within one tick are written together; libuv's timers are no finer. None is written early."""
MODEL = "known-timing"
DEFAULT_TOKENS = 16
GOLDEN = 0.6180339887498949
_T = TypeVar("_T")


class Plan(msgspec.Struct, frozen=True):
    """When the tokens of one reply are due. A request overrides fields with a JSON object `known` in its body."""

    ttft_s: float = 0.1
    """From the request read to the first token's write."""
    gap_s: float = 0.02
    """From one token's due time to the next; kept as a schedule, so that lateness does not add up."""
    tokens: int | None = None
    """None: as many as the request's own limit says."""
    spread: float = 0.0
    """Replies whose request does not name their `known` tokens are up to this share shorter or longer, below 1."""


class StreamStamps(msgspec.Struct, frozen=True):
    """What was done for one streamed request; monotonic seconds of this host."""

    request_id: str
    """The X-Request-Id it came with, else a running number."""
    read: float
    """Its last byte had been read."""
    ttft_s: float
    gap_s: float
    tokens: int
    """How many were meant to be written."""
    written: list[float]
    """Each token's, taken just before its bytes were given to the kernel."""
    held_back: int = 0
    """Writes that the kernel did not take at once, because the client did not read; their stamps are not the truth."""

    @property
    def lateness_s(self) -> list[float]:
        """How much later than planned each token was written."""
        return [at - self.read - self.ttft_s - n * self.gap_s for n, at in enumerate(self.written)]


class Stamps(msgspec.Struct, frozen=True):
    """The answer of `/known/stamps`: every stream that ended since the last time it was asked."""

    streams: list[StreamStamps]
    at: float
    """Monotonic seconds."""
    cpu_s: float
    """CPU seconds this process has used so far."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Known(msgspec.Struct):
    ttft_s: float | None = None
    gap_s: float | None = None
    tokens: int | None = None


class Asked(msgspec.Struct):
    """What of a request's body matters here."""

    model: str = MODEL
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None
    known: _Known = msgspec.field(default_factory=_Known)

    def plan(self, usual: Plan, number: int) -> Plan:
        """What the reply to the `number`-th request keeps to; its tokens are known then."""
        known = self.known
        limits = (usual.tokens, self.max_completion_tokens, self.max_tokens, DEFAULT_TOKENS)
        tokens = known.tokens
        if tokens is None:  # lengths are evenly spread, and the same for every client
            usually = next(limit for limit in limits if limit is not None)
            tokens = round(usually * (1 + usual.spread * (2 * (number * GOLDEN % 1.0) - 1)))
        return Plan(
            ttft_s=usual.ttft_s if known.ttft_s is None else known.ttft_s,
            gap_s=usual.gap_s if known.gap_s is None else known.gap_s,
            tokens=max(1, tokens),
        )


ask_decoder: msgspec.json.Decoder[Asked] = msgspec.json.Decoder(Asked)


class Wheel(Generic[_T]):
    """Who is due when, in slots of `TICK_S`; a slot comes up once all in it are due."""

    def __init__(self) -> None:
        self._slots: dict[int, list[_T]] = {}
        self._ticks: list[int] = []

    def put(self, due: float, who: _T) -> None:
        tick = math.ceil(due / TICK_S)
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = [who]
            heapq.heappush(self._ticks, tick)
        else:
            slot.append(who)

    def take(self, now: float) -> list[_T]:
        """All whose slot has come up by `now` (monotonic seconds), the earliest first. Who is put back while these are
        dealt with waits for the next time, however late: between them the loop gets its turn."""
        due: list[_T] = []
        while self._ticks and self._ticks[0] * TICK_S <= now:
            due += self._slots.pop(heapq.heappop(self._ticks))
        return due

    def next_due(self) -> float | None:
        return self._ticks[0] * TICK_S if self._ticks else None


@dataclass(slots=True)
class Reply:
    """One reply on its way."""

    request_id: str
    read: float
    plan: Plan
    count: int
    """Tokens in all."""
    first: bytes
    middle: bytes
    last: bytes
    written: array[float] = field(default_factory=lambda: array("d"))
    held_back: int = 0

    def next(self) -> bytes:
        """What its next token sends."""
        number = len(self.written)
        if number == 0:
            return self.first
        return self.middle if number + 1 < self.count else self.last

    def due(self) -> float:
        """When its next token is."""
        return self.read + self.plan.ttft_s + len(self.written) * self.plan.gap_s

    def stamps(self) -> StreamStamps:
        return StreamStamps(
            request_id=self.request_id,
            read=self.read,
            ttft_s=self.plan.ttft_s,
            gap_s=self.plan.gap_s,
            tokens=self.count,
            written=self.written.tolist(),
            held_back=self.held_back,
        )


def compose(asked: Asked, *, chat: bool, request_id: str, read: float, plan: Plan) -> Reply:
    """A reply with the bytes of its first, each middle and its last token written out, in HTTP chunks.

    As vLLM does it, a chat's role comes in a chunk of its own with the first token, and the last token carries the
    finish_reason; the usage (where it was asked for) and `[DONE]` follow at once.
    """
    count = plan.tokens or DEFAULT_TOKENS
    envelope = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": int(time.time()),
        "model": asked.model,
    }

    def token(text: str, finish: str | None = None, **role: str) -> bytes:
        said: dict[str, object] = {"delta": {**role, "content": text}} if chat else {"text": text}
        return _chunk({**envelope, "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish}]})

    end = _chunk(b"[DONE]") + b"0\r\n\r\n"
    if asked.stream_options is not None and asked.stream_options.include_usage:
        usage = {"prompt_tokens": 1, "total_tokens": 1 + count, "completion_tokens": count}
        end = _chunk({**envelope, "choices": [], "usage": usage}) + end
    role = token("", role="assistant") if chat else b""
    middle = token(" word")
    last = token(" word", "length") + end
    return Reply(request_id, read, plan, count, role + (middle if count > 1 else last), middle, last)


def _chunk(event: object) -> bytes:
    data = b"data: " + (event if isinstance(event, bytes) else msgspec.json.encode(event)) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)
