"""The report as one JSON document, for programs: units stand in the names, shares are 0..1, moments (`at_s`, `begin_s`) count
in seconds from the first snapshot, and what is absent is null, never 0.

    import json; run = json.load(open("run.json")); run["arrows"]["queue"]["measured"]["waiting"]["most"]

`schema_version` grows when a name changes its meaning or goes; new names may come at any time.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from loadgen.summary import Distribution
from server.report import cost, doubts, sections
from server.report.cost import Price
from server.report.rows import Run
from server.report.series import Gauge, Windowed
from server.report.tally import GPU
from server.report.text import clean

FORMAT = "spark-serve-report"
SCHEMA_VERSION = 1

GAUGES: dict[str, dict[str, str]] = {
    "people": {
        "people": "people",
        "in flight": "requests_in_flight",
        "sent": "sent_per_s",
        "asked": "asked_per_s",
        "slow": "slow_readers",
        "flash": "flash_crowd",
        "send lag": "send_lag_ms",
        "start lag": "start_lag_ms",
        "load cpu": "load_cpu_share",
        "amplification": "retry_amplification",
        "wasted": "wasted_share",
    },
    "gateway": {
        "arrivals": "arrivals_per_s",
        "gateway in flight": "in_flight",
        "connections": "connections",
        "buffered": "buffered_bytes",
        "gateway cpu": "cpu_cores",
    },
    "queue": {"depth": "waiting", "oldest": "oldest_wait_s"},
    "model_server": {
        "running": "batch",
        "waiting": "waiting_inside",
        "kv": "kv_share",
        "tokens": "generated_tokens_per_s",
        "prompt tokens": "prompt_tokens_per_s",
        "tokens per step": "tokens_per_step",
        "steps": "steps_per_s",
        "prefix hits": "prefix_hit_share",
        "front end": "front_end_s",
        "engine cpu": "cpu_cores",
    },
    "gpu": {},
    "tokens": {"held": "held_by_slow_readers", "fluidity": "token_deadlines_met_share"},
}
"""Arrow -> the report's name of a reading -> its name here."""
WINDOWS: dict[str, dict[str, str]] = {
    "people": {},
    "gateway": {},
    "queue": {"wait": "wait_s"},
    "model_server": {
        "server ttft": "ttft_s",
        "engine queue": "queue_s",
        "prefill": "prefill_s",
        "decode": "decode_s",
    },
    "gpu": {},
    "tokens": {"ttft": "ttft_s", "tpot": "tpot_s", "gap": "gap_s", "e2e": "e2e_s"},
}
STAGES: dict[str, tuple[str, ...]] = {
    "people": ("connect",),
    "gateway": ("accept", "front end", "upstream"),
    "queue": ("queue",),
    "model_server": ("engine queue", "prefill", "decode"),
    "gpu": ("prefill", "decode"),
    "tokens": ("drain",),
}
NUMBERS = {"max in-flight", "max queue", "max-num-seqs", "max-num-batched-tokens", "max-model-len", "KV cache tokens"}
"""Settings that the report writes as numbers in groups."""
_GPU_NAMES = {
    "sm_active": "sm_share",
    "sm_occupancy": "sm_occupancy_share",
    "tensor": "tensor_share",
    "dram": "hbm_share",
    "busy": "nvml_busy_share",
    "mfu": "mfu_share",
    "mbu": "mbu_share",
}


