"""How much memory sessions take, and how many of what length fit on a device beside the weights.

:func:`choose_room` is what the engine is started with, and what ``make bench-gpu GPU=--plan`` prints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.config import OmniConfig, VisionLanguageConfig
from engine.errors import LoadError
from engine.model.kv_steps import PAGE
from engine.spec import MAX_CHATS, MOST_CALLS_ON_CPU

MAX_SEGMENT_CODES = 2048 + 50 + 2 * 25
"""Audio codes that one stretch of speech can have: the limit, the context of the stretch before, and a last block."""

WORKING_BYTES = 4 << 30
"""What activations, recordings of steps and the libraries of a large card want; of a small one a seventh."""

HEARINGS = 2
"""Audio caches of a session besides the one in use: copies of those before the last resets, at most."""

CONTEXTS = (8_192, 4_096, 2_048)
"""Tokens of a session of which the first that fits is taken. A longer context costs time with every token, and is the
operator's to ask for."""

MOST_CALLS = 96
"""Calls that a card serves unless the operator asks for more, however much memory there is."""


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


def session_bytes(config: VisionLanguageConfig, context: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of keys and values that a session of ``context`` tokens takes, part by part: language, and of a model that
    can be called its speech and all that it can keep of the audio encoder."""
    llm, size = config.llm, 2 * dtype.itemsize
    found = {"language": (whole_pages(context) + 1) * llm.num_layers * llm.num_kv_heads * llm.head_dim * size}
    if isinstance(config, OmniConfig):
        room, tts, audio = Capacities.of(config, context), config.tts, config.audio
        heard = (room.audio + 1) * audio.num_layers * audio.num_heads * audio.head_dim
        found["hearing"] = heard * (1 + HEARINGS) * size
        found["speech"] = (room.speech + 1) * tts.num_layers * tts.hidden_size * size
    return found


def sessions_that_fit(config: VisionLanguageConfig, context: int, dtype: torch.dtype, free: int) -> int:
    """Sessions of ``context`` tokens for which ``free`` bytes are enough, with what work needs."""
    return max(0, free - working_bytes(free)) // sum(session_bytes(config, context, dtype).values())


def working_bytes(free: int) -> int:
    """Of ``free`` bytes beside the weights, those that no session gets."""
    return min(WORKING_BYTES, free // 7)


@dataclass(frozen=True, slots=True)
class SessionRoom:
    """The sessions that a device has room for. ``str()`` is what the operator reads."""

    calls: int
    """0 for a model that cannot be called."""
    chats: int
    context: int
    """Tokens of each."""

    @property
    def sessions(self) -> int:
        return self.calls + self.chats

    def __str__(self) -> str:
        chats, of = counted(self.chats, "chat"), f"of {self.context:,} tokens"
        return f"{counted(self.calls, 'call')} {of}, and {chats} beside" if self.calls else f"{chats} {of}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def choose_room(
    config: VisionLanguageConfig,
    device: torch.device,
    dtype: torch.dtype,
    free: int | None,
    *,
    calls: int = 0,
    context: int = 0,
) -> SessionRoom:
    """The calls and chats that ``free`` bytes (None: nobody knows, taken as enough) of ``device`` have room for, beside
    weights that are there already.

    ``calls`` and ``context`` are the operator's wish, 0 leaves either to the memory: the longest of :data:`CONTEXTS`
    with which a call and a chat fit, and as many calls as do, :data:`MOST_CALLS` at most. A quarter of the places, four
    at most, is for chats. A model that cannot be called has chats only. Raises LoadError where not even one fits.
    """
    longest, called = config.llm.max_positions, isinstance(config, OmniConfig)
    contexts = dict.fromkeys(min(tokens, longest) for tokens in ((context,) if context else CONTEXTS))
    least = 2 if called else 1
    for tokens in contexts:
        fits = least + (calls or MOST_CALLS) + MAX_CHATS
        if free is not None:
            fits = sessions_that_fit(config, tokens, dtype, free)
        if fits >= least:
            return _share_out(fits, calls, tokens, device) if called else SessionRoom(0, min(fits, MAX_CHATS), tokens)
    assert free is not None
    each = sum(session_bytes(config, tokens, dtype).values()) / 1e9
    problem = (
        f"has {free / 1e9:.1f} GB left beside the weights, {working_bytes(free) / 1e9:.1f} GB of them for the work, "
        f"where {least} sessions of {tokens:,} tokens take {each:.2f} GB each"
    )
    shorter = "a smaller context, " if tokens > CONTEXTS[-1] else ""
    raise LoadError(str(device), problem, f"use {shorter}quantize=int4 or int8, or a larger device")


def _share_out(fits: int, calls: int, context: int, device: torch.device) -> SessionRoom:
    """Places for so many sessions, as calls and chats."""
    most = MOST_CALLS if device.type == "cuda" else MOST_CALLS_ON_CPU
    kept = 1 if calls else min(MAX_CHATS, max(1, fits // 4))
    served = min(calls or most, fits - kept)
    return SessionRoom(served, min(MAX_CHATS, fits - served), context)
