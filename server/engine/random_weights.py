"""Writes a shape's random weights to disk, once, so that reading them can be cold: `python -m server.engine.random_weights
SHAPE MODELS_FOLDER`.

It works in the background: lowest priority for CPU and disk, 8 MiB of memory, a bar of progress on stdout, and the
folder appears whole or not at all. Needs neither torch nor a GPU. About 80 MB/s on one slow core.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import psutil

from server.engine.shapes import SHAPES, Shape, saved_folder, write_shape

SHARD_BYTES = 2 << 30
CHUNK_BYTES = 4 << 20
ITEM_BYTES = 2
"""bfloat16."""
ONE = b"\x80\x3f"
"""1.0 in bfloat16, little endian."""
_SIGN_EXPONENT_MANTISSA = b"\xff\x80"
_EXPONENT = b"\x00\x3c"
"""With these a random pair of bytes is a bfloat16 of either sign between 2^-7 and 2^-5, its root mean square 0.019: what
a model starts its training from has 0.02."""

Say = Callable[[int, int], None]
"""Takes bytes written and bytes in all."""
Named = list[tuple[str, tuple[int, ...]]]


def size_bytes(shape: Shape) -> int:
    """Of all weights."""
    return sum(prod(size) * ITEM_BYTES for size in shape.tensors().values())


def shards(shape: Shape, limit_bytes: int = SHARD_BYTES) -> list[Named]:
    """The tensors of each file, in order; a file is over the limit only if one tensor alone is."""
    out: list[Named] = [[]]
    used = 0
    for name, size in shape.tensors().items():
        amount = prod(size) * ITEM_BYTES
        if out[-1] and used + amount > limit_bytes:
            out.append([])
            used = 0
        out[-1].append((name, size))
        used += amount
    return out


def header(tensors: Named) -> bytes:
    """The beginning of a safetensors file: its length in 8 bytes, JSON, and blanks up to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in tensors:
        end = offset + prod(size) * ITEM_BYTES
        entries[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def values(name: str, items: int, dice: random.Random) -> Iterator[bytes]:
    """The bytes of a tensor, a chunk at a time."""
    left = items * ITEM_BYTES
    while left:
        amount = min(left, CHUNK_BYTES)
        if "norm" in name:
            yield ONE * (amount // ITEM_BYTES)
        else:
            mask = int.from_bytes(_SIGN_EXPONENT_MANTISSA * (amount // ITEM_BYTES), "little")
            exponent = int.from_bytes(_EXPONENT * (amount // ITEM_BYTES), "little")
            yield (dice.getrandbits(8 * amount) & mask | exponent).to_bytes(amount, "little")
        left -= amount


def write_weights(name: str, models: Path, say: Say, limit_bytes: int = SHARD_BYTES) -> Path:
    """The saved folder of a shape, made if it is not there. Raises OSError, with ENOSPC before anything is written."""
    shape, folder = SHAPES[name], saved_folder(name, models)
    if (folder / "config.json").exists():
        return folder
    bare = write_shape(name, models)
    total, done = size_bytes(shape), 0
    if shutil.disk_usage(models).free < total * 1.05:
        raise OSError(28, os.strerror(28), str(models))
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=models))
    try:
        files = shards(shape, limit_bytes)
        where: dict[str, str] = {}
        dice = random.Random(name)
        for number, tensors in enumerate(files, 1):
            file_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            where |= {tensor: file_name for tensor, _ in tensors}
            with (temporary / file_name).open("wb") as file:
                file.write(header(tensors))
                for tensor, size in tensors:
                    for chunk in values(tensor, prod(size), dice):
                        file.write(chunk)
                        done += len(chunk)
                        say(done, total)
                file.flush()
                os.fsync(file.fileno())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (temporary / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        for source in bare.iterdir():
            shutil.copyfile(source, temporary / source.name)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def main() -> int:
    """Write, saying a percentage a line; errors are one sentence on stderr."""
    os.nice(19)
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    told = -1

    def say(done: int, total: int) -> None:
        nonlocal told
        percent = 100 * done // total
        if percent != told:
            told = percent
            print(percent, flush=True)  # noqa: T201 - its caller reads these lines

    try:
        write_weights(sys.argv[1], Path(sys.argv[2]), say)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
