"""`spark-serve requests`: the Requests screen as text."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

import msgspec

from console.kept import Choice, Kept, Listing, key_of
from console.load_verbs import VerbMaker
from console.verb import count
from server.client import StackClient, StackError
from server.config import default_paths
from server.telemetry.snapshot import JoinedRequest, Snapshot

SHOWN = 40
ALL = 4_000
"""As many as the stack keeps."""
WIDEST = 160
"""Cells; a wider terminal makes longer bars and nothing clearer."""
NO_TERMINAL = (130, 24)


def add(verb: VerbMaker) -> None:
    """Add the verb to the parser."""
    parser = verb("requests", _requests, "List the latest finished requests, or show where the time of one went.")
    parser.add_argument("id", metavar="ID", nargs="?", help="one request, by its id or the begin of it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--slow", action="store_const", const="slow", dest="only", help="that missed the TTFT or TPOT")
    which.add_argument(
        "--failed", action="store_const", const="failed", dest="only", help="that were refused or failed"
    )
    which.add_argument(
        "--abandoned", action="store_const", const="abandoned", dest="only", help="whose client left before the end"
    )
    parser.add_argument("--limit", type=count, default=SHOWN, metavar="N", help=f"list so many (default {SHOWN})")
    parser.add_argument("--json", action="store_true", help="all that is known of them as JSON, newest first")
    parser.set_defaults(only="all")


def _requests(options: argparse.Namespace) -> int:
    client = StackClient(default_paths())
    snapshot = client.snapshot()
    kept = Kept(ALL)
    kept.take(client.requests(ALL))
    cells = min(WIDEST, shutil.get_terminal_size(NO_TERMINAL).columns)
    if options.id is not None:
        request = one_of(kept.newest(), options.id)
        print(_json(request) if options.json else told(request, snapshot, cells))
        return 0
    listing = Choice(options.only).listing(kept)
    print(_json(listing.shown[: options.limit]) if options.json else listed(listing, options.limit, snapshot, cells))
    return 0


def one_of(requests: Sequence[JoinedRequest], text: str) -> JoinedRequest:
    """The request of this id, or the only one whose id begins so. Raises StackError."""
    exact = [request for request in requests if text in {request.request_id, key_of(request)}]
    found = exact or [request for request in requests if request.request_id.startswith(text)]
    if not found:
        raise StackError(f"No request of the last {len(requests)} has an id that begins with {text!r}.")
    if len(found) > 1 and not exact:
        raise StackError(f"{len(found)} of the last {len(requests)} requests have ids that begin with {text!r}.")
    return found[0]  # of one id that was used again the latest


def listed(listing: Listing, limit: int, snapshot: Snapshot, cells: int) -> str:
    """The list as lines of text: what it is of, a heading, a row a request."""
    from console.ink import plain
    from console.panels.requests import of_how_many, table, why_empty

    if not listing.shown:
        return why_empty(listing, snapshot)
    rows = table(listing, snapshot, cells, range(min(limit, len(listing.shown))))
    return "\n".join([of_how_many(listing, snapshot, limit), *(plain(row) for row in rows)])


def told(request: JoinedRequest, snapshot: Snapshot, cells: int) -> str:
    """The waterfall and all facts as lines of text."""
    from console.ink import plain
    from console.panels.waterfall import facts, stage_rows

    rows = [*stage_rows(request, cells, 20), (), *facts(request, snapshot, cells, 40)]
    return "\n".join(plain(row) for row in rows)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()
