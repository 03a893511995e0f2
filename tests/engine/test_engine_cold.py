"""What each kind clears, on real files."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from server.engine import cold
from server.engine.cold import KINDS, Evicted, evict, fresh_caches, resident_share, weight_files
from server.engine.errors import EngineError

SIZE = 4 << 20


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model-00001-of-00001.safetensors"
    path.write_bytes(os.urandom(SIZE))
    return path


def can_evict(path: Path) -> bool:
    """A file in memory (tmpfs) has nowhere to go."""
    evict([path])
    return (resident_share([path]) or 0.0) < 0.5


def test_eviction_takes_the_pages_and_reading_brings_them_back(weights: Path) -> None:
    if not can_evict(weights):
        pytest.skip("this file system keeps its files in memory")
    weights.read_bytes()
    assert resident_share([weights]) == 1.0
    evicted = evict([weights])
    assert evicted == Evicted(1, SIZE, 0.0)
    assert evicted.text == "0.00 GiB evicted, 0 % of it still in memory"
    assert weights.stat().st_size == SIZE


def test_pages_that_a_process_has_mapped_stay_and_this_is_said(weights: Path) -> None:
    if not can_evict(weights):
        pytest.skip("this file system keeps its files in memory")
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) >= 0  # touches every page
        kept = evict([weights])
    assert kept.resident_share is not None
    assert kept.resident_share > 0.5
    assert "not quite disk-cold" in kept.text


def test_what_cannot_be_seen_is_said() -> None:
    assert "cannot be seen" in Evicted(1, 3 << 30, None).text
    assert Evicted(1, 3 << 30, 0.001).text == "3.00 GiB evicted, 0 % of it still in memory"
    assert resident_share([]) is None


def test_weights_are_found_behind_links_and_nothing_else_is(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    (blobs / "abc").write_bytes(b"x")
    for name in ("model-00001.safetensors", "again.safetensors"):
        (folder / name).symlink_to(blobs / "abc")
    (folder / "config.json").touch()
    (folder / "old.bin").touch()
    assert weight_files(folder) == [blobs / "abc", folder / "old.bin"]


def test_a_weights_file_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be evicted"):
        evict([tmp_path / "gone.safetensors"])


def test_each_compile_cold_start_has_empty_caches_of_its_own(tmp_path: Path) -> None:
    one, two = fresh_caches(tmp_path), fresh_caches(tmp_path)
    assert set(one) == {"VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert not set(one.values()) & set(two.values())
    assert not any(Path(folder).exists() for folder in one.values())
    Path(one["VLLM_CACHE_ROOT"]).mkdir()
    (tmp_path / "logs").mkdir()
    cold.drop_caches(tmp_path)
    cold.drop_caches(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_every_kind_says_what_it_clears_and_what_not() -> None:
    assert list(KINDS) == ["process", "compile", "disk"]
    assert len({kind.name[0] for kind in KINDS.values()}) == 3, "each has a key of its own"
    assert all(kind.name == name and kind.clears and kind.keeps for name, kind in KINDS.items())
