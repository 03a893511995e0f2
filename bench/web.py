"""What a class costs: CPU and bytes of `console --web` with 1 viewer and with 30, side by side on the same loaded screen.

    python -m bench.web [--viewers 30] [--seconds 30] [--screen flow] [--replay FILE]

Two consoles are served at once by processes of their own, each on the scripted source of `bench.terminal` (or a recording).
CPU is user and system time of the serving process and of its console together, from /proc; the viewers are this process.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.terminal import cpu_seconds, rss_mb
from console import web_verb

SETTLE_S = 8.0


@dataclass
class Served:
    """One serving process and what its viewers got."""

    process: subprocess.Popen[str]
    base: str
    code: str
    viewers: int
    received: int = 0
    first: int = 0
    """By the first of them."""

    @property
    def console(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def cpu(self) -> tuple[float, float]:
        """Seconds so far of the serving process and of the console."""
        return cpu_seconds(self.process.pid), cpu_seconds(self.console)


def start(arguments: list[str], viewers: int) -> Served:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"(http://\S+)/ and the code (\S+)", line):
            return Served(process, found[1], found[2], viewers)
    raise SystemExit("Nothing was served.")


async def watch(served: Served, socket: ClientConnection, number: int) -> None:
    try:
        async for message in socket:
            served.received += len(message)
            served.first += 0 if number else len(message)
    except ConnectionClosed:
        return


async def come(served: Served, stack: AsyncExitStack) -> None:
    """All its viewers."""
    async with httpx.AsyncClient(headers={"Origin": served.base}) as client:
        answers = [await client.post(f"{served.base}/join", content=served.code) for _ in range(served.viewers)]
    for number, answer in enumerate(answers):
        socket = await stack.enter_async_context(
            connect(
                f"{served.base.replace('http', 'ws')}/watch",
                origin=served.base,  # type: ignore[arg-type]
                additional_headers={"Cookie": answer.headers["set-cookie"].split(";")[0]},
                compression=None,
            )
        )
        task = asyncio.create_task(watch(served, socket, number))
        stack.callback(task.cancel)


async def measure(both: list[Served], seconds: float) -> None:
    async with AsyncExitStack() as stack:
        for served in both:
            await come(served, stack)
        await asyncio.sleep(SETTLE_S)
        before = [(served.cpu(), served.received, served.first) for served in both]
        at = time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - at
        after = [(served.cpu(), served.received, served.first) for served in both]
        print("viewers   serving   console   together    RSS   to one     to all")
        shares = []
        for served, (cpu0, all0, one0), (cpu1, all1, one1) in zip(both, before, after, strict=True):
            server, console = ((b - a) / took * 100 for a, b in zip(cpu0, cpu1, strict=True))
            shares.append(server + console)
            one, every = (count / took / 1024 for count in (one1 - one0, all1 - all0))
            print(
                f"{served.viewers:7} {server:7.2f} % {console:7.2f} % {server + console:8.2f} %"
                f" {rss_mb(served.process.pid):4.0f} MB {one:5.1f} KiB/s {every:6.1f} KiB/s"
            )
        print(
            f"{both[1].viewers} viewers cost {shares[1] / shares[0]:.2f} times what {both[0].viewers} costs, in {took:.0f} s"
        )


def serve(arguments: list[str]) -> int:
    """The scripted console, served as the verb does it."""
    parser = argparse.ArgumentParser()
    web_verb.add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    return web_verb.serve_command(options, [sys.executable, "-m", "bench.terminal", "--child", *rest])


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        sys.exit(serve(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--screen", default="flow")
    parser.add_argument("--replay", metavar="FILE")
    options = parser.parse_args()
    if options.replay:
        arguments = ["-m", "console.cli", "console", "--web", "--replay", options.replay]
    else:
        arguments = ["-m", "bench.web", "--serve", "--screen", options.screen]
    print(
        f"console --web, {options.replay or f'{options.screen}, scripted, loaded, 2 Hz'}, 160x48, {options.seconds:g} s"
    )
    with ExitStack() as stack:
        both = []
        for viewers in (1, options.viewers):
            both.append(start(arguments, viewers))
            stack.callback(both[-1].process.wait)
            stack.callback(both[-1].process.send_signal, signal.SIGINT)
        asyncio.run(measure(both, options.seconds))


if __name__ == "__main__":
    main()
