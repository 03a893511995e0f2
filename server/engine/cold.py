"""Three kinds of cold: what each restart clears before the new process starts, and what stays warm all the same.

None needs root, and nothing of the user's own caches is deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.engine.errors import EngineError

KindName = Literal["process", "compile", "disk"]

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
EVICT_TRIES = 3
_MAP_BYTES = 1 << 30
"""Looked at this much of a file at a time, so that the kernel's answer stays under 256 KiB."""


@dataclass(frozen=True)
class Kind:
    """One kind of cold restart."""

    name: KindName
    label: str
    clears: str
    """One clause."""
    keeps: str
    """One clause."""


KINDS: dict[KindName, Kind] = {
    "process": Kind(
        "process",
        "process-cold",
        "the processes, the KV cache and the GPU's memory",
        "compiled graphs, and all files that the kernel holds in memory",
    ),
    "compile": Kind(
        "compile",
        "compile-cold",
        "the processes, compiled graphs and kernels, and what vLLM noted of the model's class: the caches of vLLM, Inductor"
        " and Triton are new, empty folders (yours stay as they are)",
        "weights and code in memory, the GPU driver's and FlashInfer's own caches",
    ),
    "disk": Kind(
        "disk",
        "disk-cold",
        "the processes, and the weights' pages in the kernel's memory (posix_fadvise)",
        "compiled graphs, imported code in memory, and what a disk or a host below this machine caches",
    ),
}

FIRST = Kind("process", "first start", "nothing on purpose", "whatever this machine still had warm")
"""Bringing the stack up: nobody knows what was warm."""

AGAIN = Kind("process", "after a crash", KINDS["process"].clears, KINDS["process"].keeps)
"""Started again by the stack, new processes as under process-cold. A label of its own: its wait is no stage of a restart."""


# compile-cold


def fresh_caches(state: Path) -> dict[str, str]:
    """The variables that make vLLM, Inductor and Triton keep their caches in a new, empty folder under `state`."""
    root = state / "cold"
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="compile-", dir=root))
    return {
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def drop_caches(state: Path) -> None:
    """Delete the folders that `fresh_caches` made, once no engine uses them; nothing else is ever in there."""
    shutil.rmtree(state / "cold", ignore_errors=True)


# disk-cold


@dataclass(frozen=True)
class Evicted:
    """What came of an eviction."""

    files: int
    size_bytes: int
    resident_share: float | None
    """Share of the files still in the kernel's memory, 0..1; None where that cannot be seen."""

    @property
    def text(self) -> str:
        """One clause for a person."""
        size = f"{self.size_bytes / 2**30:.2f} GiB evicted"
        if self.resident_share is None:
            return f"{size}; whether they left memory cannot be seen here"
        still = f"{100 * self.resident_share:.0f} % of it still in memory"
        return f"{size}, but {still}: not quite disk-cold" if self.resident_share > 0.02 else f"{size}, {still}"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, links followed."""
    found = [path.resolve() for path in folder.iterdir() if path.suffix in WEIGHT_ENDINGS and path.is_file()]
    return sorted(set(found))


def evict(files: Sequence[Path]) -> Evicted:
    """Drop the files' pages from the kernel's memory. Pages that a process has mapped stay: end the engine first.

    The kernel may keep a page that is just being moved between its lists, hence the tries. Raises EngineError.
    """
    try:
        for _ in range(EVICT_TRIES):
            for path in files:
                _drop_pages(path)
            share = resident_share(files)
            if share is None or share < 0.005:
                break
        return Evicted(len(files), sum(path.stat().st_size for path in files), share)
    except OSError as error:
        raise EngineError(f"The weights cannot be evicted ({error.strerror}: {error.filename}).") from error


def _drop_pages(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # pages not yet written cannot be dropped; a read-only disk has none
            os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(files: Iterable[Path]) -> float | None:
    """Share of the files' pages in the kernel's memory (mincore), 0..1.

    None for no pages at all, and where the kernel does not tell: it only tells of files that one may write.
    """
    pages = resident = 0
    for path in files:
        if not os.access(path, os.W_OK):
            return None
        seen = _resident(path)
        if seen is None:
            return None
        resident += seen[0]
        pages += seen[1]
    return resident / pages if pages else None


def _resident(path: Path) -> tuple[int, int] | None:
    """Resident pages and all pages of a file."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        map_, unmap, mincore = libc.mmap, libc.munmap, libc.mincore
    except (OSError, AttributeError):
        return None
    map_.restype = ctypes.c_void_p
    map_.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    page = os.sysconf("SC_PAGE_SIZE")
    resident = pages = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        for offset in range(0, size, _MAP_BYTES):
            length = min(_MAP_BYTES, size - offset)
            address = map_(None, length, 1, 1, descriptor, offset)  # PROT_READ, MAP_SHARED
            if address is None or address == ctypes.c_void_p(-1).value:
                return None
            answer = ctypes.create_string_buffer(-(-length // page))
            try:
                if mincore(address, length, answer) != 0:
                    return None
            finally:
                unmap(address, length)
            resident += sum(byte & 1 for byte in answer.raw)
            pages += len(answer.raw)
    finally:
        os.close(descriptor)
    return resident, pages
