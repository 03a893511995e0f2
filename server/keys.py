"""The keys of a stack. They come in the environment, which only their owner can read: a command line is public.

`SPARK_SERVE_API_KEY` is asked of the gateway's clients. `SPARK_SERVE_ENGINE_KEY` is what the engine asks (vLLM's `--api-key`);
the gateway brings it, so clients have to bring a key to the gateway: their own, or where there is none, the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from loadgen.target import API_KEY

ENGINE_KEY = "SPARK_SERVE_ENGINE_KEY"
VLLM_KEY = "VLLM_API_KEY"
"""vLLM's own variable for it."""
SECRETS = {"--api-key": ENGINE_KEY, "--hf-token": "HF_TOKEN"}
"""Arguments of vLLM that are secrets, and the variables to give them in."""


def engine_key(variables: Mapping[str, str] = os.environ) -> str | None:
    """What the engine asks, if anything."""
    return variables.get(ENGINE_KEY) or None


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries it."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def settle(variables: MutableMapping[str, str], *, own_engine: bool) -> None:
    """Make the two agree, for the children that inherit them. Only an engine of our own takes vLLM's variable from us."""
    if own_engine and variables.get(VLLM_KEY):
        variables.setdefault(ENGINE_KEY, variables[VLLM_KEY])
    if variables.get(ENGINE_KEY) and not variables.get(API_KEY):
        variables[API_KEY] = variables[ENGINE_KEY]


def secret_among(arguments: list[str]) -> tuple[str, str] | None:
    """The first argument that would show a secret to everybody (vLLM takes `_` for `-`, and beginnings of names), and the
    variable to give it in."""
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        for name, variable in SECRETS.items():
            if len(flag) >= 5 and name.startswith(flag):
                return name, variable
    return None
