"""A worker process: `python -m loadgen.worker --url http://127.0.0.1:8101 --settings JSON`.

Commands come as JSON lines on stdin (`loadgen.commands`), records leave as JSON lines on stdout (`loadgen.records`),
remarks for a person on stderr. It ends after a `Stop`, at the end of stdin (whoever started it is gone) and on SIGTERM;
in the last two cases what is in flight is abandoned at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import msgspec
import uvloop

from loadgen.arrivals import check
from loadgen.commands import LoadCommand, Stop
from loadgen.http1 import allow_many_sockets
from loadgen.lines import LineWriter, follow_lines
from loadgen.profile import profile_error
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import API_KEY, LoadError, Target

FLUSH_S = 5.0
"""At the end, the longest wait for a reader that is slow."""

_command_decoder: msgspec.json.Decoder[LoadCommand] = msgspec.json.Decoder(LoadCommand)


def parse(argv: list[str]) -> tuple[Target, WorkerSettings]:
    """Read the command line. Raises SystemExit(2) with one sentence on stderr when it cannot work."""
    parser = argparse.ArgumentParser(prog="loadgen.worker", description="One load worker; commands on stdin.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--settings", required=True, help="WorkerSettings as JSON")
    options = parser.parse_args(argv)
    try:
        target = Target.parse(options.url, os.environ.get(API_KEY))
        settings = msgspec.json.decode(options.settings, type=WorkerSettings)
    except (LoadError, msgspec.DecodeError) as error:
        parser.error(str(error))
    if wrong := settings_error(settings):
        parser.error(wrong)
    return target, settings


def settings_error(settings: WorkerSettings) -> str:
    """What is wrong with them, as one sentence; empty when they can be carried out."""
    if not 0 <= settings.worker < settings.workers:
        return f"There is no worker {settings.worker} among {settings.workers}; they count from 0."
    if any(count < 0 for count in settings.crowds.values()):
        return "There cannot be fewer than 0 people."
    process = settings.arrivals.process if settings.arrivals is not None else None
    return profile_error(settings.profile) or (check(process) if process is not None else "")


async def work(target: Target, settings: WorkerSettings) -> None:
    """Run one worker on stdin and stdout until it is told to stop."""
    loop = asyncio.get_running_loop()

    def leave() -> None:
        runner.apply(Stop())

    def from_thread(callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving already
            loop.call_soon_threadsafe(callback)

    def command(line: bytes) -> None:
        if not line.strip():
            return
        try:
            runner.apply(_command_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, LoadError) as error:
            complain(f"not a command: {error}")

    writer = LineWriter(sys.stdout.fileno(), complain, on_broken=lambda: from_thread(leave))
    runner = Runner(target, settings, writer.put)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    follow_lines(sys.stdin.fileno(), lambda line: from_thread(partial(command, line)), lambda: from_thread(leave))
    try:
        await runner.run()
    finally:
        writer.close(FLUSH_S)


def complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"loadgen: {sentence}\n")
        sys.stderr.flush()


def main() -> None:
    target, settings = parse(sys.argv[1:])
    allow_many_sockets()
    gc.freeze()  # what is imported stays: no collection needs to walk it while streams come in
    uvloop.run(work(target, settings))


if __name__ == "__main__":
    main()
