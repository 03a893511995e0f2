"""Prints as JSON whether a hub model can be had: `python check_hub.py NAME [REVISION]`, in the engine's own interpreter.

It stands alone: the engine's environment has none of this project's packages. Tokens and offline switches are the
hub client's own affair. One attempt, a few seconds at most.
"""

import json
import pathlib
import sys

import huggingface_hub as hub  # type: ignore[import-not-found]
from huggingface_hub import constants, errors

TIMEOUT_S = 5


def state(name: str, revision: str | None = None) -> tuple[str, str]:
    """`cached`, `available`, `missing`, `gated` or `offline`, and the reason in the client's words."""
    try:
        config = hub.try_to_load_from_cache(name, "config.json", revision=revision)
    except errors.HFValidationError as error:
        return "missing", str(error)
    if isinstance(config, str):
        folder = pathlib.Path(config).parent
        if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
            return "cached", str(folder)
    if constants.HF_HUB_OFFLINE:
        return "offline", "HF_HUB_OFFLINE is set"
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json", revision=revision), timeout=TIMEOUT_S)
    except errors.GatedRepoError as error:
        return "gated", str(error).splitlines()[0]
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        return "missing", str(error).splitlines()[0]
    except Exception as error:  # whatever the client's HTTP library raises for no network
        return "offline", type(error).__name__
    return "available", ""


if __name__ == "__main__":
    print(json.dumps(state(*sys.argv[1:3])))  # noqa: T201 - its caller reads this line
