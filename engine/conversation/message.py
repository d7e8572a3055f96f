"""A message turned into token ids, patches and mel frames: all that needs no model."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.conversation.session import Bookkeeping, Kind, kinds_of, runs_of
from engine.conversation.sight import Found, ThingFinder
from engine.conversation.window import Dropped
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
    sounds: tuple[NDArray[np.float32], ...] = ()
    """The samples of what the person says."""
    words_at: int | None = None
    """Where in the row the words go that are read from the sound; None where nothing is read."""
    found: tuple[tuple[int, Found], ...] = ()
    """Things found in pictures that are told in words, and where in the row these go."""
    has_text: bool = False
    """Something was typed."""

    def with_words(self, ids: Sequence[int]) -> Prepared:
        """The message with the tokens of the words that were said in it."""
        return self if self.words_at is None else self._insert(self.words_at, ids, "audio")

    def with_told(self, told: Sequence[Sequence[int]]) -> Prepared:
        """The message with what is told of each of its pictures."""
        message = self
        for (place, _), ids in reversed(list(zip(self.found, told, strict=True))):
            message = message._insert(place, ids, "image")
        return message

    def _insert(self, place: int, ids: Sequence[int], kind: Kind) -> Prepared:
        if not ids:
            return self
        kinds = [kind for kind, count in self.kinds for _ in range(count)]
        kinds[place:place] = [kind] * len(ids)
        words_at = self.words_at
        if words_at is not None and words_at >= place:
            words_at += len(ids)
        return replace(self, row=self.row.insert(place, ids), kinds=runs_of(kinds), words_at=words_at)


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """The end of a prefill."""

    tokens: int
    picture_tokens: int
    """Those of the pictures among them."""
    embeds: Tensor
    """What went into the language model [tokens, hidden]."""
    states: Tensor
    """What came out of it [tokens, hidden], and with ``ask_end`` what comes out of the rest of the words."""
    dropped: Dropped
    """What the key/value window let go of to make room."""
    words: str = ""
    """What a model that reads is certain now to have heard, and was not before."""
    rest: str = ""
    """What it has read beyond that."""


class MessageBuilder:
    """Prepares messages for one model."""

    def __init__(
        self, build: TokenBuilder, images: ImageProcessor | ThingFinder | None, mel: MelExtractor, *, reads: bool
    ) -> None:
        """``images`` prepares pictures: for the model's own eyes, or to be told in words; None for a model that takes
        none. ``reads``: what a person says becomes words, not vectors."""
        self._build, self.images, self._mel, self._reads = build, images, mel, reads

    def __call__(self, book: Bookkeeping, message: Message, max_slices: int) -> Prepared:
        """The message that comes next where the conversation stands as ``book`` says. Raises InputError for a part
        that cannot be used."""
        if message.role not in ("user", "system", "assistant"):
            raise InputError(f"the role is {message.role!r}; use user, system or assistant")
        reads = self._reads and message.role == "user" and not book.first
        pieces: list[Piece] = []
        images: list[ImageSlices] = []
        mels: list[Tensor] = []
        sounds: list[NDArray[np.float32]] = []
        found: list[Found] = []
        gaps: list[int] = []  # how many pieces come before what is told of each picture
        words_before: int | None = None
        for part in message.content:
            if reads and words_before is None and isinstance(part, np.ndarray | TypedText):
                words_before = len(pieces)
            if isinstance(part, Image.Image):
                if self.images is None:
                    raise InputError("the message has a picture and this model has no eyes; leave pictures out")
                if isinstance(self.images, ThingFinder):
                    found.append(self.images(part))
                    gaps.append(len(pieces))
                else:
                    images.append(self.images(part, max_slices))
                    pieces.append(ImageSlot(images[-1].grid))
            elif isinstance(part, np.ndarray):
                mels.append(self._mel(part))
                pieces += [] if reads else [AudioSlot(len(part))]
                sounds += [part] if message.role == "user" and not book.first else []
            elif isinstance(part, TypedText):
                pieces.append(self._build.as_heard(part) if message.role == "user" and not book.first else part)
            elif isinstance(part, str):
                pieces.append(part)
            else:
                raise InputError(f"a part is {type(part).__name__}; give text, a picture or an array of samples")
        closing = opening = ""
        inside = len(pieces)
        if book.first:
            pieces = _wrap(message.role, pieces)
        elif book.opens_turn and message.role == "user":
            header = turn_header(answered=book.answered, completed=book.completed)
            opening = f"{IM_START}user\n"
            closing = header.removesuffix(opening)
            pieces.insert(0, header)
        ahead = int(len(pieces) > inside)
        row, places = self._apart(pieces, {ahead + gap for gap in (*gaps, words_before) if gap is not None})
        words_at = None if words_before is None else places[ahead + words_before]
        if not len(row) and words_at is None:
            raise InputError("the message is empty; give text, a picture or sound")
        closes, opens = (len(self._build.text(text)) for text in (closing, opening))
        kinds = kinds_of(row, closes, opens, prompt=book.first)
        typed = any(isinstance(piece, TypedText) for piece in pieces)
        told = tuple((places[ahead + gap], things) for gap, things in zip(gaps, found, strict=True))
        return Prepared(message.role, row, kinds, tuple(images), tuple(mels), tuple(sounds), words_at, told, typed)

    def _apart(self, pieces: Sequence[Piece], gaps: Set[int]) -> tuple[TokenRow, dict[int, int]]:
        """The row of ``pieces``, and how many tokens come before each of the ``gaps`` between them: what is put there
        joins neither what is before it nor what is behind."""
        borders = [*sorted(gaps), len(pieces)]
        row, places = self._build(pieces[: borders[0]]), dict[int, int]()
        for begin, end in pairwise(borders):
            places[begin] = len(row)
            row = row.followed_by(self._build(pieces[begin:end]))
        return row, places

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
