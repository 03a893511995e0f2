"""The words of the screen: the field's own terms, or those of a restaurant for who has never seen a batch.

A panel writes its words in the field's terms and asks for them with `say`. While `console.view.draw` draws a view, the
view's wording answers: the same text, or what `plain.toml` has for it. Widths are counted after the answer, so a panel lays
out the words it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from console.ink import cut, text_width

Wording = Literal["standard", "plain"]

_wording: ContextVar[Wording] = ContextVar("wording", default="standard")


@contextmanager
def speaking(wording: Wording) -> Iterator[None]:
    """Let `say` answer in this wording."""
    token = _wording.set(wording)
    try:
        yield
    finally:
        _wording.reset(token)


def wording() -> Wording:
    """The wording that answers now, for what is kept from one drawing to the next."""
    return _wording.get()


def plainly() -> bool:
    """Whether plain words answer now."""
    return _wording.get() == "plain"


def say(text: str, cells: int | None = None) -> str:
    """`text` in the wording of the view that is drawn, blanks around it kept.

    A phrase that the vocabulary has is answered as a whole, its longest wording that takes at most `cells`; in any other
    text each term is replaced. Figures stay what they are.
    """
    return text if _wording.get() == "standard" else _plain(text, cells)


@dataclass(frozen=True)
class Vocabulary:
    """Plain words for the field's."""

    phrases: dict[str, tuple[str, ...]]
    """A whole label or sentence -> its wordings, the longest first."""
    terms: dict[str, str]
    """A term within a sentence -> its plain word; in small letters."""

    def phrase(self, text: str, cells: int | None = None) -> str | None:
        """The longest wording that fits, the shortest cut where none does; None: no such phrase."""
        wordings = self.phrases.get(text)
        if wordings is None:
            return None
        if cells is None:
            return wordings[0]
        return next((one for one in wordings if text_width(one) <= cells), cut(wordings[-1], cells))

    def sentence(self, text: str) -> str:
        """Every term of a sentence in plain words; a capital at its beginning stays one."""
        return self._pattern.sub(self._word, text)

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _pattern(tuple(self.terms))

    def _word(self, found: re.Match[str]) -> str:
        term = found[0]
        word = self.terms[term.lower()]
        return word[:1].upper() + word[1:] if term[:1].isupper() and term[1:2].islower() else word


@lru_cache(maxsize=2)
def _pattern(terms: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(terms, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """What `plain.toml` has."""
    import tomllib  # noqa: PLC0415 - the console has to paint before anybody asks for this

    read = tomllib.loads(resources.files("console").joinpath("plain.toml").read_text("utf-8"))
    phrases = {text: (said,) if isinstance(said, str) else tuple(said) for text, said in read["phrases"].items()}
    return Vocabulary(phrases, {term.lower(): str(word) for term, word in read["terms"].items()})


@lru_cache(maxsize=4096)
def _plain(text: str, cells: int | None) -> str:
    core = text.strip(" ")
    if not core:
        return text
    begin = text.index(core)
    before, after = text[:begin], text[begin + len(core) :]
    room = None if cells is None else max(0, cells - begin - len(after))
    known = vocabulary()
    said = known.phrase(core, room)
    return before + (said if said is not None else known.sentence(core)) + after
