"""What a client asks for: ids, trace context and the body, and what of it goes upstream. Pure."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterable

import msgspec

from loadgen.lines import UNREADABLE
from server.gateway.tokens import Size, measure

Headers = list[tuple[bytes, bytes]]

MAX_REQUEST_ID_CHARS = 128
MAX_USER_CHARS = 64

PRIORITY_HEADER = b"x-vllm-priority"
"""vLLM's own, which goes before the body's `priority` there too."""
USER_HEADER = b"x-gateway-inference-fairness-id"
"""As the gateways of Kubernetes' Gateway API inference extension take it."""
TIMEOUT_HEADER = b"x-request-timeout"
"""Seconds from its accept, after which a request is of no use to its client."""

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_REQUEST_ID_CHARS)
_INTEGER = re.compile(rb"-?\d{1,19}")
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

_NOT_FORWARDED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",  # a compressed stream could not be read on its way
    b"x-request-id",
    b"traceparent",
}


class BadBodyError(ValueError):
    """The body is not what the API takes; the text is for the client."""


class Ids(msgspec.Struct, frozen=True):
    """How a request is known here, upstream and at the client."""

    request_id: str
    trace_id: str
    """32 hex digits."""
    traceparent: bytes
    """As sent upstream: the client's trace id where it sent a valid one, always a span id of our own, always sampled,
    because the engine's spans are where its exact times come from."""
    trace_taken: bool
    """The trace is the client's, so that its tracestate goes with it."""


class Asked(msgspec.Struct, frozen=True):
    """A checked request body."""

    body: bytes
    """As it goes upstream: the client's own bytes unless usage had to be asked for."""
    stream: bool
    strip_usage: bool
    """We asked for the usage, the client didn't."""
    size: Size = Size()
    user: str = ""
    """As the body names it; empty where it doesn't."""
    priority: int = 0


def identify(headers: Headers) -> Ids:
    """Take X-Request-Id (printable ASCII, at most 128) and traceparent where valid, else make them."""
    request_id = _value(headers, b"x-request-id")
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = secrets.token_hex(16).encode("ascii")
    trace_id = _trace_id(_value(headers, b"traceparent"))
    taken = trace_id is not None
    if trace_id is None:
        trace_id = secrets.token_hex(16)
    return Ids(
        request_id=request_id.decode("ascii"),
        trace_id=trace_id,
        traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01".encode("ascii"),
        trace_taken=taken,
    )


def read_request(body: bytes) -> Asked:
    """Check a completion request and ask for its usage. Raises BadBodyError."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        raise BadBodyError("The request body is not a JSON object, or nested beyond all measure.") from None
    asked = Asked(
        body=body,
        stream=bytes(fields.get("stream", b"")) == b"true",
        strip_usage=False,
        size=measure(fields),
        user=_user(fields),
        priority=_priority(bytes(fields.get("priority", b""))) or 0,
    )
    if not asked.stream:
        return asked
    try:
        options = msgspec.json.decode(fields.get("stream_options", b"null"), type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.ValidationError:
        raise BadBodyError("stream_options is not a JSON object.") from None
    if bytes(options.get("include_usage", b"")) == b"true":
        return asked
    options["include_usage"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.structs.replace(asked, body=msgspec.json.encode(fields), strip_usage=True)


def user_of(headers: Headers, asked: Asked, address: str) -> str:
    """Whom a fair order counts a request to: the header's word, the body's `user`, else the API key, else the address.
    A key is known by its digest only."""
    named = _value(headers, USER_HEADER)
    if named:
        return _shortened(named.decode("latin-1"))
    if asked.user:
        return asked.user
    key = _value(headers, b"authorization")
    return f"key {hashlib.sha256(key).hexdigest()[:8]}" if key else address


def priority_of(headers: Headers, asked: Asked) -> int:
    """Lower goes first. As vLLM has it: the header's number, else the body's, else 0."""
    found = _priority(_value(headers, PRIORITY_HEADER) or b"")
    return asked.priority if found is None else found


def patience_s(headers: Headers) -> float | None:
    """Seconds that the client gives its request; None where it doesn't say. Raises BadBodyError."""
    value = _value(headers, TIMEOUT_HEADER)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadBodyError("X-Request-Timeout is not a number of seconds.")
    return seconds


def upstream_headers(
    headers: Headers, ids: Ids, host: bytes, *, our_key: bool = False, engine_key: bytes | None = None
) -> Headers:
    """The client's headers without those of its connection, with our ids. Content-Length is the connection's to add.
    `our_key`: its Authorization was for us; `engine_key`: the Authorization that the engine gets."""
    dropped = _NOT_FORWARDED | _named_by_connection(headers)
    if our_key:
        dropped |= {b"authorization"}
    if not ids.trace_taken:
        dropped |= {b"tracestate"}
    sent = [(name, value) for name, value in headers if name not in dropped]
    return [
        (b"host", host),
        *sent,
        *([] if engine_key is None else [(b"authorization", engine_key)]),
        (b"x-request-id", ids.request_id.encode("ascii")),
        (b"traceparent", ids.traceparent),
    ]


def response_headers(headers: Headers, request_id: str, *, keep_length: bool) -> Headers:
    """Upstream's headers without those of its connection, with the request's id."""
    dropped = HOP_BY_HOP | _named_by_connection(headers) | {b"x-request-id"}
    if not keep_length:
        dropped |= {b"content-length"}
    kept = [(name, value) for name, value in headers if name not in dropped]
    return [*kept, (b"x-request-id", request_id.encode("ascii"))]


def declared_length(headers: Headers) -> int | None:
    value = _value(headers, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def is_event_stream(headers: Headers) -> bool:
    return (_value(headers, b"content-type") or b"").lower().startswith(b"text/event-stream")


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    named = (value for name, value in headers if name == b"connection")
    return frozenset(token.strip().lower() for value in named for token in value.split(b","))


def _trace_id(traceparent: bytes | None) -> str | None:
    """W3C Trace Context, level 1: version 00 has exactly four fields, later ones may have more, zero ids are invalid."""
    match = _TRACEPARENT.fullmatch(traceparent or b"")
    if match is None or (match[1] == b"00" and match[4] is not None):
        return None
    if not match[2].strip(b"0") or not match[3].strip(b"0"):
        return None
    return match[2].decode("ascii")


def _priority(text: bytes) -> int | None:
    """A whole number of 64 bits; None for anything else."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def _user(fields: dict[str, msgspec.Raw]) -> str:
    """`safety_identifier`, or `user`, which OpenAI had before it."""
    for name in ("safety_identifier", "user"):
        try:
            found = msgspec.json.decode(fields.get(name, b"null"), type=str | None)
        except (msgspec.ValidationError, UnicodeDecodeError):
            continue
        if found:
            return _shortened(found)
    return ""


def _shortened(name: str) -> str:
    """Printable, and no longer than a screen or a log should have to bear."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:MAX_USER_CHARS])
