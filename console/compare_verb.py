"""The verb `compare`: policies on the same load, followed line by line; earlier comparisons listed and shown again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from console.verb import UsageError, count, positive, send
from server import commands
from server.client import StackClient, StackError
from server.compare.arm import parse_arms
from server.compare.progress import CompareProgress
from server.config import default_paths
from server.saved import SavedError

if TYPE_CHECKING:
    from server.compare.result import Comparison

FOLLOW_S = 0.5
WAIT_S = 30.0
"""For the stack to tell anything of a comparison that it has begun or is to end."""
CELLS = 100
VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def lengths(text: str) -> list[int]:
    """`40/16`: an argument type."""
    prompt, _, reply = text.partition("/")
    return [count(prompt), count(reply)]


lengths.__name__ = "pair of tokens like 40/16"


def add(verb: VerbMaker) -> None:
    """Add the verb to the parser."""
    compare = verb(
        "compare",
        _compare,
        "Compare the gateway's policies on the same load: does the long prompt block the short one?",
    )
    compare.add_argument(
        "arms",
        metavar="POLICY",
        nargs="*",
        help="fifo, shortest, priority, fair, plain-shortest (no ageing) .., with settings as in "
        "shortest:ageing=10,overload=shed (the names of `spark-serve policy`'s options)",
    )
    compare.add_argument("--rounds", type=count, default=1, metavar="N", help="times A B B A (default 1)")
    compare.add_argument("--seconds", type=positive, metavar="S", help="of one run; default 16 to 50 by the rate")
    compare.add_argument("--rate", type=positive, metavar="R", help="requests/s; default 1.4 x what the engine serves")
    compare.add_argument(
        "--max-in-flight", type=count, metavar="N", help="default: the engine's max-num-seqs, at most 16"
    )
    compare.add_argument("--long-share", type=positive, metavar="X", help="of the requests; default 0.15")
    compare.add_argument("--short", type=lengths, metavar="P/R", help="tokens of a short prompt and its reply")
    compare.add_argument("--long", type=lengths, metavar="P/R", help="tokens of a long prompt and its reply")
    compare.add_argument("--seed", type=count, default=1)
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON at its end")
    compare.add_argument("--stop", action="store_true", help="stop the comparison that runs")
    compare.add_argument("--list", action="store_true", help="earlier comparisons of this machine")
    compare.add_argument("--show", type=Path, metavar="FILE", help="print an earlier one again")


def _compare(options: argparse.Namespace) -> int:
    if options.list or options.show is not None:
        return _earlier(options)
    if options.stop:
        return send(commands.Compare(on=False))
    try:
        parse_arms(options.arms)
    except ValueError as error:
        raise UsageError(str(error)) from None
    client = StackClient(default_paths())
    answer = client.send(
        commands.Compare(
            arms=options.arms,
            rounds=options.rounds,
            seconds=options.seconds,
            rate=options.rate,
            max_in_flight=options.max_in_flight,
            long_share=options.long_share,
            short=options.short,
            long=options.long,
            seed=options.seed,
        )
    )
    if not answer.ok:
        raise StackError(answer.message)
    print(answer.message, file=sys.stderr, flush=True)
    return _ended(_followed(client), options.json)


def _earlier(options: argparse.Namespace) -> int:
    from server.compare import result, text

    try:
        if options.show is not None:
            return _print(result.load(_found(options.show)), options.json)
        print("\n".join(text.listing(*result.listed(default_paths().comparisons))))
    except SavedError as error:
        raise StackError(str(error)) from None
    return 0


def _followed(client: StackClient) -> CompareProgress:
    """Says what goes on until it is over. Ctrl-C stops it and waits until all is put back; a second one leaves it alone."""
    shown = 0
    stopping = False
    last = time.monotonic()
    while True:
        try:
            time.sleep(FOLLOW_S)
            progress = client.snapshot().comparison
            if progress is not None:
                last = time.monotonic()
                new = min(progress.said - shown, len(progress.lines))
                for line in progress.lines[len(progress.lines) - new :]:
                    print(line, file=sys.stderr, flush=True)
                shown = progress.said
                if progress.phase != "running":
                    return progress
            if time.monotonic() - last > WAIT_S:
                raise StackError("The stack tells nothing of the comparison; see `spark-serve logs stack`.")
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            print("Stopping; the people and the policy are being put back.", file=sys.stderr, flush=True)
            client.send(commands.Compare(on=False))


def _ended(progress: CompareProgress, as_json: bool) -> int:
    from server.compare import result

    if progress.saved:
        try:
            _print(result.load(Path(progress.saved)), as_json)
        except SavedError as error:
            raise StackError(str(error)) from None
        print(f"Saved as {progress.saved}", file=sys.stderr)
    if progress.phase == "done" and progress.saved:
        return 0
    raise StackError(progress.message if progress.saved else f"{progress.message} No run counts.".strip())


def _print(comparison: Comparison, as_json: bool) -> int:
    if as_json:
        print(msgspec.json.encode(comparison).decode())
        return 0
    from console.ink import plain
    from console.panels.compared import compared
    from server.compare import text

    print("\n".join(text.lines(comparison)))
    for line in compared(comparison, CELLS):
        print(plain(line))
    return 0


def _found(path: Path) -> Path:
    """As it was given, else by its name in the state folder."""
    kept = default_paths().comparisons / path.name
    return kept if not path.exists() and kept.exists() else path
