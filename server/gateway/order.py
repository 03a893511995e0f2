"""Those who wait, and who of them goes next. Pure: the caller passes the time."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterator

import msgspec

from server.gateway.policy import Order

USERS_REMEMBERED = 4096
"""Users without a waiting request whose share is still known; beyond it the longest idle is forgotten."""


class Ticket(msgspec.Struct, frozen=True):
    """What the admission knows of a request."""

    user: str = ""
    priority: int = 0
    """Lower goes first."""
    prompt_tokens: int = 0
    """Counted where the prompt is token ids, else estimated."""
    output_tokens: int = 0
    """At most so many will come, as far as is known."""
    deadline: float | None = None
    """Monotonic seconds."""

    @property
    def tokens(self) -> int:
        """What it may hold of the KV cache in the end."""
        return self.prompt_tokens + self.output_tokens


class Waiter(msgspec.Struct, frozen=True):
    """One who waits."""

    key: int
    ticket: Ticket
    since: float
    turn: int
    """Number of its arrival: what decides among equals."""


class Shares:
    """Tokens that each user has had, so that who had least goes next.

    Start-time fair queueing with several in service, SFQ(D): Jin, Chase and Kaur, "Interposed proportional sharing for a
    storage service utility" (SIGMETRICS 2004), with tokens as the cost. What a request is expected to use is charged at
    its dispatch and corrected at its end.
    """

    def __init__(self) -> None:
        self._had: OrderedDict[str, float] = OrderedDict()
        self._floor = 0.0
        """What the user dispatched last had had by then."""

    def join(self, user: str, waiting: Collection[str]) -> None:
        """A user begins to wait. Time away earns no credit: it starts where those who stayed are served now."""
        self._had[user] = max(self.had(user), self._floor)
        self._had.move_to_end(user)
        if len(self._had) > USERS_REMEMBERED + len(waiting) + 1:
            del self._had[next(known for known in self._had if known not in waiting and known != user)]

    def had(self, user: str) -> float:
        return self._had.get(user, 0.0)

    def dispatched(self, user: str, tokens: int) -> None:
        self._floor = self.had(user)
        self.charge(user, tokens)

    def charge(self, user: str, tokens: int) -> None:
        """More, or fewer than were charged before. A user who is forgotten starts anew."""
        if user in self._had:
            self._had[user] += tokens


class Line:
    """The waiting requests. `first` is who goes next, which ageing makes a matter of time too."""

    def __init__(self, order: Order, ageing_s: float | None) -> None:
        self.order = order
        self.ageing_s = ageing_s
        self.shares = Shares()
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()
        self._heap: list[tuple[int, int, int]] = []
        """(rank, turn, key); keys that left are dropped as they come up."""
        self._by_user: dict[str, OrderedDict[int, Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, key: int) -> bool:
        return key in self._waiters

    @property
    def oldest(self) -> Waiter | None:
        return next(iter(self._waiters.values()), None)

    @property
    def users(self) -> int:
        """Different users among those who wait."""
        return len({waiter.ticket.user for waiter in self._waiters.values()})

    def reorder(self, order: Order, ageing_s: float | None) -> None:
        """From now on by another order; nobody leaves and nobody's wait begins anew."""
        self.ageing_s = ageing_s
        if order == self.order:
            return
        self.order = order
        self.shares = Shares()
        self._heap.clear()
        self._by_user.clear()
        for waiter in self._waiters.values():
            self._rank(waiter)

    def add(self, waiter: Waiter) -> None:
        """Who comes later is added later."""
        self._waiters[waiter.key] = waiter
        self._rank(waiter)

    def remove(self, key: int) -> Waiter:
        """Raises KeyError when it doesn't wait."""
        waiter = self._waiters.pop(key)
        if self.order == "fair":
            own = self._by_user[waiter.ticket.user]
            del own[key]
            if not own:
                del self._by_user[waiter.ticket.user]
        elif len(self._heap) > 2 * len(self._waiters) + 64:
            self._heap = [entry for entry in self._heap if entry[2] in self._waiters]
            heapq.heapify(self._heap)
        return waiter

    def first(self, now: float) -> Waiter | None:
        """Who goes next; None when nobody waits."""
        oldest = self.oldest
        if oldest is None or self.order == "fifo" or self.aged(oldest, now):
            return oldest
        if self.order == "fair":
            return min((next(iter(own.values())) for own in self._by_user.values()), key=self._share)
        while self._heap[0][2] not in self._waiters:
            heapq.heappop(self._heap)
        return self._waiters[self._heap[0][2]]

    def aged(self, waiter: Waiter, now: float) -> bool:
        """It has waited so long that it goes before all who have not."""
        return self.ageing_s is not None and self.order != "fifo" and now - waiter.since >= self.ageing_s

    def worst(self) -> Waiter | None:
        """Whom to shed: the worst priority, and of those who came last."""
        return max(self._waiters.values(), key=lambda waiter: (waiter.ticket.priority, waiter.turn), default=None)

    def in_order(self, now: float, count: int) -> list[Waiter]:
        """The first `count`, in the order in which they would go if all went now."""
        aged: list[Waiter] = []
        for waiter in self._waiters.values():  # by arrival, so the aged ones come first
            if len(aged) == count or not (self.order == "fifo" or self.aged(waiter, now)):
                break
            aged.append(waiter)
        if len(aged) == count or self.order == "fifo":
            return aged
        keys = {waiter.key for waiter in aged}
        rest = (waiter for waiter in self._waiters.values() if waiter.key not in keys)
        if self.order == "fair":
            return aged + self._by_shares(list(rest), count - len(aged))
        return aged + heapq.nsmallest(count - len(aged), rest, key=self._place)

    def _by_shares(self, waiters: list[Waiter], count: int) -> list[Waiter]:
        """Plays the dispatches through, each charging its user."""
        queues: dict[str, list[Waiter]] = {}
        for waiter in reversed(waiters):
            queues.setdefault(waiter.ticket.user, []).append(waiter)
        had = {user: self.shares.had(user) for user in queues}
        found: list[Waiter] = []
        while queues and len(found) < count:
            user = min(queues, key=lambda user: (had[user], queues[user][-1].turn))
            waiter = queues[user].pop()
            found.append(waiter)
            had[user] += waiter.ticket.tokens
            if not queues[user]:
                del queues[user]
        return found

    def _rank(self, waiter: Waiter) -> None:
        if self.order == "fair":
            user = waiter.ticket.user
            if user not in self._by_user:
                self.shares.join(user, self._by_user)
                self._by_user[user] = OrderedDict()
            self._by_user[user][waiter.key] = waiter
        elif self.order != "fifo":
            heapq.heappush(self._heap, (*self._place(waiter), waiter.key))

    def _place(self, waiter: Waiter) -> tuple[int, int]:
        ticket = waiter.ticket
        return (ticket.prompt_tokens if self.order == "shortest" else ticket.priority), waiter.turn

    def _share(self, waiter: Waiter) -> tuple[float, int]:
        return self.shares.had(waiter.ticket.user), waiter.turn

    def __iter__(self) -> Iterator[Waiter]:
        """By arrival."""
        return iter(list(self._waiters.values()))
