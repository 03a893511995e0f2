"""The site that shows it: one page, its own files, and the ways in. No address but its own is ever named."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
from collections.abc import Awaitable, Collection
from functools import cache
from importlib.resources import files

import msgspec
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from console.web.audience import Audience
from console.web.entry import Entry, Refused, Role, our_host, our_origin

MESSAGE_BYTES = 4096
"""The longest that a viewer may send, on the websocket and as a code."""
TABS = 8
"""Of one cookie, at once."""
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "xterm.js": "text/javascript; charset=utf-8",
    "xterm.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "LICENSE.xterm.txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
GOING_AWAY, TOO_BIG = 1001, 1009


class Me(msgspec.Struct, frozen=True):
    """What the page is told of its visitor and of the picture; of who is not in: null."""

    role: Role
    types: bool
    cells: int
    rows: int


@cache
def _packed(name: str) -> tuple[bytes, bytes, str]:
    """A file as it is, gzipped, and its tag."""
    data = (files("console.web") / "static" / name).read_bytes()
    return data, gzip.compress(data, 9), f'"{hashlib.sha256(data).hexdigest()[:20]}"'


class Guarded:
    """Refuses what does not name us as its host, and gives every answer the site's headers."""

    def __init__(self, app: ASGIApp, names: Collection[str], *, beyond: bool) -> None:
        self._app, self._names, self._beyond = app, names, beyond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in extra if one[0] not in there)]
            await send(message)

        host = HTTPConnection(scope).headers.get("host", "")
        if our_host(host, self._names, beyond=self._beyond):
            await self._app(scope, receive, with_headers)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close()
        else:
            refusal = Response("This console is not served under that name.\n", 421, media_type="text/plain")
            await refusal(scope, receive, with_headers)


class Site:
    """The pages of one served console; `port` tells its cookie from those of others on the same host."""

    def __init__(self, entry: Entry, audience: Audience, port: int, size: tuple[int, int], *, write: bool) -> None:
        self._entry, self._audience = entry, audience
        self._cookie = f"spark_serve_{port}"
        self._size, self._write = size, write
        self._open: dict[str, int] = {}
        self._sockets: set[WebSocket] = set()

    def application(self, names: Collection[str], *, beyond: bool) -> ASGIApp:
        """The ASGI application, for requests whose host is ours."""
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._file),
            Route("/open/{token}", self._by_token, methods=["GET"]),
            Route("/join", self._by_code, methods=["POST"]),
            Route("/me", self._me),
            WebSocketRoute("/watch", self._watch),
        ]
        return Guarded(Starlette(routes=routes), names, beyond=beyond)

    async def close(self) -> None:
        """Say goodbye to everybody."""
        async with asyncio.TaskGroup() as group:
            for socket in list(self._sockets):
                group.create_task(_close(socket, GOING_AWAY, "the console was closed"))

    async def _page(self, request: Request) -> Response:
        return _file_response(request, "index.html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        return _file_response(request, name) if name in TYPES else Response(status_code=404)

    async def _by_token(self, request: Request) -> Response:
        """A link is spent by who follows it: not by HEAD, nor by a browser that loads ahead."""
        headers = request.headers
        if request.method != "GET" or "prefetch" in headers.get("sec-purpose", headers.get("purpose", "")):
            return Response(status_code=405)
        cookie = self._entry.by_token(request.path_params["token"])
        if cookie is None:
            text = "This link has been used, or is not one. A new one: press enter where the console is served.\n"
            return Response(text, 403, media_type="text/plain")
        return self._admitted(RedirectResponse("/", 303), cookie)

    async def _by_code(self, request: Request) -> Response:
        if not our_origin(request.headers.get("origin"), request.headers.get("host", "")):
            return Response("A page of another site asks.\n", 403, media_type="text/plain")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MESSAGE_BYTES:
                return Response(status_code=413)
        address = request.client.host if request.client else ""
        found = self._entry.by_code(body.decode(errors="replace"), address)
        if isinstance(found, Refused):
            again = {} if found.again_s is None else {"Retry-After": str(int(found.again_s) + 1)}
            return Response(found.why, 429 if again else 403, again, "text/plain")
        return self._admitted(Response(status_code=204), found)

    def _admitted(self, response: Response, cookie: str) -> Response:
        response.set_cookie(self._cookie, cookie, httponly=True, samesite="strict", path="/")
        return response

    def _role(self, connection: HTTPConnection) -> Role | None:
        return self._entry.role(connection.cookies.get(self._cookie))

    def _types(self, role: Role) -> bool:
        return self._write and role == "operator"

    async def _me(self, request: Request) -> Response:
        role = self._role(request)
        me = None if role is None else Me(role, self._types(role), *self._size)
        return Response(msgspec.json.encode(me), media_type="application/json")

    async def _watch(self, socket: WebSocket) -> None:
        cookie = socket.cookies.get(self._cookie, "")
        role = self._entry.role(cookie)
        ours = our_origin(socket.headers.get("origin"), socket.headers.get("host", ""))
        if not ours or role is None or self._audience.full or self._open.get(cookie, 0) >= TABS:
            await socket.close()  # before it was accepted: 403
            return
        await socket.accept()
        self._open[cookie] = self._open.get(cookie, 0) + 1
        self._sockets.add(socket)
        viewer = self._audience.join(role, types=self._types(role))
        sending = asyncio.create_task(_quietly(self._audience.watch(viewer, socket.send_bytes)), name="viewer")
        try:
            while (message := await socket.receive())["type"] == "websocket.receive":
                data = message.get("bytes") or (message.get("text") or "").encode()
                self._audience.typed(viewer, data)
        finally:
            self._audience.leave(viewer)
            self._sockets.discard(socket)
            self._open[cookie] -= 1
            if not self._open[cookie]:
                del self._open[cookie]
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending


async def _quietly(sending: Awaitable[None]) -> None:
    """A viewer that left while something was sent to it is no trouble."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await sending


async def _close(socket: WebSocket, code: int, why: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(0.5):
            await socket.close(code, why)


def _file_response(request: Request, name: str) -> Response:
    plain, packed, tag = _packed(name)
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=TYPES[name])
    return Response(plain, headers=headers, media_type=TYPES[name])
