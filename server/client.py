"""Talking to the stack over its socket: find it, start it, ask it, tell it. Synchronous, for CLI verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import msgspec
import psutil

from server.commands import Answer, Command
from server.config import Paths, StackSettings
from server.leftovers import find_leftovers
from server.supervisor import lives
from server.telemetry.snapshot import JoinedRequest, Snapshot, snapshot_decoder

START_TIMEOUT_S = 15.0
NO_STACK = "No stack is running; start one with `spark-serve up` or `spark-serve console`."


class StackError(Exception):
    """The stack is not there or does not answer as it should; the text is one sentence for a person."""


class StackClient:
    """One user's stack, whether it runs or not."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def _http(self, timeout_s: float) -> httpx.Client:
        if not self.paths.socket.exists():
            raise StackError(NO_STACK)
        transport = httpx.HTTPTransport(uds=os.fspath(self.paths.socket))
        return httpx.Client(transport=transport, base_url="http://stack", timeout=timeout_s)

    def running(self) -> bool:
        """Does a stack answer on the socket?"""
        try:
            with self._http(5.0) as http:
                return http.get("/v1/snapshot").status_code in {200, 503}
        except (StackError, httpx.HTTPError):
            return False

    def snapshot(self) -> Snapshot:
        """The latest snapshot. Raises StackError when there is none."""
        response = self._get("/v1/snapshot")
        if response.status_code != 200:
            raise StackError(self._message(response))
        try:
            return snapshot_decoder.decode(response.content)
        except msgspec.DecodeError as error:
            raise StackError(
                f"The running stack speaks another version ({error}); take it down and start again."
            ) from None

    def requests(self, limit: int) -> list[JoinedRequest]:
        """The latest finished requests, newest last."""
        return msgspec.json.decode(self._get(f"/v1/requests?limit={limit}").content, type=list[JoinedRequest])

    def logs(self, child: str, lines: int) -> list[str]:
        """The last lines of one child's log."""
        response = self._get(f"/v1/logs?child={child}&lines={lines}")
        if response.status_code != 200:
            raise StackError(self._message(response))
        return msgspec.json.decode(response.content, type=list[str])

    def send(self, command: Command) -> Answer:
        """Tell the stack to do something; the answer says what became of it."""
        try:
            with self._http(60.0) as http:
                response = http.post("/v1/commands", content=msgspec.json.encode(command))
                return msgspec.json.decode(response.content, type=Answer)
        except httpx.ConnectError:
            raise StackError(NO_STACK) from None
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise StackError(
                f"The stack did not answer ({type(error).__name__}); see `spark-serve logs stack`."
            ) from None

    def start(self, settings: StackSettings, *, waiting: Callable[[], None] | None = None) -> None:
        """Start the daemon and return once it answers. Raises StackError with its own last words when it does not."""
        self.paths.make()
        log = self.paths.logs / "stack.log"
        argv = [sys.executable, "-m", "server", "--settings", msgspec.json.encode(settings).decode()]
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, start_new_session=True, cwd="/"
            )
        finally:
            os.close(descriptor)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.running():
                return
            if daemon.poll() is not None:
                with log.open("rb") as file:
                    file.seek(size)
                    words = file.read().decode(errors="replace").strip().splitlines()
                raise StackError(words[-1] if words else f"The stack ended at once with code {daemon.returncode}.")
            if waiting is not None:
                waiting()
            time.sleep(0.05)
        daemon.terminate()
        raise StackError(f"The stack did not answer within {START_TIMEOUT_S:.0f} s; see {log}.")

    def daemon(self) -> psutil.Process | None:
        """The running stack's own process, by its pid file."""
        found = [process for entry, process in find_leftovers(self.paths) if entry.name == "stack"]
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

    def _get(self, path: str) -> httpx.Response:
        try:
            with self._http(10.0) as http:
                return http.get(path)
        except httpx.ConnectError:
            raise StackError(NO_STACK) from None
        except httpx.HTTPError as error:
            raise StackError(
                f"The stack did not answer ({type(error).__name__}); see `spark-serve logs stack`."
            ) from None

    @staticmethod
    def _message(response: httpx.Response) -> str:
        try:
            return str(json.loads(response.content)["message"])
        except (ValueError, KeyError, TypeError):
            return f"The stack answered {response.status_code}."
