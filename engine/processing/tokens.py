"""Text, pictures and sound as one row of token ids.

A picture or a second of sound takes a fixed row of placeholders whose embeddings are replaced later. Such rows are
made once per shape, and repeated texts are looked up, so that a unit of a call costs no tokenizer run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.config import OmniConfig
from engine.errors import TokenizerError
from engine.model.audio import token_length
from engine.processing.image import Grid
from engine.processing.mel import mel_length
from engine.processing.prompts import TypedText

SPECIALS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "end_of_text": "<|endoftext|>",
    "unknown": "<unk>",
    "image_start": "<image>",
    "image_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "image_id_start": "<image_id>",
    "image_id_end": "</image_id>",
    "unit_start": "<unit>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "spk_start": "<|spk_bos|>",
    "spk": "<|spk|>",
    "spk_end": "<|spk_eos|>",
    "tts_start": "<|tts_bos|>",
    "tts_end": "<|tts_eos|>",
}
"""Special tokens that the code needs to know, and the strings that name them in the tokenizer."""

MEL_FRAMES_PER_SECOND = 100


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def encode(
        self, text: str, *, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of :data:`SPECIALS` in one tokenizer; they differ between checkpoints."""

    im_start: int
    im_end: int
    end_of_text: int
    unknown: int
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    image_id_start: int
    image_id_end: int
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
    def resolve(cls, tokenizer: Tokenizer, source: str = "tokenizer") -> SpecialIds:
        """Look every token up by its string. Raises TokenizerError for one that ``source`` does not have."""
        ids: dict[str, int] = {}
        for name, text in SPECIALS.items():
            found = tokenizer.convert_tokens_to_ids(text)
            if found is None or tokenizer.convert_ids_to_tokens(found) != text:
                raise TokenizerError(source, "is not in the vocabulary", "use the tokenizer of MiniCPM-o 2.6", key=text)
            ids[name] = found
        return cls(**ids)


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """Place of one picture: how it was cut (None: whole)."""

    grid: Grid | None = None


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


class TokenBuilder:
    """Builds token rows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, config: OmniConfig, source: str = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.specials = SpecialIds.resolve(tokenizer, source)
        self._queries = config.query_num
        self._hop = config.mel.hop_length
        self._pool_step = config.audio.pool_step
        self._group = int(config.audio.chunk_length * MEL_FRAMES_PER_SECOND) if config.chunk_input else 0
        self._cached = lru_cache(maxsize=128)(self._build)

    def text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def typed(self, text: str) -> list[int]:
        """A text in which even the string of a control token is only text."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def image(self, grid: Grid | None, image_id: int | None) -> list[int]:
        """Placeholders of one picture: the whole, then the cells of its grid, rows separated by a line break."""
        special, blank = self.specials, [self.specials.unknown] * self._queries
        ids = [special.image_start, *blank, special.image_end]
        if image_id is not None:
            ids = [special.image_id_start, *self.text(str(image_id)), special.image_id_end, *ids]
        if grid is not None:
            columns, rows = grid
            row = [special.slice_start, *blank, special.slice_end] * columns
            ids += row + (self.text("\n") + row) * (rows - 1)
        return ids

    def audio(self, tokens: int) -> list[int]:
        """Placeholders of a sound, cut into groups of one second where the model was trained so."""
        special = self.specials
        group = token_length(self._group, self._pool_step) if self._group else tokens
        ids: list[int] = []
        for start in range(0, tokens, max(group, 1)):
            count = min(group, tokens - start)
            ids += [special.audio_start, *[special.unknown] * count, special.audio_end]
        return ids

    def audio_tokens(self, samples: int) -> int:
        """Vectors that a sound of so many samples takes in the context."""
        return token_length(mel_length(samples, self._hop), self._pool_step)

    def __call__(self, pieces: Iterable[Piece], *, use_image_id: bool = False) -> TokenRow:
        """Token ids of texts, pictures and sounds in order. Neighbouring texts are tokenised as one, typed text by
        itself; pictures are numbered from 0 with ``use_image_id``. The same pieces give the same (read-only) row."""
        return self._cached(tuple(pieces), use_image_id)

    def _build(self, pieces: tuple[Piece, ...], use_image_id: bool) -> TokenRow:
        ids: list[int] = []
        text, images = "", 0
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
                continue
            if text:
                ids.extend(self.text(text))
                text = ""
            if isinstance(piece, TypedText):
                ids.extend(self.typed(piece.text))
            elif isinstance(piece, ImageSlot):
                ids.extend(self.image(piece.grid, images if use_image_id else None))
                images += 1
            else:
                ids.extend(self.audio(self.audio_tokens(piece.samples)))
        if text:
            ids.extend(self.text(text))
        return self.row(ids)

    def row(self, ids: Sequence[int] | NDArray[np.int64]) -> TokenRow:
        """Ids with the bounds that their special tokens mark; a pair that was cut off at the end is left out."""
        row = np.array(ids, np.int64)
        row.flags.writeable = False
        special = self.specials
        images = (special.image_start, special.slice_start), (special.image_end, special.slice_end)
        return TokenRow(
            ids=row,
            image_bounds=_bounds(row, *images),
            audio_bounds=_bounds(row, (special.audio_start,), (special.audio_end,)),
            spk_bounds=_bounds(row, (special.spk_start,), (special.spk_end,)),
        )


def _bounds(ids: NDArray[np.int64], starts: tuple[int, ...], ends: tuple[int, ...]) -> Bounds:
    first = np.flatnonzero(np.isin(ids, starts)) + 1
    last = np.flatnonzero(np.isin(ids, ends))
    pairs = min(len(first), len(last))
    return np.stack([first[:pairs], last[:pairs]], axis=1)
