"""The watchers' socket: who gets in, what they see, and that they can do nothing; and who did what."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from server import commands, watch_place, watching
from server.audience import Gallery, acting, actor, who
from server.client import StackClient, StackError
from server.commands import Answer, Command
from server.config import Paths, SettingError, StackSettings
from server.control import Feed, application, bind, serve
from server.stack import Stack
from server.telemetry.snapshot import Engine, Snapshot, snapshot_decoder
from tests.fakes.waiting import until

ROOT = os.getuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
NOBODY = 65534
ME = pwd.getpwuid(os.getuid()).pw_name
SECRET = "a line of the engine's log"

AS = """
import json, os, socket, sys
groups, uid, gid, path, method, target = json.loads(sys.argv[1])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as wire:
    wire.settimeout(20)
    wire.connect(path)
    body = b'{"command":"burst"}' if method == "POST" else b""
    head = f"{method} {target} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
    wire.sendall(head.encode() + body)
    said = b""
    while data := wire.recv(65536):
        said += data
print(said.split(b" ", 2)[1].decode(), said.partition(b"\\r\\n\\r\\n")[2].decode())
"""


def a_group() -> str:
    """One that this process can give things to, and that is not root's."""
    if not ROOT:
        return grp.getgrgid(os.getgid()).gr_name
    return next(one.gr_name for one in grp.getgrall() if one.gr_gid not in {0, NOBODY})


GROUP = a_group()
GID = grp.getgrnam(GROUP).gr_gid


class Served:
    """A stack's two sockets with a scripted stack behind them."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(data=folder / "data", state=folder / "state", runtime=folder / "run")
        self.feed = Feed(0.5)
        self.gallery = Gallery()
        self.executed: list[tuple[Command, str]] = []
        self.watching = watching.Watching(self.paths, self.gallery, self.app)

    def app(self, cleared: Callable[[bytes], bytes] | None = None) -> Starlette:
        return application(
            self.feed,
            self.execute,
            lambda limit, since: [],
            lambda child, lines: [SECRET],
            gallery=self.gallery,
            cleared=cleared,
        )

    async def execute(self, command: Command) -> Answer:
        self.executed.append((command, actor()))
        return Answer(ok=True, message="Done.")

    def http(self, path: str | Path, **headers: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=os.fspath(path))
        return httpx.AsyncClient(transport=transport, base_url="http://stack", timeout=20, headers=headers)

    async def as_user(self, path: str, method: str, target: str, groups: list[int]) -> str:
        """What somebody else is answered: status and body, or the error's name."""
        spec = json.dumps([groups, NOBODY, NOBODY, path, method, target])
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", AS, spec], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


def frame(seq: int) -> Snapshot:
    return Snapshot(seq=seq, at=float(seq), wall=0.0, engine=Engine(phase="ready", log_tail=[SECRET]))


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    stack = Served(tmp_path)
    stack.paths.make()
    async with serve(stack.app(), bind(stack.paths.socket)):
        await stack.feed.publish(frame(1))
        try:
            yield stack
        finally:
            await stack.feed.close()
            await stack.watching.close()


async def test_the_group_gets_a_folder_and_a_socket_and_nobody_else_does(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        path = Path(await stack.watching.let_in(GROUP))
        folder = path.parent.stat()
        assert (stat.S_IMODE(folder.st_mode), folder.st_gid) == (0o750, GID)
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, GID)
        assert (stack.gallery.group, stack.gallery.socket) == (GROUP, str(path))
        assert watch_place.find(str(path)) == watch_place.WatchPlace(path, ME)
        assert await stack.watching.close()
        assert not path.parent.exists()
        assert not await stack.watching.close()
        assert stack.gallery.group == ""


async def test_watchers_see_snapshots_without_the_log_and_can_do_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        path = await stack.watching.let_in(GROUP)
        async with stack.http(path) as http, stack.http(stack.paths.socket) as own:
            shown = snapshot_decoder.decode((await http.get("/v1/snapshot")).content)
            assert shown.read_only == f"you watch {ME}'s stack: only {ME} acts here"
            assert (shown.engine.phase, shown.engine.log_tail) == ("ready", [])
            assert SECRET in (await own.get("/v1/snapshot")).text
            assert (await http.get("/v1/requests")).json() == []
            for route in ("/v1/logs", "/v1/tasks", "/v1/commands", "/"):
                assert (await http.get(route)).status_code == 404
            for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
                for route in ("/v1/commands", "/v1/snapshot", "/v1/snapshots"):
                    refused = await http.request(method, route, content=b'{"command":"down"}')
                    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
            assert stack.executed == []


