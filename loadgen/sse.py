"""Server-sent events, as OpenAI-compatible servers send them: bytes in, what each event says out."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec

_TEXT = re.compile(rb'"(content|text|reasoning|reasoning_content)":\s*"((?:[^"\\]|\\.)*)"')
_LESSONS = 4
"""So often a stream is learned from; one whose events keep changing is read in full."""


class Events:
    """Cuts a byte stream into the data of its events (WHATWG server-sent events: lines end in LF or CRLF)."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._before = b"\0"  # begins no chunk
        self._after = b""
        self._begin = 1
        self._is_reply = False
        self._lessons = _LESSONS

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completed."""
        one_line = chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") and chunk.find(b"\n") == len(chunk) - 2
        if one_line and not (self._rest or self._data):
            return [chunk[6:-2].rstrip(b"\r")]
        events = []
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for raw in lines:
            line = raw.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def learn(self, data: bytes) -> None:
        """`data` is an event of which `understand` said that it is a token and nothing else."""
        if self._lessons and b"\n" not in data and len(found := list(_TEXT.finditer(data))) == 1:
            self._lessons -= 1
            self._before = b"data: " + data[: found[0].start(2)]
            self._after = data[found[0].end(2) :] + b"\n\n"
            self._begin = len(self._before)
            self._is_reply = found[0][1] in {b"content", b"text"}

    def is_ordinary(self, chunk: bytes) -> bool:
        """`chunk` is one whole event that differs from the learned one in nothing but its text, which is not empty.

        Such an event says what the learned one said, so most of a stream need not be decoded. The text ends at the next
        quote: an escaped one, or anything else after the text, and it is not ordinary. What is in the text is not looked
        at. It leaves nothing for `feed`.
        """
        return (
            chunk.startswith(self._before)
            and chunk.find(b'"', self._begin) == len(chunk) - len(self._after) != self._begin
            and chunk.endswith(self._after)
            and not (self._rest or self._data)
        )

    def text(self, chunk: bytes) -> str:
        """What an ordinary event adds to the reply; reasoning adds nothing, nor does what is no JSON string."""
        if self._is_reply:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                return msgspec.json.decode(chunk[self._begin - 1 : len(chunk) - len(self._after) + 1], type=str)
        return ""


class _Delta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None


class Said(msgspec.Struct, frozen=True, gc=False):
    """What one event says."""

    token: bool = False
    """It carries output. A role alone is not output; an empty delta without a role is a token that made no text yet."""
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None
    text: str = ""
    """What it adds to the reply."""


_event_decoder = msgspec.json.Decoder(_Event)


def _output(choice: _Choice) -> str | None:
    """The text it adds; None where it carries no output. A tool call or reasoning is output without text."""
    delta = choice.delta
    if delta is None:
        return choice.text
    content = delta.content
    if content or (content is not None and delta.role is None):
        return content
    return "" if delta.reasoning or delta.reasoning_content or delta.tool_calls else None


def _error_text(error: object) -> str:
    """The message of an `error` field, whatever its shape."""
    message = error.get("message") if isinstance(error, dict) else error
    return clause(message) if message and isinstance(message, str) else "an error without a message"


def clause(text: str, limit: int = 160) -> str:
    """Somebody else's text as one short printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def understand(data: bytes) -> Said:
    """Raises msgspec.DecodeError when `data` is not a JSON object of the expected shape."""
    try:
        event = _event_decoder.decode(data)
    except (UnicodeDecodeError, RecursionError):
        raise msgspec.DecodeError("not UTF-8, or nested beyond all measure") from None
    if event.error is not None:
        return Said(error=_error_text(event.error))
    if event.object == "error":
        return Said(error=_error_text(event.message))
    token, text, finish_reason = False, "", None
    for choice in event.choices or ():
        output = _output(choice)
        if output is not None:
            token = True
            text += output
        finish_reason = finish_reason or choice.finish_reason or None
    return Said(token, finish_reason, event.usage, text=text)


def error_text(body: bytes) -> str:
    """The message in an OpenAI-shaped error answer; empty when there is none."""
    try:
        return understand(body).error or ""
    except msgspec.DecodeError:
        return ""
