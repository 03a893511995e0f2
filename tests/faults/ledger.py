"""One row per provoked fault. With SPARK_SERVE_LEDGER=FILE rows are appended there; `python -m tests.faults.ledger FILE`
prints them as a table and fails where something was lost or left running."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from server.telemetry.snapshot import Snapshot

LEDGER = "SPARK_SERVE_LEDGER"


class Tally(msgspec.Struct, frozen=True):
    """Requests by how they ended. Each has exactly one end; what has none is lost."""

    sent: int = 0
    completed: int = 0
    failed: int = 0
    """Errors, refusals and expiries: whoever asked was told, or saw the connection end."""
    cancelled: int = 0
    """Whoever asked left by themselves."""

    @property
    def lost(self) -> int:
        return self.sent - self.completed - self.failed - self.cancelled

    def since(self, before: Tally) -> Tally:
        return Tally(**{name: getattr(self, name) - getattr(before, name) for name in self.__struct_fields__})


def people(snapshot: Snapshot) -> Tally:
    """Of the stack's own people, since it is up. Those in flight count as lost: read it when nobody is under way."""
    ends = snapshot.people.outcomes
    return Tally(
        sent=snapshot.people.sent_total,
        completed=ends.get("ok", 0),
        failed=ends.get("rejected", 0) + ends.get("error", 0),
        cancelled=ends.get("abandoned", 0) + ends.get("cut", 0),
    )


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fault."""

    fault: str
    said: str
    """The words on the screen, or of the answer, that told of it."""
    after_s: float | None = None
    """From the fault to the words, seconds; None where the words are the answer itself."""
    requests: Tally = Tally()
    left: int
    """Processes that should be gone and are not."""
    engine: str = ""
    """`vLLM` for the real one; empty where none was needed."""


def enter(row: Row) -> None:
    """Write the row down and hold it to the rule: nothing lost, nothing left."""
    if path := os.environ.get(LEDGER):
        with Path(path).open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
    assert row.said, f"nothing was said of: {row.fault}"
    assert row.requests.lost == 0, f"{row.fault}: {row.requests}"
    assert row.left == 0, f"{row.fault}: {row.left} processes left"


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| fault | engine | what was said | after | sent | completed | failed | cancelled | lost | left |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        after = "—" if row.after_s is None else f"{row.after_s:.1f} s"
        r = row.requests
        counts = f"{r.sent} | {r.completed} | {r.failed} | {r.cancelled} | {r.lost}" if r.sent else "— | — | — | — | 0"
        said = row.said.replace("|", "\\|")
        lines.append(f"| {row.fault} | {row.engine or '—'} | {said} | {after} | {counts} | {row.left} |")
    return "\n".join(lines)


def main(path: str) -> int:
    rows = [msgspec.json.decode(line, type=Row) for line in Path(path).read_bytes().splitlines()]
    lost, left = sum(row.requests.lost for row in rows), sum(row.left for row in rows)
    print(table(rows))
    print(
        f"\n{len(rows)} faults, {sum(row.requests.sent for row in rows)} requests, {lost} lost, {left} processes left."
    )
    return 1 if lost or left or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
