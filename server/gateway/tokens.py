"""How many tokens a request will need, before the engine has counted them: an estimate that learns from those it has."""

from __future__ import annotations

from typing import Any

import msgspec

from server.gateway.order import Ticket

BYTES_A_TOKEN = 4.0
"""Of English text, before anything is known of this model's tokeniser."""
OUTPUT_TOKENS = 256
"""Of a reply whose request sets no limit, before any has ended."""
MESSAGE_TOKENS = 4
"""What a chat template adds to a message, about."""
LEARNING = 0.05
"""Weight of the latest request in the running means."""
LEAST_BYTES = 64
"""Below it the template's share hides the tokeniser's."""


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_messages = msgspec.json.Decoder(list[_Message])
_prompt = msgspec.json.Decoder(str | list[Any])


class Size(msgspec.Struct, frozen=True):
    """What a body says of its lengths."""

    prompt_bytes: int = 0
    """UTF-8, of its text; images and the like count nothing."""
    messages: int = 0
    prompt_tokens: int | None = None
    """Where the prompt came as token ids."""
    output_tokens: int | None = None
    """The limit it sets, times the number of replies it wants."""


def measure(fields: dict[str, msgspec.Raw]) -> Size:
    """Of a checked body. What is not as the API has it counts nothing: the engine will refuse it."""
    replies = _whole(fields.get("n")) or 1
    most = _whole(fields.get("max_completion_tokens")) or _whole(fields.get("max_tokens"))
    output_tokens = None if most is None else most * replies
    try:
        if "messages" in fields:
            messages = _messages.decode(fields["messages"])
            size = sum(_text_bytes(message.content) for message in messages)
            return Size(size, len(messages), None, output_tokens)
        if "prompt" in fields:
            prompt = _prompt.decode(fields["prompt"])
            return Size(_prompt_bytes(prompt), 0, _prompt_ids(prompt), output_tokens)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return Size(output_tokens=output_tokens)


class TokenEstimate:
    """The running means. Nothing is known of images, tools and the like but what they add to the mean."""

    def __init__(self) -> None:
        self.bytes_a_token = BYTES_A_TOKEN
        self.output_tokens = float(OUTPUT_TOKENS)

    def ticket(self, size: Size, *, user: str, priority: int, deadline: float | None) -> Ticket:
        prompt = size.prompt_tokens
        if prompt is None:
            prompt = round(size.prompt_bytes / self.bytes_a_token) + size.messages * MESSAGE_TOKENS
        output = round(self.output_tokens) if size.output_tokens is None else size.output_tokens
        return Ticket(user=user, priority=priority, prompt_tokens=prompt, output_tokens=output, deadline=deadline)

    def learn(self, size: Size, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """What the engine counted of a request that ended."""
        text_tokens = (prompt_tokens or 0) - size.messages * MESSAGE_TOKENS
        if size.prompt_tokens is None and size.prompt_bytes >= LEAST_BYTES and text_tokens > 0:
            self.bytes_a_token += LEARNING * (size.prompt_bytes / text_tokens - self.bytes_a_token)
        if size.output_tokens is None and completion_tokens:
            self.output_tokens += LEARNING * (completion_tokens - self.output_tokens)


def _text_bytes(content: str | list[_Part] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass"))
    return sum(len(part.text.encode("utf-8", "surrogatepass")) for part in content)


def _prompt_bytes(prompt: str | list[Any]) -> int:
    texts = [prompt] if isinstance(prompt, str) else prompt
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))


def _prompt_ids(prompt: str | list[Any]) -> int | None:
    """One list of ids, or one of such lists; None where there is text."""
    if isinstance(prompt, str) or any(isinstance(item, str) for item in prompt):
        return None
    return sum(len(item) if isinstance(item, list) else 1 for item in prompt)


def _whole(raw: msgspec.Raw | None) -> int | None:
    """A positive whole number; None for anything else."""
    text = b"" if raw is None else bytes(raw)
    return int(text) if text.isdigit() and len(text) <= 9 and int(text) else None
