"""A targeted scan of the Prometheus text format: the wanted metrics, and nothing else.

A full parse of a vLLM page (50 KB) takes some 10 ms and one bad line loses all of it. This looks at each line's name first,
parses the wanted lines alone, and counts those it has to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import NamedTuple

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPECIAL = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)')
_ESCAPE = re.compile(r'\\([\\"n])')
_TIMESTAMP = re.compile(r"-?[0-9]+")


class Sample(NamedTuple):
    """One line: always a finite value."""

    name: str
    labels: Mapping[str, str]
    value: float


class Scan(NamedTuple):
    """What a page held of the wanted metrics."""

    samples: list[Sample]
    refused: int
    """Lines with a wanted name that are not valid; NaN and infinities are valid and left out without being counted."""
    spoiled: dict[str, int]
    """Lines of each name that gave no value that can be: refused ones, NaN, infinities, and those below zero."""

    @property
    def trusted(self) -> list[Sample]:
        """The samples of metrics that are whole: with a rank missing a sum over the others would be wrong."""
        return [sample for sample in self.samples if sample.name not in self.spoiled] if self.spoiled else self.samples


def parse_number(text: str) -> float:
    """A number as Prometheus reads it; Python's float() would also take `1_000` and other scripts' digits.

    Raises ValueError.
    """
    if _NUMBER.fullmatch(text):
        return float(text)
    special = _SPECIAL.get(text.lower())
    if special is None:
        raise ValueError(f"not a number: {text!r}")
    return special


LINE_LIMIT = 16 * 1024
"""Characters; vLLM's longest line has 2,000."""
REMEMBERED = 512
"""Characters of labels that are worth remembering, so that what is remembered has a bound."""


@lru_cache(maxsize=8192)
def parse_labels(text: str) -> Mapping[str, str]:
    """The labels between the braces. The same few hundred texts come with every scrape, so they are remembered.

    Raises ValueError.
    """
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            if text[at:].strip(" \t"):
                raise ValueError(f"not labels: {text!r}")
            break
        name, value = found.groups()
        labels[name] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
        at = found.end()
    return labels


def scan(text: str, wanted: Set[str]) -> Scan:
    """Find the samples whose metric name is in `wanted`.

    The format ends every line with a line feed, so a last line without one was cut and is not trusted.
    """
    samples: list[Sample] = []
    spoiled: dict[str, int] = {}
    refused = 0
    lines = text.split("\n")
    lines.pop()
    for line in lines:
        brace = line.find("{")
        if brace < 0:
            name, _, rest = line.strip(" \t").replace("\t", " ").partition(" ")
            if name not in wanted:
                continue
            inside = ""
        else:
            name = line[:brace].strip(" \t")
            if name not in wanted:
                continue
            # Values hold no brace, so the last one closes the labels even when a label's value holds some.
            close = line.rfind("}")
            inside = line[brace + 1 : close]
            rest = line[close + 1 :] if close > brace else ""
        fields = rest.split()
        try:
            if (
                len(line) > LINE_LIMIT
                or not fields
                or len(fields) > 2
                or (len(fields) == 2 and not _TIMESTAMP.fullmatch(fields[1]))
            ):
                raise ValueError(f"not a sample: {line[:80]!r}")
            value = parse_number(fields[0])
            labels = parse_labels(inside) if len(inside) <= REMEMBERED else parse_labels.__wrapped__(inside)
        except ValueError:
            refused += 1
            spoiled[name] = spoiled.get(name, 0) + 1
            continue
        if math.isfinite(value):
            samples.append(Sample(name, labels, value))
        if not 0 <= value < math.inf:  # nothing that is wanted ever falls below
            spoiled[name] = spoiled.get(name, 0) + 1
    return Scan(samples, refused, spoiled)


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
