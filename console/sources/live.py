"""The running stack, over its Unix socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from console.sources.base import SourceGoneError
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

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), verify=False),  # no TLS on a Unix socket
            base_url="http://stack",
            headers={FROM: terminal()},
            timeout=httpx.Timeout(SILENCE_S, connect=2.0),
            trust_env=False,
        )

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The history, then one snapshot a tick. Raises SourceGoneError when it breaks off."""
        try:
            async with self._client.stream("GET", "/v1/snapshots", params={"history": self.history}) as response:
                if response.status_code != httpx.codes.OK:
                    raise SourceGoneError(_refusal(response.status_code, await response.aread()))
                self.behind = _number(response.headers.get(PAST, ""))
                pending = bytearray()
                async for chunk in response.aiter_raw():
                    pending += chunk
                    *lines, rest = pending.split(b"\n")
                    pending = bytearray(rest)
                    if len(pending) > LINE_LIMIT:
                        raise SourceGoneError("what answers is not a stack: its lines do not end")
                    for line in lines:
                        if line.strip():
                            self.behind = max(0, self.behind - 1)
                            yield decode(bytes(line))
        except httpx.HTTPError as error:
            raise SourceGoneError(_clause(error)) from error
        raise SourceGoneError("the stack closed the connection")

    async def requests(self, since: float, until: float, limit: int) -> list[JoinedRequest]:
        """What is new. Raises SourceGoneError."""
        del until  # what is live has no future
        try:
            response = await self._client.get("/v1/requests", params={"limit": limit, "since": since})
            if response.status_code != httpx.codes.OK:
                raise SourceGoneError(f"the stack answered {response.status_code}")
            return _requests_decoder.decode(response.content)
        except httpx.HTTPError as error:
            raise SourceGoneError(_clause(error)) from error
        except msgspec.DecodeError as error:
            raise SourceGoneError(f"the stack sent something that is no list of requests ({error})") from error

    async def send(self, command: Command) -> Answer:
        """POST one command."""
        try:
            response = await self._client.post("/v1/commands", content=msgspec.json.encode(command))
            return msgspec.json.decode(response.content, type=Answer)
        except httpx.HTTPError as error:
            return Answer(False, f"The stack did not take it: {_clause(error)}.")
        except msgspec.DecodeError:
            return Answer(False, f"The stack answered {response.status_code}, and not in a form this console reads.")

    def hold(self, still: bool) -> None:
        """Nothing: collecting goes on."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


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


def _clause(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "no stack answers on the socket"
    if isinstance(error, httpx.TimeoutException):
        return "the stack fell silent"
    return "the connection broke off"
