"""Turns of a conversation → one row of token ids, and what is to be learned of it.

As in a chat, but for what the published training does differently: only pictures that were cut get a number, and the
numbers count those alone; every message of MiniCPM-V 2.0 is encoded apart from its mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.chat.prompt import in_template
from engine.checkpoint.loader import LoadedVisionLanguage
from engine.config_language import Generation
from engine.errors import InputError
from engine.processing.prompts import TypedText
from engine.processing.tokens import ImageSlot, Piece, RowBuilder, TokenRow

IGNORED = -100
"""The label of a token that is not learned (the ``ignore_index`` of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True)
class TaughtTurn:
    """One message: texts, and pictures in their places: paths, or slots once they were read."""

    role: Literal["user", "assistant"]
    parts: tuple[str | Path | ImageSlot, ...]


@dataclass(frozen=True, slots=True)
class AnswerMarks:
    """How a template frames a message, and what of that is learned."""

    before: str
    """Comes before the name of its role."""
    skipped: int
    """Tokens after that name that are not learned yet."""
    end: str
    """Ends it, and is learned."""
    after: str = ""
    """What is learned to follow where an answer has ended and more comes; empty: the tokenizer's end of a text."""


CHATML = AnswerMarks("<|im_start|>", 0, "<|im_end|>")
MARKS: dict[Generation, AnswerMarks] = {
    "o-2.6": CHATML,
    "v-2.6": CHATML,
    "v-2.5": AnswerMarks("<|start_header_id|>", 2, "<|eot_id|>", after="<|eot_id|>"),
}


class Markup:
    """Makes rows and labels for one model."""

    def __init__(self, loaded: LoadedVisionLanguage) -> None:
        self.loaded, self.tokenizer = loaded, loaded.tokenizer
        self.build = RowBuilder(loaded.tokenizer, loaded.config)

    def __call__(self, turns: Sequence[TaughtTurn]) -> tuple[TokenRow, NDArray[np.int64]]:
        """The row of a conversation and, for every token of it, the one that should follow. Raises InputError."""
        told: list[tuple[str, list[Piece]]] = []
        cut = 0
        for turn in turns:
            pieces: list[Piece] = []
            for part in turn.parts:
                if isinstance(part, ImageSlot):
                    pieces.append(replace(part, number=cut if part.grid else None))
                    cut += part.grid is not None
                else:
                    pieces.append(TypedText(str(part)))
            told.append((turn.role, pieces))
        row, learned, after = self._apart(told) if self.build.dialect.turns else self._templated(told)
        return row, labels_of(row.ids, learned, after)

    def _templated(self, told: list[tuple[str, list[Piece]]]) -> tuple[TokenRow, NDArray[np.bool_], int]:
        """By the tokenizer's template: the row, which of its tokens are learned, and what follows them."""
        marks = MARKS[self.loaded.config.generation]
        pieces = in_template(self.tokenizer, told, ask=False)
        if isinstance(last := pieces[-1], str):  # the template of Llama 3 asks for an answer even so
            pieces[-1] = last.removesuffix(f"{marks.before}assistant<|end_header_id|>\n\n")
        row = self.build(pieces)
        before, role, end = (self._id(token) for token in (marks.before, "assistant", marks.end))
        learned = np.zeros(len(row), np.bool_)
        for at in np.flatnonzero((row.ids[:-1] == before) & (row.ids[1:] == role)) + 2 + marks.skipped:
            learned[at : at + int(np.argmax(row.ids[at:] == end)) + 1] = True  # the template ends every message
        after = self._id(marks.after) if marks.after else getattr(self.tokenizer, "eos_token_id", None)
        return row, learned, end if after is None else after

    def _apart(self, told: list[tuple[str, list[Piece]]]) -> tuple[TokenRow, NDArray[np.bool_], int]:
        """Message by message, each after its mark: the same."""
        end = self.build.stop[0]
        row, learned = self.build([]), np.zeros(0, np.bool_)
        for number, (role, pieces) in enumerate(told, 1):
            mark, said = self.build([self.build.dialect.turn(role) or ""]), self.build(pieces)
            if number == len(told):
                said = said.insert(len(said), [end])
            row = row.followed_by(mark).followed_by(said)
            learned = np.concatenate([learned, np.zeros(len(mark), np.bool_), np.full(len(said), role == "assistant")])
        if self.build.dialect.one_picture and sum(isinstance(piece, ImageSlot) for _, ps in told for piece in ps) > 1:
            raise InputError(f"{self.build.name} takes one picture in a conversation; leave the others out")
        return row, learned, end

    def _id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found


def labels_of(ids: NDArray[np.int64], learned: NDArray[np.bool_], after: int) -> NDArray[np.int64]:
    """What should follow every token: the next one where that is learned, ``after`` where an answer has ended and more
    comes, and else :data:`IGNORED`."""
    labels = np.full(len(ids), IGNORED, np.int64)
    labels[:-1] = np.where(learned[1:], ids[1:], np.where(learned[:-1], after, IGNORED))
    return labels
