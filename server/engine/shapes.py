"""Model shapes: config.json and a tokenizer of their own, so that vLLM runs them with random weights.

Scheduling, kernels, memory and GPU load are real; the text is not. The dimensions are those of the published models.
The weights are made up by vLLM as it starts, or stand in a saved folder beside (`server.engine.random_weights`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.engine.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, build_tokenizer

REVISION = 1
"""Raised when the files below change, so that a cached folder is made anew."""


@dataclass(frozen=True)
class Shape:
    """What fixes a decoder's size."""

    architecture: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Input and output embedding are one matrix."""
    rope_theta: float
    rms_norm_eps: float
    context: int

    @property
    def parameters(self) -> int:
        """Number of weights, without the norms."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every weight by its published name, and its dimensions. Those with `norm` in their name scale and are near 1."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (wide, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, wide),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        if self.model_type == "qwen3":
            layer |= {"self_attn.q_norm": (self.head_dim,), "self_attn.k_norm": (self.head_dim,)}
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for number in range(self.layers):
            named |= {f"model.layers.{number}.{part}.weight": size for part, size in layer.items()}
        named["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            named["lm_head.weight"] = (self.vocabulary, self.hidden)
        return named


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> Shape:
    return Shape(
        "Qwen3ForCausalLM", "qwen3", hidden, layers, heads, 8, 128, intermediate, 151_936, tied, 1e6, 1e-6, 40_960
    )


SHAPES: dict[str, Shape] = {
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144, tied=True),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288, tied=False),
    "llama3-8b": Shape("LlamaForCausalLM", "llama", 4096, 32, 32, 8, 128, 14336, 128_256, False, 5e5, 1e-5, 8192),
    "tiny": Shape("LlamaForCausalLM", "llama", 256, 4, 4, 2, 64, 768, 16_384, True, 1e4, 1e-5, 8192),
}


def config(shape: Shape) -> dict[str, object]:
    """config.json for transformers 4 and 5 alike (rope and dtype are spelled both ways)."""
    last = shape.vocabulary - 1
    return {
        "architectures": [shape.architecture],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "transformers_version": "4.56.0",
        "bos_token_id": last - 2,
        "eos_token_id": last,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def saved_folder(name: str, models: Path) -> Path:
    """Where a shape lies once its random weights are saved."""
    return models / f"shape-{name}-{REVISION}-saved"


def write_shape(name: str, models: Path) -> Path:
    """The folder of a shape, made if it is not there (about 2 s, no torch); appears whole or not at all."""
    shape = SHAPES[name]
    folder = models / f"shape-{name}-{REVISION}"
    if (folder / "config.json").exists():
        return folder
    models.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=models))
    try:
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TURN,
            "pad_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "model_max_length": shape.context,
            "chat_template": CHAT_TEMPLATE,
        }
        files = {
            "config.json": config(shape),
            "generation_config.json": {"eos_token_id": shape.vocabulary - 1},
            "tokenizer_config.json": settings,
            "tokenizer.json": build_tokenizer(shape.vocabulary),
        }
        for file, content in files.items():
            (temporary / file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (folder / "config.json").exists():  # else somebody else made it meanwhile
            raise
    return folder
