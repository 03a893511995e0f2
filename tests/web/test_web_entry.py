"""Who comes in, and where the stream may be cut: without a server."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.web import pages
from console.web.entry import ALL_ADDRESSES, ONE_ADDRESS, SIGNS, Entry, Refused, our_host, our_origin
from console.web.picture import BEGIN, END, KEPT_BYTES, Picture
from console.web_verb import arguments_of_child, last_words

STATIC = Path(pages.__file__).parent / "static"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_new_token_or_code_makes_the_one_before_void() -> None:
    entry = Entry(2, 30)
    assert entry.by_token("") is None
    assert isinstance(entry.by_code("", "a"), Refused)
    old, code = entry.new_token(), entry.new_code()
    new = entry.new_token()
    assert entry.by_token(old) is None
    cookie = entry.by_token(new)
    assert entry.role(cookie) == "operator"
    entry.new_code()
    assert isinstance(entry.by_code(code, "a"), Refused)
    assert entry.role(cookie) == "operator"
    assert entry.role("guess") is None
    assert entry.role(None) is None


def test_a_code_grows_old() -> None:
    clock = Clock()
    entry = Entry(2, 30, clock)
    code = entry.new_code()
    clock.now += 30 * 60 - 1
    assert isinstance(entry.by_code(code, "a"), str)
    clock.now += 2
    found = entry.by_code(code, "a")
    assert isinstance(found, Refused)
    assert found.again_s is None


def test_wrong_codes_are_counted_by_address_and_for_all_and_right_ones_never() -> None:
    clock = Clock()
    entry = Entry(10**6, 30, clock)
    code = entry.new_code()
    assert all(isinstance(entry.by_code(code, "class"), str) for _ in range(300))
    made = 0
    for address in range(1000):
        while (found := entry.by_code("22222222", str(address))) and found.again_s is None:  # type: ignore[union-attr]
            made += 1
    assert made == ALL_ADDRESSES[0]
    clock.now += 1.0
    assert isinstance(entry.by_code(code, "class"), str)
    for _ in range(int(ONE_ADDRESS[0])):
        entry.by_code("22222222", "one")
    assert isinstance(entry.by_code(code, "one"), Refused), "who guesses does not even learn that it was right"
    clock.now += 2.0
    assert isinstance(entry.by_code(code, "one"), str)


def test_a_code_is_made_of_signs_nobody_mistakes() -> None:
    assert re.fullmatch(f"[{SIGNS}]{{4}}-[{SIGNS}]{{4}}", Entry(1, 1).new_code())
    assert not set(SIGNS) & set("01ilo")


@pytest.mark.parametrize(
    ("host", "here", "beyond"),
    [
        ("127.0.0.1:80", True, True),
        ("[::1]", True, True),
        ("localhost:1", True, True),
        ("10.0.0.5:80", False, True),
        ("box:80", True, True),
        ("evil.example", False, False),
        ("", False, False),
        ("[", False, False),
        ("x@127.0.0.1", False, False),
    ],
)
def test_hosts_that_are_ours(host: str, here: bool, beyond: bool) -> None:
    assert our_host(host, {"box"}, beyond=False) is here
    assert our_host(host, {"box"}, beyond=True) is beyond


def test_origins_that_are_ours() -> None:
    assert our_origin("http://box:80", "box:80")
    assert our_origin("https://Box:80", "box:80")
    for other in (None, "", "null", "http://box", "http://box:81", "file://box:80", "http://box:80/x", "http://["):
        assert not our_origin(other, "box:80"), other


PIECES = [
    b"a",
    "▁é😀".encode(),
    b"\x1b[1;1H",
    b"\x1b[38;2;1;2;3m",
    b"\x1b[?25l",
    b"\x1b]0;title\x07",
    b"\x1bM",
    b"\r\n",
]
WHOLE = re.compile(rb"(?:\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1bM|[^\x1b])*\Z", re.DOTALL)


@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.just(BEGIN + b"x\x1b[mx" + END))),
    st.lists(st.integers(1, 9)),
    st.data(),
)
def test_nothing_is_cut_in_two_and_nothing_is_lost(pieces: list[bytes], steps: list[int], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)})
    picture = Picture(10)
    passed = [picture.feed(stream[begin:end]) for begin, end in pairwise(cuts)]
    assert b"".join(passed) == stream
    for part in passed:
        part.decode()
        assert WHOLE.match(part), part
        assert part.count(BEGIN) == part.count(END)


def test_what_is_the_terminals_own_is_not_passed_on() -> None:
    picture = Picture(2)
    assert picture.feed(b"\x1b[?1049h\x1b[?1003h\x1b[?25l\x1b[>25u\x1b[?2026$p\x1b]52;c;YQ==\x07x") == b"\x1b[?25lx"
    assert picture.wants_frames


def test_a_frame_that_never_ends_is_passed_on_at_last() -> None:
    picture = Picture(2)
    assert picture.feed(BEGIN + b"x" * 500_000) == b""
    assert len(picture.feed(b"x" * 600_000)) > 1_000_000


def test_what_is_kept_makes_the_screen_until_it_is_too_much() -> None:
    picture = Picture(2)
    picture.feed(b"\x1b[1;1Hone")
    assert not picture.whole
    picture.feed(b"\x1b[2;1Htwo")
    assert picture.whole
    picture.feed(b"\x1b[2;3H!")
    assert picture.present().endswith(b"\x1b[1;1Hone\x1b[2;1Htwo\x1b[2;3H!")
    assert b"1003h" not in picture.present()
    assert b"1003h" in picture.present(types=True)
    picture.feed(b"x" * KEPT_BYTES)
    assert not picture.whole
    picture.begin()
    picture.feed(b"\x1b[1;1H1\x1b[2;1H2")
    assert picture.whole


def test_the_child_gets_the_command_line_without_what_is_about_browsers() -> None:
    given_ = [
        "console",
        "--web",
        "--replay",
        "x",
        "--web-size",
        "80x24",
        "--ephemeral",
        "--engine-arg=--web",
        "--web-po=1",
    ]
    assert arguments_of_child(given_) == ["console", "--replay", "x", "--engine-arg=--web"]


def test_last_words() -> None:
    assert last_words(b"spark-serve: no such file\r\n") == "spark-serve: no such file"
    assert (
        last_words(b"\x1b[1;1H\x1b[48;2;1;2;3mxx\x1b[?1049l\x1b[?25h\r\nThe stack lives on.\r\n")
        == "The stack lives on."
    )
    assert last_words(b"\x1b[1;1H\x1b[38;2;1;1;1;48;2;1;2;3mxx") == ""


def test_what_is_shipped_of_others_is_what_its_note_says() -> None:
    note = (STATIC / "VERSIONS.md").read_text()
    sums = dict(line.split()[::-1] for line in note.splitlines() if re.match(r" +[0-9a-f]{64} ", line))
    assert set(sums) == {"xterm.js", "xterm.css"}
    for name, wanted in sums.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == wanted
    assert "Permission is hereby granted" in (STATIC / "LICENSE.xterm.txt").read_text()
    assert set(pages.TYPES) == {path.name for path in STATIC.iterdir()} - {"VERSIONS.md"}
    assert "<script>" not in (STATIC / "index.html").read_text()
