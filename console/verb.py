"""What verbs of the command line share: argument types, one command to the stack."""

from __future__ import annotations

from console.usage import UsageError as UsageError  # noqa: PLC0414 - verbs have it from here
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths

# argument types: argparse turns their ValueError into one sentence and exit code 2


def count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 100_000:
        raise ValueError
    return number


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError
    return number


def port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise ValueError
    return number


def seconds_or_off(text: str) -> float:
    return 0.0 if text == "off" else positive(text)


seconds_or_off.__name__ = "positive number or off"
count.__name__ = "whole number"
positive.__name__ = "positive number"
port.__name__ = "port"


def send(command: commands.Command) -> int:
    """Tell the running stack, print its answer; a refusal is a StackError."""
    answer = StackClient(default_paths()).send(command)
    if not answer.ok:
        raise StackError(answer.message)
    print(answer.message)
    return 0
