"""Server-sent events, as OpenAI-compatible servers send them: bytes in, what each event says out."""

from __future__ import annotations

from typing import Any

import msgspec


class Events:
    """Cuts a byte stream into the data of its events (WHATWG server-sent events: lines end in LF or CRLF)."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completed."""
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


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None


class Said(msgspec.Struct, frozen=True):
    """What one event says."""

    token: bool = False
    """It carries output. A role alone is not output; an empty delta without a role is a token that made no text yet."""
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None


_event_decoder = msgspec.json.Decoder(_Event)


def _is_output(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return choice.text is not None
    if delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls:
        return True
    return delta.content is not None and delta.role is None


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
    event = _event_decoder.decode(data)
    if event.error is not None:
        return Said(error=_error_text(event.error))
    if event.object == "error":
        return Said(error=_error_text(event.message))
    choices = event.choices or []
    return Said(
        token=any(_is_output(choice) for choice in choices),
        finish_reason=next((choice.finish_reason for choice in choices if choice.finish_reason), None),
        usage=event.usage,
    )


def error_text(body: bytes) -> str:
    """The message in an OpenAI-shaped error answer; empty when there is none."""
    try:
        return understand(body).error or ""
    except msgspec.DecodeError:
        return ""
