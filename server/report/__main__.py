"""`python -m server.report [RECORDING]`: the Markdown of a recording, or of the snapshots that come on stdin, to stdout.
`python -m server.report --order JSON`: the files that an Order names; their paths to stdout, one a line.

A process of its own: a report takes seconds of CPU and, for as long as it is written, as much memory as a stack.
"""

from __future__ import annotations

import sys

import msgspec

from server.report import ReportError
from server.report.order import Order, Story, carry_out
from server.telemetry.recording import RecordingError


def main(arguments: list[str]) -> int:
    """Exit code 1 with one sentence on stderr when there is no report."""
    try:
        if arguments[:1] == ["--order"]:
            order = msgspec.json.decode(arguments[1], type=Order)
            text = "".join(f"{path}\n" for path in carry_out(order, sys.stdin.buffer))
        else:
            story = Story(Order(recording=arguments[0] if arguments else None), sys.stdin.buffer)
            text = story.told("md") or ""
    except (OSError, RecordingError, ReportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
