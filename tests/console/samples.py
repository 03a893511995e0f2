"""Snapshots of stacks in every state the cockpit has to show, with figures as they were seen on real machines."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from loadgen.capacity import Answer, Block, Point, Progress, Question
from loadgen.profile import Profile
from loadgen.prompts import Mix
from server.gateway.policy import Policy
from server.gateway.records import QueuedRequest
from server.telemetry.snapshot import (
    ActiveFault,
    Breakdown,
    ColdStart,
    Engine,
    Event,
    Feel,
    Gpu,
    Host,
    Little,
    Meanwhile,
    People,
    Quantiles,
    Queue,
    Snapshot,
    SourceState,
    StageTime,
    StartStage,
    Value,
    Verdict,
)

AT = 50_000.0
WALL = 1_795_445_000.0
"""2026-11-23 14:43:20 UTC."""

V = Value


def stat(v: float | None, n: int = 750, src: Any = "gateway", **more: Any) -> Value:
    """A windowed reading."""
    return Value(v, src=src, n=n, window_s=30.0, **more)


STAGES: tuple[tuple[str, float, str, float | None], ...] = (
    # name, seconds, detail, the engine's own figure
    ("spawn and imports", 7.0, "", None),
    ("model inspection", 18.0, "", None),
    ("engine spawn", 23.0, "", None),
    ("worker spawn", 3.0, "", None),
    ("weights", 2.0, "15.3 GiB", 2.5),
    ("compile", 33.0, "", 33.3),
    ("profile and KV", 3.0, "51.2 GiB · 372 000 tokens", None),
    ("graph capture", 7.0, "1 GiB", 7.0),
    ("warm-up", 20.0, "", None),
    ("HTTP", 2.0, "", None),
)


def start_stages(factor: float = 1.0, until: float = math.inf, lead_s: float = 0.0) -> list[StartStage]:
    """The stages of a start, `factor` times as long, as seen `until` seconds after it began; `lead_s` for the old engine."""
    stages, begin = [], lead_s
    if lead_s:
        stages.append(StartStage("old engine leaves", 0.0, lead_s))
    for name, seconds, detail, own in STAGES:
        if begin > until:
            break
        end = begin + seconds * factor
        over = end <= until
        stages.append(StartStage(name, begin, end if over else None, detail if over else "", own if over else None))
        begin = end
    return stages


H100 = Engine(
    phase="ready",
    model="qwen3-8b",
    model_kind="shape",
    version="0.24.0",
    device="NVIDIA H100 80GB HBM3",
    url="http://127.0.0.1:8100",
    pid=4242,
    argv=[
        "vllm",
        "serve",
        "/models/qwen3-8b",
        "--load-format",
        "dummy",
        "--max-num-seqs",
        "64",
        "--max-num-batched-tokens",
        "8192",
        "--enable-mfu-metrics",
        "--otlp-traces-endpoint",
        "http://127.0.0.1:8102/v1/traces",
    ],
    max_num_seqs=V(64, src="config"),
    max_num_batched_tokens=V(8192, src="config"),
    max_model_len=V(4096, src="config"),
    kv_tokens=V(372_000, src="engine"),
    healthy=True,
    heartbeat_age_s=0.2,
    stage_times="otlp",
    running=V(62, src="engine"),
    waiting=V(0, src="engine"),
    kv_usage=V(0.29, src="engine"),
    preemptions_per_min=V(0, src="engine"),
    prompt_tokens_per_s=V(12_800, src="engine"),
    generation_tokens_per_s=V(3752, src="engine"),
    tokens_per_step=V(460, src="engine"),
    steps_per_s=V(58.2, src="engine"),
    prefix_hit_share=V(0.12, src="engine"),
    ttft_s=Quantiles(n=748, src="engine", p50=0.13, p95=0.24, p99=0.3, mean=0.14, exact=False),
    queue_s=Quantiles(n=748, src="trace", mean=0.002),
    prefill_s=Quantiles(n=748, src="trace", mean=0.10, p50=0.09, p95=0.18),
    decode_s=Quantiles(n=748, src="trace", mean=2.40),
    front_end_s=V(0.031, src="engine"),
    flops_per_s=V(3.1e14, src="engine"),
    bytes_per_s=V(1.2e12, src="engine"),
    start=ColdStart(
        "process-cold",
        120.6,
        True,
        start_stages(lead_s=2.6),
        start_stages(1.03),
        previous_kind="first start",
        clears="the processes, the KV cache and the GPU's memory",
        keeps="compiled graphs, and all files that the kernel holds in memory",
        init_s=64.6,
        kinds={
            "first start": {name: round(seconds * 1.03, 1) for name, seconds, *_ in STAGES},
            "process-cold": {"old engine leaves": 2.6, **{name: seconds for name, seconds, *_ in STAGES}},
        },
        meanwhile=Meanwhile("load", finished=311, refused=12, cut=61, missed=298),
    ),
    log_tail=[
        "(APIServer pid=474) INFO 11-23 14:28:35 [api_server.py:581] Starting vLLM server on http://127.0.0.1:8100",
        "(APIServer pid=474) WARNING 11-23 14:28:36 [x.py:7] Something to know",
        "(APIServer pid=474) INFO:     Application startup complete.",
    ],
)

GPU = Gpu(
    index=0,
    name="NVIDIA H100 80GB HBM3",
    busy=V(1.0, src="nvml"),
    sm_active=V(0.901, src="gpm"),
    sm_occupancy=V(0.181, src="gpm"),
    tensor=V(0.583, src="gpm"),
    dram=V(0.412, src="gpm"),
    power_w=V(685, src="nvml"),
    power_limit_w=V(700, src="nvml"),
    sm_clock_mhz=V(1755, src="nvml"),
    temp_c=V(64, src="nvml"),
    mem_used_bytes=V(74.2 * 2**30, src="nvml"),
    mem_total_bytes=V(79.6 * 2**30, src="nvml"),
    mfu=V(0.31, src="engine"),
    mbu=V(0.36, src="engine"),
)

HOST = Host(
    cores=16,
    cpu_share=V(0.21, src="host"),
    mem_available_bytes=V(101.0 * 2**30, src="host"),
    mem_total_bytes=V(128.0 * 2**30, src="host"),
    engine_cpu_cores=V(1.92, src="host"),
    gateway_cpu_cores=V(0.34, src="host"),
    load_cpu_cores=V(0.41, src="host"),
    stack_cpu_cores=V(0.06, src="host"),
)

GOOD_SOURCES = {
    "engine": SourceState(True, 0.3),
    "gateway": SourceState(True, 0.1),
    "load": SourceState(True, 0.2),
    "gpu": SourceState(True, 0.2),
}

BURST = Event(AT - 24, WALL - 24, "burst", "burst +200", "b")
SLOW = Event(AT - 61, WALL - 61, "slow", "3 slow readers", "s")

WAITING = [
    QueuedRequest(f"r{place:05}", user, priority, prompt, output, waited)
    for place, (user, priority, prompt, output, waited) in enumerate(
        (
            ("person-17", 0, 512, 128, 1.1),
            ("person-203", 0, 448, 128, 0.9),
            ("key 5f0c31aa", 0, 2310, 512, 0.7),
            ("person-88", 0, 512, 128, 0.6),
            ("person-17", 0, 64, 32, 0.5),
            ("person-140", -1, 512, 128, 0.5),
            ("person-9", 0, 96, 128, 0.4),
            ("person-251", 0, 512, 128, 0.3),
            ("person-31", 5, 512, 128, 0.2),
            ("person-12", 0, 512, 128, 0.1),
        )
    )
]

LOADED = Snapshot(
    seq=1446,
    at=AT,
    wall=WALL,
    uptime_s=723,
    recording_s=250,
    verdict=Verdict("GOOD", "273 people, 97 % of 750 requests good", 243, stat(0.97)),
    people=People(
        mode="closed",
        people=V(273, src="load"),
        thinking=V(198, src="load"),
        slow=V(3, src="load"),
        in_flight=V(75, src="load"),
        held=V(3, src="load"),
        sent_per_s=stat(25.0, src="load"),
        sent_total=18_075,
        outcomes={"ok": 17_944, "rejected": 54, "error": 1, "abandoned": 1},
        loop_lag_ms=V(1.1, src="load"),
        cpu_share=V(0.41, src="load"),
        crowds={"patient": 270, "slow": 3},
        wanted=270,
        extras={"slow": 3},
        amplification=stat(1.0, 750, "load"),
        left_per_min=Value(0.0, src="load", window_s=30.0),
    ),
    queue=Queue(
        url="http://127.0.0.1:8101",
        depth=V(10, src="gateway"),
        in_flight=V(64, src="gateway"),
        max_in_flight=V(64, src="config"),
        max_queue=V(256, src="config"),
        oldest_s=V(1.1, src="gateway"),
        wait_s=Quantiles(n=750, src="gateway", mean=0.40, p50=0.33, p95=0.9),
        arrivals_per_s=stat(25.0),
        refused_share=stat(0.003),
        failed_share=stat(0.0),
        held=V(3, src="gateway"),
        buffered_bytes=V(49_152, src="gateway"),
        connections=V(75, src="gateway"),
        arrived_total=18_075,
        rules=Policy(max_in_flight=64, max_queue=256),
        why="slots",
        first=WAITING,
        first_age_s=0.2,
        limit=V(64, src="gateway"),
        token_budget=V(None, src="gateway", why="the limit is not by tokens"),
        tokens_in_flight=V(29_140, src="gateway"),
        estimated_wait_s=V(0.4, src="gateway"),
        drain_per_s=V(24.6, src="gateway"),
        users_waiting=V(9, src="gateway"),
    ),
    engine=H100,
    feel=Feel(
        ttft_s=Quantiles(n=750, mean=0.38, p50=0.31, p95=0.84, p99=1.2, max=1.4),
        tpot_s=Quantiles(n=750, mean=0.0168, p50=0.016, p95=0.021, p99=0.038),
        gap_s=Quantiles(n=95_213, mean=0.017, p50=0.015, p95=0.044, p99=0.121),
        e2e_s=Quantiles(n=750, mean=2.94, p50=2.8, p95=4.1, p99=5.2),
        tokens_per_s=stat(3750, src="load"),
        attainment=stat(0.97, src="load"),
        goodput_per_s=stat(24.3, src="load"),
    ),
    breakdown=Breakdown(
        e2e_s=2.94,
        n=742,
        stages=[
            StageTime("connect", 0.001, 742),
            StageTime("accept", 0.001, 742),
            StageTime("queue", 0.398, 742),
            StageTime("front end", 0.030, 742),
            StageTime("engine queue", 0.002, 742),
            StageTime("prefill", 0.100, 742),
            StageTime("decode", 2.382, 742),
            StageTime("drain", 0.016, 742),
            StageTime("unattributed", 0.010, 742),
        ],
    ),
    little=Little(73.5, 73.1, n=1500),
    gpus=[GPU],
    host=HOST,
    events=[SLOW, BURST],
    sources=GOOD_SOURCES,
)


def change(snapshot: Snapshot, **parts: Any) -> Snapshot:
    """A snapshot with fields replaced: a dict is applied to the struct that stands there."""
    made = {}
    for name, new in parts.items():
        old = getattr(snapshot, name)
        made[name] = (
            msgspec.structs.replace(old, **new) if isinstance(new, dict) and isinstance(old, msgspec.Struct) else new
        )
    return msgspec.structs.replace(snapshot, **made)


FAULTY = change(
    LOADED,
    faults=[
        ActiveFault("latency", "latency 500 ms on engine", "i", 12.0, 18.0, {"ms": 500.0, "on": "engine"}),
        ActiveFault("pause", "engine core paused", "i", 2.0, 4.0, {"process": "engine-core"}),
    ],
)
"""Two faults last."""

LONG = QueuedRequest("r00031", "reader", 0, 5_688, 512, 6.3)
BY_TOKENS = change(
    LOADED,
    queue={
        "rules": Policy(limit="tokens", token_budget=40_000, max_in_flight=64, max_queue=256),
        "why": "tokens",
        "first": [LONG, *WAITING[1:]],
        "in_flight": V(31, src="gateway"),
        "oldest_s": V(6.5, src="gateway"),
        "token_budget": V(40_000, src="gateway"),
        "tokens_in_flight": V(36_900, src="gateway"),
        "estimated_wait_s": V(2.1, src="gateway"),
        "drain_per_s": V(4.7, src="gateway"),
    },
    engine={"running": V(31, src="engine")},
)
"""A long one at the head of a fifo keeps back nine who would fit."""
ADAPTIVE = change(
    LOADED,
    queue={
        "policy": "shortest",
        "rules": Policy(order="shortest", limit="adaptive", max_in_flight=64),
        "why": "adaptive",
        "first": [
            msgspec.structs.replace(WAITING[2], aged=True, waited_s=31.0),
            *sorted(WAITING[3:], key=lambda r: r.prompt_tokens),
        ],
        "in_flight": V(18, src="gateway"),
        "limit": V(18, src="gateway"),
    },
    engine={"running": V(18, src="engine")},
)
HELD = change(LOADED, queue={"why": "engine", "in_flight": V(0, src="gateway"), "oldest_s": V(14.0, src="gateway")})
PLAIN = change(
    LOADED,
    queue={
        "policy": "plain shortest",
        "rules": Policy(order="shortest", ageing_s=None, overload="shed", deadline_s=30.0),
    },
)

NOBODY = People(
    mode="closed",
    people=V(0, src="load"),
    thinking=V(0, src="load"),
    slow=V(0, src="load"),
    in_flight=V(0, src="load"),
    held=V(0, src="load"),
    sent_per_s=stat(0.0, 0),
)
NOTHING_FELT = Feel(tokens_per_s=stat(0.0, 0, "load"))

IDLE = change(
    LOADED,
    recording_s=None,
    verdict=Verdict("IDLE", "nobody is asking", 40),
    people=NOBODY,
    queue={
        "depth": V(0, src="gateway"),
        "in_flight": V(0, src="gateway"),
        "why": "",
        "first": [],
        "first_age_s": None,
        "estimated_wait_s": V(None, why="no rate is known yet"),
        "drain_per_s": V(None, why="nothing has finished in this busy period"),
        "tokens_in_flight": V(0, src="gateway"),
        "users_waiting": V(0, src="gateway"),
        "oldest_s": V(None, why="nobody waits"),
        "arrivals_per_s": stat(0.0, 0),
        "wait_s": Quantiles(src="gateway"),
        "refused_share": V(None, why="nothing arrived in the window"),
        "failed_share": V(),
        "held": V(0, src="gateway"),
    },
    engine={
        "running": V(0, src="engine"),
        "kv_usage": V(0.0, src="engine"),
        "generation_tokens_per_s": V(0, src="engine"),
        "prompt_tokens_per_s": V(0, src="engine"),
        "tokens_per_step": V(None, why="no step in the window"),
        "steps_per_s": V(0, src="engine"),
        "heartbeat_age_s": None,
        "front_end_s": V(None, why="nothing finished"),
        "prefill_s": Quantiles(src="trace"),
        "queue_s": Quantiles(),
    },
    feel=NOTHING_FELT,
    breakdown=Breakdown(why="no request has finished in the last 30 s"),
    little=Little(),
    gpus=[
        msgspec.structs.replace(
            GPU,
            busy=V(0.0, src="nvml"),
            sm_active=V(0.0, src="gpm"),
            sm_occupancy=V(0.0, src="gpm"),
            tensor=V(0.0, src="gpm"),
            dram=V(0.0, src="gpm"),
            power_w=V(118, src="nvml"),
            temp_c=V(38, src="nvml"),
            mfu=V(0.0),
            mbu=V(0.0),
        )
    ],
    events=[],
)

QUEUE_FULL = change(
    LOADED,
    verdict=Verdict("BROKEN", "61 % of 822 requests good: the queue is full and refuses", 12, stat(0.61)),
    people={"in_flight": V(320, src="load"), "outcomes": {"ok": 18_044, "rejected": 214, "abandoned": 9}},
    queue={
        "depth": V(256, src="gateway"),
        "oldest_s": V(9.8, src="gateway"),
        "refused_share": stat(0.231),
        "failed_share": stat(0.004),
        "arrivals_per_s": stat(31.4),
    },
    engine={"running": V(64, src="engine"), "kv_usage": V(0.34, src="engine")},
    feel={
        "ttft_s": Quantiles(n=611, mean=5.9, p50=6.1, p95=10.2, p99=10.9),
        "e2e_s": Quantiles(n=611, mean=8.42, p50=8.6, p95=12.4, p99=13.1),
        "attainment": stat(0.61, 822),
        "goodput_per_s": stat(16.2),
    },
    breakdown={
        "e2e_s": 8.42,
        "n": 611,
        "stages": [
            StageTime("connect", 0.001, 611),
            StageTime("accept", 0.002, 611),
            StageTime("queue", 5.81, 611),
            StageTime("front end", 0.036, 611),
            StageTime("engine queue", 0.004, 611),
            StageTime("prefill", 0.121, 611),
            StageTime("decode", 2.41, 611),
            StageTime("drain", 0.018, 611),
            StageTime("unattributed", 0.018, 611),
        ],
    },
    little=Little(191.0, 214.0, n=640),
    events=[
        SLOW,
        Event(AT - 13, WALL - 13, "burst", "burst +256", "b"),
        Event(AT - 12, WALL - 12, "full", "queue full, refusing", "f"),
    ],
)

_ALL_KINDS = dict(H100.start.kinds)
_CLEARED = {"old engine leaves": 2.6, "clearing": 0.1, **_ALL_KINDS["process-cold"]}
_ALL_KINDS["compile-cold"] = {**_CLEARED, "model inspection": 41.0, "compile": 88.0}
_ALL_KINDS["disk-cold"] = {**_CLEARED, "clearing": 0.4, "weights": 17.5}
COMPARED = change(
    LOADED,
    engine={
        "start": msgspec.structs.replace(
            H100.start,
            kind="disk-cold",
            stages=[
                StartStage("old engine leaves", 0.0, 2.6),
                StartStage("clearing", 2.6, 3.0),
                *start_stages(lead_s=3.0)[1:],
            ],
            clears="the processes, and the weights' pages in the kernel's memory (posix_fadvise)",
            keeps="compiled graphs, imported code in memory, and what a disk or a host below this machine caches",
            note="15.26 GiB evicted, 0 % of it still in memory",
            kinds=_ALL_KINDS,
        )
    },
)

DOWN = change(
    QUEUE_FULL,
    verdict=Verdict("DOWN", "the engine died 6 s ago", 6),
    engine={
        "phase": "down",
        "healthy": False,
        "pid": None,
        "heartbeat_age_s": None,
        "error": "The engine exited by itself (EngineCore died: CUDA error: an illegal memory access was encountered).",
        "running": V(None, why="the engine is down"),
        "kv_usage": V(None, why="the engine is down"),
        "waiting": V(None),
        "start": ColdStart("process-cold", 118.0, True, start_stages(), start_stages(1.03)),
        "log_tail": ["(EngineCore pid=687) ERROR 11-23 14:40:01 [core.py:1] RuntimeError: an illegal memory access"],
    },
    queue={"depth": V(117, src="gateway"), "refused_share": stat(0.4)},
    sources={**GOOD_SOURCES, "engine": SourceState(False, 6.2, "connection refused")},
    events=[BURST, Event(AT - 6, WALL - 6, "died", "engine died", "x")],
)

CRASHED = change(
    DOWN,
    verdict=Verdict(
        "DOWN", "The engine ended by itself (killed by SIGKILL); starting it again in 2 s, death 2 in a row.", 1
    ),
    engine={
        "error": "The engine ended by itself (killed by SIGKILL); starting it again in 2 s, death 2 in a row. "
        "`spark-serve logs` tells more.",
        "again_in_s": 1.4,
    },
)

NO_STEP = change(
    LOADED,
    engine={
        "heartbeat_age_s": 14.0,
        "steps_per_s": V(0, src="engine"),
        "generation_tokens_per_s": V(0, src="engine"),
        "tokens_per_step": V(None, why="no step"),
    },
)

STALLED = change(
    LOADED,
    verdict=Verdict("STALLED", "62 running, and no step for 74 s", 14),
    engine={
        "heartbeat_age_s": 74.0,
        "steps_per_s": V(0, src="engine"),
        "generation_tokens_per_s": V(0, src="engine"),
        "tokens_per_step": V(None, why="no step"),
    },
    feel={"tokens_per_s": stat(0.0, src="load")},
    gpus=[
        msgspec.structs.replace(
            GPU,
            tensor=V(0.0, src="gpm"),
            dram=V(0.0, src="gpm"),
            sm_active=V(0.0, src="gpm"),
            power_w=V(121, src="nvml"),
            busy=V(0.0, src="nvml"),
        )
    ],
    queue={"depth": V(88, src="gateway"), "oldest_s": V(14.2, src="gateway")},
)

STARTING = change(
    IDLE,
    uptime_s=71,
    verdict=Verdict("STARTING", "the engine starts: compile", 71),
    people=msgspec.structs.replace(NOBODY, people=V(16, src="load"), in_flight=V(16, src="load")),
    queue={"depth": V(16, src="gateway"), "oldest_s": V(60.2, src="gateway")},
    engine={
        "phase": "starting",
        "healthy": False,
        "running": V(None, why="the engine starts"),
        "kv_usage": V(None, why="the engine starts"),
        "start": ColdStart(
            "compile-cold",
            71.0,
            False,
            start_stages(1.03, 71.0, 3.0),
            start_stages(lead_s=2.6),
            previous_kind="process-cold",
            clears="the processes, and every compiled graph and kernel: new, empty caches (yours stay as they are)",
            keeps="weights and code in memory, the GPU driver's own cache",
            left_s=47.2,
            meanwhile=Meanwhile("load", waiting=16, oldest_s=60.2, finished=9, refused=2, cut=7, missed=25),
        ),
        "log_tail": [
            "(EngineCore pid=687) INFO 11-23 14:27:40 [backends.py:1148] Dynamo bytecode transform time: 10.28 s"
        ],
    },
    events=[Event(AT - 71, WALL - 71, "restart", "cold restart (compile-cold)", "c")],
)

NO_ENGINE = Snapshot(
    seq=4,
    at=AT,
    wall=WALL,
    uptime_s=2,
    verdict=Verdict("DOWN", "no engine is installed"),
    engine=Engine(
        phase="no_engine",
        error="No vLLM is installed for this machine. `spark-serve engine install` makes an environment for it (about 3.5 GB).",
    ),
    people=NOBODY,
    host=msgspec.structs.replace(
        HOST, engine_cpu_cores=V(None, why="no engine runs"), gateway_cpu_cores=V(0.01, src="host")
    ),
    gpu_note="no NVIDIA driver on this machine",
    sources={"engine": SourceState(False, None, "not installed")},
)

WRONG_SERVICE = change(
    NO_ENGINE,
    verdict=Verdict("DOWN", "what answers is not an engine"),
    engine=Engine(
        phase="failed",
        attached=True,
        url="http://127.0.0.1:3000",
        error="http://127.0.0.1:3000 answers with a page of HTML, not with an OpenAI-compatible API. Is it the engine's address?",
    ),
    read_only="somebody else's engine: --drive allows load on it",
    sources={"engine": SourceState(False, None, "no metrics there")},
)


def _old(value: Value, age_s: float = 8.0) -> Value:
    return msgspec.structs.replace(value, age_s=age_s)


STALE = change(
    LOADED,
    verdict=Verdict("GOOD", "96 % of 733 requests good; the engine's own figures are 8 s old", 31, stat(0.96)),
    engine={
        name: _old(getattr(H100, name))
        for name in (
            "running",
            "waiting",
            "kv_usage",
            "preemptions_per_min",
            "prompt_tokens_per_s",
            "generation_tokens_per_s",
            "tokens_per_step",
            "steps_per_s",
            "prefix_hit_share",
        )
    },
    gpus=[msgspec.structs.replace(GPU, mfu=_old(GPU.mfu), mbu=_old(GPU.mbu))],
    sources={**GOOD_SOURCES, "engine metrics": SourceState(False, 8.0, "timed out")},
)

CPU_ENGINE = {
    "model": "SmolLM2-135M-Instruct",
    "model_kind": "embedded",
    "version": "0.32.0",
    "device": "CPU",
    "max_num_seqs": V(8, src="config"),
    "running": V(4, src="engine"),
    "kv_usage": V(0.06, src="engine"),
    "generation_tokens_per_s": V(63, src="engine"),
    "tokens_per_step": V(4.2, src="engine"),
    "steps_per_s": V(15.1, src="engine"),
    "prompt_tokens_per_s": V(41, src="engine"),
    "max_num_batched_tokens": V(2048, src="config"),
    "kv_tokens": V(46_000, src="engine"),
    "stage_times": "in-band",
    "front_end_s": V(0.012, src="engine"),
    "waiting": V(0, src="engine"),
}

CPU = change(
    LOADED,
    recording_s=None,
    uptime_s=192,
    verdict=Verdict("UNKNOWN", "11 requests in 30 s: too few to judge", 0, stat(None, 11)),
    people={
        "people": V(4, src="load"),
        "thinking": V(1, src="load"),
        "in_flight": V(3, src="load"),
        "slow": V(0, src="load"),
        "held": V(0, src="load"),
        "outcomes": {"ok": 58},
    },
    queue={
        "depth": V(0, src="gateway"),
        "oldest_s": V(None, why="nobody waits"),
        "arrivals_per_s": stat(0.37, 11),
        "refused_share": stat(0.0, 11),
        "held": V(0, src="gateway"),
    },
    engine=CPU_ENGINE,
    feel=Feel(
        ttft_s=Quantiles(n=11, mean=0.61, p50=0.55),
        tpot_s=Quantiles(n=11, mean=0.047, p50=0.047),
        gap_s=Quantiles(n=702, mean=0.047, p50=0.046, p95=0.061, p99=0.34),
        e2e_s=Quantiles(n=11, mean=3.71, p50=3.6),
        tokens_per_s=stat(24, 11, "load"),
    ),
    breakdown=Breakdown(
        e2e_s=3.71,
        n=11,
        stages=[
            StageTime("connect", 0.001, 11),
            StageTime("accept", 0.001, 11),
            StageTime("queue", 0.0, 11),
            StageTime("front end", 0.012, 11),
            StageTime("engine queue", 0.001, 11),
            StageTime("prefill", 0.52, 11),
            StageTime("decode", 3.17, 11),
            StageTime("drain", 0.002, 11),
            StageTime("unattributed", 0.003, 11),
        ],
    ),
    little=Little(1.37, 1.4, n=24),
    gpus=[],
    gpu_note="no NVIDIA driver on this machine",
    host=Host(
        cores=2,
        cpu_share=V(0.83, src="host"),
        mem_available_bytes=V(5.1 * 2**30, src="host"),
        mem_total_bytes=V(15.6 * 2**30, src="host"),
        engine_cpu_cores=V(1.41, src="host"),
        gateway_cpu_cores=V(0.03, src="host"),
        load_cpu_cores=V(0.04, src="host"),
        stack_cpu_cores=V(0.05, src="host"),
    ),
    events=[],
)

_NO_GPM = "this driver gives no GPM counters for GB10"
GB10 = change(
    LOADED,
    recording_s=None,
    engine={"device": "NVIDIA GB10", "max_num_seqs": V(16, src="config"), "running": V(9, src="engine")},
    gpus=[
        Gpu(
            index=0,
            name="NVIDIA GB10",
            busy=V(0.96, src="nvml"),
            sm_active=V(None, why=_NO_GPM),
            sm_occupancy=V(None, why=_NO_GPM),
            tensor=V(None, why=_NO_GPM),
            dram=V(None, why=_NO_GPM),
            power_w=V(58, src="nvml"),
            power_limit_w=V(None, why="not reported"),
            sm_clock_mhz=V(2411, src="nvml"),
            temp_c=V(61, src="nvml"),
            mem_used_bytes=V(98.2 * 2**30, src="host"),
            mem_total_bytes=V(119.6 * 2**30, src="host"),
            unified=True,
            mfu=V(0.22),
            mbu=V(0.81),
        )
    ],
    host={"mem_available_bytes": V(21.4 * 2**30, src="host"), "mem_total_bytes": V(119.6 * 2**30, src="host")},
)

READ_ONLY = change(
    LOADED,
    recording_s=None,
    read_only="somebody else's engine: --drive allows load on it",
    engine={
        "attached": True,
        "model_kind": "attached",
        "model": "Qwen/Qwen3-8B",
        "max_num_seqs": V(64, src="config", why="a guess: the engine does not say"),
    },
    people=People(),
    queue={
        "arrivals_per_s": stat(None, why="traffic bypasses our gateway"),
        "depth": V(None, why="traffic bypasses our gateway"),
        "oldest_s": V(),
        "refused_share": V(),
        "held": V(),
        "in_flight": V(),
    },
    verdict=Verdict("UNKNOWN", "traffic bypasses our gateway: engine figures only"),
    feel=Feel(),
    breakdown=Breakdown(
        e2e_s=2.51,
        n=700,
        stages=[
            StageTime("engine queue", 0.41, 700, False),
            StageTime("prefill", 0.1, 700, False),
            StageTime("decode", 1.96, 700, False),
            StageTime("front end", 0.04, 700, False),
        ],
    ),
    little=Little(),
)


PROFILE = Profile(mix=Mix.of(512, 128, 4096))
"""Everyday lengths on a GPU."""

CROWDED = change(
    LOADED,
    verdict=Verdict("BENDING", "310 people, 88 % of 812 requests good", 21, stat(0.88, 812)),
    people={
        "people": V(310, src="load"),
        "wanted": 273,
        "crowds": {"patient": 191, "slow": 12, "abandoner": 71, "retrier": 29, "long": 7},
        "weights": {"patient": 7.0, "abandoner": 2.0, "retrier": 1.0},
        "extras": {"slow": 12, "abandoner": 16, "retrier": 2, "long": 7},
        "slow": V(12, src="load"),
        "held": V(12, src="load"),
        "profile": PROFILE,
        "workers": 2,
        "outcomes": {"ok": 17_944, "rejected": 54, "error": 1, "abandoned": 212},
        "amplification": stat(1.18, 688, "load"),
        "left_per_min": Value(14.2, src="load", window_s=30.0),
        "wasted_tokens_per_s": Value(96.0, src="load", window_s=30.0),
        "wasted_share": stat(0.026, 812, "load"),
        "clipped_share": stat(0.004, 18_075, "load"),
        "send_lag_ms": V(0.31, src="load"),
        "start_lag_ms": V(0.42, src="load"),
    },
    queue={"held": V(12, src="gateway"), "buffered_bytes": V(196_608, src="gateway")},
    feel={
        "attainment": stat(0.88, 812, "load"),
        "goodput_per_s": stat(23.8, 812, "load"),
        "fluidity": stat(0.987, 640, "load"),
        "misses": {"ttft": 61, "left": 22, "refused": 11, "error": 1},
        "server_ttft_s": stat(0.14, 748, "engine"),
        "ttft_gap_s": stat(0.24, 748, "load"),
    },
)

PICKED = change(
    LOADED,
    people={
        "people": V(10, src="load"),
        "wanted": 10,
        "crowds": {"patient": 10},
        "flash": V(31, src="load"),
        "thinking": V(4, src="load"),
        "slow": V(0, src="load"),
        "profile": PROFILE,
        "preset": "flash-crowd",
        "workers": 1,
        "amplification": stat(1.0, 688, "load"),
    },
)

STRANGERS = change(
    CROWDED,
    people={
        "mode": "open",
        "people": V(None, src="load", why="open loop: nobody stays"),
        "thinking": V(None, src="load", why="open loop: nobody stays"),
        "crowds": {},
        "extras": {},
        "arrivals": "gamma 30 /s, shape 0.25",
        "rate_asked_per_s": V(30.0, src="load"),
    },
)

VOID = change(
    CROWDED,
    people={
        "void": "the generator's clock was 240 ms late",
        "loop_lag_ms": V(240.2, src="load"),
        "start_lag_ms": V(236.0, src="load"),
        "cpu_share": V(1.0, src="load"),
    },
)

QUESTION = Question(mix=PROFILE.label, cache="fresh salt: nothing of earlier runs is cached", seed=7)


def measured(people: int, phase: Any, begin_s: float, share: float, seconds: float = 30.0) -> Block:
    """A block as a queue in front of 64 slots would give it: TTFT grows from 250 people on."""
    due = round(people / 10.9 * seconds)
    good = round(due * share)
    over = max(0.0, people / 262 - 1)
    left = (due - good) // 5
    missed = {"ttft": due - good - left, "left": left}
    return Block(
        people=people,
        phase=phase,
        begin_s=begin_s,
        seconds=seconds,
        good=good,
        due=due,
        misses={kind: count for kind, count in missed.items() if count},
        ttft_p95_s=None if due < 100 else 0.09 + people / 1100 + over * 8,
        ttft_n=due,
        tpot_p95_s=None if due < 100 else 0.008 + min(people, 300) / 17_000,
        tpot_n=due,
        e2e_p95_s=2.2 + people / 160 + over * 8,
        goodput_per_s=good / seconds,
        tokens_per_s=min(4013, people * 13.8),
        evidence=f"{min(64, people // 4)} of 64 slots, KV {min(29, people // 9)}%, tensor {min(58, people // 5)}%",
    )


BLOCKS = [
    measured(4, "double", 9, 1.0),
    measured(8, "double", 28, 1.0, 20),
    measured(16, "double", 46, 1.0, 14),
    measured(32, "double", 60, 1.0, 9),
    measured(64, "double", 78, 1.0, 8),
    measured(128, "double", 96, 0.998, 8),
    measured(256, "double", 115, 0.965, 8),
    measured(512, "double", 138, 0.12, 8),
    measured(288, "refine", 166, 0.91),
    measured(262, "refine", 207, 0.962),
    measured(276, "refine", 249, 0.941),
]
END = [measured(251, "confirm", 292, 0.968), measured(128, "recover", 336, 1.0, 15)]


def fitted(best: float = 271.0, steep: float = 17.0, sure: float = 0.05) -> list[Point]:
    """A logistic curve in log people through 95 % at `best`, with a band as if that were unsure by `sure`."""

    def share(people: float, at: float) -> float:
        return 1 / (1 + math.exp(steep * math.log(people / at) - math.log(19)))

    return [
        Point(
            people=people,
            share=share(people, best),
            low=share(people, best * (1 - sure)),
            high=share(people, best * (1 + sure)),
        )
        for people in (4 * (512 / 4) ** (step / 39) for step in range(40))
    ]


UNSEARCHED = change(CROWDED, verdict=LOADED.verdict)
SEARCHING = change(
    LOADED,
    people={"people": V(288, src="load"), "profile": PROFILE, "workers": 2},
    capacity=Progress(
        question=QUESTION,
        phase="refine",
        people=288,
        blocks=BLOCKS[:8],
        curve=fitted(280.0, 12.0, 0.24),
        best=280.0,
        low=201.0,
        high=355.0,
        elapsed_s=172.0,
        message="refine: 288 people, measuring 30 s",
    ),
    events=[SLOW, Event(AT - 172, WALL - 172, "capacity", "capacity search: chat", "k"), BURST],
)
FOUND = Answer(
    resolved=True,
    best=271.0,
    low=254.0,
    high=288.0,
    safe=254,
    clear_break=288,
    limit="TTFT",
    evidence="64 of 64 slots, KV 29%, tensor 58%",
    confirmed=True,
    recovered=True,
    sentence="271 people (90 % interval 254 to 288) before fewer than 95 % of requests are good; "
    "254 are safe (96.8 % good with a fresh seed); first clear break at 288, TTFT broke first: "
    "64 of 64 slots, KV 29%, tensor 58%; after the overload it recovers.",
)
ANSWERED = change(
    LOADED,
    capacity=Progress(
        question=QUESTION,
        phase="done",
        people=128,
        blocks=BLOCKS + END,
        curve=fitted(),
        best=271.0,
        low=254.0,
        high=288.0,
        answer=FOUND,
        elapsed_s=355.0,
    ),
    events=[
        BURST,
        Event(AT - 20, WALL - 20, "capacity", "271 people (90 % interval 254 to 288)", "k"),
        Event(AT - 9, WALL - 9, "people", "273 people", "+"),
    ],
)
UNRESOLVED = change(
    CPU,
    capacity=Progress(
        question=QUESTION,
        phase="stopped",
        people=16,
        blocks=[
            measured(4, "double", 9, 1.0),
            measured(8, "double", 40, 0.97, 30),
            measured(16, "double", 90, 0.93, 30),
        ],
        curve=[],
        best=13.0,
        low=6.2,
        high=31.0,
        answer=Answer(
            resolved=False,
            best=13.0,
            low=6.2,
            high=31.0,
            safe=6,
            limit="TTFT",
            sentence="Stopped: about 13 people (90 % interval 6 to 31) before fewer than 95 % of requests are good; "
            "6 should be safe (not tried with a fresh seed); TTFT broke first: 8 of 8 slots, KV 9%, CPU 88%.",
        ),
        elapsed_s=131.0,
        message="stopped by hand",
    ),
)


def course(last: Snapshot, seconds: int = 200) -> list[Snapshot]:
    """A past that ends with `last`: one snapshot a second whose load swells, with a burst 24 s before the end."""
    made = []
    for back in range(seconds, 0, -1):
        x = seconds - back
        wave = 0.62 + 0.3 * math.sin(x / 17) + 0.08 * math.sin(x / 3.1)
        hit = max(0.0, 1 - abs(back - 18) / 9)
        feel, queue, engine = last.feel, last.queue, last.engine

        def scaled(value: Value, factor: float) -> Value:
            return value if value.v is None else msgspec.structs.replace(value, v=value.v * factor)

        ttft = feel.ttft_s
        if ttft.p50 is not None:
            p95 = None if ttft.p95 is None else ttft.p95 * (wave + 1.6 * hit)
            ttft = msgspec.structs.replace(ttft, p50=ttft.p50 * (wave + 0.8 * hit), p95=p95)
        made.append(
            msgspec.structs.replace(
                last,
                seq=last.seq - back,
                at=last.at - back,
                wall=last.wall - back,
                uptime_s=last.uptime_s - back,
                people=msgspec.structs.replace(last.people, in_flight=scaled(last.people.in_flight, wave + hit)),
                queue=msgspec.structs.replace(
                    queue,
                    depth=scaled(queue.depth, max(0.0, wave - 0.5) + 4 * hit),
                    arrivals_per_s=scaled(queue.arrivals_per_s, wave + 0.4 * hit),
                ),
                engine=msgspec.structs.replace(engine, running=scaled(engine.running, min(1.0, wave + hit))),
                feel=msgspec.structs.replace(
                    feel, ttft_s=ttft, tokens_per_s=scaled(feel.tokens_per_s, min(1.05, wave + hit))
                ),
                gpus=[
                    msgspec.structs.replace(gpu, tensor=scaled(gpu.tensor, min(1.2, wave + hit))) for gpu in last.gpus
                ],
                events=[event for event in last.events if event.at <= last.at - back],
            )
        )
    return [*made, last]
