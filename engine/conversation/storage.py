"""How much memory sessions take, and how many fit on a device beside the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.config import OmniConfig
from engine.model.kv_steps import PAGE

MAX_SEGMENT_CODES = 2048 + 50 + 2 * 25
"""Audio codes that one stretch of speech can have: the limit, the context of the stretch before, and a last block."""

WORKING_BYTES = 4 << 30
"""What activations, recordings of steps and the libraries of a large card want; of a small one a seventh."""

HEARINGS = 2
"""Audio caches of a session besides the one in use: copies of those before the last resets, at most."""


def whole_pages(tokens: int) -> int:
    """A capacity that a paged kernel can read, for so many tokens."""
    return -(-tokens // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class Capacities:
    """Tokens, codes and frames that one session can hold, in whole pages."""

    context: int
    speech: int
    audio: int

    @classmethod
    def of(cls, config: OmniConfig, context: int) -> Capacities:
        """For contexts of ``context`` tokens."""
        speech = min(config.tts.condition_length + MAX_SEGMENT_CODES, config.tts.max_positions)
        return cls(*map(whole_pages, (context, speech, config.audio.max_positions)))


def bytes_per_session(config: OmniConfig, context: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values that a session of ``context`` tokens takes: language, speech, and all it can keep of
    the audio encoder."""
    room, llm, tts, audio = Capacities.of(config, context), config.llm, config.tts, config.audio
    numbers = (
        (room.context + 1) * llm.num_layers * llm.num_kv_heads * llm.head_dim
        + (room.speech + 1) * tts.num_layers * tts.hidden_size
        + (room.audio + 1) * audio.num_layers * audio.num_heads * audio.head_dim * (1 + HEARINGS)
    )
    return 2 * numbers * dtype.itemsize


def sessions_that_fit(config: OmniConfig, context: int, dtype: torch.dtype, free: int) -> int:
    """Sessions of ``context`` tokens for which ``free`` bytes are enough."""
    return max(0, free - min(WORKING_BYTES, free // 7)) // bytes_per_session(config, context, dtype)
