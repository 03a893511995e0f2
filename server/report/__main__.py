"""`python -m server.report [RECORDING]`: the Markdown of a recording, or of the snapshots that come on stdin, to stdout.

A process of its own: a report takes seconds of CPU and, for as long as it is written, as much memory as a stack.
"""

from __future__ import annotations

import sys
from pathlib import Path

from server.report import ReportError, report, report_of
from server.telemetry.recording import RecordingError
from server.telemetry.snapshot import snapshot_decoder

LIVE = "the last minutes of the running stack"


def main(recordings: list[str]) -> int:
    """Exit code 1 with one sentence on stderr when there is no report."""
    try:
        if recordings:
            text = report_of(Path(recordings[0]))
        else:
            text = report(map(snapshot_decoder.decode, sys.stdin.buffer), source=LIVE)
    except (OSError, RecordingError, ReportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
