"""The console in browsers, as far as it goes without one: real server, real sockets, a program that paints in a pty."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from console.web import picture
from console.web.pages import MESSAGE_BYTES
from tests.web.served import BOUND_S, serving, watching

RECORDING = Path(__file__).parents[2] / "screenshots" / "cpu.sparkrec"


async def test_a_link_works_once_and_gives_a_cookie_no_script_and_no_other_site_can_use() -> None:
    async with serving() as served, httpx.AsyncClient(verify=False) as client:
        link = served.invitations[0].link
        ahead = await client.get(link, headers={"Sec-Purpose": "prefetch;prerender"})
        assert (ahead.status_code, (await client.head(link)).status_code) == (405, 405)
        first = await client.get(link)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        cookie = first.headers["set-cookie"].lower()
        assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in cookie.split(";")}
        me = (await client.get(f"{served.base}/me")).json()
        assert me == {"role": "operator", "types": False, "cells": 60, "rows": 16}
        async with httpx.AsyncClient(verify=False) as another:
            assert (await another.get(link)).status_code == 403
            assert (await another.get(f"{served.base}/me")).json() is None
            page = await another.get(f"{served.base}/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"


async def test_a_code_lets_in_as_many_as_it_was_made_for_and_wrong_ones_are_slowed_down() -> None:
    async with serving(people=2) as served:
        code = served.invitations[0].code
        assert (await served.joined(Origin="http://elsewhere")).status_code == 403
        first, second = await served.joined(), await served.joined(code.replace("-", " ").upper())
        assert (first.status_code, second.status_code) == (204, 204)
        assert "httponly" in first.headers["set-cookie"].lower()
        third = await served.joined()
        assert (third.status_code, "As many as" in third.text) == (403, True)
        async with httpx.AsyncClient(headers={"Origin": served.base}, verify=False, timeout=BOUND_S) as client:
            wrong = await asyncio.gather(*(client.post(f"{served.base}/join", content="22222222") for _ in range(80)))
        assert {one.status_code for one in wrong} == {403, 429}
        assert {int(one.headers["retry-after"]) for one in wrong if one.status_code == 429} == {1}
        assert (await served.joined("x" * (MESSAGE_BYTES + 1))).status_code == 413


@pytest.mark.parametrize(
    ("origin", "host", "with_cookie"),
    [
        ("http://elsewhere:1", None, True),
        (None, None, True),
        ("null", None, True),
        ("http://rebound.example", "rebound.example", True),
        ("http://203.0.113.9", "203.0.113.9", True),
        ("same", None, False),
    ],
)
async def test_a_socket_is_refused_to(origin: str | None, host: str | None, with_cookie: bool) -> None:
    async with serving() as served:
        headers = {"Cookie": await served.cookie()} if with_cookie else {}
        where = served.base if origin == "same" else origin
        with pytest.raises(InvalidStatus) as refused:
            async with connect(
                f"ws://{host or served.host}/watch",
                host="127.0.0.1",
                port=int(served.host.rpartition(":")[2]),
                additional_headers=headers,
                origin=where,  # type: ignore[arg-type]
            ):
                pass
        assert refused.value.response.status_code == 403


async def test_a_page_is_refused_under_a_foreign_name_and_served_through_a_tunnel() -> None:
    async with serving() as served, httpx.AsyncClient(verify=False) as client:
        for name, status in [
            ("rebound.example", 421),
            ("localhost:9999", 200),
            ("[::1]:80", 200),
            ("a@localhost", 421),
        ]:
            answer = await client.get(f"{served.base}/", headers={"Host": name})
            assert answer.status_code == status, name
        assert (await client.get(f"{served.base}/static/..%2f..%2fcli.py")).status_code == 404


async def test_who_comes_later_sees_what_the_first_one_sees() -> None:
    async with serving(0.01, 200) as served:
        cookie = await served.cookie()
        async with watching(served, cookie) as first:
            await first.until(lambda: first.count > 5)
            async with watching(served, await served.viewers_cookie()) as late:
                await late.until(lambda: late.count >= 0)
                for behind, ahead in ((first, late), (late, first)):
                    await behind.until(lambda: behind.count >= ahead.count)  # noqa: B023
                assert first.count == late.count
                assert late.cells == first.cells
                assert late.screen.display[0].startswith("row 1 ░")


async def test_after_much_was_written_the_console_is_asked_once_for_all_who_come() -> None:
    async with serving(0.01, 8000) as served:
        cookie = await served.cookie()
        async with watching(served, cookie) as first:
            await first.until(lambda: first.received > 400_000)
            screens = [await _joined(served, cookie) for _ in range(3)]
            assert all(count > 20 for count in screens)


async def _joined(served: object, cookie: str) -> int:
    async with watching(served, cookie) as late:  # type: ignore[arg-type]
        await late.until(lambda: late.count >= 0)
        assert late.screen.display[15].startswith("row 16 ░")
        return late.count


async def test_the_real_console_paints_for_who_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "KEPT_BYTES", 1000)
    replay = [sys.executable, "-m", "console.cli", "console", "--replay", str(RECORDING)]
    async with serving(command=replay, size=(100, 30)) as served, watching(served, await served.cookie()) as first:
        await first.until(lambda: "gateway" in "".join(first.screen.display))
        size = first.received
        await first.until(lambda: first.received > size)
        async with watching(served, await served.viewers_cookie()) as late:
            await late.read()
            await first.until(lambda: first.received > size + 5000)
            async with asyncio.timeout(BOUND_S):
                while first.cells != late.cells:
                    await asyncio.gather(first.rest(), late.rest())


async def test_read_only_drops_what_is_typed_and_counts_it() -> None:
    async with serving() as served, watching(served, await served.cookie()) as first:
        await first.until(lambda: first.count >= 0)
        await first.socket.send(b"hello")
        await first.socket.send("hello")
        await first.until(lambda: served.figures[-1].dropped == 2)
        assert "hello" not in "".join(first.screen.display)


async def test_with_write_the_operator_types_and_nobody_else() -> None:
    async with (
        serving(write=True) as served,
        watching(served, await served.cookie()) as operator,
        watching(served, await served.viewers_cookie()) as viewer,
    ):
        await viewer.until(lambda: viewer.count >= 0)
        await viewer.socket.send(b"viewer")
        await operator.socket.send(b"oper\x1aator")
        await viewer.until(lambda: "operator" in viewer.screen.display[2])
        assert "viewer" not in "".join(viewer.screen.display)
        await viewer.socket.send(b"x" * (MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await viewer.until(lambda: False)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_who_does_not_read_holds_nobody_up_and_gets_the_present_screen() -> None:
    async with serving(0.005, 16_000) as served:
        cookie = await served.cookie()
        async with watching(served, cookie, holds=4096) as slow, watching(served, cookie) as quick:
            await slow.until(lambda: slow.count >= 0)
            at = slow.count
            while not served.figures[-1].behind or quick.received < 2_000_000:
                await quick.take()
            while not (data := await slow.take()).startswith(b"\x1bc"):  # a terminal's reset: a whole screen begins
                pass
            slow.see(data)
            assert slow.count > at
            assert slow.screen.display[15].startswith("row 16 ░")
            assert slow.received < quick.received / 2


async def test_the_end_of_the_console_ends_it_and_says_so_to_the_pages() -> None:
    async with serving() as served:
        async with watching(served, await served.cookie()) as first:
            await first.until(lambda: first.count >= 0)
            os.kill(served.child.pid, 15)
            with pytest.raises(ConnectionClosed) as closed:
                await first.until(lambda: False)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert served.task is not None
        code, _ = await asyncio.wait_for(served.task, BOUND_S)
        assert code == 0
        assert not psutil.pid_exists(served.child.pid)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(served.host.rpartition(":")[2]))) != 0
