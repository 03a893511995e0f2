"""The shipped recordings, read without any of our own readers: what reports of them are held against."""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "screenshots"
H100, CPU = FOLDER / "h100.sparkrec", FOLDER / "cpu.sparkrec"
LEVELS, COLD = FOLDER / "h100-levels.sparkrec", FOLDER / "h100-cold.sparkrec"


def snapshots(path: Path) -> list[dict[str, Any]]:
    unpacker = zlib.decompressobj(31)
    lines = unpacker.decompress(path.read_bytes()).split(b"\n")
    return [json.loads(line) for line in lines[1:] if line]


def requests(path: Path) -> list[dict[str, Any]]:
    lines = Path(f"{path}.requests.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["type"] == "request"]


def v(snapshot: dict[str, Any], *names: str) -> float | None:
    """A reading, None when it is absent or stale."""
    found: Any = snapshot
    for name in names:
        found = found.get(name, {})
    return found.get("v") if found.get("age_s", 0.0) <= 5.0 else None


def summed(rate: tuple[str, ...], run: list[dict[str, Any]]) -> float:
    """A rate over time."""
    total = 0.0
    for before, now in itertools.pairwise(run):
        dt = now["at"] - before["at"]
        total += (v(now, *rate) or 0.0) * dt if dt <= 5 else 0.0
    return total
