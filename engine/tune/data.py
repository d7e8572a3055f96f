"""A file of conversations → rows of token ids with labels, and the pictures in them.

The published format: a JSON list of::

    {"id": "7", "image": "cat.jpg", "conversations": [
        {"role": "user", "content": "<image>\\nWhat is it?"}, {"role": "assistant", "content": "A cat."}]}

``image`` (or ``images``) may be left out, be one path (placed at ``<image>`` in the first message, or in front of it),
a mapping ``{"<image_00>": path, …}`` whose marks stand in any message, or a list of paths, which those marks stand for.
Paths are relative to the file. Every message but the user's is learned; all else is only read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from engine.checkpoint.loader import LoadedVisionLanguage
from engine.errors import InputError, reason
from engine.model.vision import GridSize
from engine.processing.image import ImageProcessor, ImageSlices, open_image, pad_slices
from engine.processing.tokens import ImageSlot, TokenRow
from engine.tune.markup import IGNORED, Markup, TaughtTurn

MARK = re.compile(r"(<image_\d+>)")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One conversation, ready for the model."""

    row: TokenRow
    labels: NDArray[np.int64]
    """[T]: the token that should follow, :data:`~.markup.IGNORED` where nothing is learned."""
    images: tuple[ImageSlices, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples side by side, padded on the right, where no token sees the padding."""

    ids: Tensor
    """int64 [B, T]."""
    labels: Tensor
    """int64 [B, T]."""
    patches: Tensor
    """float32 [S, L, …] of all slices in order; empty without pictures."""
    sizes: tuple[GridSize, ...]
    places: Tensor
    """int64 [2, S · queries]: row and column in ``ids`` of every vector that the slices give."""

    def to(self, device: torch.device) -> Batch:
        ids, labels, patches, places = (x.to(device) for x in (self.ids, self.labels, self.patches, self.places))
        return Batch(ids, labels, patches, self.sizes, places)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One entry of the file, checked."""

    name: str
    turns: tuple[TaughtTurn, ...]


class Conversations(Dataset[Sample]):
    """The samples of one file for one model."""

    def __init__(
        self, path: Path, loaded: LoadedVisionLanguage, *, max_length: int = 2048, max_slices: int | None = None
    ) -> None:
        """``max_length`` is where a conversation is cut off, in tokens; ``max_slices`` None takes the model's setting.

        Raises InputError for a file that is not in the format, naming the entry.
        """
        self.path, self.max_length, self.max_slices = path, max_length, max_slices
        self.markup = Markup(loaded)
        self.images = ImageProcessor(loaded.config.image)
        self.entries = read_conversations(path)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Raises InputError for a picture that cannot be read or does not fit, and where nothing is left to learn."""
        entry = self.entries[index]
        turns: list[TaughtTurn] = []
        images: list[ImageSlices] = []
        for turn in entry.turns:
            parts: list[str | ImageSlot] = []
            for part in turn.parts:
                if isinstance(part, Path):
                    images.append(self.images(self._open(part, entry), self.max_slices))
                    parts.append(ImageSlot(images[-1].grid))
                else:
                    parts.append(part)
            turns.append(TaughtTurn(turn.role, tuple(parts)))
        row, labels = self.markup(turns)
        slices = sum(len(image.sizes) for image in images)
        row, labels = row.cut(self.max_length), labels[: self.max_length]
        if len(row.image_bounds) < slices:
            remedy = "raise --max-length or lower --max-slices"
            raise InputError(f"{self._at(entry)}: a picture lies beyond {self.max_length} tokens; {remedy}")
        if not (labels != IGNORED).any():
            raise InputError(f"{self._at(entry)}: no answer within {self.max_length} tokens; raise --max-length")
        return Sample(row, labels, tuple(images))

    def _at(self, entry: Conversation) -> str:
        return f"{self.path}, id {entry.name}"

    def _open(self, path: Path, entry: Conversation) -> Any:
        try:
            return open_image(path)
        except InputError as error:
            raise InputError(f"{self._at(entry)}: {error}") from error


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples → one batch."""
    ids = pad_sequence([torch.from_numpy(sample.row.ids.copy()) for sample in samples], batch_first=True)
    labels = pad_sequence(
        [torch.from_numpy(sample.labels) for sample in samples], batch_first=True, padding_value=IGNORED
    )
    images = [image for sample in samples for image in sample.images]
    patches, sizes = pad_slices(images) if images else (torch.zeros(0, 0, 0), ())
    places = [
        torch.stack([torch.full((last - first,), row), torch.arange(first, last)])
        for row, sample in enumerate(samples)
        for first, last in sample.row.image_bounds.tolist()
    ]
    return Batch(ids, labels, patches, sizes, torch.cat(places, 1) if places else torch.zeros(2, 0, dtype=torch.long))


def read_conversations(path: Path) -> list[Conversation]:
    """The entries of a file. Raises InputError with the entry that is not in the format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); give a JSON list of conversations") from error
    if not isinstance(found, list) or not found:
        raise InputError(f"{path} holds no JSON list of conversations; see the format in docs/tuning.md")
    return [_conversation(entry, f"{path}, entry {number}", path.parent) for number, entry in enumerate(found)]


def _conversation(entry: Any, at: str, folder: Path) -> Conversation:
    messages = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        raise InputError(f"{at}: conversations must be a list of at least two messages, the user's first")
    for number, message in enumerate(messages):
        role = ("user", "assistant")[number % 2]
        if not isinstance(message, dict) or message.get("role") != role or not isinstance(message.get("content"), str):
            raise InputError(f'{at}, message {number}: {{"role": "{role}", "content": TEXT}} belongs here')
    pictures = _pictures(entry.get("image", entry.get("images")), at, folder)
    turns = [
        TaughtTurn(message["role"], _parts(message["content"], pictures, at, first=number == 0))
        for number, message in enumerate(messages)
    ]
    placed = {part for turn in turns for part in turn.parts if isinstance(part, Path)}
    if lost := [mark for mark, file in pictures.items() if file not in placed]:
        raise InputError(f"{at}: {lost[0]} stands in no message; place every picture")
    return Conversation(str(entry.get("id", at.rpartition(" ")[2])), tuple(turns))


def _pictures(image: Any, at: str, folder: Path) -> dict[str, Path]:
    """Paths by the mark that stands for them."""
    if isinstance(image, list):
        image = {f"<image_{number:02}>": file for number, file in enumerate(image)}
    named = {} if image is None else {"<image>": image} if isinstance(image, str) else image
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise InputError(f'{at}: image must be a path, a list of paths or a mapping {{"<image_00>": path, …}}')
    if isinstance(image, dict) and (wrong := [mark for mark in named if not MARK.fullmatch(mark)]):
        raise InputError(f"{at}: {wrong[0]!r} is no mark of a picture; write <image_00>, <image_01>, …")
    found = {mark: folder / file for mark, file in named.items()}
    if missing := [file for file in found.values() if not file.is_file()]:
        raise InputError(f"{at}: {missing[0]} does not exist; paths are relative to {folder}")
    return found


def _parts(content: str, pictures: dict[str, Path], at: str, *, first: bool) -> tuple[str | Path, ...]:
    """Texts and pictures of a message, with the line breaks that the model was trained with."""
    if "<image>" in pictures:
        if not first:
            return (content,)
        picture = pictures["<image>"]
        pieces = content.split("<image>")
        if len(pieces) == 1:
            return (picture, f"\n{content}")
        alternating = [part for piece in pieces for part in (picture, piece)][1:]
        return tuple(part for part in alternating if part != "")
    if not pictures:
        return (content,)
    # As published, the parts are joined by line breaks even where the text brings its own.
    parts: list[str | Path] = []
    for piece in MARK.split(content):
        if parts:
            parts.append("\n")
        if MARK.fullmatch(piece) and piece not in pictures:
            raise InputError(f"{at}: {piece} stands in a message, but image has no picture of that name")
        parts.append(pictures.get(piece, piece))
    return tuple(part for part in parts if part != "")
