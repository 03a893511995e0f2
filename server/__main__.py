"""`python -m server`: the stack daemon. Started by `spark-serve up` and `spark-serve console`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import msgspec

from server.config import SettingError, StackSettings, be_private, default_paths
from server.keys import settle
from server.stack import Stack


def main() -> int:
    """Run one stack; its last line on stderr says why it could not start."""
    parser = argparse.ArgumentParser(prog="python -m server")
    parser.add_argument("--settings", default="{}", help="StackSettings as JSON")
    be_private()
    try:
        settings = msgspec.json.decode(parser.parse_args().settings, type=StackSettings)
        settle(os.environ, own_engine=settings.attach is None)
        paths = default_paths()
        paths.make()
        asyncio.run(_live(Stack(settings, paths)))
    except (msgspec.DecodeError, SettingError, OSError) as error:
        print(str(error), file=sys.stderr)  # noqa: T201 - the daemon's log
    return 1


async def _live(stack: Stack) -> None:
    """Run it, and leave without waiting for threads: one may be stuck in a driver, or in a conversion nobody needs now."""
    code = await stack.run()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
