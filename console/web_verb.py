"""`console --web`: the same console for a class, in browsers."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from console.output import WIPE
from console.verb import UsageError, count, port, positive

if TYPE_CHECKING:
    from console.web.serving import Figures, Invitation

SMALLEST, LARGEST = (60, 16), (400, 120)
MOST_PEOPLE = 200
_SEQUENCE = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
_PLACED = rb"\x1b\[[0-9]+;[0-9]+H"


def size(text: str) -> tuple[int, int]:
    cells, rows = (int(part) for part in text.split("x"))
    if not (SMALLEST[0] <= cells <= LARGEST[0] and SMALLEST[1] <= rows <= LARGEST[1]):
        raise ValueError
    return cells, rows


def port_or_any(text: str) -> int:
    return 0 if text == "0" else port(text)


size.__name__ = "size from 60x16 to 400x120, as 160x48"
port_or_any.__name__ = "port"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `console` that are about browsers."""
    web = parser.add_argument_group("in browsers, for a class")
    web.add_argument("--web", action="store_true", help="show this console in browsers instead of this terminal")
    web.add_argument("--web-host", default="127.0.0.1", metavar="HOST", help="where to serve; default 127.0.0.1")
    web.add_argument("--web-port", type=port_or_any, default=0, metavar="PORT", help="default: a free one")
    web.add_argument("--web-size", type=size, default=(160, 48), metavar="CxR", help="cells; default 160x48")
    web.add_argument("--web-write", action="store_true", help="who opened the operator's link may type")
    web.add_argument(
        "--web-viewers", type=count, default=60, metavar="N", help="people a code; default 60, at most 200"
    )
    web.add_argument("--web-minutes", type=positive, default=30.0, metavar="M", help="a code is good for; default 30")


def check(options: argparse.Namespace) -> None:
    """Raises UsageError where the options do not go together."""
    if options.web and (options.once or options.json):
        raise UsageError("--web and --once exclude each other.")
    if options.web and not 1 <= options.web_viewers <= MOST_PEOPLE:
        raise UsageError(f"--web-viewers is from 1 to {MOST_PEOPLE}.")
    asked = options.web_write or options.web_port or options.web_host != "127.0.0.1"
    if asked and not options.web:
        raise UsageError("--web-host, --web-port and --web-write go with --web.")


def arguments_of_child(argv: Sequence[str]) -> list[str]:
    """The command line without what is about browsers, and without what the serving process does itself."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    parser.add_argument("--ephemeral", action="store_true")
    return parser.parse_known_args(argv)[1]


def serve(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Serve `spark-serve argv` until it ends; its exit code, or 128 + n for the signal that ended it all."""
    command = [sys.executable, "-m", "console.cli", *arguments_of_child(argv)]
    return serve_command(options, command)


def serve_command(options: argparse.Namespace, command: Sequence[str]) -> int:
    """The same for any command that draws a screen."""
    import uvloop

    from console.web.child import Child
    from console.web.serving import ListenError, Web, beyond_here, in_front, listen
    from console.web.serving import serve as serving
    from server.client import StackError

    cells, rows = options.web_size
    web = Web(
        host=options.web_host,
        port=options.web_port,
        cells=cells,
        rows=rows,
        write=options.web_write,
        people=options.web_viewers,
        minutes=options.web_minutes,
    )
    try:
        listener = listen(web.host, web.port)
    except ListenError as error:
        raise StackError(str(error)) from None
    if beyond_here(listener):
        print(
            "spark-serve: this goes over the network as plain HTTP: whoever is on the way sees the picture, and the link or "
            "the code, and can use them.",
            file=sys.stderr,
        )
    chosen = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    terminal = sys.stdin is not None and sys.stdin.isatty() and in_front(sys.stdin.fileno())
    said = Said(web.write, web.people, web.minutes, live=sys.stdout.isatty(), can_renew=terminal)
    child = Child(command, cells, rows, {**kept, **chosen})
    with listener:
        work = serving(
            child, listener, web, invite=said.invite, look=said.look, again=sys.stdin.fileno() if terminal else None
        )
        code, wrote = uvloop.run(work)
    said.end()
    if words := last_words(wrote):
        print(words)
    return code


class Said:
    """What the serving terminal says: the ways in, and one line of how it goes."""

    def __init__(self, write: bool, people: int, minutes: float, *, live: bool, can_renew: bool) -> None:
        self._write, self._people, self._minutes = write, people, minutes
        self._live, self._can_renew = live, can_renew
        self._line = ""

    def invite(self, invitation: Invitation) -> None:
        self.end()
        may = "may type" if self._write else "read-only"
        bare = invitation.code.replace("-", "")
        print(f"operator  {invitation.link}  (works once; {may})")
        print(f"class     {invitation.site}#{bare}")
        print(
            f"          or {invitation.site} and the code {invitation.code}"
            f"  ({self._people} people, {self._minutes:g} minutes; read-only)"
        )
        renew = "enter makes a new link and code, " if self._can_renew else ""
        print(f"          {renew}ctrl+c ends it", flush=True)

    def look(self, figures: Figures) -> None:
        """On a terminal a line that is written over; elsewhere one when the number of those who watch changes."""
        watch = "nobody watches" if not figures.watching else f"{figures.watching} watching"
        if not self._live:
            if watch != self._line:
                print(watch, flush=True)
                self._line = watch
            return
        line = f"{watch}, {figures.bytes_per_s / 1024:.1f} KiB/s each"
        if figures.behind:
            line += f", {figures.behind} catch-ups of slow ones"
        if figures.dropped:
            line += f", {figures.dropped} inputs dropped"
        if line != self._line:
            print(f"{WIPE}{line}", end="", flush=True)
            self._line = line

    def end(self) -> None:
        """The line that is written over stays as it is."""
        if self._live and self._line:
            print()
        self._line = ""


def last_words(wrote: bytes) -> str:
    """What the console said outside of its screen when it left, or why it never drew one."""
    _, left, after = wrote.rpartition(b"\x1b[?1049l")
    if not left and re.search(_PLACED, after):  # it was still drawing
        return ""
    text = after.decode(errors="replace")
    plain = re.sub(_SEQUENCE, "", text).replace("\r", "").strip()
    return "\n".join(line for line in plain.splitlines() if line.strip())
