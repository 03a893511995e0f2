"""What is installed is what is pinned. (Whether a pinned version was yanked or has a known hole only a network can say: `make
audit`.)"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+)")


def name(text: str) -> str:
    """As packages are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", text).lower()


def needed() -> set[str]:
    """This project's dependencies, those of its tests included, and theirs."""
    found: set[str] = set()
    left = [("spark-serve", {"", "dev"})]
    while left:
        parent, extras = left.pop()
        for text in metadata.requires(parent) or []:
            requirement = Requirement(text)
            marker, key = requirement.marker, name(requirement.name)
            if key not in found and (marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)):
                found.add(key)
                left.append((key, {"", *requirement.extras}))
    return found


def test_every_installed_distribution_is_pinned_and_by_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    pins = {name(match[1]): match[2] for match in matches if match}
    assert len(pins) == len(lines)
    try:
        wanted = needed()
    except metadata.PackageNotFoundError:
        pytest.skip("spark-serve is not installed here")
    for key in sorted(wanted):
        assert pins.get(key) == metadata.version(key), key
