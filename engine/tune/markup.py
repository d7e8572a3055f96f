"""Turns of a conversation → one row of token ids, and what is to be learned of it.

As in a chat, but for two things that the published training does: only pictures that were cut get a number, and the
numbers count those alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.chat.prompt import in_template
from engine.checkpoint.loader import LoadedModel
from engine.processing.prompts import TypedText
from engine.processing.tokens import ImageSlot, Piece, TokenBuilder, TokenRow

IGNORED = -100
"""The label of a token that is not learned (the ``ignore_index`` of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True)
class TaughtTurn:
    """One message: texts, and pictures in their places: paths, or slots once they were read."""

    role: Literal["user", "assistant"]
    parts: tuple[str | Path | ImageSlot, ...]


class Markup:
    """Makes rows and labels for one model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.tokenizer = loaded.tokenizer
        self.build = TokenBuilder(loaded.tokenizer, loaded.config)
        self._assistant: int = loaded.tokenizer.convert_tokens_to_ids("assistant")
        self._eos: int = loaded.tokenizer.eos_token_id or self.build.specials.im_end

    def __call__(self, turns: Sequence[TaughtTurn]) -> tuple[TokenRow, NDArray[np.int64]]:
        """The row of a conversation and, for every token of it, the one that should follow."""
        cut = 0
        told: list[tuple[str, list[Piece]]] = []
        for turn in turns:
            pieces: list[Piece] = []
            for part in turn.parts:
                if isinstance(part, ImageSlot):
                    pieces.append(replace(part, number=cut if part.grid else None))
                    cut += part.grid is not None
                else:
                    pieces.append(TypedText(str(part)))
            told.append((turn.role, pieces))
        row = self.build(in_template(self.tokenizer, told, ask=False))
        return row, self._labels(row.ids)

    def _labels(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        special = self.build.specials
        labels = np.full(len(ids), IGNORED, np.int64)
        opened = np.flatnonzero((ids[:-1] == special.im_start) & (ids[1:] == self._assistant)) + 2
        for start in opened:
            end = start + int(np.argmax(ids[start:] == special.im_end))  # the template closes every message
            labels[start - 1 : end] = ids[start : end + 1]
            if end + 1 < len(ids):  # as published: after the message's end comes the end of everything
                labels[end] = self._eos
        return labels
