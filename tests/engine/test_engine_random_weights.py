from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from server.config import Paths, StackSettings
from server.engine import models
from server.engine.environment import EngineEnvironment
from server.engine.errors import EngineError
from server.engine.models import prepare, save_shape
from server.engine.random_weights import CHUNK_BYTES, header, shards, size_bytes, values, write_weights
from server.engine.shapes import SHAPES

ENVIRONMENT = EngineEnvironment(python=sys.executable, distribution="vllm", vllm_version="0.32.0", device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=tmp_path / "data", state=tmp_path / "state", runtime=tmp_path / "run")


def read(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """A safetensors file by its specification: name -> (shape, bytes)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    entries = json.loads(data[8 : 8 + length])
    assert entries.pop("__metadata__") == {"format": "pt"}
    body, found, end = data[8 + length :], {}, 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"][0], entry["data_offsets"][1]
        assert entry["dtype"] == "BF16"
        found[name] = (entry["shape"], body[begin:end])
    assert end == len(body)
    return found


def floats(data: bytes) -> list[float]:
    """bfloat16 is the upper half of a float32."""
    return [struct.unpack("<f", b"\0\0" + data[place : place + 2])[0] for place in range(0, len(data), 2)]


@pytest.mark.parametrize("name", SHAPES)
def test_the_tensors_hold_as_many_weights_as_the_shape_has(name: str) -> None:
    shape = SHAPES[name]
    tensors = shape.tensors()
    norms = sum(prod(size) for tensor, size in tensors.items() if "norm" in tensor)
    assert sum(prod(size) for size in tensors.values()) - norms == shape.parameters
    assert ("lm_head.weight" in tensors) is not shape.tied
    assert ("model.layers.0.self_attn.q_norm.weight" in tensors) is (shape.model_type == "qwen3")


def test_shards_hold_every_tensor_once_and_keep_their_limit() -> None:
    shape = SHAPES["qwen3-1.7b"]
    files = shards(shape)
    assert [name for file in files for name, _ in file] == list(shape.tensors())
    assert len(files) == 2
    assert all(sum(2 * prod(size) for _, size in file) <= 2 << 30 for file in files)


def test_a_saved_shape_is_a_whole_model_with_sane_weights(paths: Paths) -> None:
    told: list[tuple[int, int]] = []
    folder = write_weights("tiny", paths.models, lambda done, total: told.append((done, total)), limit_bytes=6 << 20)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    assert set(index["weight_map"].values()) == {path.name for path in files}
    found = {name: part for path in files for name, part in read(path).items()}
    assert {name: tuple(size) for name, (size, _) in found.items()} == SHAPES["tiny"].tensors()
    assert told[-1] == (size_bytes(SHAPES["tiny"]), size_bytes(SHAPES["tiny"]))
    assert set(floats(found["model.norm.weight"][1])) == {1.0}
    some = floats(found["model.layers.1.mlp.up_proj.weight"][1][:20_000])
    assert max(abs(value) for value in some) < 2**-5
    assert min(abs(value) for value in some) >= 2**-7
    assert abs(sum(some) / len(some)) < 0.001
    assert (sum(value**2 for value in some) / len(some)) ** 0.5 == pytest.approx(0.019, abs=0.001)
    assert (folder / "tokenizer.json").exists()
    assert [path.name for path in paths.models.iterdir() if path.name.startswith(".")] == []


def test_a_tensor_of_several_chunks_has_all_its_bytes_and_does_not_repeat() -> None:
    parts = list(values("model.layers.0.mlp.up_proj.weight", CHUNK_BYTES, random.Random(1)))
    assert [len(part) for part in parts] == [CHUNK_BYTES, CHUNK_BYTES]
    assert parts[0] != parts[1]
    assert header([("a", (2, 3))])[8:].rstrip().endswith(b'"data_offsets":[0,12]}}')


def test_no_room_is_said_before_anything_is_written(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("server.engine.random_weights.shutil.disk_usage", lambda _: usage)
    paths.models.mkdir(parents=True)
    with pytest.raises(OSError, match="No space left"):
        write_weights("tiny", paths.models, lambda *_: None)
    assert not list(paths.models.glob("*saved*"))


def test_the_model_named_with_saved_reads_its_weights(paths: Paths) -> None:
    said: list[str] = []
    model = prepare(StackSettings(model="shape:tiny:saved"), ENVIRONMENT, paths, said.append)
    assert (model.kind, model.display, model.args, model.made_up) == ("shape", "tiny", (), False)
    assert said[0] == "writing 0.0 GiB of random weights, once"
    assert said[-1].endswith("100 %")
    said.clear()
    assert save_shape("tiny", paths, said.append) == model
    assert said == []
    assert prepare(StackSettings(model="shape:tiny"), ENVIRONMENT, paths, said.append).made_up
    assert models.weights_folder(model, ENVIRONMENT) == Path(model.source)


def test_a_writer_that_fails_is_one_sentence(paths: Paths) -> None:
    paths.data.mkdir()
    paths.models.mkdir()
    (paths.models / "shape-tiny-1").write_text("a file where a folder should be")
    with pytest.raises(EngineError, match="cannot be written"):
        save_shape("tiny", paths, lambda _: None)


def test_the_writer_yields_to_everything_else(paths: Paths) -> None:
    code = (
        "import os, sys; import server.engine.random_weights as w; "
        "w.write_weights = lambda *a: print(os.nice(0)); sys.argv = ['x', 'tiny', '/']; w.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) == 19
