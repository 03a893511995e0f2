"""Everything a stack leaves on a disk is for its user alone, whatever the umask; what others could reach is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette

from server import config, control, keys
from server.config import Paths, SettingError
from server.control import bind

ROOT = str(Path(__file__).parents[2])
MADE = """
import os, sys
from pathlib import Path
from server import leftovers, report, saved
from server.config import be_private, default_paths
from server.control import bind
from server.engine.logfile import open_log
from server.telemetry.recording import Recorder
from server.telemetry.snapshot import Snapshot
os.umask(int(sys.argv[1], 8))
be_private()
paths = default_paths()
paths.make()
bind(paths.socket)
leftovers.note(paths.pidfile, {"stack": os.getpid()})
os.close(open_log(paths.logs / "engine.log"))
recorder = Recorder(paths.recordings / "a.sparkrec")
recorder.write(Snapshot(seq=1, at=0.0, wall=0.0))
recorder.write_request(b"{}")
recorder.close()
saved.save(paths.capacities, "capacity", 0.0, {"format": "x"})
saved.save(paths.comparisons, "comparison", 0.0, {"format": "x"})
(paths.reports / "request_log.md").touch(mode=0o600)
(paths.starts / "x.json").write_text("{}")
"""


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    return Paths(data=tmp_path / "data", state=tmp_path / "state", runtime=tmp_path / "run")


@pytest.mark.parametrize("umask", ["000", "022", "077", "0777"])
def test_under_any_umask_files_are_0600_and_folders_0700(tmp_path: Path, umask: str) -> None:
    variables = {**os.environ, "SPARK_SERVE_HOME": str(tmp_path / "home"), "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", MADE, umask], env=variables, timeout=50, check=True)
    found = sorted((tmp_path / "home").rglob("*"))
    assert len([path for path in found if not path.is_dir()]) == 9
    for path in (tmp_path / "home", *found):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path


def test_a_runtime_folder_that_others_can_write_is_refused(paths: Paths) -> None:
    paths.runtime.mkdir()
    paths.runtime.chmod(0o770)
    with pytest.raises(SettingError, match="can be written by others; remove it"):
        paths.make()


def test_a_runtime_folder_that_is_a_link_is_refused(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    paths.runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="is a symbolic link"):
        paths.make()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", ["runtime", "state", "data"])
def test_a_folder_of_somebody_else_is_refused(paths: Paths, name: str) -> None:
    folder: Path = getattr(paths, name)
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(SettingError, match="belongs to another user"):
        paths.make()


@pytest.mark.parametrize("name", ["state", "data"])
def test_a_folder_that_anybody_can_write_is_refused(paths: Paths, name: str) -> None:
    folder: Path = getattr(paths, name)
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SettingError, match="can be written by anybody"):
        paths.make()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_by_the_sockets_mode(paths: Paths) -> None:
    paths.make()
    listener = bind(paths.socket)
    as_nobody = "import os,socket,sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    argv = [sys.executable, "-c", as_nobody, str(paths.socket)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    listener.close()
    assert "PermissionError" in done.stderr


async def test_who_got_past_the_mode_is_cut_off(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this very process were somebody else's."""
    paths.make()
    listener = bind(paths.socket)
    monkeypatch.setattr(control, "_PEERS", frozenset({4711}))

    async with control.serve(Starlette(), listener):
        reader, writer = await asyncio.open_unix_connection(str(paths.socket))
        writer.write(b"GET /v1/snapshot HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


def test_the_two_keys_agree() -> None:
    variables = {keys.ENGINE_KEY: "e1"}
    keys.settle(variables, own_engine=False)
    assert variables == {keys.ENGINE_KEY: "e1", "SPARK_SERVE_API_KEY": "e1"}
    both = {keys.ENGINE_KEY: "e1", "SPARK_SERVE_API_KEY": "g1"}
    keys.settle(both, own_engine=False)
    assert both["SPARK_SERVE_API_KEY"] == "g1"
    for own in (True, False):
        vllms = {keys.VLLM_KEY: "v1"}
        keys.settle(vllms, own_engine=own)
        assert (keys.engine_key(vllms) == "v1") == own


def test_the_umask_from_before_is_kept_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_given_umask", None)
    before = os.umask(0o027)
    try:
        assert config.given_umask() == -1
        config.be_private()
        config.be_private()
        assert config.given_umask() == 0o027
    finally:
        os.umask(before)
