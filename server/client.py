"""Talking to the stack over its socket: find it, start it, ask it, tell it. Synchronous, for CLI verbs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import psutil

from server.commands import FROM, Answer, Command
from server.config import Paths, StackSettings, given_umask
from server.leftovers import noted
from server.supervisor import lives
from server.telemetry.snapshot import JoinedRequest, Snapshot, snapshot_decoder

START_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
NO_STACK = "No stack is running; start one with `spark-serve up` or `spark-serve console`."


class StackError(Exception):
    """The stack is not there or does not answer as it should; the text is one sentence for a person."""


class StackClient:
    """One user's stack, whether it runs or not."""

    def __init__(self, paths: Paths, *, socket: Path | None = None) -> None:
        """`socket`: another user's, which can only be read."""
        self.paths = paths
        self._socket = socket or paths.socket

    def running(self) -> bool:
        """Does a stack listen on the socket?"""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            try:
                probe.connect(os.fspath(self._socket))
            except OSError:
                return False
        return True

    def snapshot(self) -> Snapshot:
        """The latest snapshot. Raises StackError when there is none."""
        status, body = self._ask("GET", "/v1/snapshot")
        if status != HTTPStatus.OK:
            raise StackError(_message(status, body))
        try:
            return snapshot_decoder.decode(body)
        except msgspec.DecodeError as error:
            raise StackError(
                f"The running stack speaks another version ({error}); take it down and start again."
            ) from None

    def requests(self, limit: int) -> list[JoinedRequest]:
        """The latest finished requests, newest last. Raises StackError."""
        status, body = self._ask("GET", f"/v1/requests?limit={limit}")
        if status != HTTPStatus.OK:
            raise StackError(_message(status, body))
        try:
            return msgspec.json.decode(body, type=list[JoinedRequest])
        except msgspec.DecodeError as error:
            raise StackError(
                f"The running stack speaks another version ({error}); take it down and start again."
            ) from None

    def logs(self, child: str, lines: int) -> list[str]:
        """The last lines of one child's log."""
        status, body = self._ask("GET", f"/v1/logs?child={child}&lines={lines}")
        if status != HTTPStatus.OK:
            raise StackError(_message(status, body))
        return msgspec.json.decode(body, type=list[str])

    def send(self, command: Command) -> Answer:
        """Tell the stack to do something; the answer says what became of it."""
        _, body = self._ask("POST", "/v1/commands", msgspec.json.encode(command))
        try:
            return msgspec.json.decode(body, type=Answer)
        except msgspec.DecodeError:
            raise StackError("What answers on the socket is not a stack; see `spark-serve logs stack`.") from None

    def start(self, settings: StackSettings) -> None:
        """Start the daemon and return once it has a snapshot to show. Raises StackError with its last words when it dies."""
        self.paths.make()
        log = self.paths.logs / "stack.log"
        argv = [sys.executable, "-m", "server", "--settings", msgspec.json.encode(settings).decode()]
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            daemon = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                cwd="/",
                umask=given_umask(),
            )
        finally:
            os.close(descriptor)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._has_snapshot():
                return
            if daemon.poll() is not None:
                with log.open("rb") as file:
                    file.seek(size)
                    words = file.read().decode(errors="replace").strip().splitlines()
                raise StackError(words[-1] if words else f"The stack ended at once with code {daemon.returncode}.")
            time.sleep(0.05)
        daemon.terminate()
        raise StackError(f"The stack did not answer within {START_TIMEOUT_S:.0f} s; see {log}.")

    def _has_snapshot(self) -> bool:
        try:
            return self.running() and self._ask("GET", "/v1/snapshot")[0] == HTTPStatus.OK
        except StackError:
            return False

    def daemon(self) -> psutil.Process | None:
        """The running stack's own process, by its pid file."""
        found = [process for entry, process in noted(self.paths) if entry.name == "stack"]
        return found[0] if found else None

    def stopped(self, daemon: psutil.Process | None, timeout_s: float) -> bool:
        """Wait until a stack that was told to go is gone: its files, and then its process. False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not (
                (daemon is not None and lives(daemon)) or self.paths.pidfile.exists() or self.paths.socket.exists()
            ):
                return True
            time.sleep(0.05)
        return False

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One exchange: status and body. Raises StackError when nobody answers, SettingError when nobody could."""
        self.paths.check_socket()
        connection = _UnixConnection(os.fspath(self._socket), timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body, {FROM: "verb"})
            response = connection.getresponse()
            return response.status, response.read()
        except (FileNotFoundError, ConnectionRefusedError):
            raise StackError(NO_STACK) from None
        except (OSError, HTTPException) as error:
            raise StackError(
                f"The stack did not answer ({type(error).__name__}); see `spark-serve logs stack`."
            ) from None
        finally:
            connection.close()


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("stack", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _message(status: int, body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Answer).message
    except msgspec.DecodeError:
        return f"The stack answered {status}."
