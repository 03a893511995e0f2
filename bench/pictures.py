"""Draw moments of a recording as the cockpit shows them: SVG, and PNG where Chromium is on the PATH.

    python -m bench.pictures screenshots/h100.sparkrec --out screenshots one-chat=ready+30 crowd='64 people'+75 ...

A moment is NAME=EVENT+SECONDS: so long after the first event whose text contains EVENT. NAME@80x24 sets the size (160x48),
NAME#3 presses a key first (NAME#tab+enter several), NAME%light takes a theme. Without moments it lists the recording's events.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from console.app import CockpitApp
from console.sources.replay import ReplaySource
from console.themes import THEMES
from server.telemetry.recording import read
from server.telemetry.snapshot import Event, Snapshot

MOMENT = re.compile(
    r"(?P<name>[\w-]+)(?:@(?P<w>\d+)x(?P<h>\d+))?(?:#(?P<keys>[\w+]+))?(?:%(?P<theme>[\w-]+))?=(?P<event>.+)\+(?P<after>[\d.]+)"
)
WEB_FONT = re.compile(r"@font-face\s*\{.*?\}", re.S)
FAST = 1e9
SETTLE_S = 1.5
"""The Requests screen asks for its requests once it is in front."""


def events(recording: Sequence[Snapshot]) -> list[Event]:
    """Every event once, oldest first."""
    return list({event.at: event for snapshot in recording for event in snapshot.events}.values())


async def draw(upto: Sequence[Snapshot], size: tuple[int, int], keys: str, theme: str, recording: Path) -> str:
    """The screen as SVG after all of `upto`, without links to a web font."""
    app = CockpitApp(ReplaySource(upto, speed=FAST, requests_of=recording), look=THEMES[theme])
    async with app.run_test(size=size) as pilot:
        while app.snapshot is None or app.snapshot.seq < upto[-1].seq:
            await pilot.pause(0.05)
        for key in keys.split("+") if keys else ():
            await pilot.press(key)
        await pilot.pause(SETTLE_S)
        return WEB_FONT.sub("", app.export_screenshot(title="spark-serve console"))


def to_png(svg: Path, cells: tuple[int, int]) -> None:
    """Beside the SVG, if there is a Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return
    width, height = cells[0] * 12 + 40, round(cells[1] * 24.4) + 60
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "page.html"
        drawing = svg.read_text().replace("<svg ", "<svg width='100%' ", 1)
        page.write_text(f"<body style='margin:0;background:#0c0e12'>{drawing}</body>")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        subprocess.run(
            [
                chromium,
                *flags,
                f"--user-data-dir={scratch}/profile",
                f"--window-size={width},{height}",
                f"--screenshot={svg.with_suffix('.png')}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("moments", nargs="*")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--png", action="append", default=[], metavar="NAME", help="make a PNG of this one as well")
    options = parser.parse_intermixed_args()
    recording = list(read(options.recording))
    known = events(recording)
    if not options.moments:
        for event in known:
            print(f"{event.at - recording[0].at:8.1f} s  {event.text}")
        return 0
    for moment in options.moments:
        found = MOMENT.fullmatch(moment)
        if found is None:
            parser.error(f"{moment!r} is not NAME=EVENT+SECONDS")
        matching = [event for event in known if found["event"] in event.text]
        if not matching:
            parser.error(f"no event of the recording contains {found['event']!r}")
        until = matching[0].at + float(found["after"])
        upto = [snapshot for snapshot in recording if until - 300 <= snapshot.at <= until]
        size = (int(found["w"] or 160), int(found["h"] or 48))
        svg = options.out / f"{found['name']}.svg"
        svg.write_text(asyncio.run(draw(upto, size, found["keys"] or "", found["theme"] or "dark", options.recording)))
        if found["name"] in options.png:
            to_png(svg, size)
        print(f"{svg}: {upto[-1].verdict.word}, {len(upto)} snapshots up to {until - recording[0].at:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
