"""Cut a piece out of a recording and make it small: snapshots as they are, requests with shorter stamps and ids.

    python -m bench.cut FILE OUT [--from MOMENT] [--to MOMENT] [--scrub TEXT ...]

A MOMENT is `00:04:10`, or an event of the recording like '64 people-5' or '0 people+4'. Stamps of requests are rounded to
0.1 ms and ids cut to 12 characters (two that would become one are an error); `--scrub` takes a text, such as a folder's
name, out of the engine's arguments and log.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from console.sources.player import moment
from console.sources.tape import Tape
from loadgen.lines import UNREADABLE
from loadgen.packed import open_lines
from server.telemetry.recording import Recorder, RecordingError, requests_beside
from server.telemetry.snapshot import Snapshot

BEFORE = re.compile(r"(?P<event>.+?)-(?P<before>\d+(?:\.\d+)?)")
IDS = ("request_id", "trace_id")
ID_CHARACTERS = 12
DIGITS = 4


def position_s(text: str, tape: Tape) -> float:
    """Of a moment, seconds from the first snapshot. Raises ValueError."""
    events = tape.jumps()
    if (found := BEFORE.fullmatch(text)) is not None:
        return moment(found["event"]).position_s(events, tape.at[0]) - float(found["before"])
    return moment(text).position_s(events, tape.at[0])


def scrubbed(snapshot: Snapshot, texts: list[str]) -> Snapshot:
    """Without these texts in what the engine was started with and said."""
    engine = snapshot.engine
    argv, log = ([_without(one, texts) for one in words] for words in (engine.argv, engine.log_tail))
    return msgspec.structs.replace(snapshot, engine=msgspec.structs.replace(engine, argv=argv, log_tail=log))


def _without(text: str, texts: list[str]) -> str:
    for one in texts:
        text = text.replace(one, "")
    return text


def requests_of(recording: Path, begin: float, end: float) -> Iterator[dict[str, object]]:
    """What was seen of the requests that ended between these monotonic seconds, shortened. The engine's own times have no
    stamp: they count as seen when the line before them was."""
    path = requests_beside(recording)
    if not path.exists():
        return
    whole: dict[str, str] = {}
    at = -math.inf
    with open_lines(path) as file:
        for line in file:
            try:
                part = msgspec.json.decode(line, type=dict[str, object])
            except UNREADABLE:
                continue
            done = part.get("done")
            at = done if isinstance(done, float) else at
            if begin <= at <= end:
                yield {name: _short(name, value, whole) for name, value in part.items()}


def _short(name: str, value: object, whole: dict[str, str]) -> object:
    if isinstance(value, float):
        return round(value, DIGITS)
    if name in IDS and isinstance(value, str):
        short = value[:ID_CHARACTERS]
        if whole.setdefault(short, value) != value:
            raise ValueError(f"two ids begin with {short}, and could not be told apart")
        return short
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="begin", default="0", metavar="MOMENT")
    parser.add_argument("--to", dest="end", metavar="MOMENT")
    parser.add_argument("--scrub", action="append", default=[], metavar="TEXT")
    options = parser.parse_args()
    tape = Tape(options.recording)
    try:
        tape.wait()
        begin_s = max(0.0, position_s(options.begin, tape))
        end_s = tape.length_s if options.end is None else position_s(options.end, tape)
        first, last = tape.find(begin_s), tape.find(end_s)
        with contextlib.closing(Recorder(options.out, wall=tape.snapshot(first).wall)) as recorder:
            for index in range(first, last + 1):
                recorder.write(scrubbed(tape.snapshot(index), options.scrub))
            lines = 0
            for part in requests_of(options.recording, tape.at[first], tape.at[last]):
                recorder.write_request(msgspec.json.encode(part))
                lines += 1
    except (RecordingError, ValueError) as error:
        print(f"bench.cut: {error}", file=sys.stderr)
        return 1
    finally:
        tape.close()
    beside = requests_beside(options.out)
    size = options.out.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    print(f"{options.out}: {recorder.snapshots} snapshots, {recorder.recorded_s:.0f} s, {lines} lines, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
