"""Who may come in. Pure, with a clock.

The operator gets a link with a token of 192 bits that works once: who opens it first is the operator, and a link that was
read over a shoulder or kept in a history is worth nothing.

A class needs one thing that can be read from a projector and typed, which no such token can. So it gets a code of 8 signs
from 30 that are not mistaken for one another (39 bits), good for so many people and so many minutes, and guessing is slowed
down: 5 wrong codes at once and one a second from one address, 100 and 10 a second from all of them. In 30 minutes that is
18,100 guesses in 6.6e11, a chance of 3e-8; the people of a class, who may all come from one address, are not held up,
because a right code is never counted. It opens a picture to look at, nothing else: only the operator can be let type.

Either is exchanged for a cookie of 256 bits, known here by its digest alone, so that no comparison tells how much of a
guess was right. All of it ends with the process.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Role = Literal["operator", "viewer"]

SIGNS = "23456789abcdefghjkmnpqrstuvwxy"
CODE_SIGNS = 8
ONE_ADDRESS = (5.0, 1.0)
"""Wrong codes: so many at once, so many a second."""
ALL_ADDRESSES = (100.0, 10.0)
ADDRESSES = 1024
"""Remembered; the one that was quiet for longest is forgotten first."""


@dataclass(frozen=True)
class Refused:
    """Why somebody does not come in."""

    why: str
    again_s: float | None = None
    """Seconds after which to ask again, where it may be right then."""


class Guesses:
    """A bucket of wrong guesses: `(at once, a second)`."""

    def __init__(self, limit: tuple[float, float], now: float) -> None:
        self._most, self._rate = limit
        self._left, self._at = self._most, now

    def wait_s(self, now: float) -> float:
        """Seconds until one more may be made; 0.0 where it may now."""
        self._left, self._at = min(self._most, self._left + (now - self._at) * self._rate), now
        return max(0.0, (1.0 - self._left) / self._rate)

    def spend(self) -> None:
        """One was made."""
        self._left -= 1.0


class Entry:
    """Tokens, code and cookies of one served console."""

    def __init__(self, people: int, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`people` may come in with one code, within `minutes`."""
        self.people, self.minutes = people, minutes
        self._clock = clock
        self._token = ""
        self._code = ""
        self._code_left, self._code_until = 0, 0.0
        self._roles: dict[bytes, Role] = {}
        self._everybody = Guesses(ALL_ADDRESSES, clock())
        self._addresses: OrderedDict[str, Guesses] = OrderedDict()

    def new_token(self) -> str:
        """The operator's; the one before is void."""
        self._token = secrets.token_urlsafe(24)
        return self._token

    def new_code(self) -> str:
        """The class's, as `k7mf-2qxd`; the one before is void."""
        self._code = "".join(secrets.choice(SIGNS) for _ in range(CODE_SIGNS))
        self._code_left, self._code_until = self.people, self._clock() + self.minutes * 60
        return f"{self._code[:4]}-{self._code[4:]}"

    def by_token(self, token: str) -> str | None:
        """The cookie for an operator's token, which is spent by it."""
        if not self._token or not _same(token, self._token):
            return None
        self._token = ""
        return self._admit("operator")

    def by_code(self, code: str, address: str) -> str | Refused:
        """The cookie for a code, whatever case and dashes it was typed with."""
        now = self._clock()
        own = self._guesses(address, now)
        wait_s = max(own.wait_s(now), self._everybody.wait_s(now))
        if wait_s > 0:
            return Refused("Too many wrong codes; wait a moment.", wait_s)
        typed = "".join(sign for sign in code.lower() if sign not in "- \t")
        right = _same(typed, self._code) and bool(self._code)
        if not right:
            own.spend()
            self._everybody.spend()
            return Refused("That is not the code.")
        if now >= self._code_until:
            return Refused("That code is too old; ask for a new one.")
        if self._code_left <= 0:
            return Refused("As many as it was made for have used that code; ask for a new one.")
        self._code_left -= 1
        return self._admit("viewer")

    def role(self, cookie: str | None) -> Role | None:
        """Whose cookie that is."""
        return self._roles.get(_digest(cookie)) if cookie else None

    def _admit(self, role: Role) -> str:
        cookie = secrets.token_urlsafe(32)
        self._roles[_digest(cookie)] = role
        return cookie

    def _guesses(self, address: str, now: float) -> Guesses:
        found = self._addresses.pop(address, None) or Guesses(ONE_ADDRESS, now)
        self._addresses[address] = found
        if len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)
        return found


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()


def our_host(header: str, names: Collection[str], *, beyond: bool) -> bool:
    """May a request carry this Host header?

    A foreign page whose name was bound to our address (DNS rebinding) sends its own name. Addresses cannot be bound anew, so
    they pass: loopback's, and with `beyond` (we listen beyond it) any. Of names only localhost and `names`. The port is the
    visitor's: a tunnel has another one.
    """
    try:
        host = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if not host or "@" in header:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host in names
    return beyond or address.is_loopback


def our_origin(origin: str | None, host: str) -> bool:
    """Does a page of this very site ask? Every browser says so in `Origin` on a websocket and on a POST."""
    if not origin:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == host.lower() and not parts.path
