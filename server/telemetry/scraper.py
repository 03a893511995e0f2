"""One HTTP reading of an instrument, and how well the instrument answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from server.telemetry.aging import age
from server.telemetry.snapshot import SourceState

TIMEOUT_S = 1.0
PAGE_LIMIT = 4 * 1024 * 1024
"""Bytes; a page of metrics has some 50 KB."""
LINES_LIMIT = 50_000
"""Of a page: one of vLLM has about 700, and as many again for each further rank."""
AS_IT_IS = {"accept-encoding": "identity"}


class ScrapeError(Exception):
    """One clause on why there is no reading."""


@dataclass(slots=True)
class SourceLog:
    """The last good reading and what is wrong since."""

    last_good: float | None = None
    ok: bool = False
    detail: str = "not asked yet"

    def good(self, at: float, detail: str = "") -> None:
        self.last_good, self.ok, self.detail = at, True, detail

    def bad(self, detail: str) -> None:
        self.ok, self.detail = False, detail

    def state(self, now: float) -> SourceState:
        return SourceState(
            ok=self.ok, age_s=None if self.last_good is None else age(self.last_good, now), detail=self.detail
        )


async def fetch(client: httpx.AsyncClient, url: str) -> tuple[int, str]:
    """The status and text of a page, whole, within a second. Raises ScrapeError."""
    try:
        async with asyncio.timeout(TIMEOUT_S), client.stream("GET", url, headers=AS_IT_IS) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ScrapeError("a compressed page, which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > PAGE_LIMIT:
                    raise ScrapeError(f"more than {PAGE_LIMIT // 1024**2} MB: not a page of metrics")
            return response.status_code, body.decode("utf-8", "replace")
    except (TimeoutError, httpx.TimeoutException):
        raise ScrapeError(f"no answer in {TIMEOUT_S:.0f} s") from None
    except httpx.ConnectError:
        raise ScrapeError("nothing listens there") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ScrapeError(f"not a valid answer ({type(error).__name__})") from None
    finally:
        client.cookies.clear()  # else they would be kept, as many as the other side likes


async def fetch_metrics(client: httpx.AsyncClient, base_url: str) -> str:
    """The text of `/metrics`. Raises ScrapeError."""
    status, text = await fetch(client, base_url.rstrip("/") + "/metrics")
    if status != httpx.codes.OK:
        raise ScrapeError(f"/metrics answers HTTP {status}")
    if not text:
        raise ScrapeError("/metrics is empty")
    if text.lstrip()[:1] == "<":
        raise ScrapeError("/metrics answers with a web page: another service?")
    if not text.endswith("\n"):
        raise ScrapeError("/metrics is cut in the middle of a line")
    if text.count("\n") > LINES_LIMIT:
        raise ScrapeError(f"/metrics has more than {LINES_LIMIT:,} lines")
    return text
