"""How a reply is read: as it comes, or slower than it comes."""

from __future__ import annotations

import msgspec


class Reading(msgspec.Struct, frozen=True):
    """How fast one person takes the bytes of a reply."""

    rcvbuf_bytes: int | None = None
    """SO_RCVBUF, set before the connect; None leaves the kernel's."""
    bytes_per_s: float | None = None
    """None: as they come."""


AT_ONCE = Reading()
SLOWLY = Reading(rcvbuf_bytes=4096, bytes_per_s=1024.0)
"""A chat event is 200 to 250 bytes, so this takes 4 to 5 tokens a second: a fifth of what even a small CPU engine
streams. The kernel doubles the buffer to 8 KiB; with it the backlog must wait on the server's side."""


class Pace:
    """When the next read is due so that no more than `bytes_per_s` are taken in the long run."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._due = 0.0

    def took(self, count: int, at: float) -> float:
        """`count` bytes were read at `at` (monotonic seconds): the stamp before which nothing more should be read."""
        self._due = max(self._due, at) + count / self._bytes_per_s
        return self._due
