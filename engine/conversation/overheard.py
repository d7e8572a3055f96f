"""What was overheard of a message, for its captions."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from engine.conversation.reading import Reading


@dataclass(frozen=True, slots=True)
class Overheard:
    """A value: nothing in it is ever changed."""

    reading: Reading = field(default_factory=Reading)
    past: tuple[Tensor, ...] = field(default=(), compare=False)
    """Keys and values of the encoder [layers, 2 · heads, frames, head_dim], for every piece of sound."""
