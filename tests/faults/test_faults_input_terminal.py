"""Text that attacks the terminal, in everything that comes from elsewhere: none of its controls arrives there.

A real stack watches an engine whose names are hostile, a real console watches the stack in a pty, and every verb that prints
prints: the raw bytes tell.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server import commands
from tests.e2e.conftest import Stack
from tests.faults.hostile import HOSTILE, MARK, PAYLOADS, smuggled
from tests.faults.ledger import Row, Tally, enter
from tests.faults.pages import ODDITIES, Pages, answer, pages
from tests.faults.terminal import Terminal

CELLS, ROWS = 160, 48
TROUBLE = r" engine( does not answer| \()"
CHEAP = ("10 s late",)


def opened() -> Terminal:
    console = Terminal(cells=CELLS, rows=ROWS, COLUMNS=str(CELLS), LINES=str(ROWS))
    console.until("● live")
    return console


@pytest.fixture(scope="module")
def engine() -> Iterator[Pages]:
    with pages(HOSTILE) as served:
        error = {"error": {"message": HOSTILE, "type": HOSTILE, "param": None, "code": HOSTILE}}
        served.paths["/version"] = answer(json.dumps({"version": HOSTILE}).encode())
        for path in ("/v1/chat/completions", "/v1/completions"):
            served.paths[path] = answer(
                json.dumps(error).encode(), "418 I'm a teapot", "content-type: application/json\r\n"
            )
        yield served


@pytest.fixture(scope="module")
def stack(engine: Pages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Stack(tmp_path_factory.mktemp("s") / "h", monkeypatch)
        made.up("--attach", engine.url, "--drive", "--people", "0")
        (made.paths.logs / "gateway.log").write_bytes(HOSTILE.encode() + b"\n\xff\x9b31m\x00\n")
        made.client.send(commands.Marker(HOSTILE))
        yield made
        made.verb("down", timeout=60)


def ask_badly(stack: Stack, times: int) -> None:
    """Requests of a user with a hostile name and a hostile prompt, which the engine answers with a hostile error."""
    body = {"model": HOSTILE, "messages": [{"role": "user", "content": HOSTILE}], "user": HOSTILE}
    with httpx.Client(trust_env=False) as http:
        for _ in range(times):
            url = f"http://127.0.0.1:{stack.gateway_port}/v1/chat/completions"
            headers = {"x-gateway-inference-fairness-id": f"{MARK} \x9b31m".encode("latin-1")}
            assert http.post(url, json=body, headers=headers, timeout=20).status_code == 418


def test_no_screen_of_the_console_passes_a_control_on(stack: Stack) -> None:
    ask_badly(stack, 3)
    console = opened()
    try:
        console.until(MARK)
        for key, shown in (
            ("2", "ended"),
            ("3", "cold start|arguments"),
            ("4", "Retry-After"),
            ("5", "no capacity search|Search|search"),
            ("1", "where a request"),
        ):
            console.press(key)
            console.until(shown)
            console.until(MARK)
        said = console.line(MARK)
        console.press("\x10")
        console.until("Compare policies")
        console.press("\x1b")
        console.until(lambda: console.read(0.05) and not console.shows("Compare policies"))
        console.press("m")
        console.until("What do you mark")
        console.press("\x1b[200~" + HOSTILE.replace("\x1b", "").replace("\r", "").replace("\n", "") + "\x1b[201~\r")
        console.until("Marker|marker|zQ")
    finally:
        code = console.end(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert smuggled(console.raw) == []
    fault = (
        f"{', '.join(PAYLOADS)} in the model's name, version, users, errors, markers, on five screens and the palette"
    )
    enter(Row(fault=fault, said=said, requests=Tally(3, 0, 3, 0), left=0))


VERBS = (
    ("status",),
    ("status", "--json"),
    ("requests",),
    ("logs", "gateway"),
    ("compare", "--list"),
    ("marker", HOSTILE.replace("\x00", "")),
    ("console", "--once"),
    ("requests", "--json"),
    ("logs", "stack"),
    ("preset", HOSTILE.replace("\x00", "")),
    ("policy",),
    ("restart",),
    ("capacity", "--list"),
    ("load", "--url", f"http://x/{HOSTILE}".replace("\x00", "")),
    ("report", HOSTILE.replace("\x00", "").replace("/", "")),
)


@pytest.mark.parametrize("verbs", [VERBS[:6], pytest.param(VERBS[6:], marks=pytest.mark.faults)], ids=len)
def test_no_verb_prints_a_control(stack: Stack, tmp_path: Path, verbs: tuple[tuple[str, ...], ...]) -> None:
    ask_badly(stack, 1)
    for folder, kind in ((stack.paths.comparisons, "compare"), (stack.paths.capacities, "capacity")):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{kind}-{MARK}\x1b]52;c;x\x07.json"
        (folder / name).write_text(json.dumps({"format": HOSTILE, "schema_version": 1}))
    heard = ""
    for verb in verbs:
        done = subprocess.run(
            [sys.executable, "-m", "console.cli", *verb], capture_output=True, timeout=60, check=False, cwd=tmp_path
        )
        assert smuggled(done.stdout) == [], verb
        assert smuggled(done.stderr) == [], verb
        assert b"Traceback" not in done.stderr, (verb, done.stderr.decode())
        heard += done.stdout.decode()
        if "--json" in verb and verb[0] == "status":
            assert json.loads(done.stdout)["engine"]["version"] == HOSTILE, "the same text, escaped"
    said = next(line for line in heard.splitlines() if MARK in line)
    enter(
        Row(
            fault=f"the same through {', '.join(' '.join(verb[:2]) for verb in verbs if MARK not in verb[-1])}",
            said=said[:200],
            requests=Tally(1, 0, 1, 0),
            left=0,
        )
    )


@pytest.mark.parametrize(
    "what",
    [one if one in CHEAP else pytest.param(one, marks=pytest.mark.faults) for one in ODDITIES],
)
def test_the_screen_says_what_is_wrong_with_metrics_and_goes_on(stack: Stack, engine: Pages, what: str) -> None:
    console = opened()
    try:
        stack.until("all is well", lambda seen: seen.sources["engine"].ok and not seen.sources["engine"].detail)
        before = stack.client.snapshot()
        engine.odd = ODDITIES[what][0]
        after_s = console.until(TROUBLE)
        said = console.line(TROUBLE)
        now = stack.until("ticks go on", lambda seen: seen.seq >= before.seq + 6, limit_s=20)
        assert (now.at - before.at) / (now.seq - before.seq) < 1.0, "no tick waits for it"
        engine.odd = None
        console.until(lambda: console.read(0.05) and not console.shows(TROUBLE))
    finally:
        engine.odd = None
        console.end(signal.SIGTERM)
    enter(Row(fault=f"/metrics of an attached engine: {what}", said=said, after_s=after_s, left=0))
