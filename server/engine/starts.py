"""Earlier starts: the latest of each kind with the same command line, kept on disk for the next one to be compared with."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadgen.lines import UNREADABLE
from server.engine.comparison import took
from server.telemetry.snapshot import StartStage

REVISION = 2
NEAREST = {"process-cold": "disk-cold", "disk-cold": "process-cold", "compile-cold": "first start"}
"""Whose compiled graphs are as warm: on an H100 they make 50 s of difference, the weights 2."""


class _Kept(msgspec.Struct):
    """What a file holds."""

    revision: int = REVISION
    latest: str = ""
    """Label of the kind that was last."""
    kinds: dict[str, list[StartStage]] = {}
    """Label of a kind -> its latest start."""


class Starts:
    """The starts of one command line. Files that cannot be read or written are as good as none."""

    def __init__(self, folder: Path, arguments: Iterable[str]) -> None:
        name = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
        self._path = folder / f"{name}.json"
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, *UNREADABLE):
            kept = _Kept()
        self._kept = kept if kept.revision == REVISION else _Kept()

    def keep(self, kind: str, stages: list[StartStage]) -> None:
        """Remember a start that succeeded."""
        self._kept.kinds[kind] = stages
        self._kept.latest = kind
        temporary = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(self._kept))
            temporary.replace(self._path)

    def like(self, kind: str) -> tuple[str, list[StartStage]]:
        """What to compare a start of this kind with, and its kind: the latest of the same, else of the kind that has as much
        warm, else the latest; else empty."""
        name = next((near for near in (kind, NEAREST.get(kind, "")) if near in self._kept.kinds), self._kept.latest)
        stages = self._kept.kinds.get(name, [])
        return (name if stages else "", list(stages))

    def seconds(self) -> dict[str, dict[str, float]]:
        """Kind -> stage -> seconds, of the latest start of each kind."""
        return {
            kind: {stage.name: round(seconds, 2) for stage in stages if (seconds := took(stage)) is not None}
            for kind, stages in self._kept.kinds.items()
        }
