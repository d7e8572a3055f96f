"""Sizes and scalings of a language model (``llm.*``): Qwen2, Llama 3, or MiniCPM-2.4B."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from engine.config_reader import Reader

Generation = Literal["o-2.6", "v-2.6", "v-2.5", "v-2.0"]
"""A model of the family; :data:`NAMES` has their published names."""

NAMES: dict[Generation, str] = {
    "o-2.6": "MiniCPM-o 2.6",
    "v-2.6": "MiniCPM-V 2.6",
    "v-2.5": "MiniCPM-Llama3-V 2.5",
    "v-2.0": "MiniCPM-V 2.0",
}


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """A decoder with its head (``llm.*``)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    tie_word_embeddings: bool
    qkv_bias: bool = True
    embedding_scale: float = 1.0
    """Embeddings of tokens, but not of pictures, are multiplied with it."""
    residual_scale: float = 1.0
    """So is what every attention and every MLP adds."""
    head_divisor: float = 1.0
    """The states are divided by it before the head."""


_QWEN = LLMConfig(3584, 18944, 28, 28, 4, 128, 151700, 1e-6, 1e6, 32768, tie_word_embeddings=False)
_LLAMA = LLMConfig(4096, 14336, 32, 32, 8, 128, 128256, 1e-5, 5e5, 8192, tie_word_embeddings=False, qkv_bias=False)
_MINICPM = LLMConfig(2304, 5760, 40, 36, 36, 64, 122753, 1e-5, 1e4, 4096, tie_word_embeddings=False, qkv_bias=False)
PUBLISHED: dict[Generation, LLMConfig] = {
    "o-2.6": _QWEN,
    "v-2.6": replace(_QWEN, vocab_size=151666),
    "v-2.5": _LLAMA,
    "v-2.0": _MINICPM,
}
SCALE_EMB, SCALE_DEPTH, DIM_MODEL_BASE = 12.0, 1.4, 256


def read_language_config(root: Reader, generation: Generation) -> LLMConfig:
    """The top of ``config.json``. A missing size is the published one. Raises ConfigError."""
    base = PUBLISHED[generation]
    hidden, heads = root.positive("hidden_size", base.hidden_size), root.positive("num_attention_heads", base.num_heads)
    grouped = base.num_kv_heads < base.num_heads
    rope = root.block("rope_parameters", "rope_scaling")
    for key in ("rope_type", "type"):
        rope.expect(key, "default")
    root.expect("hidden_act", "silu")
    root.expect("use_sliding_window", False)
    if not base.qkv_bias:
        root.expect("attention_bias", False)
        root.expect("mlp_bias", False)
    config = LLMConfig(
        hidden_size=hidden,
        intermediate_size=root.positive("intermediate_size", base.intermediate_size),
        num_layers=root.positive("num_hidden_layers", base.num_layers),
        num_heads=heads,
        num_kv_heads=root.positive("num_key_value_heads", base.num_kv_heads if grouped else heads),
        head_dim=root.positive("head_dim", hidden // heads),
        vocab_size=root.positive("vocab_size", base.vocab_size),
        rms_norm_eps=root.get("rms_norm_eps", base.rms_norm_eps),
        rope_theta=rope.get("rope_theta", root.get("rope_theta", base.rope_theta)),
        max_positions=root.positive("max_position_embeddings", base.max_positions),
        tie_word_embeddings=root.get("tie_word_embeddings", False),
        qkv_bias=base.qkv_bias,
    )
    if config.num_heads % config.num_kv_heads:
        problem = f"is {config.num_kv_heads}, which does not divide the attention heads, {config.num_heads}"
        raise root.error("num_key_value_heads", problem, "restore the official configuration")
    return _scaled(root, config) if generation == "v-2.0" else config


def _scaled(root: Reader, config: LLMConfig) -> LLMConfig:
    """With MiniCPM's scalings (arXiv 2404.06395, section 4)."""
    return replace(
        config,
        embedding_scale=root.get("scale_emb", SCALE_EMB),
        residual_scale=root.get("scale_depth", SCALE_DEPTH) / math.sqrt(config.num_layers),
        head_divisor=config.hidden_size / root.positive("dim_model_base", DIM_MODEL_BASE),
    )
