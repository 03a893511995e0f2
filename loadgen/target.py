"""Where the requests go: a URL checked, and what the server there says it serves."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from loadgen.http1 import Headers, Http1Connection
from loadgen.lines import UNREADABLE
from loadgen.sse import error_text

API_KEY = "SPARK_SERVE_API_KEY"
"""The environment variable with the server's API key, which a command line would show to everybody."""


class LoadError(Exception):
    """The load cannot begin; the text is one sentence that says what is wrong and what to do."""


def connect_failure(error: OSError) -> str:
    """Why a connect failed, as one short clause without addresses, so that equal failures count together."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return os.strerror(error.errno).lower() if error.errno else str(error)


@dataclass(frozen=True)
class Target:
    """An OpenAI-compatible server."""

    host: str
    port: int
    prefix: str = ""
    """Path before `/v1`, without a slash at its end."""
    api_key: str | None = None

    @classmethod
    def parse(cls, url: str, api_key: str | None = None) -> Target:
        """Take `http://host[:port][/prefix][/v1]`. Raises LoadError."""
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise LoadError(f"{url!r} is not a URL ({error}); give one like http://127.0.0.1:8101.") from None
        if parts.scheme == "https":
            raise LoadError(f"https is not supported yet ({url}); give the http:// address of the server itself.")
        if parts.scheme != "http" or not parts.hostname:
            raise LoadError(f"{url!r} is not a URL of a server; give one like http://127.0.0.1:8101.")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise LoadError(f"{url!r} has characters a URL cannot have; give one like http://127.0.0.1:8101.")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise LoadError("The API key has characters a header cannot have.")
        return cls(parts.hostname, port or 80, parts.path.rstrip("/").removesuffix("/v1").rstrip("/"), api_key)

    @property
    def url(self) -> str:
        return f"http://{self._authority}{self.prefix}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def headers(self) -> Headers:
        """What every request to it carries."""
        headers = [(b"host", self._authority.encode("ascii")), (b"connection", b"close")]
        if self.api_key is not None:
            headers.append((b"authorization", b"Bearer " + self.api_key.encode("ascii")))
        return headers


class _Answer:
    """Keeps one whole response; a ResponseHandler."""

    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self.data = bytearray()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves to why it failed; empty when it did not."""

    def headers(self, status: int, headers: Headers, at: float) -> None:
        self.status = status
        self.content_type = dict(headers).get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()

    def body(self, data: bytes, at: float) -> None:
        self.data += data

    def end(self, at: float) -> None:
        if not self.over.done():
            self.over.set_result("")

    def failed(self, reason: str, at: float) -> None:
        if not self.over.done():
            self.over.set_result(reason)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def ask_models(target: Target, timeout_s: float = 10.0) -> list[str]:
    """The ids `/v1/models` lists, at least one. Raises LoadError when the answer is not an OpenAI-compatible server's."""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _get(target, "/v1/models", timeout_s)
    except TimeoutError:
        raise LoadError(f"Nothing answered at {target.url} within {timeout_s:g} s.") from None
    except OSError as error:
        raise LoadError(f"Nothing answers at {target.url} ({connect_failure(error)}); is the server up?") from None
    if failure := answer.over.result():
        raise LoadError(f"{target.url} does not answer as a web server: {failure}.")
    if answer.content_type == "text/html":
        raise LoadError(
            f"{target.url}/v1/models answered with a page of HTML; this is not an OpenAI-compatible server."
        )
    if answer.status in {401, 403}:
        raise LoadError(f"{target.url} wants an API key (HTTP {answer.status}).")
    if answer.status != 200:
        detail = error_text(bytes(answer.data))
        raise LoadError(
            f"{target.url}/v1/models answered HTTP {answer.status}{f' ({detail})' if detail else ''}; "
            "is this an OpenAI-compatible server, and is it ready?"
        )
    try:
        models = msgspec.json.decode(bytes(answer.data), type=_Models)
    except UNREADABLE:
        raise LoadError(f"{target.url}/v1/models is not an OpenAI-compatible list of models.") from None
    if not models.data:
        raise LoadError(f"{target.url} serves no model.")
    return [model.id for model in models.data]


async def get_text(target: Target, path: str, timeout_s: float = 5.0) -> str:
    """One page as text. Raises LoadError when there is none."""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _get(target, path, timeout_s)
    except (TimeoutError, OSError):
        raise LoadError(f"{target.url}{path} does not answer.") from None
    if answer.over.result() or answer.status != 200:
        raise LoadError(f"{target.url}{path} answered HTTP {answer.status}.")
    return bytes(answer.data).decode("utf-8", "replace")


async def _get(target: Target, path: str, timeout_s: float) -> _Answer:
    connection = await Http1Connection.open(target.host, target.port, timeout=timeout_s)
    try:
        answer = _Answer()
        connection.request("GET", target.prefix + path, target.headers(), b"", answer)
        await answer.over
    finally:
        connection.abort()
    return answer
