"""Keys by file: what each deed is called there, what a key is called, and where two deeds would share one. Pure."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from console.deeds import DEEDS, Deed

Keys = Mapping[str, tuple[str, ...]]
"""Name of a deed -> its keys, as a person types them."""

_RENAMED = {
    "solidus": "slash",
    "reverse_solidus": "backslash",
    "commercial_at": "at",
    "hyphen_minus": "minus",
    "plus_sign": "plus",
    "low_line": "underscore",
}
_NAMED = {
    mark: _RENAMED.get(name, name)
    for mark in string.punctuation
    for name in [re.sub("[ -]", "_", unicodedata.name(mark).lower())]
}
"""As Textual names the marks of a keyboard."""
_SHOWN = {"up": "↑", "down": "↓", "left": "←", "right": "→", "escape": "esc", "pageup": "pgup", "pagedown": "pgdn"}
_PLACES = frozenset(
    {*_SHOWN, "home", "end", "insert", "delete", "backspace", "enter", "tab", "space", *(f"f{n}" for n in range(1, 25))}
)
_MODIFIERS = frozenset({"ctrl", "alt", "shift", "super", "hyper", "meta"})
TAKEN = {"ctrl+p": "the palette", "ctrl+q": "leaving"}
"""Keys of the terminal toolkit's own."""


class KeymapError(Exception):
    """A line of `[keys]` that cannot be; `name` is its action, the text a clause that says why and what to do."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of them that was probably meant; empty where none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for what is wrong

    return next(iter(get_close_matches(word, list(known), 1)), "")


def name_of(deed: Deed) -> str:
    """What a person types for it: `slow-readers`; on one screen alone `load-row-up`."""
    name = re.sub(r"[^a-z0-9]+", "-", (deed.title or deed.label).lower()).strip("-")
    prefix = f"{deed.where}-" if deed.where else ""
    return name if name.startswith(prefix) else prefix + name


def named() -> dict[str, Deed]:
    """Every deed by its name."""
    return {name_of(deed): deed for deed in DEEDS}


def key_of(text: str) -> str:
    """A key as Textual knows it. Raises ValueError, whose text is a clause, where there is none of that name."""
    found = re.fullmatch(r"((?:[a-z]+\+)*)(.+)", text)
    modifiers, key = (found[1].split("+")[:-1], found[2]) if found else ([], text)
    key = _NAMED.get(key, key)
    is_letter = len(key) == 1 and key.isprintable() and key != " "
    if not (is_letter or key in _PLACES or key in _NAMED.values()) or not set(modifiers) <= _MODIFIERS:
        near = nearest(key, [*_PLACES, *_NAMED.values()])
        hint = f"; did you mean {near!r}?" if near else "; write 'B', 'f5', 'space' or 'ctrl+b'"
        raise ValueError(f"{text!r} is no key{hint}")
    return "+".join([*modifiers, key])


def shown(key: str) -> str:
    """A key as the footer has it."""
    marks = {name: mark for mark, name in _NAMED.items()}
    return marks.get(key) or _SHOWN.get(key, key)


def keyed(keys: Keys) -> tuple[Deed, ...]:
    """All deeds, those that `keys` names with their new ones. Raises KeymapError."""
    if not keys:
        return DEEDS
    known = named()
    changed: dict[str, str] = {}
    for name, texts in keys.items():
        if name not in known:
            near = nearest(name, known)
            raise KeymapError(name, f"there is no action {name!r}" + (f"; did you mean {near!r}?" if near else _LISTED))
        if not texts:
            raise KeymapError(name, "give it at least one key")
        try:
            found = [key_of(text) for text in texts]
        except ValueError as error:
            raise KeymapError(name, str(error)) from None
        for key, text in zip(found, texts, strict=True):
            if key in TAKEN:
                raise KeymapError(name, f"{text!r} is for {TAKEN[key]}; take another key")
        changed[known[name].id] = ",".join(found)
    deeds = tuple(replace(deed, keys=changed.get(deed.id, deed.keys)) for deed in DEEDS)
    _refuse_shared(deeds, changed)
    return tuple(replace(deed, shown=_shown(deed, deeds, changed)) for deed in deeds)


_LISTED = "; `spark-serve settings keys` lists them"


def _refuse_shared(deeds: Iterable[Deed], changed: Mapping[str, str]) -> None:
    """One key, one deed, on each screen."""
    holders: dict[str, list[Deed]] = {}
    for deed in deeds:
        for key in filter(None, deed.keys.split(",")):
            for other in holders.setdefault(key, []):
                together = other.where == deed.where or "" in {other.where, deed.where}
                if together and (deed.id in changed or other.id in changed):
                    new, old = (deed, other) if deed.id in changed else (other, deed)
                    name = name_of(old)
                    raise KeymapError(
                        name_of(new),
                        f"{shown(key)!r} is the key of {name!r} already; take another, or give {name!r} another one too",
                    )
            holders[key].append(deed)


def _shown(deed: Deed, deeds: Iterable[Deed], changed: Mapping[str, str]) -> str:
    """Of a hint that stands for two deeds, as `+ -` does, each part follows its own."""
    parts = deed.shown.split() or [""]
    return " ".join(_part(part, deed, deeds, changed) for part in parts).strip()


def _part(part: str, deed: Deed, deeds: Iterable[Deed], changed: Mapping[str, str]) -> str:
    owner = next((one for one in deeds if one.where == deed.where and one.shown == part and part), deed)
    first = owner.keys.split(",")[0]
    return shown(first) if owner.id in changed and first else part


def keymap(deeds: Iterable[Deed]) -> dict[str, str]:
    """What differs from the defaults, for Textual: id of a binding -> its keys."""
    before = {deed.id: deed.keys for deed in DEEDS}
    return {deed.id: deed.keys for deed in deeds if deed.keys != before[deed.id] and before[deed.id]}


def newly_keyed(deeds: Iterable[Deed]) -> Iterator[Deed]:
    """Those that had no key and have one now."""
    before = {deed.id: deed.keys for deed in DEEDS}
    return (deed for deed in deeds if deed.keys and not before[deed.id])
