"""An answer's text, piece by piece while it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.conversation.text import split_complete

CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
"""Ideographs, which are words without a space after them."""


class BlockPieces:
    """What a block of tokens says, but for a character that is not complete."""

    def __init__(self, tokenizer: Any, decode: Callable[[Sequence[int]], str]) -> None:
        self._tokenizer, self._decode = tokenizer, decode
        self._held: tuple[int, ...] = ()

    def add(self, ids: Sequence[int], *, over: bool) -> list[str]:
        """What more tokens complete, and all that is left when the answer is ``over``."""
        ids = (*self._held, *ids)
        if not over:
            ids, self._held = split_complete(ids, self._tokenizer)
        return [self._decode(ids)]


class WordPieces:
    """Whole words, as the published streaming of the MiniCPM-V models gives them: a word is given out when a
    space, an ideograph or the end of a line follows: no later token changes it then."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        """``stops`` are the texts of tokens that end an answer: they are left out."""
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._given = 0
        """Characters of the text of ``_ids``."""

    def add(self, ids: Sequence[int], *, over: bool) -> list[str]:
        """What each of more tokens completes, often nothing, and all that is left when the answer is ``over``."""
        pieces = [self._next(token) for token in ids]
        text = self._decode(self._ids) if over else ""
        return [*pieces, self._give(text, len(text))] if over else pieces

    def _next(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode(self._ids)
        ends_line = text.endswith("\n")
        whole = ends_line or (text and any(low <= ord(text[-1]) <= high for low, high in CJK))
        piece = self._give(text, len(text) if whole else text.rfind(" ") + 1)
        if ends_line:
            self._ids, self._given = [], 0
        return piece

    def _give(self, text: str, end: int) -> str:
        piece = text[self._given : end]
        self._given += len(piece)
        for stop in self._stops:
            piece = piece.replace(stop, "")
        return piece
