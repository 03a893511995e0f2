"""The verbs `report` and `homework`: what a run was, as Markdown, HTML, JSON or CSV, and beside what was predicted."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from console.verb import UsageError, send
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths

if TYPE_CHECKING:
    from server.report.cost import Price
    from server.report.order import Format

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
STDOUT = "-"
SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".json": "json", ".csv": "csv"}
"""What `--out` asks for where no option does; everything else is Markdown."""


def gpu_hour_price(text: str) -> tuple[float, str]:
    """An argument type: the price and its currency."""
    from server.report.cost import price

    found = price(text)
    return found.per_hour, found.currency


gpu_hour_price.__name__ = "price like 2.5, 2.5EUR or $2.5"


def add(verb: VerbMaker) -> None:
    """Add the verbs to the parser."""
    report = verb("report", _report, "Report a run: of a recording, or of what the running stack has seen.")
    report.add_argument("file", metavar="RECORDING", type=Path, nargs="?")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_const", const="html", dest="form", help="one page with charts")
    form.add_argument("--json", action="store_const", const="json", dest="form", help="every figure, for programs")
    form.add_argument("--csv", action="store_const", const="csv", dest="form", help="a row a second, and one a request")
    report.add_argument("--requests", action="store_true", help="with --csv: the requests alone, where they were kept")
    report.add_argument(
        "--out",
        metavar="PATH",
        help="`-` prints; default: a recording's is printed (its HTML goes to request_log-NAME.html), the running stack's "
        "goes to dated files, Markdown and HTML",
    )
    report.add_argument(
        "--gpu-hour-price", type=gpu_hour_price, metavar="X", help="say what a million (good) tokens cost: 2.5, 2.5EUR"
    )
    report.add_argument("--homework", metavar="FILE", type=Path, help="fill in what happened beside what was predicted")
    homework = verb("homework", _homework, "Write request_log.md blank, with room for predictions at every arrow.")
    homework.add_argument("file", metavar="FILE", type=Path, nargs="?", default=Path("request_log.md"))


def named_homework(path: Path) -> commands.Homework:
    """The homework that the running stack's reports are to fill in; written blank where there is no such file.

    Raises UsageError when it is something else.
    """
    from server.report import homework

    try:
        if not path.exists():
            homework.write_blank(path)
        homework.read(path)
    except homework.HomeworkError as error:
        raise UsageError(str(error)) from None
    return commands.Homework(str(path.resolve()))


def _homework(options: argparse.Namespace) -> int:
    from server.report import homework

    try:
        homework.write_blank(options.file)
    except homework.HomeworkError as error:
        raise UsageError(str(error)) from None
    print(f"{options.file} is blank: write what you expect after every `prediction:`, then do the run.")
    client = StackClient(default_paths())
    if client.running():
        client.send(commands.Homework(str(options.file.resolve())))
        print("The running stack's next report (key e, or spark-serve report) fills it in.")
    else:
        print(f"Afterwards: spark-serve report [RECORDING] --homework {options.file}")
    return 0


def _report(options: argparse.Namespace) -> int:
    form: Format | None = options.form or (SUFFIXES.get(Path(options.out).suffix.lower()) if options.out else None)
    if options.requests:
        if form not in {None, "csv"}:
            raise UsageError("--requests goes with --csv.")
        form = "csv"
    forms: list[Format] = [form] if form else []
    if form == "csv":
        forms = ["requests"] if options.requests else ["csv", "requests"]
    if options.homework is not None:
        if form not in {None, "md"} or options.out == STDOUT:
            raise UsageError("--homework fills in a file; run report once more for --html, --json, --csv or --out -.")
        return _fill(options)
    if options.file is None:
        return _of_stack(options, forms)
    return _of_recording(options, forms or ["md"])


def _fill(options: argparse.Namespace) -> int:
    from server.report import homework

    try:
        homework.read(options.homework)
    except homework.HomeworkError as error:
        raise UsageError(str(error)) from None
    if options.file is not None:
        out = None if options.out is None else str(Path(options.out))
        return _carry_out(options, {}, homework=str(options.homework), filled=out)
    if options.out is not None:
        raise UsageError("With the running stack, --homework fills in the file itself; leave --out away.")
    return send(_command(options, homework=str(options.homework.resolve())))


def _command(options: argparse.Namespace, forms: Sequence[str] = (), **more: str | None) -> commands.Report:
    price, currency = options.gpu_hour_price or (None, "")
    return commands.Report(formats=list(forms), gpu_hour_price=price, currency=currency, **more)


def _of_stack(options: argparse.Namespace, forms: Sequence[str]) -> int:
    printed = options.out == STDOUT or (options.out is None and forms and forms[0] in {"json", "csv", "requests"})
    if not printed:
        return send(_command(options, forms, path=str(Path(options.out).resolve()) if options.out else None))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report"
        answer = StackClient(default_paths()).send(_command(options, forms[:1] or ["md"], path=str(path)))
        if not answer.ok:
            raise StackError(answer.message)
        if not path.exists():
            raise StackError(_no_requests())
        sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0


def _of_recording(options: argparse.Namespace, forms: list[Format]) -> int:
    from server.report.order import beside

    out = options.out
    if out is None and forms == ["html"]:
        out = f"request_log-{options.file.stem}.html"
    if out is None or out == STDOUT:
        return _print(options, forms[0])
    outputs = {forms[0]: out} | {form: beside(out, form) for form in forms[1:]}
    return _carry_out(options, outputs)


def _print(options: argparse.Namespace, form: Format) -> int:
    from server.report import ReportError
    from server.report.order import Order, Story
    from server.telemetry.recording import RecordingError

    try:
        text = Story(Order(recording=str(options.file), price=_price(options))).told(form)
    except (RecordingError, ReportError) as error:
        raise StackError(str(error)) from None
    if text is None:
        raise StackError(_no_requests())
    sys.stdout.write(text)
    return 0


def _carry_out(
    options: argparse.Namespace, outputs: dict[Format, str], homework: str | None = None, filled: str | None = None
) -> int:
    from server.report import ReportError, sentence
    from server.report.order import Order, carry_out

    order = Order(
        recording=str(options.file),
        outputs=outputs,
        price=_price(options),
        homework=homework,
        filled=filled,
    )
    try:
        written = carry_out(order)
    except ReportError as error:
        raise StackError(str(error)) from None
    if not written:
        raise StackError(_no_requests())
    print(sentence(written, filled or homework))
    return 0


def _price(options: argparse.Namespace) -> Price | None:
    from server.report.cost import Price

    return None if options.gpu_hour_price is None else Price(*options.gpu_hour_price)


def _no_requests() -> str:
    from server.report.order import NO_REQUESTS

    return f"There is nothing to write: {NO_REQUESTS}."
