"""The report as one HTML file: whole, quiet, readable without a picture, and of the size of a mail."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import socket
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_recordings import COLD, CPU, H100, LEVELS, snapshots

from loadgen.capacity import Answer, Block, Point, Progress, Question
from server.report import gather, gathered, source_of
from server.report.charts import over_time
from server.report.cost import price
from server.report.page import charts_of, html_of, page
from server.telemetry.recording import read
from server.telemetry.snapshot import Engine, Event, Gpu, People, Queue, Snapshot, Value, Verdict
from tests.browser import chromium

__all__ = ["chromium"]

VOID = {"meta", "br", "hr", "img", "input", "link"}
DRAWN = {"rect", "line", "path", "circle"}


class Page(HTMLParser):
    """Tags that close in order, ids, and everything that could leave the page or run in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wanted: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-labelledby":
                self.wanted += (value or "").split()
            if name == "href":
                self.wanted.append((value or "").removeprefix("#"))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self._cell = []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in {"td", "th"} and self._cell is not None:
            self.rows[-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    found = {}
    for path in (H100, CPU, LEVELS, COLD):
        found[path.stem] = page(gathered(path), source_of(path), price("2.5 EUR"))
    return found


NAMES = [path.stem for path in (H100, CPU, LEVELS, COLD)]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_valid_and_asks_for_nothing(pages: dict[str, str], name: str) -> None:
    text = pages[name]
    found = Page(text)
    assert text.startswith("<!doctype html>")
    assert len(found.ids) == len(set(found.ids))
    assert set(found.wanted) <= set(found.ids), "every label and every link leads somewhere on the page"
    assert not {"script", "iframe", "object", "embed", "form", "link", "img", "base"} & set(found.tags)
    for tag, attribute, value in found.attributes:
        assert not attribute.startswith("on")
        assert attribute != "style", "the policy allows the sheet alone"
        assert attribute not in {"src", "srcset", "action", "data", "poster"}, (tag, attribute)
        if attribute == "href":
            assert value.startswith("#")
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|expression", style[0])
    policy = next(value for _, name, value in found.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert len(text.encode()) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_can_be_read_without_seeing_it(pages: dict[str, str], name: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", pages[name], re.DOTALL)
    assert len(figures) >= 7
    for figure in figures:
        if "id='start-" in figure:
            assert "<th scope='row'>first token</th><td>" in figure, "a table, whose bars are decoration"
            continue
        assert re.search(r'role="img" aria-labelledby="(\S+) (\S+)"', figure)
        assert re.search(r"<title id=[^>]+>[^<]{5,}</title>", figure)
        assert re.search(r"<desc id=[^>]+>[^<]{10,}</desc>", figure)
        assert "<table" in figure or "strip" in figure
    assert not re.search(r"[\s\"',L]-?(nan|inf)\b", pages[name])


def test_its_figures_are_the_recordings(pages: dict[str, str]) -> None:
    raw = snapshots(H100)
    people = max(s["people"]["people"]["v"] for s in raw if s.get("people", {}).get("people", {}).get("v") is not None)
    text = pages["h100"]
    crowd = re.search(r'<desc id="crowd-d">(.*?)</desc>', text)
    assert crowd is not None
    assert f"people between 0 and {people:.0f}" in crowd[1]
    rows = Page(text).rows
    (queue,) = (row for row in rows if row[0] == "queue" and len(row) == 4)
    assert queue[1:3] == ["2.54 s", "49 %"]
    for event in ("burst +200", "16 slow readers", "cold restart (process-cold)"):
        assert text.count(html.escape(event)) > 5, "on the charts and in the tables"
    assert "GPU: busy is not work" in text
    assert "GPU: busy is not work" not in pages["cpu"]
    assert "kWh a million" in text
    assert "0.230 EUR" in text


def test_a_line_has_the_values_in_order() -> None:
    def at(second: int) -> Snapshot:
        waits = Value(v=0.0 if second < 50 else 40.0)
        return Snapshot(seq=second, at=10.0 + second, wall=1e9, queue=Queue(depth=waits))

    run = gather(map(at, range(101)))
    drawn = over_time(charts_of(run)[0], run.timeline, [])
    path = re.search(r'class="line c1" d="M(.*?)"', drawn)
    assert path is not None
    points = [tuple(map(float, point.split(","))) for point in path[1].split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[0][1] == 150.0
    assert points[-1][1] == 0.0, "40 is the top of its scale"
    assert all((y == 150.0) == (x < 500) for x, y in points)
    assert "c0" not in drawn, "nobody counted people"


NASTY = (
    "</script></title></svg><script>alert(1)</script><img src=x onerror=y>\"'&amp; [a](javascript:b) \x1b]52;c;x\x07 |"
)


def test_words_of_others_stay_words() -> None:
    events = [Event(at=6.0, wall=1e9, kind=NASTY, text=NASTY, mark=letter) for letter in ("<", "&", '"')]
    events = [Event(at=6.0 + n, wall=1e9, kind=e.kind, text=e.text, mark=e.mark) for n, e in enumerate(events)]
    engine = Engine(phase="ready", model=NASTY, device=NASTY, version=NASTY, argv=["vllm", NASTY], running=Value(v=1.0))
    made = [
        Snapshot(
            seq=n,
            at=5.0 + n,
            wall=1e9 + n,
            engine=engine,
            events=events[:n],
            people=People(people=Value(v=1.0), preset=NASTY, void=NASTY),
            gpus=[Gpu(index=0, name=NASTY, tensor=Value(v=0.5))],
            limit=NASTY,
            gpu_note=NASTY,
        )
        for n in range(40)
    ]
    text = page(gather(made), "a test")
    found = Page(text)
    assert not {"script", "img"} & set(found.tags)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert "javascript:" not in "".join(value for _, name, value in found.attributes if name == "href")
    assert "alert(1)" in text, "it is shown"


def test_raw_html_in_markdown_is_text() -> None:
    assert html_of(["<b>x</b> ![i](http://x/y) [l](http://x) <http://x>"]).count("<") == 2, "the paragraph's own"
    table = html_of(["| a | b |", "|---|---:|", "| 1 | 2 |"])
    assert "style" not in table
    assert '<td class="num">2</td>' in table


QUESTION = Question(mix="128/64 tokens", seed=7)


def searched() -> Progress:
    blocks = [
        Block(people=p, phase=phase, begin_s=1.0, seconds=30.0, good=good, due=100, tokens_per_s=1000.0)  # type: ignore[arg-type]
        for p, good, phase in ((8, 100, "double"), (64, 97, "double"), (256, 60, "double"), (70, 96, "confirm"))
    ]
    curve = [
        Point(people=p, share=s, low=s - 0.1, high=min(1.0, s + 0.02)) for p, s in ((8, 1.0), (64, 0.96), (256, 0.6))
    ]
    answer = Answer(
        resolved=True, best=80.0, low=70.0, high=92.0, safe=70, clear_break=256, limit="TTFT", sentence="80."
    )
    return Progress(
        question=QUESTION, phase="done", people=80, blocks=blocks, curve=curve, elapsed_s=90.0, answer=answer
    )


def test_a_capacity_search_has_its_curve() -> None:
    made = [Snapshot(seq=n, at=5.0 + n, wall=1e9, capacity=searched() if n > 5 else None) for n in range(20)]
    text = page(gather(made), "a test", price("$3.6"))
    curve = re.search(r'<figure class="chart" id="capacity-1-curve">.*?</figure>', text, re.DOTALL)
    assert curve is not None
    assert curve[0].count('class="dot"') == 3
    assert curve[0].count('class="confirm"') == 1
    assert ">80 people<" in curve[0]
    assert '<path class="band c0"' in curve[0]
    zone = re.search(r'class="zone" x="([\d.]+)%" width="([\d.]+)%"', curve[0])
    best = re.search(r'class="best" x1="([\d.]+)%"', curve[0])
    assert zone is not None
    assert best is not None
    assert float(zone[1]) < float(best[1]) < float(zone[1]) + float(zone[2])
    # 1 000 tokens a second for $3.6 an hour: $1 a million
    assert "a million tokens made cost $1.00" in text


def test_cold_starts_are_drawn_to_one_scale(pages: dict[str, str]) -> None:
    starts = re.findall(r"<figure class='chart' id='start-\d'>.*?</figure>", pages["h100"], re.DOTALL)
    assert len(starts) == 2
    bars = [[(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', s)] for s in starts]
    ends = [max(x + w for x, w in of) for of in bars]
    assert ends[0] == pytest.approx(100, abs=2)
    assert ends[1] == pytest.approx(100 * 48.7 / 67.9, abs=2)
    assert "start-1" not in pages["cpu"]


def test_an_hour_is_under_a_megabyte() -> None:
    def at(tick: int) -> Snapshot:
        wave = tick * 7919 % 1009 / 1009
        gpu = Gpu(index=0, sm_active=Value(v=wave), tensor=Value(v=wave / 2), dram=Value(v=1 - wave), busy=Value(v=1.0))
        engine = Engine(phase="ready", running=Value(v=64 * wave), generation_tokens_per_s=Value(v=4000 * wave))
        word = ("GOOD", "BROKEN", "BENDING")[tick // 40 % 3]
        events = (
            [Event(at=10.0 + tick, wall=1e9, kind="marker", text=f"note {tick}", mark="m")] if tick % 20 == 0 else []
        )
        return Snapshot(
            seq=tick,
            at=10.0 + tick,
            wall=1e9 + tick,
            verdict=Verdict(word=word),  # type: ignore[arg-type]
            people=People(people=Value(v=200 * wave)),
            engine=engine,
            gpus=[gpu],
            events=events,
        )

    text = page(gather(map(at, range(3600))), "a test")
    Page(text)
    assert len(text.encode()) < 1_000_000


def test_nothing_was_measured_and_it_is_still_a_page() -> None:
    text = page(gather([Snapshot(seq=0, at=1.0, wall=1e9)]), "a test")
    Page(text)
    assert "<path" not in text
    assert "0 %" not in text


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_torn_recording_is_told_as_far_as_it_goes(tmp_path: Path, part: float) -> None:
    path = tmp_path / "torn.sparkrec"
    whole = CPU.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    told = sum(1 for _ in read(path))
    assert 0 < told < 173
    text = page(gathered(path), source_of(path))
    Page(text)
    assert f"{told} snapshots" in text


OWN = re.compile(rb"//[\w.-]*(google|googleapis|gvt1)\.com|CONNECT [\w.-]*(google|googleapis|gvt1)\.com:443")
"""What a browser asks its maker for of its own accord."""


class Listener:
    """A proxy that answers nothing and counts who comes."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer:
                first = peer.recv(400).split(b"\r\n")[0]
                if not OWN.search(first):
                    self.asked.append(first)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def asked_by(chromium: list[str], folder: Path, path: Path) -> tuple[list[bytes], str]:
    """What a browser wants from the network while it shows a page, and the page as it stands then."""
    listener = Listener()
    try:
        done: Any = subprocess.run(
            [
                *chromium,
                f"--user-data-dir={folder / 'profile'}",
                f"--proxy-server=http://127.0.0.1:{listener.port}",
                "--proxy-bypass-list=<-loopback>",
                "--window-size=1200,4000",
                "--dump-dom",
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        listener.close()
    return listener.asked, done.stdout


def test_no_request_leaves_the_page_in_a_browser(chromium: list[str], pages: dict[str, str], tmp_path: Path) -> None:
    picture = "<img src='http://example.test/seen.png'>"
    ours, loud = tmp_path / "run.html", tmp_path / "loud.html"
    loud.write_text(f"<!doctype html>{picture}")
    asked, _ = asked_by(chromium, tmp_path, loud)
    assert any(b"example.test" in request for request in asked), "what leaves a page is seen here"
    # Even if somebody smuggled one in, the page's own policy stops it.
    ours.write_text(pages["h100"].replace("<main>", f"<main>{picture}"))
    asked, dom = asked_by(chromium, tmp_path, ours)
    assert asked == []
    assert "Request log: qwen3-8b" in dom
