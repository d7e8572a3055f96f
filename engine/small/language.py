"""Where the language model comes from: a GGUF file, or a makers' folder of a Qwen2.5 Instruct model.

Both give the same three things: sizes in Hugging Face's words, tensors under Hugging Face's names, and a tokenizer.
Nothing of either is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from engine.checkpoint.weights import find_shards
from engine.config_reader import read_json
from engine.errors import CheckpointError, ConfigError, TokenizerError
from engine.small.shards import Planned

PREFIX = "llm."
TABLE = "llm.model.embed_tokens.weight"
ROWS = 8_192
"""Rows of a table that are turned into numbers at a time."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits a text before its byte pairs (arXiv 2407.10671)."""
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
"""Kinds of tokens in a GGUF file."""
NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    **{f"attn_{x}.{kind}": f"self_attn.{x}_proj.{kind}" for x in "qkv" for kind in ("weight", "bias")},
    **{f"ffn_{x}.weight": f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")},
}
"""GGUF's names in a block, and Hugging Face's in a layer."""


@dataclass(frozen=True, slots=True)
class LanguageSource:
    """A language model that can be written into a checkpoint."""

    name: str
    sizes: dict[str, Any]
    """Keys of Hugging Face's ``Qwen2Config``."""
    tensors: list[Planned]
    """Under the checkpoint's names."""
    tokenizer: Tokenizer


