"""What one GPU does at 1, 8, 64 and 256 people: the cockpit's figures beside a second reading of the same seconds.

    spark-serve up --model shape:qwen3-8b --max-num-seqs 256 --people 0 --think 0.1 --wait
    python -m bench.gpu --out DIR [--levels 1 8 64 256] [--hold 20]

Drives the running stack. For each level it waits until the load stands, then watches for `--hold` seconds while a process
of its own reads GPM and NVML by itself (other samples, other spans: pairs 1 s apart). Writes `gpu.md` (the table) and
`gpu.json` (all of it) into DIR. Exit code 1 when GPM's figures differ by more than 3 points, or when there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pynvml

from server import commands
from server.client import NO_STACK, StackClient
from server.config import default_paths
from server.telemetry.peaks import peak_of
from server.telemetry.snapshot import Gpu, Snapshot, Value

ROOT = Path(__file__).parents[1]
AGREE_POINTS = 3.0
REFERENCE_METRICS = {"sm_active": 2, "sm_occupancy": 3, "tensor": 5, "dram": 10}
REFERENCE_S = 1.0
SETTLE_LIMIT_S = 90.0


# the second reading: a process of its own


def reference(index: int, seconds: float) -> dict[str, Any]:
    """GPM and NVML of one device, in percent and watts, as means over pairs of samples 1 s apart."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    sums = dict.fromkeys((*REFERENCE_METRICS, "busy", "power_w"), 0.0)
    before, after = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(handle, before)
    began = last = time.monotonic()
    energy_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    pairs = 0
    while last - began < seconds:
        time.sleep(REFERENCE_S)
        pynvml.nvmlGpmSampleGet(handle, after)
        last = time.monotonic()
        asked = pynvml.c_nvmlGpmMetricsGet_t(
            version=pynvml.NVML_GPM_METRICS_GET_VERSION,
            numMetrics=len(REFERENCE_METRICS),
            sample1=before,
            sample2=after,
        )
        for slot, metric in enumerate(REFERENCE_METRICS.values()):
            asked.metrics[slot].metricId = metric
        pynvml.nvmlGpmMetricsGet(asked)
        for slot, name in enumerate(REFERENCE_METRICS):
            sums[name] += asked.metrics[slot].value
        sums["busy"] += pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        sums["power_w"] += pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        pairs += 1
        before, after = after, before
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - energy_mj) / 1000
    means = {name: total / pairs for name, total in sums.items()}
    return {"began": began, "ended": last, "pairs": pairs, **means, "energy_w": joules / (last - began)}


# one level


def watch(client: StackClient, seconds: float) -> list[Snapshot]:
    """Every snapshot of the next seconds, once."""
    seen: dict[int, Snapshot] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        snapshot = client.snapshot()
        seen[snapshot.seq] = snapshot
        time.sleep(0.2)
    return list(seen.values())


def settle(client: StackClient, count: int, settle_s: float) -> None:
    """Until the people are at work, and then `settle_s` more: the engine's own rates are means of 10 s."""
    end = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < end:
        snapshot = client.snapshot()
        busy = min(count, snapshot.engine.max_num_seqs.v or count)
        if (snapshot.engine.running.v or 0) >= 0.8 * busy:
            break
        time.sleep(0.5)
    time.sleep(settle_s)


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None


def inside(snapshots: Sequence[Snapshot], of: Callable[[Snapshot], Value], began: float, ended: float) -> float | None:
    """Mean of the readings whose own windows lie between two moments."""
    return mean(
        value.v
        for s in snapshots
        if (value := of(s)).v is not None
        and s.at - value.age_s - (value.window_s or 0.0) >= began - 0.3
        and s.at - value.age_s <= ended + 0.3
    )


