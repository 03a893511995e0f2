"""One worker in this process, or several in their own, behind one face. Records of several are merged as they are: nothing
is averaged, so nothing of their exactness is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec

from loadgen.commands import LoadCommand, Stop
from loadgen.records import LoadRecord
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import API_KEY, LoadError, Target

START_S = 1.5
"""Seconds that worker processes get to start before an open loop's schedule begins, so that none of it is late."""
LINE_BYTES = 16 * 1024 * 1024
END_S = 10.0

_record_decoder: msgspec.json.Decoder[LoadRecord] = msgspec.json.Decoder(LoadRecord)


class Crew(Protocol):
    """Whoever carries a load out."""

    def apply(self, command: LoadCommand) -> None: ...

    async def run(self) -> None:
        """Returns when a `Stop` was carried out and every record was emitted."""


def crew(target: Target, settings: WorkerSettings, emit: Callable[[LoadRecord], None]) -> Crew:
    """One worker in this process, or `settings.workers` of them in processes of their own."""
    return Runner(target, settings, emit) if settings.workers == 1 else Workers(target, settings, emit)


class Workers:
    """Worker processes. They end with this one: their stdin is ours to close."""

    def __init__(self, target: Target, settings: WorkerSettings, emit: Callable[[LoadRecord], None]) -> None:
        self._target = target
        self._settings = settings
        self._emit = emit
        self._processes: list[asyncio.subprocess.Process] = []
        self._early: list[LoadCommand] | None = []

    def apply(self, command: LoadCommand) -> None:
        """Tell all of them; until all have started it is kept for them."""
        if self._early is not None:
            self._early.append(command)
        else:
            self._tell(command)

    def _tell(self, command: LoadCommand) -> None:
        line = msgspec.json.encode(command) + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            if not process.stdin.is_closing():
                process.stdin.write(line)

    async def run(self) -> None:
        """Raises LoadError as soon as a worker ends with a failure; the others are stopped then."""
        following: list[asyncio.Task[None]] = []
        try:
            for worker in range(self._settings.workers):
                self._processes.append(await self._start(worker))
            early, self._early = self._early or [], None
            for command in early:
                self._tell(command)
            following = [asyncio.create_task(self._follow(process)) for process in self._processes]
            await asyncio.gather(*following)
        finally:
            await self._end()
            await asyncio.gather(*following, return_exceptions=True)  # what those who were stopped still tell

    async def _start(self, worker: int) -> asyncio.subprocess.Process:
        settings = msgspec.structs.replace(self._settings, worker=worker)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadgen.worker", "--url", self._target.url),
            *("--settings", msgspec.json.encode(settings).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env=None if self._target.api_key is None else {**os.environ, API_KEY: self._target.api_key},
        )

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._emit(_record_decoder.decode(line))
        if code := await process.wait():
            raise LoadError(f"A load worker ended with exit code {code}; what it measured is incomplete.")

    async def _end(self) -> None:
        """Nothing outlives the run, whatever ended it."""
        self._tell(Stop())
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await asyncio.gather(*(process.wait() for process in self._processes))
        except TimeoutError:
            for process in self._processes:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*(process.wait() for process in self._processes))
