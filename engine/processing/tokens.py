"""Text, pictures and sound as one row of token ids.

A picture or a second of sound takes a fixed row of placeholders whose embeddings are replaced later. Such rows are
made once per shape, and repeated texts are looked up, so that a unit of a call costs no tokenizer run.

Where the placeholders are follows from what was put there, never from ids that were found: no text can move them. What
a person typed is encoded by :class:`TypedEncoder`, which knows no added token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

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

    @property
    def backend_tokenizer(self) -> Backend: ...

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


class TypedEncoder:
    """Encodes what a person typed: the tokenizer's own model without its added tokens, whatever their flags say.

    ``split_special_tokens`` of transformers is not enough: it spells out only those added tokens that are flagged as
    special, and it is a switch on the one tokenizer that all threads share.
    """

    def __init__(self, backend: Backend) -> None:
        document = json.loads(backend.to_str())
        added = {token["content"]: token["id"] for token in document["added_tokens"]}
        self._backend = backend
        self._added = frozenset(added.values())
        document |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        _forget(document["model"], added.keys() - {document["model"].get("unk_token")})
        self._plain = Backend.from_str(json.dumps(document))

    def __call__(self, parts: Sequence[str | TypedText]) -> list[int]:
        """Ids of neighbouring texts, as of one text in which only what a ``str`` spells can be an added token."""
        ids: list[int] = []
        plain = ""
        for part in parts:
            if isinstance(part, TypedText):
                plain += part.text
                continue
            found, end = self._backend.encode(part, add_special_tokens=False), 0
            for token, (first, last) in zip(found.ids, found.offsets, strict=True):
                if token in self._added:
                    ids += [*self._encode(plain + part[end:first]), token]
                    plain, end = "", last
            plain += part[end:]
        return ids + self._encode(plain)

    def _encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids) if text else []


def _forget(model: dict[str, Any], added: Iterable[str]) -> None:
    """Take ``added`` out of a tokenizer model, so that it cannot come upon them by itself either."""
    added = set(added)
    if isinstance(model["vocab"], list):  # Unigram: an id is a place in the list, and a low score is never chosen
        model["vocab"] = [[text, -1e9 if text in added else score] for text, score in model["vocab"]]
        return
    model["vocab"] = {text: number for text, number in model["vocab"].items() if text not in added}
    if "merges" in model:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not added & {a, b, a + b}]


class TokenBuilder:
    """Builds token rows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, config: OmniConfig, source: str = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.specials = SpecialIds.resolve(tokenizer, source)
        self._queries = config.query_num
        self._hop = config.mel.hop_length
        self._pool_step = config.audio.pool_step
        self._group = int(config.audio.chunk_length * MEL_FRAMES_PER_SECOND)
        self._chunk_input = config.chunk_input
        self._typed = TypedEncoder(tokenizer.backend_tokenizer)
        self._cached = lru_cache(maxsize=128)(self._build)

    def text(self, text: str) -> list[int]:
        """A text in which the string of an added token is that token."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)

    def typed(self, text: str) -> list[int]:
        """A text in which even the string of an added token is only text."""
        return self._typed([TypedText(text)])

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

    def __call__(
        self, pieces: Iterable[Piece], *, use_image_id: bool = False, chunk_input: bool | None = None
    ) -> TokenRow:
        """Token ids of texts, pictures and sounds in order. Neighbouring texts are tokenised as one; pictures are
        numbered from 0 with ``use_image_id``; ``chunk_input`` None takes the model's setting. The same pieces give the
        same (read-only) row."""
        return self._cached(tuple(pieces), use_image_id, chunk_input)

    def _build(self, pieces: tuple[Piece, ...], use_image_id: bool, chunk_input: bool | None) -> TokenRow:
        special = self.specials
        ids: list[int] = []
        pictures, sounds = [NO_BOUNDS], [NO_BOUNDS]
        for textual, group in groupby(pieces, lambda piece: isinstance(piece, str | TypedText)):
            if textual:
                ids += self._texts([piece for piece in group if isinstance(piece, str | TypedText)])
                continue
            for piece in group:
                if isinstance(piece, ImageSlot):
                    slot = self.image(piece.grid, len(pictures) - 1 if use_image_id else piece.number)
                    marks = (special.image_start, special.slice_start), (special.image_end, special.slice_end)
                    pictures.append(_bounds(slot, *marks) + len(ids))
                else:
                    assert isinstance(piece, AudioSlot)
                    slot = self.audio(self.audio_tokens(piece.samples), chunk_input=chunk_input)
                    sounds.append(_bounds(slot, (special.audio_start,), (special.audio_end,)) + len(ids))
                ids += slot
        row = np.array(ids, np.int64)
        row.flags.writeable = False
        speakers = _bounds(row, (special.spk_start,), (special.spk_end,))
        return TokenRow(row, np.concatenate(pictures), np.concatenate(sounds), speakers)

    def _texts(self, parts: Sequence[str | TypedText]) -> list[int]:
        own = [part for part in parts if isinstance(part, str)]
        return self.text("".join(own)) if len(own) == len(parts) else self._typed(parts)


NO_BOUNDS: Bounds = np.zeros((0, 2), np.int64)


def _bounds(ids: Sequence[int] | NDArray[np.int64], starts: tuple[int, ...], ends: tuple[int, ...]) -> Bounds:
    first = np.flatnonzero(np.isin(ids, starts)) + 1
    last = np.flatnonzero(np.isin(ids, ends))
    pairs = min(len(first), len(last))
    return np.stack([first[:pairs], last[:pairs]], axis=1).astype(np.int64, copy=False)
