"""Text, pictures and sound as one row of token ids.

A picture or a second of sound takes a fixed row of placeholders whose embeddings are replaced later. Such rows are
made once per shape, and repeated texts are looked up, so that a unit of a call costs no tokenizer run.

Where the placeholders are follows from what was put there, never from ids that were found: no text can move them. What
a person typed is encoded by :class:`TypedEncoder`, which knows no added token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from engine.config import OmniConfig, VisionLanguageConfig
from engine.config_language import NAMES
from engine.errors import InputError, TokenizerError
from engine.model.audio import token_length
from engine.processing.dialects import DIALECTS
from engine.processing.image import Grid
from engine.processing.mel import mel_length
from engine.processing.prompts import TypedText
from engine.processing.sentencepieces import SentencePieceTokenizer
from engine.processing.typed import TypedEncoder

PICTURE_MARKS = {
    "unknown": "<unk>",
    "image_start": "<image>",
    "image_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
}
NUMBER_MARKS = {"image_id_start": "<image_id>", "image_id_end": "</image_id>"}
SPECIALS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "end_of_text": "<|endoftext|>",
    **PICTURE_MARKS,
    **NUMBER_MARKS,
    "unit_start": "<unit>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "spk_start": "<|spk_bos|>",
    "spk": "<|spk|>",
    "spk_end": "<|spk_eos|>",
    "tts_start": "<|tts_bos|>",
    "tts_end": "<|tts_eos|>",
}
"""Special tokens that the code needs to know of MiniCPM-o 2.6, and the strings that name them in the tokenizer. The
marks of pictures are the whole family's; V 2.0 and 2.5 do not number them."""

MEL_FRAMES_PER_SECOND = 100


