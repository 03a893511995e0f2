"""The running stack's report: what to write, and the process of its own that writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from server import commands
from server.child import piped
from server.report import ReportError, file_name, sentence
from server.report.cost import Price
from server.report.order import FORMATS, Format, Order, beside


def order_of(
    command: commands.Report, *, folder: Path, wall: float, recording: Path | None, homework: str | None
) -> Order:
    """What a command asks for. `homework`: one that was named before, for when the command names nothing.

    Raises ReportError for a format that there is not.
    """
    formats: list[Format] = []
    for name in command.formats:
        form = next((form for form in FORMATS if form == name), None)
        if form is None:
            raise ReportError(f"There is no format {name}; there are {', '.join(FORMATS)}.")
        formats.append(form)
    outputs: dict[Format, str] = {}
    if command.path is not None:
        first, *more = formats or ["md"]
        outputs = {first: command.path} | {form: beside(command.path, form) for form in more}
    elif command.homework is None:
        path = str(folder / file_name(wall))
        outputs = {form: beside(path, form) for form in formats or ("md", "html")}
    named = command.homework or (homework if command.path is None and not formats else None)
    return Order(
        recording=None if recording is None else str(recording),
        outputs=outputs,
        price=None if command.gpu_hour_price is None else Price(command.gpu_hour_price, command.currency),
        homework=named,
    )


async def write(order: Order, snapshots: bytes) -> str:
    """Write it, and one sentence that names the files. `snapshots`: JSON lines, where the order names no recording.

    Raises ReportError, and OSError where no process can be started.
    """
    argv = [sys.executable, "-m", "server.report", "--order", msgspec.json.encode(order).decode()]
    code, out, error = await piped(argv, snapshots)
    if code:
        raise ReportError(error.decode(errors="replace").strip() or f"its process ended with code {code}")
    return sentence(out.decode(errors="replace").splitlines(), order.homework)
