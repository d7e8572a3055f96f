"""How to ask a model, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.chat.prompt import ChatPrompt
from engine.conversation.sampling import SpeechSampling
from engine.errors import InputError

MAX_BEAMS, MAX_SLICES = 64, 100
"""Above what anybody searches with or cuts a picture into, below what fills the memory by a slip of the finger."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How to ask and how to answer; names and defaults are the published ones. None takes the model's.

    Text is drawn at random, or greedily with ``do_sample=False``, or by beam search with ``sampling=False``. Raises
    InputError for values that make no sense.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    sampling: bool = True
    do_sample: bool = True
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float | None = None
    """None: 1.05, and 1.2 for beam search. It counts generated tokens only."""
    num_beams: int = 3
    seed: int = 0
    max_inp_length: int | None = None
    """Tokens after which the prompt is cut off. None: one that is longer than the model's limit is refused instead."""
    omni_input: bool = False
    """Join the parts of a message without line breaks, as the units of a call are."""
    max_slice_nums: int | tuple[int | None, ...] | None = None
    """Cells that a picture may be cut into; or as many numbers as there are pictures, each for one of them."""
    use_image_id: bool | None = None
    """Number the pictures."""
    chunk_input: bool | None = None
    """Cut sound placeholders into seconds."""
    use_tts_template: bool = False
    """Ask for an answer that can be spoken. Sound in the conversation and ``generate_audio`` switch it on."""
    generate_audio: bool = False
    speech: SpeechSampling | None = None
    """How speech is drawn."""
    skip_id_0: bool | None = None
    """Leave tokens of the id 0 out of the prompt, see :attr:`engine.processing.dialects.Dialect.skips_id_0`. None: so
    for an answer that comes as a whole, if the model does; not for one that comes in pieces."""

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("max_inp_length", 1), ("top_k", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        penalty = 1.0 if self.repetition_penalty is None else self.repetition_penalty
        if self.temperature == 0:
            raise InputError("temperature is 0; for the likeliest token switch drawing off (do_sample=False, --greedy)")
        if not (0 < self.temperature < math.inf and 0 < penalty < math.inf and 0 < self.top_p <= 1):
            raise InputError("temperature and repetition_penalty must be numbers above 0, and top_p in (0, 1]")
        cells = self.max_slice_nums if isinstance(self.max_slice_nums, tuple) else (self.max_slice_nums,)
        cut_well = all(limit is None or 1 <= limit <= MAX_SLICES for limit in cells)
        if not 2 <= self.num_beams <= MAX_BEAMS:
            raise InputError(f"num_beams is {self.num_beams}; it must be from 2 to {MAX_BEAMS}")
        if not cut_well:
            raise InputError(f"max_slice_nums is {self.max_slice_nums}; it must be from 1 to {MAX_SLICES}")

    @property
    def penalty(self) -> float:
        """The repetition penalty that is meant."""
        default = 1.05 if self.sampling else 1.2
        return default if self.repetition_penalty is None else self.repetition_penalty

    @property
    def generation(self) -> dict[str, float | int | bool]:
        """How the tokens of an answer are found, by the names that transformers has for it."""
        if not self.sampling:
            return {"num_beams": self.num_beams, "repetition_penalty": self.penalty}
        return {
            "do_sample": self.do_sample, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
            "repetition_penalty": self.penalty,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ChatAnswer:
    """An answer and what led to it."""

    text: str
    finish: Literal["stop", "length"]
    ids: tuple[int, ...]
    """Tokens as drawn, the stop token included."""
    prompt: ChatPrompt
    embeds: Tensor
    """What the prompt's tokens and pictures are to the language model [T, hidden]."""
    states: Tensor
    """Its states over what it read of that [T, hidden], after the final norm."""
    speaker: Tensor | None = None
    """Its states at the speaker's place [1, hidden]; None for the text template."""
    codes: Tensor | None = None
    """Audio codes int64 [N, num_vq]."""
    wave: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Speech, mono float32 at 24 kHz; empty without ``generate_audio``."""
