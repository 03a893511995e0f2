"""Where snapshots come from and commands go to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from server.commands import Answer, Command
from server.telemetry.snapshot import JoinedRequest, Snapshot


class SourceGoneError(Exception):
    """The source stopped answering; its text is one clause. `retry_s` seconds later it may be asked again."""


class Source(Protocol):
    """A stack, a recording or a list."""

    @property
    def kind(self) -> Literal["live", "replay", "scripted"]: ...

    @property
    def can_send(self) -> bool:
        """False where commands reach nobody."""
        ...

    @property
    def retry_s(self) -> float:
        """Seconds to wait after SourceGoneError before `snapshots` is called again."""
        ...

    @property
    def behind(self) -> int:
        """Snapshots of the past that still come before the present one: to be kept, not shown one by one."""
        ...

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """First what was before, oldest first, then one a tick. Ends at the end of a recording.

        Raises SourceGoneError when a live stack stops answering.
        """
        ...

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """The latest finished requests of which something became known after `since` and by `until` (monotonic seconds of
        the stack's host), oldest first. Raises SourceGoneError, whose text says why there are none to be had."""
        ...

    async def send(self, command: Command) -> Answer:
        """Tell the stack something. Never raises: what went wrong is in the answer."""
        ...

    def hold(self, still: bool) -> None:
        """The display was frozen or goes on: a replay stands still with it, anything live goes on."""
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...
