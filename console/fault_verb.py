"""The verb `fault`: what can be provoked and what lasts, one fault provoked, or undone."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from console.verb import positive, send
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.faults.catalogue import CATALOGUE, FaultError, FaultKind, Parameter, Setting
from server.telemetry.snapshot import ActiveFault

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
ALL = ""
EDGES = {
    "client": "client edge: what people do",
    "network": "network edge: between two of us",
    "process": "process edge",
    "host": "host edge",
}


def add(verb: VerbMaker) -> None:
    """Add the verb, with a verb of its own for every fault."""
    fault = verb("fault", _list, "Provoke a fault on the running stack, or list those there are and those that last.")
    fault.add_argument("--stop", nargs="?", const=ALL, metavar="NAME", help="undo this fault, or all that last")
    kinds = fault.add_subparsers(dest="fault", metavar="FAULT")
    for kind in CATALOGUE:
        text = kind.says.replace("%", "%%")
        parser = kinds.add_parser(kind.name, help=text, description=kind.says)
        parser.set_defaults(run=_begin, kind=kind, stop=None)
        for place, parameter in enumerate(kind.parameters):
            _add(parser, parameter, main=place == 0)
        if kind.seconds is not None:
            parser.add_argument(
                "--for", type=positive, dest="seconds", metavar="S", help=f"seconds; default {kind.seconds:g}"
            )


def _add(parser: argparse.ArgumentParser, parameter: Parameter, *, main: bool) -> None:
    choices = f"{', '.join(map(str, parameter.steps))}; " if parameter.closed else ""
    text = f"{parameter.says} ({choices}default {parameter.shown(parameter.default)})".replace("%", "%%")
    take, name = _taker(parameter), parameter.name
    if main:
        parser.add_argument("main", nargs="?", type=take, metavar=name.upper(), help=text)
    parser.add_argument(
        f"--{name}",
        type=take,
        dest=f"set_{name}",
        metavar="X" if parameter.closed else "N",
        help=argparse.SUPPRESS if main else text,
    )


def _taker(parameter: Parameter) -> Callable[[str], Setting]:
    def take(text: str) -> Setting:
        try:
            return parameter.taken(text)
        except FaultError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None

    return take


def _begin(options: argparse.Namespace) -> int:
    kind: FaultKind = options.kind
    settings: dict[str, Setting] = {}
    for place, parameter in enumerate(kind.parameters):
        given = getattr(options, f"set_{parameter.name}")
        if given is None and place == 0:
            given = options.main
        if given is not None:
            settings[parameter.name] = given
    return send(commands.Fault(kind.name, settings, getattr(options, "seconds", None)))


def _list(options: argparse.Namespace) -> int:
    if options.stop is not None:
        return send(commands.Unfault(options.stop or None))
    for edge, title in EDGES.items():
        print(title)
        for kind in CATALOGUE:
            if kind.edge == edge:
                print(f"  {kind.name:<12} {kind.says}")
        print()
    try:
        active = StackClient(default_paths()).snapshot().faults
    except StackError as error:
        print(error)
        return 0
    print("\n".join(["lasting now", *(f"  {lasting(one)}" for one in active)]) if active else "No fault lasts now.")
    return 0


def lasting(fault: ActiveFault) -> str:
    """A fault that lasts and for how long still, in one clause."""
    return fault.text if fault.left_s is None else f"{fault.text}, {fault.left_s:.0f} s left"
