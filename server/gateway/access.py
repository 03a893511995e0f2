"""What is let in at all: paths, methods, host names and keys. Pure."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable

from server.gateway.inbound import Headers
from server.gateway.refusal import Refusal

COMPLETION_ROUTES = frozenset(("/v1/chat/completions", "/v1/completions"))
OTHER_ROUTES = frozenset(("/v1/models", "/health", "/metrics"))


class Access:
    """`hosts`: names that a Host header may have besides IP addresses and localhost; None lets any name in. A page in a
    browser that has its name resolve to this machine is kept out that way, and one that asks from where it is by its Origin:
    without a key only pages of this machine may ask. `api_key`: asked of all that reaches the engine. `engine_key`: what the
    engine itself asks, brought by the gateway; ValueError without a key for the clients, who would all be let in by it.
    """

    def __init__(
        self, *, hosts: Iterable[str] | None = None, api_key: str | None = None, engine_key: str | None = None
    ) -> None:
        self._hosts = None if hosts is None else frozenset(name.lower() for name in hosts) | {"localhost"}
        self._key = None if api_key is None else b"Bearer " + api_key.encode("utf-8")
        if engine_key is not None and api_key is None:
            raise ValueError("a gateway that brings the engine's key needs one of its own")
        self.engine_authorization = None if engine_key is None else b"Bearer " + engine_key.encode("utf-8")
        """What the engine is to be shown instead of the client's."""

    @property
    def has_key(self) -> bool:
        """The client's Authorization is for us, and none of the engine's business."""
        return self._key is not None

    def check(self, method: str, path: str, headers: Headers) -> Refusal | None:
        """Why it stays out; None when it may come in."""
        if not self._knows_host(headers):
            return Refusal(421, "unknown_host", "This gateway does not go by that name.")
        if self._key is None and not all(_is_ours(value) for name, value in headers if name == b"origin"):
            return Refusal(403, "foreign_origin", "A page of another origin may not ask a gateway that has no key.")
        wanted = "POST" if path in COMPLETION_ROUTES else "GET" if path in OTHER_ROUTES else None
        if wanted is None:
            return Refusal(404, "not_found", f"There is no {path} here.")
        if method != wanted:
            return Refusal(405, "method_not_allowed", f"{path} takes {wanted} only.")
        if self._key is not None and path.startswith("/v1/") and not self._has_key(headers, self._key):
            return Refusal(401, "unauthorized", "The API key is missing or wrong.")
        return None

    def _knows_host(self, headers: Headers) -> bool:
        if self._hosts is None:
            return True
        named = [value for name, value in headers if name == b"host"]
        return len(named) == 1 and _is_among(named[0].decode("latin-1"), self._hosts)

    @staticmethod
    def _has_key(headers: Headers, key: bytes) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], key)


def allow(refused: Refusal, path: str) -> Headers:
    """The headers that belong to its status."""
    if refused.status == 405:
        return [(b"allow", b"POST" if path in COMPLETION_ROUTES else b"GET")]
    return [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []


def is_loopback(host: str) -> bool:
    """Only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposed(host: str, key: str | None) -> str:
    """Why a gateway must not listen there; empty where it may."""
    if key or is_loopback(host):
        return ""
    return f"{host} can be reached from other machines: set SPARK_SERVE_API_KEY to a key that clients have to bring"


def _is_ours(origin: bytes) -> bool:
    """An Origin header of a page that this machine serves; `null` is nobody's."""
    scheme, _, authority = origin.decode("latin-1").partition("://")
    host = authority.partition("]")[0][1:] if authority.startswith("[") else authority.partition(":")[0]
    return scheme in {"http", "https"} and is_loopback(host.lower())


def _is_among(authority: str, hosts: frozenset[str]) -> bool:
    """Host header's value: a name or an address, maybe with a port."""
    host = authority.partition("]")[0][1:] if authority.startswith("[") else authority.partition(":")[0]
    if host.lower() in hosts:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