def from_gguf(path: Path) -> LanguageSource:
    """The Qwen2 model of a GGUF file. Raises CheckpointError for another architecture."""
    from gguf import GGUFReader

    reader = GGUFReader(path)

    def value(key: str) -> Any:
        if (field := reader.get_field(key)) is None:
            raise CheckpointError(path, f"has no {key}", "use the file that was examined")
        return field.contents()

    if value("general.architecture") != "qwen2":
        raise CheckpointError(path, "is no Qwen2 model", "use the file that was examined")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    tensors = []
    for name, tensor in stored.items():
        if name == "token_embd.weight" and "output.weight" in stored:
            continue  # the same table, rounded more coarsely
        tensors.append(Planned(_hugging_face(name), tuple(map(int, reversed(tensor.shape))), _numbers(tensor)))
    return LanguageSource(
        str(value("general.name")),
        {
            "hidden_size": value("qwen2.embedding_length"),
            "intermediate_size": value("qwen2.feed_forward_length"),
            "num_hidden_layers": value("qwen2.block_count"),
            "num_attention_heads": value("qwen2.attention.head_count"),
            "num_key_value_heads": value("qwen2.attention.head_count_kv"),
            "vocab_size": len(value("tokenizer.ggml.tokens")),
            "rms_norm_eps": 1e-6,
            "rope_theta": value("qwen2.rope.freq_base"),
            "max_position_embeddings": value("qwen2.context_length"),
            "tie_word_embeddings": True,
        },
        tensors,
        byte_pairs(value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges"), value("tokenizer.ggml.token_type")),
    )


def _hugging_face(name: str) -> str:
    """The checkpoint's name of a tensor of a GGUF file. Raises KeyError for one that Qwen2 does not have."""
    if name.startswith("blk."):
        _, number, rest = name.split(".", 2)
        return f"{PREFIX}model.layers.{number}.{NAMES[rest]}"
    tops = {"token_embd.weight": "embed_tokens", "output.weight": "embed_tokens", "output_norm.weight": "norm"}
    return f"{PREFIX}model.{tops[name]}.weight"


class _numbers:
    """The numbers of a quantised tensor, some rows at a time."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __call__(self) -> Iterator[Tensor]:
        from gguf.quants import dequantize

        data, kind = self._tensor.data, self._tensor.tensor_type
        for start in range(0, len(data), ROWS):
            yield torch.from_numpy(np.array(dequantize(data[start : start + ROWS], kind), np.float32))


def byte_pairs(tokens: list[str], merges: list[str], kinds: list[int]) -> Tokenizer:
    """Qwen2's tokenizer from a vocabulary in order of ids, "a b" pairs in order of rank, and the kind of each token.

    Special tokens keep their ids; unused ones are left out, so that their ids are free.
    """
    plain = {
        token: number for number, token in enumerate(tokens) if kinds[number] not in (CONTROL, USER_DEFINED, UNUSED)
    }
    tokenizer = Tokenizer(models.BPE(plain, [(a, b) for a, _, b in (pair.partition(" ") for pair in merges)]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [(token, number) for number, token in enumerate(tokens) if kinds[number] in (CONTROL, USER_DEFINED)]
    return with_tokens(tokenizer, added)


def with_tokens(tokenizer: Tokenizer, added: list[tuple[str, int]]) -> Tokenizer:
    """The same tokenizer with special tokens at given ids, which the library itself would give anew."""
    document = json.loads(tokenizer.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] += [{"id": number, "content": token, **flags} for token, number in added]
    document["added_tokens"].sort(key=lambda entry: entry["id"])
    return Tokenizer.from_str(json.dumps(document))


def from_folder(folder: Path) -> LanguageSource:
    """A Qwen2 model in Hugging Face's layout: ``config.json``, ``*.safetensors``, ``tokenizer.json``.

    Raises LoadError for a folder that is none.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "qwen2" or config.get("quantization_config"):
        remedy = "name the folder of a Qwen2.5 Instruct model as its makers publish it, not quantised"
        raise ConfigError(folder / "config.json", "is of another kind of model", remedy, key="model_type")
    if config.get("use_sliding_window"):
        raise ConfigError(folder / "config.json", "is not supported", "use another model", key="use_sliding_window")
    names = {
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings",
    }  # fmt: skip
    sizes = {key: entry for key, entry in config.items() if key in names}
    if missing := names - sizes.keys() - {"tie_word_embeddings", "rope_theta"}:
        raise ConfigError(folder / "config.json", "is missing", "get the file again", key=min(missing))
    rope = config.get("rope_parameters") or {}
    sizes["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 1e6))
    tensors = [
        Planned(f"{PREFIX}{key}", header.shape, _stored(shard.path, key))
        for shard in find_shards(folder)
        for key, header in shard.tensors.items()
        if not (sizes.get("tie_word_embeddings") and key == "lm_head.weight")
    ]
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise TokenizerError(folder / "tokenizer.json", f"cannot be read ({error})", "get the file again") from error
    return LanguageSource(str(config.get("_name_or_path") or folder.resolve().name), sizes, tensors, tokenizer)


class _stored:
    """A tensor of a safetensors file."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def __call__(self) -> Iterator[Tensor]:
        with safe_open(self._path, framework="pt", device="cpu") as file:
            rows = file.get_slice(self._key)
            count = rows.get_shape()[0]
            for start in range(0, count, ROWS):
                yield rows[start : start + ROWS]


EXTRA = (
    "<unk>", "<image>", "</image>", "<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<point>", "</point>",
    "<slice>", "</slice>", "<image_id>", "</image_id>", "<unit>", "</unit>", "<|audio_start|>", "<|audio|>",
    "<|audio_end|>", "<|spk_bos|>", "<|spk|>", "<|spk_eos|>", "<|tts_bos|>", "<|tts_eos|>", "<reserved_53>",
)  # fmt: skip
"""Tokens that MiniCPM-o has and Qwen2.5 has not."""


SHORTER = 0.875
"""Length of an added token's row against the line break's, of which it is a copy: the line break itself, with which it
shares the head, is then always likelier to be said."""


def with_extra(language: LanguageSource) -> LanguageSource:
    """The same model with :data:`EXTRA` on ids that are free. Raises TokenizerError when there are too few.

    Their rows are those of a line break, which disturbs the model least: with the rows that are there it says nothing
    after ``<|tts_bos|>``.
    """
    taken = language.tokenizer.get_vocab(with_added_tokens=True)
    highest = max(taken.values())
    missing = [token for token in EXTRA if token not in taken]
    if highest + len(missing) >= language.sizes["vocab_size"]:
        problem = f"has {language.sizes['vocab_size'] - highest - 1} free ids where {len(missing)} are needed"
        raise TokenizerError("tokenizer.json", problem, "use a Qwen2.5 model of its makers")
    ids = range(highest + 1, highest + 1 + len(missing))
    line_break = language.tokenizer.encode("\n", add_special_tokens=False).ids[0]
    tensors = [
        replace(tensor, pieces=partial(_copied, tensor.pieces, line_break, ids)) if tensor.key == TABLE else tensor
        for tensor in language.tensors
    ]
    tokenizer = with_tokens(language.tokenizer, list(zip(missing, ids, strict=True)))
    return replace(language, tensors=tensors, tokenizer=tokenizer)


def _copied(pieces: Callable[[], Iterable[Tensor]], source: int, targets: range) -> Iterator[Tensor]:
    """The rows of a table, with a shorter copy of row ``source`` in those of ``targets``, which come later."""
    start, row = 0, torch.empty(0)
    for piece in pieces():
        end = start + len(piece)
        if start <= source < end:
            row = SHORTER * piece[source - start]
        first, last = max(targets.start, start), min(targets.stop, end)
        if first < last:
            piece = piece.clone()
            piece[first - start : last - start] = row
        yield piece
        start = end
