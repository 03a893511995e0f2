"""The running stack, over its Unix socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import msgspec

from console.sources.base import SourceGoneError
from console.sources.unix import BrokenError, Response, asked
from server.commands import FROM, PAST, Answer, Command
from server.telemetry.snapshot import SCHEMA_VERSION, JoinedRequest, Snapshot, snapshot_decoder

SILENCE_S = 10.0
"""A stack that sends nothing for so long is lost: it sends a snapshot every half second."""
LINE_LIMIT = 4 * 1024 * 1024
"""Bytes of one snapshot; more is not our stack."""


_requests_decoder = msgspec.json.Decoder(list[JoinedRequest])


class _Version(msgspec.Struct):
    schema_version: int = 0


class LiveSource:
    """A stack that answers on `socket`; another user's, which is only watched, with `can_send` False."""

    kind: Literal["live"] = "live"

    def __init__(self, socket: Path, *, history: int = 300, retry_s: float = 1.0, can_send: bool = True) -> None:
        self.can_send = can_send
        self.history = history
        """Snapshots of the past to ask for."""
        self.retry_s = retry_s
        self.behind = 0
        self._socket = socket

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The history, then one snapshot a tick. Raises SourceGoneError when it breaks off."""
        try:
            async with self._asked("GET", f"/v1/snapshots?history={self.history}") as response:
                if response.status != HTTPStatus.OK:
                    raise SourceGoneError(_refusal(response.status, await response.read()))
                self.behind = _number(response.fields.get(PAST, ""))
                pending = bytearray()
                async for chunk in response.chunks():
                    pending += chunk
                    *lines, rest = pending.split(b"\n")
                    pending = bytearray(rest)
                    if len(pending) > LINE_LIMIT:
                        raise SourceGoneError("what answers is not a stack: its lines do not end")
                    for line in lines:
                        if line.strip():
                            self.behind = max(0, self.behind - 1)
                            yield decode(bytes(line))
        except BrokenError as error:
            raise SourceGoneError(str(error)) from error
        raise SourceGoneError("the stack closed the connection")

    def _asked(self, method: str, target: str, body: bytes = b"") -> AbstractAsyncContextManager[Response]:
        fields = ((FROM, terminal()),)
        return asked(self._socket, method, target, silence_s=SILENCE_S, fields=fields, body=body)

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """What is new. Raises SourceGoneError."""
        del until  # what is live has no future
        try:
            async with self._asked("GET", f"/v1/requests?limit={limit}&since={since!r}") as response:
                content = await response.read()
            if response.status != HTTPStatus.OK:
                raise SourceGoneError(f"the stack answered {response.status}")
            return _requests_decoder.decode(content)
        except BrokenError as error:
            raise SourceGoneError(str(error)) from error
        except msgspec.DecodeError as error:
            raise SourceGoneError(f"the stack sent something that is no list of requests ({error})") from error

    async def send(self, command: Command) -> Answer:
        """POST one command."""
        try:
            async with self._asked("POST", "/v1/commands", msgspec.json.encode(command)) as response:
                content = await response.read()
            return msgspec.json.decode(content, type=Answer)
        except BrokenError as error:
            return Answer(False, f"The stack did not take it: {error}.")
        except msgspec.DecodeError:
            return Answer(False, f"The stack answered {response.status}, and not in a form this console reads.")

    def hold(self, still: bool) -> None:
        """Nothing: collecting goes on."""

    async def close(self) -> None:
        """Nothing stays open."""


def terminal() -> str:
    """The terminal this console is on, as the others know it: `pts/3`; `console` where it has no name."""
    try:
        return os.ttyname(0).removeprefix("/dev/")
    except OSError:
        return "console"


def _refusal(status: int, body: bytes) -> str:
    """The stack's own sentence where it gave one."""
    try:
        said = msgspec.json.decode(body, type=Answer).message
    except msgspec.DecodeError:
        said = ""
    return said.rstrip(".") or f"the stack answered {status}"


def decode(line: bytes) -> Snapshot:
    """One snapshot. Raises SourceGoneError on another version or on what is no snapshot."""
    try:
        snapshot = snapshot_decoder.decode(line)
    except msgspec.DecodeError as error:
        try:
            version = msgspec.json.decode(line, type=_Version).schema_version
        except msgspec.DecodeError:
            version = 0
        if version not in {0, SCHEMA_VERSION}:
            raise SourceGoneError(_other_version(version)) from error
        raise SourceGoneError(f"the stack sent something that is no snapshot ({error})") from error
    if snapshot.schema_version != SCHEMA_VERSION:
        raise SourceGoneError(_other_version(snapshot.schema_version))
    return snapshot


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def _other_version(version: int) -> str:
    return f"the stack speaks snapshot version {version}, this console {SCHEMA_VERSION}: restart the stack or update the console"
