"""The engines that are read: (endpoint, rank) rows, who of them answers, and whether the load is spread evenly."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from server.gateway.records import ReplicaState
from server.telemetry.aging import absent, rounded
from server.telemetry.dialects import Dialect
from server.telemetry.engine_series import EngineSeries
from server.telemetry.engine_sum import EngineSum
from server.telemetry.exposition import Sample
from server.telemetry.scraper import SourceLog
from server.telemetry.snapshot import Engine, Quantiles, Replica, Replicas, Value

RANK = "engine"
"""vLLM's label of a data-parallel rank."""
MOST_RANKS = 64
"""Of one page; more are folded into one engine."""
ANSWERS_S = 2.0
"""A reading that failed leaves a member in the sums for so long: a page can be late once."""
FORGOTTEN_S = 60.0
"""A rank that its endpoint's page no longer has is shown as missing for so long."""
IMBALANCE_S = 10.0
UNEVEN = 1.5
UNEVEN_REQUESTS = 2.0
"""The largest load is notable from this many times the mean on, and this many requests above it: of three requests on two
engines one must have more."""


@dataclass
class Member:
    """One rank of one endpoint."""

    series: EngineSeries = field(default_factory=EngineSeries)
    read_at: float = -math.inf


@dataclass
class Endpoint:
    """One address and what is read there."""

    url: str = ""
    metrics: SourceLog = field(default_factory=SourceLog)
    health: SourceLog = field(default_factory=SourceLog)
    healthy: bool | None = None
    members: dict[str, Member] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    endpoint: Endpoint
    rank: str
    member: Member
    name: str
    answers: bool


