"""The verb `watchers`: who may watch the running stack; and `console --watch`, which opens somebody's stack read-only."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from console.verb import send
from server import commands
from server.audience import who
from server.client import StackClient
from server.config import default_paths
from server.watch_place import WatchPlace, find

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add(verb: VerbMaker) -> None:
    """Add the verb."""
    watchers = verb("watchers", _watchers, "Let the members of a group watch the running stack, or print who does.")
    watchers.add_argument("group", nargs="?", metavar="GROUP|off", help="a group of this machine that you are in")


def place(asked: str) -> WatchPlace:
    """Whose stack `--watch` means. Raises SettingError."""
    return find(asked)


def client_of(found: WatchPlace) -> StackClient:
    """Reads it, and can do no more."""
    return StackClient(default_paths(), socket=found.socket)


def _watchers(options: argparse.Namespace) -> int:
    if options.group is not None:
        return send(commands.Watchers(None if options.group == "off" else options.group))
    audience = StackClient(default_paths()).snapshot().audience
    if audience.group:
        print(f"The group {audience.group} may watch: spark-serve console --watch {audience.socket}")
    else:
        print("Nobody else may watch; `spark-serve watchers GROUP` lets a group.")
    for viewer in audience.viewers:
        since = time.strftime("%H:%M:%S", time.localtime(viewer.since))
        print(f"  {who(viewer.user, viewer.where):<28} {viewer.role:<9} since {since}")
    for notice in audience.latest:
        print(f"{time.strftime('%H:%M:%S', time.localtime(notice.wall))}  {notice.who}: {notice.text}")
    return 0
