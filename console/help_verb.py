"""The verbs about this program: help, and completion for the shells."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from console import manual
from console.load_verbs import VerbMaker
from console.verb import UsageError

SHELLS = ("bash", "zsh", "fish")
_FILES = frozenset({"FILE", "PATH", "RECORDING", "NAME|FILE"})
"""What options that take a file are called in the help."""


def add(verb: VerbMaker, parser: argparse.ArgumentParser) -> None:
    """Add the verbs; `parser` is the whole one that they speak of."""
    page = verb("help", partial(_help, parser), "Explain a verb, or list all of them.")
    page.add_argument("words", metavar="VERB", nargs="*", help="a verb, and what it takes, e.g. fault latency")
    page.add_argument("--man", action="store_true", help="everything as one manual page (roff), for man -l -")
    completion = verb(
        "completion", partial(_completion, parser), "Print a script that completes verbs and options at TAB."
    )
    completion.add_argument("shell", nargs="?", choices=SHELLS, help="default: the one in $SHELL")


def _help(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.man:
        from console.manpage import page

        print(page(parser), end="")
        return 0
    found = parser
    for word in options.words:
        inner = dict(manual.verbs(found))
        if word not in inner:
            raise UsageError(f"There is no verb {' '.join(options.words)!r}; spark-serve help lists those there are.")
        found = inner[word]
    found.print_help()
    return 0


def _completion(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    shell = options.shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UsageError(f"Name the shell: {', '.join(SHELLS)}.")
    print(script(parser, shell), end="")
    if sys.stdout.isatty():
        print(f"spark-serve: `spark-serve help completion` says where this goes for {shell}.", file=sys.stderr)
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Everything that can follow `spark-serve`, as a script for a shell."""
    import shtab

    for action in _actions(parser):
        names = (action.metavar,) if isinstance(action.metavar, str) else action.metavar or ()
        if action.choices is None and (action.type is Path or _FILES.intersection(names)):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell)).rstrip() + "\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    yield from parser._actions
    for _, inner in manual.verbs(parser):
        yield from _actions(inner)
