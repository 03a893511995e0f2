"""What of a limit is one replica's alone: the one that stands still, the one that is full while others have room. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from server.telemetry.limit_seen import FULL, SeenReplica
from server.telemetry.replicas import notable
from server.telemetry.snapshot import LimitName

SOMEBODY = 0.5
ROOM = 2 / 3
"""Share of its slots under which a replica has room for what waits at another."""
MUCH_FULLER = 0.1
"""KV use above the next one's from which on the pressure is one replica's."""


def stuck(replicas: Sequence[SeenReplica], after_s: float) -> str:
    """One that has work and has made no step for so long, in one clause; empty where there is none."""
    for one in replicas:
        if one.heartbeat_age_s is not None and one.heartbeat_age_s >= after_s:
            return f"{one.name}: {one.running:.0f} running, no step for {one.heartbeat_age_s:.0f} s"
    return ""


def uneven(replicas: Sequence[SeenReplica]) -> tuple[bool, str]:
    """Somebody waits inside one engine while another has room, and the evidence."""
    if len(replicas) < 2:
        return False, "fewer than two replicas answer"
    busiest, idlest = max(replicas, key=lambda one: one.load), min(replicas, key=lambda one: one.load)
    evidence = f"{busiest.name} has {_has(busiest)}, {idlest.name} {_has(idlest)}"
    waits = busiest.waiting >= SOMEBODY
    if busiest.slots is None or idlest.slots is None:
        return waits and notable({one.name: one.load for one in replicas}) == busiest.name, evidence
    full = busiest.running >= FULL * busiest.slots
    return waits and full and idlest.load <= ROOM * idlest.slots, evidence


def _has(one: SeenReplica) -> str:
    slots = "" if one.slots is None else f" of {one.slots:.0f} slots"
    wait = f" and {one.waiting:.0f} waiting" if one.waiting >= SOMEBODY else ""
    return f"{one.running:.0f}{slots}{wait}"


def where(name: LimitName, replicas: Sequence[SeenReplica]) -> str:
    """The replica that a limit of the sum is most about; empty where it is about all of them alike."""
    if len(replicas) < 2:
        return ""
    if name == "KV pressure":
        preempting = [one for one in replicas if one.preemptions_per_min]
        if len(preempting) == 1:
            return preempting[0].name
        fullest, *others = sorted(replicas, key=lambda one: one.kv_peak or 0.0, reverse=True)
        return fullest.name if (fullest.kv_peak or 0.0) >= (others[0].kv_peak or 0.0) + MUCH_FULLER else ""
    if name == "sequence cap":
        return notable({one.name: one.load for one in replicas})
    return ""
