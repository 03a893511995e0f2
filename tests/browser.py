"""A headless Chromium for tests, where there is one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
)
"""So that it asks for nothing of its own accord."""


@pytest.fixture(scope="session")
def chromium() -> list[str]:
    """Its command line, to which a URL is added; the test is skipped where there is none."""
    ours = Path(sys.prefix) / "chromium" / "chromium"
    places = [os.environ.get("SPARK_SERVE_CHROMIUM"), str(ours) if ours.exists() else None, *map(shutil.which, NAMES)]
    found = next(filter(None, places), None)
    if found is None:
        pytest.skip("no Chromium here: install one, or name it in SPARK_SERVE_CHROMIUM")
    return [found, *QUIET]
