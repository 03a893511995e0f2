"""The console in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.browser import NONE, find, page

ROOT = Path(__file__).parents[2]
BOUND_S = 60.0


@contextlib.asynccontextmanager
async def console(*options: str) -> AsyncIterator[dict[str, str]]:
    """`spark-serve console --web` on a recording; what it says of the ways in."""
    recording = str(ROOT / "screenshots" / "cpu.sparkrec")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "console.cli", "console", "--web", "--replay", recording, *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        text = ""
        while "ctrl+c" not in text:
            line = await asyncio.wait_for(process.stdout.readline(), BOUND_S)
            assert line, text
            text += line.decode()
        words = {
            "link": r"http://\S+/open/\S+",
            "class": r"(?<=class)\s+(http\S+)",
            "code": r"(?<=code )\S+",
            "base": r"http://[^/\s]+",
        }
        yield {name: found[0].strip() for name, way in words.items() if (found := re.search(way, text))}
    finally:
        process.send_signal(signal.SIGINT)
        rest = await asyncio.wait_for(process.communicate(), BOUND_S)
        assert process.returncode == 130, rest


async def test_the_console_in_a_browser() -> None:
    command = find()
    if command is None:
        pytest.skip(NONE)
    async with console() as said, page(command) as tab:
        await tab.ask("Page.navigate", url=said["link"])
        await tab.until("window.sparkServe?.text().includes('model server')")
        await tab.until("sparkServe.state() === 'live'")
        assert await tab.value("location.pathname + location.search + location.hash") == "/"
        assert await tab.value("document.cookie") == ""
        assert await tab.value("getComputedStyle(document.querySelector('.xterm-rows span')).color") != ""

        inside = "document.querySelector('.xterm-screen').getBoundingClientRect()"
        filled = f"Math.max({inside}.width / stage.clientWidth, {inside}.height / stage.clientHeight)"
        fits = f"{filled} > 0.9 && {filled} <= 1"
        wide = await tab.value("sparkServe.fontSize()")
        await tab.until(fits)
        await tab.ask("Emulation.setDeviceMetricsOverride", width=800, height=900, deviceScaleFactor=1, mobile=False)
        await tab.until(f"sparkServe.fontSize() < {wide} && {fits}")

        await tab.value("document.getElementById('screen').dataset.same = 'page', sparkServe.drop()")
        await tab.until("sparkServe.state() === 'lost'")
        assert re.search(r"lost at \d", str(await tab.value("document.getElementById('state').textContent")))
        await tab.until("sparkServe.state() === 'live'")
        assert await tab.value("document.getElementById('screen').dataset.same") == "page"
        assert "model server" in await tab.value("sparkServe.text()")

        await tab.ask("Network.clearBrowserCookies")
        await tab.ask("Page.navigate", url="about:blank")
        await tab.ask("Page.navigate", url=said["class"])
        await tab.until("window.sparkServe?.state() === 'live' && sparkServe.text().includes('model server')")
        assert await tab.value("location.hash") == ""

        assert tab.complaints == []
        own = (said["base"], said["base"].replace("http", "ws"), "about:")
        assert [url for url in tab.requests if not url.startswith(own)] == []
        assert any(url.startswith("ws:") for url in tab.requests)