def document(run: Run, source: str, price: Price | None = None) -> dict[str, Any]:
    """Everything the report says, as plain lists, dicts, strings and numbers that JSON can carry."""
    tally, requests = run.tally, run.requests
    engine = run.facts.engine
    found = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "run": {
            "begin_unix_s": run.first.wall,
            "end_unix_s": run.last.wall,
            "seconds": tally.seconds,
            "snapshots": tally.count,
            "holes": [{"begin_s": at - tally.begin, "seconds": s} for at, s in tally.holes],
        },
        "engine": {
            "name": engine.name,
            "version": engine.version or None,
            "model": engine.model or None,
            "random_weights": engine.model_kind == "shape",
            "device": engine.device or None,
            "attached": engine.attached,
            "command": sections.arguments(engine.argv or run.last.engine.argv) or None,
        },
        "settings": {
            name.lower().replace(" ", "_").replace("-", "_"): [
                _number(v) if name in NUMBERS else clean(v) for v in values
            ]
            for name, values in tally.settings.items()
        },
        "slo": {"name": run.slo.name, "ttft_s": run.slo.ttft_s, "tpot_s": run.slo.tpot_s},
        "requests": {
            "ended": run.ended or None,
            "gateway_ended": tally.gateway.grown or None,
            "sent": tally.sent.total if tally.sent.grown else None,
            "arrived": tally.arrived.total if tally.arrived.grown else None,
            "good": run.good if run.due else None,
            "due": run.due or None,
            "good_share": run.good / run.due if run.due else None,
            "misses": dict(requests.misses if requests is not None else tally.judged.misses),
            "each_known": requests is not None,
        },
        "verdict_s": tally.words.seconds,
        "held_back_by_s": {name: s for name, s in tally.limits.seconds.items() if name},
        "mean_request": {
            "n": tally.stages.n,
            "e2e_s": tally.stages.e2e_s,
            "stages_s": tally.stages.means,
        },
        "arrows": {name: _arrow(run, name) for name in GAUGES},
        "stretches": _stretches(run),
        "events": [
            {"at_s": e.at - tally.begin, "unix_s": e.wall, "kind": e.kind, "text": clean(e.text), "mark": e.mark}
            for e in (*tally.events_first, *tally.events_last)
        ],
        "events_left_out": tally.events - len(tally.events_first) - len(tally.events_last),
        "cold_starts": [
            {
                "ready_at_s": at - tally.begin,
                "kind": start.kind,
                "seconds": start.elapsed_s,
                "stages": [{"name": s.name, "begin_s": s.begin_s, "end_s": s.end_s} for s in start.stages],
            }
            for at, start in tally.starts.values()
        ],
        "capacity": [
            {"at_s": s.at - tally.begin, "before_this_run": s.before, **msgspec.to_builtins(s.progress)}
            for s in tally.searches
        ],
        "cost": msgspec.to_builtins(cost.cost(run, price)),
        "checks": [{"state": state, "text": text} for state, text in doubts.found(run)],
    }
    return {key: _carried(value) for key, value in found.items()}


