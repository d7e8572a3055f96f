"""A tiny model that reads: the golden one with a random reader, whose every reading is sure of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

PUBLIC = Path(__file__).parent / "goldens" / "o26-public"
LETTERS = "abcdefghijklmnop"
SIZE = 48
END, NO_SPEECH, PROMPT = 40, 41, (42, 43)


def reader_config(width: int) -> dict[str, object]:
    """``reader_config`` of a decoder of two layers."""
    return {
        "d_model": width, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 4 * width,
        "vocab_size": SIZE, "max_target_positions": 448, "prompt_ids": list(PROMPT), "eos_token_id": END,
        "no_speech_token_id": NO_SPEECH, "suppress_tokens": [44, 45],
    }  # fmt: skip


def reference(width: int) -> WhisperForConditionalGeneration:
    """The same decoder in transformers, its tokens far apart: random weights are otherwise sure of nothing."""
    config = WhisperConfig(
        vocab_size=SIZE, d_model=width, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, num_mel_bins=80,
        max_source_positions=1500, max_target_positions=448, pad_token_id=END, bos_token_id=END, eos_token_id=END,
        decoder_start_token_id=PROMPT[0],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = WhisperForConditionalGeneration(config).eval()
        for name, weight in model.model.decoder.named_parameters():
            torch.nn.init.normal_(weight, mean=float("layer_norm.weight" in name), std=0.3)
        torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=2.0)
    return model


def words() -> Tokenizer:
    """Letters with and without a space in front, and two marks."""
    entries = [f"Ġ{letter}" for letter in LETTERS] + list(LETTERS) + [".", ","]
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(entries)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_reading_model(folder: Path) -> Path:
    """Write the model into the new folder ``folder``."""
    shutil.copytree(PUBLIC, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    width = config["audio_config"]["d_model"]
    config["reader_config"] = reader_config(width)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    decoder = reference(width).model.decoder.state_dict()
    weights = load_file(folder / "weights.safetensors")
    weights |= {f"reader.{key}": tensor.contiguous() for key, tensor in decoder.items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "reader_tokenizer").mkdir()
    words().save(str(folder / "reader_tokenizer" / "tokenizer.json"))
    return folder