async def test_past_and_present_are_cleared_alike_and_the_slow_get_the_newest(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        for seq in range(2, 6):
            await stack.feed.publish(frame(seq))
        path = await stack.watching.let_in(GROUP)
        async with stack.http(path) as http, http.stream("GET", "/v1/snapshots?history=10") as answer:
            lines = answer.aiter_lines()
            seen = [snapshot_decoder.decode(await anext(lines)) for _ in range(5)]
            await stack.feed.publish(frame(6))
            seen.append(snapshot_decoder.decode(await anext(lines)))
        assert [one.seq for one in seen] == [1, 2, 3, 4, 5, 6]
        assert all(one.engine.log_tail == [] and one.read_only for one in seen)

    feed = Feed(0.5)
    await feed.publish(frame(0))
    _, newest = feed.stream(history=0)
    for seq in range(1, 8):
        await feed.publish(frame(seq))
    assert snapshot_decoder.decode(await anext(newest)).seq == 7


@only_root
async def test_a_member_reads_and_a_stranger_is_refused_at_both_doors(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        path = await stack.watching.let_in(GROUP)
        private = str(stack.paths.socket)
        got = await stack.as_user(path, "GET", "/v1/snapshot", [GID])
        assert got.startswith("200 ")
        assert SECRET not in got
        assert (await stack.as_user(path, "POST", "/v1/commands", [GID])).startswith("405 ")
        assert await stack.as_user(path, "GET", "/v1/snapshot", []) == "PermissionError"
        for groups in ([GID], []):
            assert await stack.as_user(private, "GET", "/v1/snapshot", groups) == "PermissionError"
        assert stack.executed == []


@only_root
async def test_who_gets_past_the_modes_is_still_asked_for_the_group(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        path = Path(await stack.watching.let_in(GROUP))
        path.parent.chmod(0o755)
        path.chmod(0o666)
        assert await stack.as_user(str(path), "GET", "/v1/snapshot", []) in {
            "ConnectionResetError",
            "IndexError",
            "BrokenPipeError",
        }
        assert (await stack.as_user(str(path), "GET", "/v1/snapshot", [GID])).startswith("200 ")


async def test_there_is_an_end_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_OF_ONE_USER", 2)
    async with served(tmp_path) as stack:
        path = await stack.watching.let_in(GROUP)
        there = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for _, writer in there:
            writer.write(b"GET /v1/snapshots HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: len(stack.gallery.seen().viewers) == 2)
        async with stack.http(path) as http:
            full = await http.get("/v1/snapshot")
            assert full.status_code == 503
            assert full.json()["message"] == watching.FULL.message
        there[0][1].close()
        await until(lambda: len(stack.gallery.seen().viewers) == 1)

        async with stack.http(path) as http:
            assert (await http.get("/v1/snapshot")).status_code == 200
        there[1][1].close()


async def test_coming_going_and_acting_are_noted_with_who_and_from_where(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        path = await stack.watching.let_in(GROUP)
        mine = {commands.FROM: "pts/3"}
        async with stack.http(stack.paths.socket, **mine) as own, stack.http(path, **{commands.FROM: "pts/7"}) as guest:
            async with own.stream("GET", "/v1/snapshots"), guest.stream("GET", "/v1/snapshots"):
                await until(lambda: len(stack.gallery.seen().viewers) == 2)
                seen = {(one.user, one.where, one.role) for one in stack.gallery.seen().viewers}
                assert seen == {(ME, "pts/3", "operator"), (ME, "pts/7", "watcher")}
                await own.post("/v1/commands", content=b'{"command":"burst","count":3}')
            await until(lambda: not stack.gallery.seen().viewers)
        assert stack.executed == [(commands.Burst(3), f"{ME}@pts/3")]
        told = [(notice.who, notice.text, notice.acts) for notice in stack.gallery.seen().latest]
        assert (f"{ME}@pts/3", "Done.", True) in told
        assert {(f"{ME}@pts/7", "watches", False), (f"{ME}@pts/7", "has left", False)} <= set(told)


async def test_what_a_client_says_of_itself_is_cleaned_and_a_verb_is_one(tmp_path: Path) -> None:
    async with served(tmp_path) as stack:
        async with stack.http(stack.paths.socket, **{commands.FROM: "pts/3;<b>" + "y" * 99}) as http:
            await http.post("/v1/commands", content=b'{"command":"burst"}')
        await asyncio.to_thread(StackClient(stack.paths).send, commands.Burst())
        names = [name for _, name in stack.executed]
        assert names == [f"{ME}@pts/3 b {'y' * 16}", f"{ME} (verb)"]


async def test_the_doing_of_a_task_that_goes_on_is_nobodys() -> None:
    told: list[str] = []
    go = asyncio.Event()

    async def later() -> None:
        told.append(actor())
        await go.wait()
        told.append(actor())

    with acting("ada@pts/3"):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    go.set()
    await task
    assert told == ["ada@pts/3", ""]
    assert (who("ada", "verb"), who("ada", ""), actor()) == ("ada (verb)", "ada", "")


async def test_a_stacks_events_say_whose_they_were(tmp_path: Path) -> None:
    stack = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    with acting("ada@pts/3"):
        await stack.execute(commands.Marker("look"))
        stack._event("died", "the gateway ended", "x")
    stack._event("marker", "by nobody", "m")
    assert [event.who for event in stack._events] == ["ada@pts/3", "", ""]


async def test_watchers_is_a_command_and_an_event(tmp_path: Path) -> None:
    stack = Stack(StackSettings(), Paths(data=tmp_path, state=tmp_path, runtime=tmp_path))
    done = await stack.execute(commands.Watchers(GROUP))
    assert done.ok
    assert done.message.startswith(f"The group {GROUP} may watch. They open it with `spark-serve console --watch /tmp/")
    assert stack._events[-1].kind == "watchers"
    assert stack._gallery.seen().group == GROUP
    bad = await stack.execute(commands.Watchers("no-such-group-here"))
    assert (bad.ok, bad.message.startswith("There is no group 'no-such-group-here'")) == (False, True)
    assert (await stack.execute(commands.Watchers(None))).message == "Nobody may watch any more."
    assert not (await stack.execute(commands.Watchers(None))).ok


@only_root
def test_a_group_that_one_is_not_in_cannot_be_given_anything() -> None:
    code = f"import os; os.setgroups([{NOBODY}]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    code += f"from server.watch_place import group_id\ngroup_id({GROUP!r})"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import server.watch_place\n{code}"],
        env={**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"You are not in the group {GROUP}" in done.stderr


# the watcher's side


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        monkeypatch.setattr(watch_place, "SHARED", Path(folder))
        yield Path(folder)


def listening(folder: Path) -> socket.socket:
    folder.mkdir(mode=0o750)
    wire = socket.socket(socket.AF_UNIX)
    wire.bind(os.fspath(folder / watch_place.SOCKET))
    wire.listen()
    return wire


def test_the_only_stack_is_found_by_itself_or_by_its_user(shared: Path) -> None:
    with pytest.raises(SettingError, match="No stack can be watched here; its operator allows it with"):
        watch_place.find("")
    with pytest.raises(SettingError, match=f"{ME}'s stack cannot be watched"):
        watch_place.find(ME)
    with pytest.raises(SettingError, match="There is no user 'no-such-user'"):
        watch_place.find("no-such-user")
    name = f"{watch_place.NAME}-{os.getuid()}"
    with listening(shared / f"{name}-aa") as first:
        assert watch_place.find("").owner == watch_place.find(ME).owner == ME
        with listening(shared / f"{name}-bb"), pytest.raises(SettingError, match="Several stacks can be watched"):
            watch_place.find(ME)
        first.close()
    with pytest.raises(SettingError, match=r"Nothing answers on .*; the stack is down"):
        watch_place.find(str(shared / f"{name}-aa" / watch_place.SOCKET))


def test_a_place_that_others_could_have_made_is_not_trusted(shared: Path) -> None:
    folder = shared / f"{watch_place.NAME}-{os.getuid()}-aa"
    with listening(folder):
        folder.chmod(0o777)
        with pytest.raises(SettingError, match="not to be trusted"):
            watch_place.find("")
        folder.chmod(0o750)
        if ROOT:
            os.chown(folder, NOBODY, -1)  # his folder, with our socket in it
            with pytest.raises(SettingError, match="not a socket of its folder's owner"):
                watch_place.find(str(folder / watch_place.SOCKET))
    with pytest.raises(SettingError, match="There is no socket"):
        watch_place.find(str(shared / "nowhere" / "stack.sock"))


def test_a_client_of_a_watchers_socket_is_told_when_it_acts(tmp_path: Path) -> None:
    async def run() -> Any:
        async with served(tmp_path) as stack:
            path = Path(await stack.watching.let_in(GROUP))
            client = StackClient(stack.paths, socket=path)
            refused = await asyncio.to_thread(client.send, commands.Burst())
            return refused, await asyncio.to_thread(client.snapshot)

    refused, snapshot = asyncio.run(run())
    assert (refused.ok, refused.message) == (False, "A watcher only looks: nothing but GET is taken here.")
    assert snapshot.read_only
    with pytest.raises(StackError):
        StackClient(Paths(tmp_path, tmp_path, tmp_path), socket=tmp_path / "gone.sock").snapshot()
