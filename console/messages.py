"""What happened, as facts that the collecting worker tells the screen."""

from __future__ import annotations

from textual.message import Message

from console.kept import Kept
from server.commands import Answer, Command
from server.telemetry.snapshot import JoinedRequest, Snapshot


class Sampled(Message):
    """A snapshot came and is in the history."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        """Only the latest snapshot is drawn."""
        return isinstance(message, Sampled)


class SourceLost(Message):
    """The source stopped answering; it is tried again."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class SourceEnded(Message):
    """A replay came to its end."""


class Answered(Message):
    """The stack said what became of a command."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Wanted(Message):
    """A person changed something on a screen: the command that makes it so, or why it cannot be, in one clause."""

    def __init__(self, command: Command | str) -> None:
        super().__init__()
        self.command = command


class RequestsWanted(Message):
    """A screen shows single requests: those that became known by this moment of the stack's clock are wanted."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until


class RequestsCame(Message):
    """The source answered with requests, or why it cannot, to a question on behalf of `kept`."""

    def __init__(self, found: list[JoinedRequest], why: str, kept: Kept) -> None:
        super().__init__()
        self.found = found
        self.why = why
        self.kept = kept


class PanelFailed(Message):
    """A panel could not be drawn; its place says so."""

    def __init__(self, panel: str, error: Exception) -> None:
        super().__init__()
        self.panel = panel
        self.error = error
