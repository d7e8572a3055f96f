"""Sizes and tokens of the part that reads words (``reader_config``): no part of the official model."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config_reader import Reader

REMEDY = "restore the configuration that the checkpoint was made with"


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """Whisper's text decoder (``reader.*``), which reads words from what the encoder heard.

    A checkpoint that has it understands by these words, and needs no vectors of the projector. The keys are those of
    Whisper's configuration classes; the defaults are the sizes of its "base".
    """

    d_model: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    vocab_size: int
    max_positions: int
    prompt_ids: tuple[int, ...]
    """What every reading begins with: start, language, task, no time stamps."""
    end_id: int
    no_speech_id: int
    """Its probability after the start says that nobody speaks."""
    suppressed_ids: tuple[int, ...]
    """Never read: control tokens, and signs that stand for no words."""


def read_words_config(block: Reader) -> ReaderConfig | None:
    """The block ``reader_config``; None where it is empty. Raises ConfigError."""
    if not block.data:
        return None
    block.expect("activation_function", "gelu")
    block.expect("scale_embedding", False)
    config = ReaderConfig(
        d_model=block.positive("d_model", 512),
        num_layers=block.positive("decoder_layers", 6),
        num_heads=block.positive("decoder_attention_heads", 8),
        ffn_dim=block.positive("decoder_ffn_dim", 2048),
        vocab_size=block.positive("vocab_size", 51865),
        max_positions=block.positive("max_target_positions", 448),
        prompt_ids=_ids(block, "prompt_ids", [50258, 50259, 50359, 50363]),
        end_id=block.get("eos_token_id", 50257),
        no_speech_id=block.get("no_speech_token_id", 50362),
        suppressed_ids=_ids(block, "suppress_tokens", []),
    )
    if config.d_model % config.num_heads:
        problem = f"is {config.num_heads}, which does not divide the width {config.d_model}"
        raise block.error("decoder_attention_heads", problem, REMEDY)
    for key, token in (("eos_token_id", config.end_id), ("no_speech_token_id", config.no_speech_id)):
        if not 0 <= token < config.vocab_size:
            raise block.error(key, f"is {token}, where the vocabulary has {config.vocab_size} tokens", REMEDY)
    if not 0 < len(config.prompt_ids) < config.max_positions:
        raise block.error("prompt_ids", "is no beginning of a reading", REMEDY)
    return config


def _ids(block: Reader, key: str, default: list[int]) -> tuple[int, ...]:
    ids, size = block.get(key, default), block.positive("vocab_size", 51865)
    if not all(type(token) is int and 0 <= token < size for token in ids):
        raise block.error(key, f"is {ids!r:.100}, not token ids below {size}", REMEDY)
    return tuple(ids)