def by_rank(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each rank of a page. Those without the label are the first one's, where others have it."""
    ranks: dict[str, list[Sample]] = {}
    for sample in samples:
        ranks.setdefault(sample.labels.get(RANK, ""), []).append(sample)
    if len(ranks) > 1 and "" in ranks:
        unlabelled = ranks.pop("")
        ranks[min(ranks, key=_in_order)] += unlabelled
    if len(ranks) > MOST_RANKS:
        return {"": list(samples)}
    return ranks


def _in_order(rank: str) -> tuple[bool, int, str]:
    """0, 1, .. 10, 11; what is no number comes last."""
    number = rank.isdecimal() and len(rank) < 10
    return (not number, int(rank) if number else 0, rank)


def short_names(urls: Sequence[str]) -> list[str]:
    """Each endpoint as short as it can be told from the others: the port where all are of one host."""
    parts = [urlsplit(url) for url in urls]
    one_host = len({part.hostname for part in parts}) == 1
    return [f":{part.port or 80}" if one_host else part.netloc for part in parts]


def notable(loads: Mapping[str, float]) -> str:
    """The name of the one with so much more than its share that it should be said; empty where there is none."""
    if len(loads) < 2:
        return ""
    mean = math.fsum(loads.values()) / len(loads)
    name = max(loads, key=lambda one: loads[one])
    uneven = loads[name] >= UNEVEN * mean and loads[name] - mean >= UNEVEN_REQUESTS
    return name if uneven else ""


class Engines:
    """All of them, by the order in which their endpoints were named. One event loop uses it."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = [Endpoint()]
        self._loads: deque[tuple[float, dict[str, float]]] = deque()

    def name(self, urls: Sequence[str]) -> None:
        """These are the endpoints now, at least one. The place counts, not the address: a way round is the same engine's."""
        while len(self.endpoints) < len(urls):
            self.endpoints.append(Endpoint())
        for endpoint, url in zip(self.endpoints, urls, strict=False):
            endpoint.url = url

    def reset(self) -> None:
        """Other processes answer from here on."""
        self.endpoints = [Endpoint(endpoint.url) for endpoint in self.endpoints]
        self._loads.clear()

    def add(self, place: int, at: float, samples: Sequence[Sample], dialect: Dialect) -> bool:
        """Take one endpoint's page; False when it has nothing of an engine."""
        endpoint = self.endpoints[place]
        found = {rank: reading for rank, of in by_rank(samples).items() if (reading := dialect.read(of))}
        for rank, reading in found.items():
            member = endpoint.members.setdefault(rank, Member())
            member.series.add(at, reading)
            member.read_at = at
        for rank, member in list(endpoint.members.items()):
            if found and at - member.read_at > FORGOTTEN_S:
                del endpoint.members[rank]
        return bool(found)

    def series(self, now: float) -> EngineSeries:
        """The one engine's, or the sum of those that answer."""
        rows = self._rows(now)
        if len(rows) == 1:
            return rows[0].member.series
        return EngineSum([row.member.series for row in rows if row.answers], len(rows))

    @property
    def healthy(self) -> bool | None:
        """Any of them is; None: none was asked."""
        asked = [endpoint.healthy for endpoint in self.endpoints if endpoint.healthy is not None]
        return any(asked) if asked else None

    def log(self, of: str) -> SourceLog:
        """How well all of them answer: `engine` (their /metrics) or `health`."""
        logs = [endpoint.metrics if of == "engine" else endpoint.health for endpoint in self.endpoints]
        if len(logs) == 1:
            return logs[0]
        names = short_names([endpoint.url for endpoint in self.endpoints])
        ill = [f"{name} {log.detail}" for name, log in zip(names, logs, strict=True) if not log.ok]
        last_good = max((log.last_good for log in logs if log.last_good is not None), default=None)
        told = f"{len(ill)} of {len(logs)} replicas: {'; '.join(ill)}" if ill else ""
        return SourceLog(last_good, len(ill) < len(logs), told)

    def replicas(
        self, now: float, slots: Sequence[int | None], gateway: Sequence[ReplicaState], balance: str
    ) -> Replicas | None:
        """A row each; None where there is one engine. `slots`: a rank's, by endpoint."""
        rows = self._rows(now)
        if len(rows) == 1:
            return None
        members = [self._replica(row, now, slots, gateway) for row in rows]
        imbalance, busiest = self._imbalance(members, now)
        return Replicas(
            members=members,
            answering=sum(member.answers for member in members),
            imbalance=imbalance,
            busiest=busiest,
            balance=balance,
        )

    def _rows(self, now: float) -> list[_Row]:
        names = short_names([endpoint.url for endpoint in self.endpoints]) if len(self.endpoints) > 1 else [""]
        rows = []
        for endpoint, name in zip(self.endpoints, names, strict=True):
            members = endpoint.members or {"": Member()}
            several = len(members) > 1
            for rank in sorted(members, key=_in_order):
                member = members[rank]
                called = f"{name}/{rank}" if several and name else f"rank {rank}" if several else name
                answers = now - member.read_at <= ANSWERS_S or (
                    endpoint.metrics.ok and member.read_at == endpoint.metrics.last_good
                )
                rows.append(_Row(endpoint, rank, member, called, answers))
        return rows

    def _replica(self, row: _Row, now: float, slots: Sequence[int | None], gateway: Sequence[ReplicaState]) -> Replica:
        endpoint = row.endpoint
        place = self.endpoints.index(endpoint)
        figures = row.member.series.fill(Engine(), now)
        state = gateway[place] if place < len(gateway) else None
        known = slots[place] if place < len(slots) else None
        shown: dict[str, Value | Quantiles] = {
            name: getattr(figures, name)
            for name in Replica.__struct_fields__
            if isinstance(getattr(figures, name, None), Value | Quantiles)
        }
        if not row.answers:
            shown = {name: _gone(value, endpoint.metrics.detail) for name, value in shown.items()}
        shown["max_num_seqs"] = Value(v=known, src="config", why="" if known else "not known")
        return Replica(
            name=row.name,
            url=endpoint.url,
            rank=row.rank,
            answers=row.answers,
            healthy=endpoint.healthy,
            why=_ill(row),
            heartbeat_age_s=figures.heartbeat_age_s if row.answers else None,
            sent=absent("gateway", "not told") if state is None else Value(v=state.under_way, src="gateway"),
            out=state is not None and state.out,
            **shown,  # type: ignore[arg-type]
        )

    def _imbalance(self, members: Sequence[Replica], now: float) -> tuple[Value, str]:
        loads = {
            member.name: member.running.v + (member.waiting.v or 0.0)
            for member in members
            if member.answers and member.running.v is not None
        }
        if not self._loads or now > self._loads[-1][0]:
            self._loads.append((now, loads))
        while self._loads[0][0] < now - IMBALANCE_S:
            self._loads.popleft()
        means = {
            name: math.fsum(seen) / len(seen)
            for name in loads
            if (seen := [one[name] for _, one in self._loads if name in one])
        }
        if len(means) < 2:
            return absent("engine", "fewer than two replicas answer"), ""
        mean = math.fsum(means.values()) / len(means)
        if mean <= 0:
            return absent("engine", "nothing runs or waits"), ""
        n, window_s = len(self._loads), round(now - self._loads[0][0], 3)
        return Value(v=rounded(max(means.values()) / mean), src="engine", n=n, window_s=window_s), notable(means)


def _gone(value: Value | Quantiles, why: str) -> Value | Quantiles:
    """An old figure of one that does not answer is none."""
    if isinstance(value, Value):
        return absent(value.src, why)
    return Quantiles(src=value.src, window_s=value.window_s, exact=value.exact, why=why)


def _ill(row: _Row) -> str:
    endpoint = row.endpoint
    if not endpoint.metrics.ok:
        return endpoint.metrics.detail
    if not row.answers:
        return "no longer on its endpoint's page"
    return endpoint.health.detail if endpoint.healthy is False else ""


def summed(engine: Engine, replicas: Replicas) -> Engine:
    """The sum's slots: those of all that answer, where each one's are known."""
    each = [member.max_num_seqs.v for member in replicas.members if member.answers]
    slots = [one for one in each if one is not None]
    if len(slots) < len(each) or not slots:
        return engine
    note = (
        ""
        if replicas.answering == len(replicas.members)
        else f"{replicas.answering} of {len(replicas.members)} replicas"
    )
    return msgspec.structs.replace(engine, max_num_seqs=Value(v=math.fsum(slots), src="config", why=note))
