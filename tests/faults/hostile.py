"""Text that attacks a terminal and numbers that no instrument should give, put everywhere into a snapshot."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from console.format import UNPRINTABLE

MARK = "zQ"
"""Stands behind every payload's introducer, so that raw bytes tell whose an escape sequence is."""

PAYLOADS = {
    "SGR": f"\x1b[31;5m{MARK}",
    "clear": f"\x1b[2J{MARK}",
    "OSC 52": f"\x1b]52;c;{MARK}SGFja2Vk\x07",
    "OSC 8": f"\x1b]8;;http://{MARK}/\x1b\\link\x1b]8;;\x1b\\",
    "title": f"\x1b]0;{MARK}\x07",
    "DCS": f"\x1bP$q{MARK}\x1b\\",
    "APC": f"\x1b_G{MARK}\x1b\\",
    "torn OSC": f"\x1b]52;c;{MARK}",
    "lone ESC": f"\x1b{MARK}",
    "C1 CSI": f"\u009b31m{MARK}",
    "C1 OSC": f"\u009d52;c;{MARK}\u009c",
    "C1": f"{MARK}\u0085\u0090\u0080\u009f",
    "C0": f"{MARK}\r\n\t\b\x00\x07\x0e\x7f",
    "bidi": f"\u202e{MARK}\u202c\u2066{MARK}\u2069\u200f",
    "zero width": f"\u200b{MARK}\u200d\ufeff\u2060",
    "tags": f"{MARK}\U000e0041\U000e007f",
    "markup": f"[/red]{MARK}[bold][@click=app.quit]x[/][link=http://{MARK}]",
}
HOSTILE = " ".join(PAYLOADS.values())

S = TypeVar("S", bound=msgspec.Struct)


def poison(struct: S, text: Callable[[], str] | None = None, number: Callable[[], float] | None = None) -> S:
    """The struct with every free text, and every number, replaced; words of a closed set stay."""
    hints = typing.get_type_hints(type(struct))
    return msgspec.structs.replace(
        struct,
        **{name: _poisoned(getattr(struct, name), hints[name], text, number) for name in struct.__struct_fields__},
    )


def _poisoned(value: Any, hint: Any, text: Any, number: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return poison(value, text, number)
    kinds = list(_leaves(hint))
    if isinstance(value, list):
        inner = typing.get_args(_container(hint, list))[0]
        return [_poisoned(each, inner, text, number) for each in value]
    if isinstance(value, dict):
        key, inner = typing.get_args(_container(hint, dict))
        return {_poisoned(k, key, text, number): _poisoned(v, inner, text, number) for k, v in value.items()}
    if isinstance(value, bool) or (value is None and not (set(kinds) & {float, int} and number)):
        return value
    if isinstance(value, str):
        return text() if text is not None and str in kinds else value
    if number is None:
        return value
    found = number()
    if float in kinds:
        return found
    return int(found) if math.isfinite(found) else 10**30


def _leaves(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        for one in typing.get_args(hint):
            yield from _leaves(one)
    else:
        yield hint


def _container(hint: Any, kind: type) -> Any:
    return next(one for one in _leaves(hint) if typing.get_origin(one) is kind)


_OWN = re.compile(r"\x1b\[[<=>?]?[0-9;:]*[$ ]?[@-~]|\x1b\]22;[a-z-]*\x07")
"""What Textual writes: CSI sequences, and the pointer's shape."""


def smuggled(raw: bytes) -> list[str]:
    """What of the bytes that went to a terminal is a control of data's: a payload, or anything that is not our own."""
    text = raw.decode("utf-8")
    whole = [name for name, payload in PAYLOADS.items() if not payload.isprintable() and payload in text]
    rest = re.sub(r"[\r\n\t\x07]", "", _OWN.sub("", text))  # Textual rings the bell too
    return whole + [repr(rest[max(0, found.start() - 20) : found.end() + 20]) for found in UNPRINTABLE.finditer(rest)]