def encoded(run: Run, source: str, price: Price | None = None) -> str:
    """The document as indented JSON, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(document(run, source, price)), indent=1).decode() + "\n"


def _arrow(run: Run, name: str) -> dict[str, Any]:
    tally, requests = run.tally, run.requests
    stages = tally.stages.means
    measured: dict[str, Any] = {key: _gauge(run, tally.gauges.get(of)) for of, key in GAUGES[name].items()}
    exact: dict[str, Distribution] = {}
    if requests is not None and name == "tokens":
        exact = {"ttft": requests.ttft_s, "tpot": requests.tpot_s, "e2e": requests.e2e_s}
    for of, key in WINDOWS[name].items():
        measured[key] = _distribution(run, tally.windows[of], exact.get(of))
    if name == "gpu":
        measured = {f"gpu{gpu.index}": _gpu(run, gpu.index, gpu.name) for gpu in run.facts.gpus}
    if name == "model_server":
        measured |= {
            "working_s": tally.work_s,
            "generated_tokens": tally.tokens or None,
            "prompt_tokens": tally.prompt_tokens or None,
        }
    if name == "tokens" and requests is not None:
        measured["completion_tokens"] = requests.completion_tokens
    waited = {f"{stage.replace(' ', '_')}_s": stages[stage] for stage in STAGES[name] if stage in stages}
    return {"waited": waited or None, "failed": _failed(run, name), "measured": measured}


def _failed(run: Run, name: str) -> dict[str, Any] | None:
    tally, requests = run.tally, run.requests
    gateway = tally.gateway.grown
    if name == "people":
        left = requests.left if requests is not None else run.ended.get("abandoned")
        return {"given_up": left, "wasted_tokens": None if requests is None else requests.wasted_tokens}
    if name == "gateway":
        return {key: gateway.get(key, 0) for key in ("failed", "cancelled", "expired")} if gateway else None
    if name == "queue":
        return {"refused": gateway.get("rejected", 0)} if gateway else None
    if name == "model_server":
        words = tally.words.seconds
        return {
            "not_serving_s": sum(words.get(word, 0.0) for word in ("STARTING", "DOWN", "STALLED")),
            "preemptions": round(tally.preemptions),
        }
    if name == "gpu":
        nvml = tally.sources.get("nvml")
        return None if nvml is None or not nvml.answered else {"no_reading_s": nvml.seconds}
    return {"not_good": run.due - run.good} if run.due else None


def _gauge(run: Run, gauge: Gauge | None) -> dict[str, Any] | None:
    if gauge is None or not gauge.n:
        return None
    return {
        "median": gauge.median,
        "mean": gauge.mean,
        "most": gauge.most,
        "most_at_s": None if gauge.most_at is None else max(0.0, gauge.most_at - run.tally.begin),
        "readings": gauge.n,
        "window_s": gauge.window_s,
    }


def _gpu(run: Run, index: int, name: str) -> dict[str, Any]:
    gauges = run.tally.gauges
    readings = {_GPU_NAMES.get(of, of): _gauge(run, gauges.get(f"gpu{index} {of}")) for of in GPU}
    return {"name": name, **readings, "memory_bytes": _gauge(run, gauges.get(f"gpu{index} memory"))}


def _distribution(run: Run, found: Windowed, exact: Distribution | None) -> dict[str, Any] | None:
    """`over` says what the quantiles are of: all `requests`, or the median over `windows` of 30 s."""
    worst = {name: found.worst(name) for name in ("p50", "p95")}
    windows = {
        "worst_window": {
            name: {"value": v[0], "end_s": v[1] - run.tally.begin} for name, v in worst.items() if v is not None
        }
    }
    if exact is not None and exact.n:
        quantiles = {name: getattr(exact, name) for name in ("mean", "p50", "p95", "p99")}
        return {"over": "requests", "n": exact.n, **quantiles, "largest": exact.max, "interpolated": False, **windows}
    if not found.n:
        return None
    return {
        "over": "windows",
        "n": found.n,
        "mean": found.mean,
        **{name: found.median(name) for name in ("p50", "p95", "p99")},
        "largest": found.most,
        "interpolated": not found.exact,
        **windows,
    }


def _stretches(run: Run) -> list[dict[str, Any]]:
    rows = []
    for index, stretch in enumerate(run.stretches):
        good, due, p50, p95 = stretch.good, stretch.due, stretch.ttft_p50_s, stretch.ttft_p95_s
        if run.requests is not None:
            good, due, ttft_s = run.requests.stretch(index)
            p50, p95 = ttft_s.p50, ttft_s.p95
        rows.append(
            {
                "begin_s": stretch.begin - run.tally.begin,
                "seconds": stretch.seconds,
                "began_with": [clean(text) for text in stretch.began_with],
                "people": stretch.people,
                "ended": stretch.ended,
                "good": good if due else None,
                "due": due or None,
                "ttft_p50_s": p50,
                "ttft_p95_s": p95,
                "tokens_per_s": stretch.tokens_per_s,
                "waiting_most": stretch.depth_most,
                "batch": stretch.running,
                "tensor_share": stretch.tensor,
                "hbm_share": stretch.dram,
            }
        )
    return rows


def _number(text: str) -> int | None:
    digits = text.replace(" ", "")
    return int(digits) if digits.isdigit() else None


def _carried(v: Any) -> Any:
    """Numbers that JSON has no word for are absent."""
    if isinstance(v, dict):
        return {key: _carried(inner) for key, inner in v.items()}
    if isinstance(v, list):
        return [_carried(inner) for inner in v]
    return None if isinstance(v, float) and not math.isfinite(v) else v
