"""spark-serve(1): the same words as `--help`, as one manual page."""

from __future__ import annotations

import argparse
import re

from console import manual
from console.manual import GROUPS, PAGES, Page


def page(parser: argparse.ArgumentParser) -> str:
    """The manual page in roff (the man macros)."""
    out = [
        '.TH SPARK-SERVE 1 "" "spark-serve" "User Commands"',
        ".SH NAME",
        r"spark\-serve \- the operator's cockpit for an LLM serving stack",
        ".SH SYNOPSIS",
        r".B spark\-serve",
        r".I VERB",
        r"[\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        "A real engine, a gateway and simulated people, and one terminal screen that shows for every arrow between them what",
        "waits, what fails and what is measured.",
    ]
    verbs = dict(manual.verbs(parser))
    for group, what in GROUPS.items():
        members = [name for name in verbs if PAGES.get(name, manual.OTHER).group == group]
        if members:
            out += [f".SH {group.upper()}", _text(f"{what[0].upper()}{what[1:]}.")]
            for name in members:
                out += _verb(name, verbs[name], PAGES.get(name, manual.OTHER))
    out += [".SH EXIT STATUS", _text(manual.EXITS)]
    return "\n".join(out) + "\n"


def _verb(name: str, parser: argparse.ArgumentParser, about: Page) -> list[str]:
    usage = re.sub(r"\s+", " ", parser.format_usage()).removeprefix("usage: ").strip()
    out = [f".SS {_text(name)}", ".B", _text(usage), ".PP", _text(parser.description or "")]
    formatter = argparse.HelpFormatter("spark-serve")
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        out += [".TP", f"\\fB{_text(formatter._format_action_invocation(action))}\\fR"]
        out += [_text(formatter._expand_help(action))] if action.help else []
    if about.examples:
        out += [".PP", "Examples:", ".RS", ".nf"]
        out += [_text(f"spark-serve {command}" + (f"    # {what}" if what else "")) for command, what in about.examples]
        out += [".fi", ".RE"]
    return out


def _text(text: str) -> str:
    """Words that roff takes as they are."""
    text = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text[:1] in {".", "'"} else text