class Tokenizer(Protocol):
    """What is used of a tokenizer."""

    def encode(
        self, text: str, *, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureIds:
    """Ids of a picture's marks in one tokenizer; they differ between checkpoints."""

    unknown: int
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    image_id_start: int | None = None
    """None, as its end, where pictures are not numbered."""
    image_id_end: int | None = None

    @classmethod
    def resolve(cls, tokenizer: Tokenizer, source: str = "tokenizer") -> Self:
        """Look every token up by its string. Raises TokenizerError for one that ``source`` does not have."""
        numbered = {name: text for name, text in NUMBER_MARKS.items() if _id_of(tokenizer, text) is not None}
        return cls(**_ids_of(tokenizer, PICTURE_MARKS | numbered, source))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds(PictureIds):
    """Ids of :data:`SPECIALS` in one tokenizer."""

    image_id_start: int
    image_id_end: int
    im_start: int
    im_end: int
    end_of_text: int
    unit_start: int
    audio_start: int
    audio_end: int
    spk_start: int
    spk: int
    spk_end: int
    tts_start: int
    tts_end: int

    @property
    def stop(self) -> tuple[int, int]:
        """Tokens that end every answer."""
        return self.im_end, self.end_of_text

    @classmethod
    def resolve(cls, tokenizer: Tokenizer, source: str = "tokenizer") -> Self:
        return cls(**_ids_of(tokenizer, SPECIALS, source))


def _ids_of(tokenizer: Tokenizer, names: dict[str, str], source: str) -> dict[str, int]:
    ids: dict[str, int] = {}
    for name, text in names.items():
        found = _id_of(tokenizer, text)
        if found is None:
            raise TokenizerError(source, "is not in the vocabulary", "use the checkpoint's own tokenizer", key=text)
        ids[name] = found
    return ids


def _id_of(tokenizer: Tokenizer, text: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(text)
    return found if found is not None and tokenizer.convert_ids_to_tokens(found) == text else None


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """Place of one picture: how it was cut (None: whole), and a number of its own where the row gives none."""

    grid: Grid | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class AudioSlot:
    """Place of one sound of so many 16 kHz samples."""

    samples: int


Piece = str | TypedText | ImageSlot | AudioSlot
Bounds = NDArray[np.int64]
"""``[n, 2]``: first placeholder and one past the last of every slot, in order."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Ids int64 ``[T]`` of a piece of context, and where its placeholders are."""

    ids: NDArray[np.int64]
    image_bounds: Bounds
    audio_bounds: Bounds
    spk_bounds: Bounds

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, length: int) -> TokenRow:
        """The first ``length`` ids; a pair of which the end is cut off is left out."""

        def whole(bounds: Bounds) -> Bounds:
            return bounds[bounds[:, 1] < length]

        ids = self.ids[:length]
        return TokenRow(ids, whole(self.image_bounds), whole(self.audio_bounds), whole(self.spk_bounds))

    def followed_by(self, other: TokenRow) -> TokenRow:
        """This row and then another."""

        def both(one: Bounds, two: Bounds) -> Bounds:
            return np.concatenate([one, two + len(self)])

        images = both(self.image_bounds, other.image_bounds)
        sounds = both(self.audio_bounds, other.audio_bounds)
        return TokenRow(np.concatenate([self.ids, other.ids]), images, sounds, both(self.spk_bounds, other.spk_bounds))

    def insert(self, place: int, ids: Sequence[int]) -> TokenRow:
        """This row with more ids at ``place``, which lies in no pair of bounds."""

        def moved(bounds: Bounds) -> Bounds:
            return bounds + len(ids) * (bounds >= place)

        row = np.insert(self.ids, place, np.array(ids, np.int64))
        return TokenRow(row, moved(self.image_bounds), moved(self.audio_bounds), moved(self.spk_bounds))


class FastTokenizer(Tokenizer, Protocol):
    """What is used of a Hugging Face tokenizer besides."""

    @property
    def backend_tokenizer(self) -> Backend: ...


class RowBuilder:
    """Builds rows of text and pictures with one tokenizer, in the dialect of one model."""

    def __init__(
        self,
        tokenizer: FastTokenizer | SentencePieceTokenizer,
        config: VisionLanguageConfig,
        source: str = "tokenizer",
    ) -> None:
        """Raises TokenizerError for a tokenizer that lacks a token."""
        self.tokenizer = tokenizer
        self.dialect = DIALECTS[config.generation]
        self.marks = PictureIds.resolve(tokenizer, source)
        self.name = NAMES[config.generation]
        self.stop = tuple(_ids_of(tokenizer, {text: text for text in self.dialect.stops}, source).values())
        """Tokens that end an answer."""
        self._queries = config.query_num
        self._typed: Callable[[Sequence[str | TypedText]], list[int]] = (
            tokenizer.typed
            if isinstance(tokenizer, SentencePieceTokenizer)
            else TypedEncoder(tokenizer.backend_tokenizer)
        )
        self._cached = lru_cache(maxsize=128)(self._build)

    @property
    def opening(self) -> list[int]:
        """What every prompt begins with, ahead of what its template says."""
        if not self.dialect.follows_post_processor:
            return []
        bare = self.text("a")
        ids = self.tokenizer.encode("a", add_special_tokens=True)
        return ids[: next(at for at in range(len(ids)) if ids[at : at + len(bare)] == bare)]

    def text(self, text: str) -> list[int]:
        """A text in which the string of an added token is that token."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)

    def typed(self, text: str) -> list[int]:
        """A text in which even the string of an added token is only text."""
        return self._typed([TypedText(text)])

    def as_heard(self, text: TypedText) -> TypedText:
        """What a person typed, as the model wants it."""
        return text

    def image(self, grid: Grid | None, image_id: int | None) -> list[int]:
        """Placeholders of one picture: the whole, then the cells of its grid, rows separated by a line break."""
        marks, blank = self.marks, [self.marks.unknown] * self._queries
        ids = whole = [marks.image_start, *blank, marks.image_end]
        if image_id is not None and marks.image_id_start is not None and marks.image_id_end is not None:
            ids = [marks.image_id_start, *self.text(str(image_id)), marks.image_id_end, *whole]
        if grid is None:
            return ids
        columns, rows = grid
        if self.dialect.cells_apart:
            row = [marks.slice_start, *blank, marks.slice_end] * columns
            return [*ids, *row, *(self.text("\n") + row) * (rows - 1)]
        row = whole * columns
        return [*ids, marks.slice_start, *row, *(self.text("\n") + row) * (rows - 1), marks.slice_end]

    def audio(self, tokens: int, *, chunk_input: bool | None = None) -> list[int]:
        """Placeholders of a sound of so many vectors. Raises InputError where the model does not hear."""
        raise InputError(f"{self.name} does not hear; leave the sound out")

    def audio_tokens(self, samples: int) -> int:
        """Vectors that a sound of so many samples takes in the context. Raises InputError where there are none."""
        raise InputError(f"{self.name} does not hear; leave the sound out")

    def __call__(
        self, pieces: Iterable[Piece], *, use_image_id: bool = False, chunk_input: bool | None = None
    ) -> TokenRow:
        """Token ids of texts, pictures and sounds in order. Neighbouring texts are tokenised as one; pictures are
        numbered from 0 with ``use_image_id``; ``chunk_input`` None takes the model's setting. The same pieces give the
        same (read-only) row."""
        return self._cached(tuple(pieces), use_image_id, chunk_input)

    def _build(self, pieces: tuple[Piece, ...], use_image_id: bool, chunk_input: bool | None) -> TokenRow:
        ids: list[int] = []
        pictures, sounds = [NO_BOUNDS], [NO_BOUNDS]
        for textual, group in groupby(pieces, lambda piece: isinstance(piece, str | TypedText)):
            if textual:
                ids += self._texts([piece for piece in group if isinstance(piece, str | TypedText)])
                continue
            for piece in group:
                if isinstance(piece, ImageSlot):
                    slot = self.image(piece.grid, len(pictures) - 1 if use_image_id else piece.number)
                    pictures.append(_bounds(slot, *self._borders) + len(ids))
                else:
                    assert isinstance(piece, AudioSlot)
                    slot = self.audio(self.audio_tokens(piece.samples), chunk_input=chunk_input)
                    sounds.append(self._sound_bounds(slot) + len(ids))
                ids += slot
        row = np.array(ids, np.int64)
        row.flags.writeable = False
        return TokenRow(row, np.concatenate(pictures), np.concatenate(sounds), self._speaker_bounds(row))

    @property
    def _borders(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        marks = self.marks
        if self.dialect.cells_apart:
            return (marks.image_start, marks.slice_start), (marks.image_end, marks.slice_end)
        return (marks.image_start,), (marks.image_end,)

    def _sound_bounds(self, slot: Sequence[int]) -> Bounds:
        return NO_BOUNDS

    def _speaker_bounds(self, row: NDArray[np.int64]) -> Bounds:
        return NO_BOUNDS

    def _texts(self, parts: Sequence[str | TypedText]) -> list[int]:
        own = [part for part in parts if isinstance(part, str)]
        return self.text("".join(own)) if len(own) == len(parts) else self._typed(parts)


class TokenBuilder(RowBuilder):
    """Builds the rows of MiniCPM-o 2.6, which hears and speaks."""

    def __init__(self, tokenizer: FastTokenizer, config: OmniConfig, source: str = "tokenizer") -> None:
        self.specials = SpecialIds.resolve(tokenizer, source)
        super().__init__(tokenizer, config, source)
        self._hop = config.mel.hop_length
        self._pool_step = config.audio.pool_step
        self._group = int(config.audio.chunk_length * MEL_FRAMES_PER_SECOND)
        self._chunk_input = config.chunk_input
        self._typed_as_heard = config.typed_as_heard

    def as_heard(self, text: TypedText) -> TypedText:
        """What a person typed, as the model wants it: as its ears would put it, where it was taught to read nothing
        else. Mini knows "Anna" with a capital as what it says itself."""
        return TypedText(f" {text.text.strip().lower()}") if self._typed_as_heard and text.text.strip() else text

    def audio(self, tokens: int, *, chunk_input: bool | None = None) -> list[int]:
        """Placeholders of a sound, cut into groups of one second where the model was trained so, or as asked."""
        special = self.specials
        grouped = (self._chunk_input if chunk_input is None else chunk_input) and self._group
        group = token_length(self._group, self._pool_step) if grouped else tokens
        ids: list[int] = []
        for start in range(0, tokens, max(group, 1)):
            count = min(group, tokens - start)
            ids += [special.audio_start, *[special.unknown] * count, special.audio_end]
        return ids

    def audio_tokens(self, samples: int) -> int:
        """Vectors that a sound of so many samples takes in the context."""
        return token_length(mel_length(samples, self._hop), self._pool_step)

    def _sound_bounds(self, slot: Sequence[int]) -> Bounds:
        return _bounds(slot, (self.specials.audio_start,), (self.specials.audio_end,))

    def _speaker_bounds(self, row: NDArray[np.int64]) -> Bounds:
        return _bounds(row, (self.specials.spk_start,), (self.specials.spk_end,))


NO_BOUNDS: Bounds = np.zeros((0, 2), np.int64)


def _bounds(ids: Sequence[int] | NDArray[np.int64], starts: tuple[int, ...], ends: tuple[int, ...]) -> Bounds:
    first = np.flatnonzero(np.isin(ids, starts)) + 1
    last = np.flatnonzero(np.isin(ids, ends))
    pairs = min(len(first), len(last))
    return np.stack([first[:pairs], last[:pairs]], axis=1).astype(np.int64, copy=False)
