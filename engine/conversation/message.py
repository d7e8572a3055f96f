"""A message turned into token ids, patches and mel frames: all that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from engine.conversation.session import Bookkeeping, Kind, kinds_of, runs_of
from engine.errors import InputError
from engine.processing.image import ImageProcessor, ImageSlices
from engine.processing.mel import MelExtractor
from engine.processing.prompts import IM_START, Message, TypedText, closed_turn, turn_header
from engine.processing.tokens import AudioSlot, ImageSlot, Piece, TokenBuilder, TokenRow


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A message turned into tokens, patches and mel frames."""

    role: str
    row: TokenRow
    kinds: tuple[tuple[Kind, int], ...]
    """What the tokens are, as runs of (kind, number)."""
    images: tuple[ImageSlices, ...] = ()
    mels: tuple[Tensor, ...] = ()
    words_at: int | None = None
    """Where in the row the words go that are read from the sound; None where nothing is read."""
    has_text: bool = False
    """Something was typed."""

    def with_words(self, ids: Sequence[int]) -> Prepared:
        """The message with the tokens of the words that were said in it."""
        if not ids or self.words_at is None:
            return self
        kinds = [kind for kind, count in self.kinds for _ in range(count)]
        kinds[self.words_at : self.words_at] = ["audio"] * len(ids)
        return replace(self, row=self.row.insert(self.words_at, ids), kinds=runs_of(kinds))


class MessageBuilder:
    """Prepares messages for one model."""

    def __init__(
        self, build: TokenBuilder, images: ImageProcessor, mel: MelExtractor, *, reads: bool, sees: bool
    ) -> None:
        """``reads``: what a person says becomes words, not vectors; ``sees``: the model has eyes."""
        self._build, self._images, self._mel, self._reads, self._sees = build, images, mel, reads, sees

    def __call__(self, book: Bookkeeping, message: Message, max_slices: int) -> Prepared:
        """The message that comes next where the conversation stands as ``book`` says. Raises InputError for a part
        that cannot be used."""
        if message.role not in ("user", "system", "assistant"):
            raise InputError(f"the role is {message.role!r}; use user, system or assistant")
        reads = self._reads and message.role == "user" and not book.first
        pieces: list[Piece] = []
        images: list[ImageSlices] = []
        mels: list[Tensor] = []
        words_before: int | None = None
        for part in message.content:
            if reads and words_before is None and isinstance(part, np.ndarray | TypedText):
                words_before = len(pieces)
            if isinstance(part, Image.Image):
                if not self._sees:
                    raise InputError("the message has a picture and this model has no eyes; leave pictures out")
                images.append(self._images(part, max_slices))
                pieces.append(ImageSlot(images[-1].grid))
            elif isinstance(part, np.ndarray):
                mels.append(self._mel(part))
                pieces += [] if reads else [AudioSlot(len(part))]
            elif isinstance(part, TypedText):
                pieces.append(self._build.as_heard(part) if message.role == "user" and not book.first else part)
            elif isinstance(part, str):
                pieces.append(part)
            else:
                raise InputError(f"a part is {type(part).__name__}; give text, a picture or an array of samples")
        closing = opening = ""
        if book.first:
            pieces = _wrap(message.role, pieces)
        elif book.opens_turn and message.role == "user":
            header = turn_header(answered=book.answered, completed=book.completed)
            opening = f"{IM_START}user\n"
            closing = header.removesuffix(opening)
            pieces.insert(0, header)
            words_before = None if words_before is None else words_before + 1
        row, words_at = self._build(pieces), None
        if words_before is not None:  # words join neither what is before them nor what is behind
            first = self._build(pieces[:words_before])
            row, words_at = first.followed_by(self._build(pieces[words_before:])), len(first)
        if not len(row) and words_at is None:
            raise InputError("the message is empty; give text, a picture or sound")
        closes, opens = (len(self._build.text(text)) for text in (closing, opening))
        kinds = kinds_of(row, closes, opens, prompt=book.first)
        typed = any(isinstance(piece, TypedText) for piece in pieces)
        return Prepared(message.role, row, kinds, tuple(images), tuple(mels), words_at, typed)

    def prompt_length(self, message: Message) -> int:
        """Tokens of a first message of texts and sounds."""
        pieces: list[Piece] = []
        for part in message.content:
            assert not isinstance(part, Image.Image)
            pieces.append(AudioSlot(len(part)) if isinstance(part, np.ndarray) else part)
        return len(self._build(_wrap(message.role, pieces)))


def _wrap(role: str, pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of the first message as a closed turn, whatever its role."""
    opening, *_, closing = closed_turn(role, [])
    return [str(opening), *pieces, str(closing)]
