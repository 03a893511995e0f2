"""What can go wrong with an engine, as one sentence a person can act on.

EngineError
├── EngineMissingError    nothing is installed, and nothing was named
└── InstallError          the environment could not be made
"""

from __future__ import annotations


class EngineError(Exception):
    """Its text is one sentence that says what is wrong and what to do."""


class EngineMissingError(EngineError):
    """There is no environment with vLLM in it."""


class InstallError(EngineError):
    """The environment could not be made; running the install again goes on where it stopped."""
