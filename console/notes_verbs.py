"""The verbs about what is written down: marker, record, logs."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from console.format import size
from console.load_verbs import VerbMaker
from console.verb import UsageError, count, positive, send
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.telemetry.recording import Lines, RecordingError, check, requests_beside


def add(verb: VerbMaker) -> None:
    """Add the verbs to the parser."""
    marker = verb("marker", _send_marker, "Note an event on the charts.")
    marker.add_argument("note", nargs="*", help="its text; quotes are not needed")
    record = verb("record", _record, "Record the running stack into FILE (default: a dated one), or stop.")
    record.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a new file, e.g. run.sparkrec")
    record.add_argument("--for", type=positive, dest="seconds", metavar="S", help="stop after S seconds, or at ctrl+c")
    record.add_argument("--stop", action="store_true", help="end the recording that runs")
    record.add_argument("--list", action="store_true", help="the recordings of the state folder, latest last")
    logs = verb("logs", _logs, "Print the end of a log: engine, gateway, load, stack or console.")
    logs.add_argument("child", nargs="?", default="engine", choices=["engine", "gateway", "load", "stack", "console"])
    logs.add_argument("-n", "--lines", type=count, default=40)


def _send_marker(options: argparse.Namespace) -> int:
    return send(commands.Marker(" ".join(options.note)))


def _record(options: argparse.Namespace) -> int:
    if sum(map(bool, (options.stop, options.list, options.file or options.seconds))) > 1:
        raise UsageError("--stop and --list go alone.")
    if options.list:
        print("\n".join(listing(default_paths().recordings)))
        return 0
    if options.stop:
        return send(commands.Record(on=False))
    send(commands.Record(path=str(options.file.resolve()) if options.file else None))
    if options.seconds is None:
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(options.seconds)
    return send(commands.Record(on=False))


def listing(folder: Path) -> list[str]:
    """A line a recording: when it begins, how large it and its requests are, where it lies."""
    rows = []
    for path in sorted(folder.glob("*.sparkrec")):
        beside = requests_beside(path)
        requests = f" + {size(beside.stat().st_size)} of requests" if beside.exists() else ""
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun_at(path)))
        rows.append(f"{begun}  {size(path.stat().st_size):>9}{requests}  {path}")
    return rows or ["Nothing has been recorded here yet; `spark-serve record` begins."]


def begun_at(path: Path) -> float:
    """Unix seconds, from its header; of the file itself where it has none."""
    try:
        with Lines(path) as lines:
            return check(path, next(lines, None)).wall
    except RecordingError:
        return path.stat().st_mtime


def _logs(options: argparse.Namespace) -> int:
    client = StackClient(default_paths())
    if client.running():
        lines = client.logs(options.child, options.lines)
    else:
        from server.engine.logfile import tail

        path = client.paths.logs / f"{options.child}.log"
        if not path.exists():
            raise StackError(f"There is no log of {options.child} yet.")
        lines = tail(path, options.lines)
    print("\n".join(lines))
    return 0
