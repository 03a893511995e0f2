"""Snapshots of several replicas behind one gateway, and of a stack that others watch."""

from __future__ import annotations

from typing import Any

import msgspec
import samples
from samples import LOADED, WALL, V, change

from server.telemetry.snapshot import Audience, Event, Notice, Quantiles, Replica, Replicas, SourceState, Value, Viewer


def replica(name: str, running: float, waiting: float = 0, **more: Any) -> Replica:
    """One of 64 slots at work."""
    figures: dict[str, Any] = {
        "kv_usage": V(running / 64 * 0.31, src="engine"),
        "preemptions_per_min": V(0, src="engine"),
        "prompt_tokens_per_s": V(round(running * 206), src="engine"),
        "generation_tokens_per_s": V(round(running * 60.5), src="engine"),
        "prefix_hit_share": V(0.12, src="engine"),
        "ttft_s": Quantiles(n=240, src="engine", p50=0.08 + waiting * 0.06, p95=0.2, mean=0.1, exact=False),
        "sent": V(running + waiting, src="gateway"),
        **more,
    }
    return Replica(
        name=name,
        url=f"http://127.0.0.1{name.split('/', maxsplit=1)[0]}",
        healthy=True,
        heartbeat_age_s=0.2,
        max_num_seqs=V(64, src="config"),
        running=V(running, src="engine"),
        waiting=V(waiting, src="engine"),
        **figures,
    )


def dead(name: str) -> Replica:
    gone: Value = V(None, src="engine", why="nothing listens there")
    return Replica(
        name=name,
        url=f"http://127.0.0.1{name}",
        answers=False,
        healthy=False,
        why="nothing listens there",
        running=gone,
        waiting=gone,
        kv_usage=gone,
        sent=V(0, src="gateway"),
        out=True,
    )


_FOUR = [replica(":8001", 41), replica(":8002", 39), replica(":8003", 44, 0), replica(":8004", 40)]
_SUM = {
    "attached": True,
    "model_kind": "attached",
    "model": "Qwen/Qwen3-8B",
    "argv": [],
    "log_tail": [],
    "url": "http://127.0.0.1:8001 http://127.0.0.1:8002 http://127.0.0.1:8003 http://127.0.0.1:8004",
    "running": V(164, src="engine"),
    "waiting": V(0, src="engine"),
    "kv_usage": V(0.21, src="engine"),
    "max_num_seqs": V(256, src="config"),
    "generation_tokens_per_s": V(9922, src="engine"),
    "prompt_tokens_per_s": V(33_784, src="engine"),
    "prefix_hit_share": V(0.12, src="engine"),
}

REPLICAS = change(
    LOADED,
    recording_s=None,
    engine=_SUM,
    replicas=Replicas(_FOUR, 4, V(1.07, src="engine", n=20, window_s=9.5), balance="least"),
)

_ONE_GONE = "1 of 4 replicas: :8003 nothing listens there"
ONE_DEAD = change(
    REPLICAS,
    engine={
        "running": V(168, src="engine", why="3 of 4 replicas"),
        "waiting": V(26, src="engine", why="3 of 4 replicas"),
        "max_num_seqs": V(192, src="config", why="3 of 4 replicas"),
        "kv_usage": V(0.31, src="engine", why="3 of 4 replicas"),
    },
    replicas=Replicas(
        [replica(":8001", 52), replica(":8002", 64, 26), dead(":8003"), replica(":8004", 52)],
        3,
        V(1.39, src="engine", n=20, window_s=9.5),
        busiest=":8002",
        balance="round-robin",
    ),
    limit="UNEVEN REPLICAS  :8002 has 64 of 64 slots and 26 waiting, :8001 52 of 64 slots: send to the one with the fewest",
    limit_detail={
        "name": "uneven replicas",
        "because": ":8002 has 64 of 64 slots and 26 waiting, :8001 52 of 64 slots",
        "next_step": "send to the one with the fewest under way",
    },
    sources={**samples.GOOD_SOURCES, "engine": SourceState(True, 0.2, _ONE_GONE)},
)

RANKS = change(
    LOADED,
    recording_s=None,
    engine={"running": V(31, src="engine"), "max_num_seqs": V(128, src="config")},
    replicas=Replicas([replica("rank 0", 16), replica("rank 1", 15)], 2, V(1.03, src="engine", n=20, window_s=9.5)),
)

OPERATOR = Viewer("ada", "pts/3", "operator", WALL - 723)
AUDIENCE = Audience(
    [
        OPERATOR,
        Viewer("ada", "pts/5", "operator", WALL - 65),
        Viewer("grace", "pts/7", "watcher", WALL - 240),
        Viewer("alan", "pts/9", "watcher", WALL - 12),
    ],
    group="class",
    socket="/tmp/spark-serve-watch-1000-1f0c9a2e/stack.sock",
    latest=[
        Notice(WALL - 723, "ada@pts/3", "looks on"),
        Notice(WALL - 300, "ada (verb)", "The group class may watch.", acts=True),
        Notice(WALL - 240, "grace@pts/7", "watches"),
        Notice(WALL - 65, "ada@pts/5", "looks on"),
        Notice(WALL - 33, "ada@pts/3", "Burst +200.", acts=True),
        Notice(WALL - 12, "alan@pts/9", "watches"),
    ],
)
_BURST = Event(samples.AT - 33, WALL - 33, "burst", "burst +200", "b", who="ada@pts/3")
VISITED = change(LOADED, recording_s=None, audience=AUDIENCE, events=[_BURST])
WATCHED = msgspec.structs.replace(VISITED, read_only="you watch ada's stack: only ada acts here")
