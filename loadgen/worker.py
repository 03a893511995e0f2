"""A worker process: `python -m loadgen.worker --url http://127.0.0.1:8101 --model NAME`.

Commands come as JSON lines on stdin, records leave as JSON lines on stdout (both `loadgen.records`), remarks for a
person on stderr. It ends after a `Stop`, at the end of stdin (whoever started it is gone) and on SIGTERM; in the last
two cases what is in flight is abandoned at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial

import msgspec
import uvloop

from loadgen.behaviours import SLOWLY, Reading
from loadgen.lines import LineWriter, follow_lines
from loadgen.prompts import Mix, Sampling
from loadgen.records import LoadCommand, Stop
from loadgen.runner import Runner, WorkerSettings
from loadgen.target import LoadError, Target

FLUSH_S = 5.0
"""At the end, the longest wait for a reader that is slow."""

_command_decoder: msgspec.json.Decoder[LoadCommand] = msgspec.json.Decoder(LoadCommand)


def parse(argv: list[str]) -> tuple[Target, WorkerSettings]:
    """Read the command line. Raises SystemExit(2) with one sentence on stderr when it cannot work."""
    parser = argparse.ArgumentParser(prog="loadgen.worker", description="One load worker; commands on stdin.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=0)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--rate", type=float, default=None, help="requests per second, open loop")
    parser.add_argument("--think", type=float, default=8.0, help="mean think time in seconds")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="median")
    parser.add_argument("--output-tokens", type=int, default=64, help="median")
    parser.add_argument("--context", type=int, default=2048, help="tokens that prompt and reply must fit in")
    parser.add_argument("--slow-bytes-per-s", type=float, default=SLOWLY.bytes_per_s, help="how fast slow readers read")
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--ignore-eos", action="store_true", help="full-length replies (vLLM only)")
    options = parser.parse_args(argv)
    if not all(0 <= number < 1e7 for number in (options.think, options.rate or 0.0)):
        parser.error("--think and --rate are numbers, and not negative.")
    if min(options.people, options.slow) < 0:
        parser.error("--people and --slow cannot be negative.")
    if not 0 < options.slow_bytes_per_s < 1e12:
        parser.error("--slow-bytes-per-s is a number above 0.")
    if min(options.prompt_tokens, options.output_tokens, options.context) < 1:
        parser.error("--prompt-tokens, --output-tokens and --context are at least 1.")
    try:
        target = Target.parse(options.url)
    except LoadError as error:
        parser.error(str(error))
    return target, WorkerSettings(
        model=options.model,
        worker=options.worker,
        seed=options.seed,
        people=options.people,
        slow=options.slow,
        rate=options.rate,
        think_s=options.think,
        mix=Mix.of(options.prompt_tokens, options.output_tokens, options.context),
        slowly=Reading(rcvbuf_bytes=SLOWLY.rcvbuf_bytes, bytes_per_s=options.slow_bytes_per_s),
        sampling=Sampling(temperature=options.temperature, ignore_eos=options.ignore_eos),
    )


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
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
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


def allow_many_sockets() -> None:
    """A burst needs a descriptor a request; take as many as the system lets this user have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    target, settings = parse(sys.argv[1:])
    allow_many_sockets()
    uvloop.run(work(target, settings))


if __name__ == "__main__":
    main()