def level(client: StackClient, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Drive to `count` people, watch, and compare."""
    client.send(commands.People(count=count))
    settle(client, count, options.settle)
    has_gpu = bool(client.snapshot().gpus)
    argv = [sys.executable, "-m", "bench.gpu", "--reference", str(options.hold), "--device", str(options.device)]
    second = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) if has_gpu else None
    began = time.monotonic()
    snapshots = watch(client, options.hold + 2.0)
    found: dict[str, Any] = {}
    if second is not None:
        said, complaint = second.communicate(timeout=30)
        if second.returncode == 0:
            found = json.loads(said)
            began = found["began"]
        else:
            print("no second reading:", complaint.decode(errors="replace").strip().splitlines()[-1:], file=sys.stderr)
    ended = found.get("ended", began + options.hold)

    def gpu(name: str) -> float | None:
        def read(snapshot: Snapshot) -> Value:
            ours: Gpu | None = next((g for g in snapshot.gpus if g.index == options.device), None)
            return Value() if ours is None else getattr(ours, name)

        return inside(snapshots, read, began, ended)

    kept = [s for s in snapshots if began <= s.at <= ended]
    shares = ("busy", "sm_active", "sm_occupancy", "tensor", "dram", "mfu", "mbu")
    ours = {name: None if (v := gpu(name)) is None else 100 * v for name in shares}
    tokens_per_s = inside(snapshots, lambda s: s.engine.generation_tokens_per_s, began, ended)
    watts, joules = gpu("power_w"), gpu("energy_per_token_j")
    limits = Counter(s.limit_detail.name or s.limit.partition(":")[0] for s in kept)
    return {
        "people": count,
        "running": inside(snapshots, lambda s: s.engine.running, began, ended),
        **ours,
        "power_w": watts,
        "tokens_per_s": tokens_per_s,
        "tokens_per_j": None if not joules else 1 / joules,
        "tpot_ms": None if not kept or kept[-1].feel.tpot_s.p50 is None else 1e3 * kept[-1].feel.tpot_s.p50,
        "limit": limits.most_common(1)[0][0] if limits else "",
        "limits": dict(limits),
        "phrase": kept[-1].limit if kept else "",
        "slowed_by": sorted({reason for s in kept for g in s.gpus for reason in g.slowed_by or ()}),
        "reference": found,
        "points": {
            name: round(ours[name] - found[name], 2)
            for name in REFERENCE_METRICS
            if ours[name] is not None and name in found
        },
        "mfu_less_tensor": _less(ours["mfu"], ours["tensor"]),
        "mbu_less_dram": _less(ours["mbu"], ours["dram"]),
        "snapshots": len(kept),
    }


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a - b, 2)


# the table


HEAD = (
    *("people", "in the batch", "NVML busy", "SM active", "tensor", "HBM", "MFU", "MBU", "W", "tokens/s", "tokens/J"),
    *("limit named", "SM, tensor, HBM less the second reading, points"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """GitHub's Markdown; percent, but where a unit stands."""

    def shown(value: float | None, digits: int = 0) -> str:
        return "—" if value is None else f"{value:,.{digits}f}"

    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in rows:
        points = [row["points"].get(name) for name in ("sm_active", "tensor", "dram")]
        difference = ", ".join("—" if point is None else f"{point:+.1f}" for point in points)
        cells = [
            str(row["people"]),
            shown(row["running"]),
            *(shown(row[name], 1) for name in ("busy", "sm_active", "tensor", "dram", "mfu", "mbu")),
            shown(row["power_w"]),
            shown(row["tokens_per_s"]),
            shown(row["tokens_per_j"], 2),
            row["limit"],
            difference,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def remarks(rows: Sequence[dict[str, Any]], name: str) -> str:
    """How far the engine's estimate lies from the silicon's own count, and what the peaks are."""
    peak = peak_of(name)
    text = f"{name}: no peak in the table.\n" if peak is None else ""
    if peak is not None:
        flops, rate = peak.flops_per_s / 1e12, peak.bytes_per_s / 1e12
        text = f"Peaks of {name}: {flops:g} TFLOP/s, {rate:g} TB/s ({peak.source}).\n"
    for row in rows:
        if row["mfu_less_tensor"] is not None:
            text += (
                f"{row['people']} people: MFU is {row['mfu_less_tensor']:+.1f} points from tensor active, "
                f"MBU {row['mbu_less_dram']:+.1f} from HBM active.\n"
            )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--hold", type=float, default=20.0, help="seconds each level is watched, at least 15")
    parser.add_argument("--settle", type=float, default=12.0, help="seconds before that, once the people are at work")
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--reference", type=float, metavar="S", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        print(json.dumps(reference(options.device, options.reference)))
        return 0
    client = StackClient(default_paths())
    if not client.running():
        print(NO_STACK, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in options.levels:
        rows.append(level(client, count, options))
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in {"reference", "limits"}}), flush=True)
    client.send(commands.People(count=0))
    gpus = client.snapshot().gpus
    name = gpus[options.device].name if len(gpus) > options.device else "no GPU"
    text = table(rows) + "\n" + remarks(rows, name)
    (options.out / "gpu.md").write_text(text)
    (options.out / "gpu.json").write_text(json.dumps({"device": name, "rows": rows}, indent=1))
    print(text)
    points = [abs(point) for row in rows for point in row["points"].values()]
    if not points:
        print("No second reading: nothing was compared.", file=sys.stderr)
        return 1
    print(f"GPM: largest difference {max(points):.1f} points (at most {AGREE_POINTS:g} are allowed)")
    return 0 if max(points) <= AGREE_POINTS else 1


if __name__ == "__main__":
    sys.exit(main())
