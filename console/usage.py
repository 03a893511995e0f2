"""The error for what a person wrote that cannot be carried out: a command line, a settings file."""

from __future__ import annotations


class UsageError(Exception):
    """One sentence that says what is wrong and what to do; exit code 2."""
