"""The verb `settings`: what a person likes, shown and set one by one; and the names of all actions, for keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add(verb: VerbMaker) -> None:
    """Add the verb and what it does."""
    settings = verb("settings", _show, "Show the console's settings, or change one of them.")
    actions = settings.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("show", help="all settings, and what they can be (default)").set_defaults(run=_show)
    actions.add_parser("path", help="where the file is, or would be").set_defaults(run=_path)
    actions.add_parser("keys", help="every action's name for [keys], with its keys").set_defaults(run=_keys)
    change = actions.add_parser("set", help="change one; the rest of the file stays, comments too")
    change.set_defaults(run=_set)
    change.add_argument("name", metavar="NAME", help="a setting, or keys.ACTION")
    change.add_argument("value", metavar="VALUE", nargs="+", help="for keys.ACTION one or more keys")
    unset = actions.add_parser("unset", help="back to its default")
    unset.set_defaults(run=_unset)
    unset.add_argument("name", metavar="NAME")


def _show(_: argparse.Namespace) -> int:
    from console.settings import MEANINGS, Settings, read_settings, settings_file

    path, found, default = settings_file(), read_settings(), Settings()
    print(path if path.exists() else f"{path} (not there yet: everything is as by default)")
    for name, meaning in MEANINGS.items():
        if name != "keys":
            value = getattr(found, name)
            mark = " " if value == getattr(default, name) else "*"
            print(f"{mark} {name:<15} {'not set' if value is None else _shown(value):<14} {meaning}")
    for name, keys in found.keys.items():
        print(f"* keys.{name:<20} {' '.join(keys)}")
    if not found.keys:
        print("  keys            as by default  `spark-serve settings keys` names the actions")
    return 0


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _path(_: argparse.Namespace) -> int:
    from console.settings import settings_file

    print(settings_file())
    return 0


def _keys(_: argparse.Namespace) -> int:
    from console.keymap import keyed, name_of, shown
    from console.settings import read_settings

    deeds = keyed(read_settings().keys)
    cells = max(len(name_of(deed)) for deed in deeds)
    for deed in deeds:
        keys = " ".join(shown(key) for key in deed.keys.split(",") if key) or "-"
        print(f"{name_of(deed):<{cells}}  {keys:<10}  {deed.explained}")
    return 0


def _set(options: argparse.Namespace) -> int:
    from console.settings import put, settings_file, taken

    put(options.name, taken(options.name, options.value))
    print(f"{options.name} is {' '.join(options.value)} ({settings_file()}); a console that is open keeps what it has.")
    return 0


def _unset(options: argparse.Namespace) -> int:
    from console.settings import known, put

    known(options.name)
    put(options.name, None)
    print(f"{options.name} is as by default again.")
    return 0
