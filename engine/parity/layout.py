"""From token ids back to what a person put in: texts, and the places of pictures and sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.conversation.streaming import StreamingModel
from engine.parity.goldens import GoldenSet, SetError
from engine.processing.image import pad_slices
from engine.processing.prompts import MODES, Message, Part, get_sys_prompt
from engine.processing.tokens import AudioSlot

Sound = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """Placeholders of one picture (all its slices) or one sound (all its groups): [first, one past the last]."""

    kind: Literal["image", "sound"]
    bounds: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        return sum(last - first for first, last in self.bounds)


def parse(stream: StreamingModel, tokens: Sequence[int], offset: int = 0) -> list[str | Place]:
    """Texts and places of a row of ids in order; bounds count from ``offset``."""
    special = stream.builder.specials
    borders = {
        special.image_start: special.image_end,
        special.slice_start: special.slice_end,
        special.audio_start: special.audio_end,
        special.image_id_start: special.image_id_end,
    }
    parts: list[str | Place] = []
    text: list[int] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token not in borders:
            text.append(token)
            at += 1
            continue
        end = list(tokens).index(borders[token], at)
        if token != special.image_id_start:
            between, text = stream.tokenizer.decode(text), []
            continues = token == special.slice_start or (token == special.audio_start and not between)
            last = parts[-1] if parts else None
            bound = (offset + at + 1, offset + end)
            kind: Literal["image", "sound"] = "sound" if token == special.audio_start else "image"
            if continues and isinstance(last, Place) and last.kind == kind:
                parts[-1] = Place(kind, (*last.bounds, bound))
            else:
                parts += [between, Place(kind, (bound,))]
        at = end + 1
    parts.append(stream.tokenizer.decode(text))
    return [part for part in parts if part != ""]


def placeholders(stream: StreamingModel, sound: Sound) -> int:
    """Placeholders that a sound takes, all its groups together."""
    bounds = stream.builder([AudioSlot(len(sound))]).audio_bounds
    return int((bounds[:, 1] - bounds[:, 0]).sum())


def trim(parts: list[str | Place], before: str, after: str) -> list[str | Place]:
    """Parts without the header and the end that the implementation has to add by itself."""
    if parts and isinstance(parts[0], str):
        parts[0] = parts[0].removeprefix(before)
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].removesuffix(after)
    return [part for part in parts if part != ""]


@torch.inference_mode()
def find_picture(
    goldens: GoldenSet, stream: StreamingModel, place: Place, embeds: Tensor, rows: Sequence[int], name: str = ""
) -> tuple[Image.Image, int]:
    """The input picture that comes closest to a place, and the slices that it was cut into at most.

    ``embeds`` [R, hidden] are the set's embeddings of ``rows`` of the context. Of pictures that are equally close, as
    all are where none of the rows is the place's, it is the one that is called after the step ``name``.
    """
    kept = [index for index, row in enumerate(rows) if any(first <= row < last for first, last in place.bounds)]
    flat = [row for first, last in place.bounds for row in range(first, last)]
    wanted = [flat.index(rows[index]) for index in kept]
    fitting = []
    limits = range(1, stream.config.image.max_slice_nums + 1)
    for (title, picture), limit in product(goldens.pictures.items(), limits):
        image = stream.images(picture, limit)
        if len(image.sizes) == len(place.bounds):
            patches, sizes = pad_slices([image])
            vectors = stream.model.see(patches, sizes).flatten(0, 1)
            gap = (vectors[wanted] - embeds[kept]).abs().max() if kept else torch.tensor(0.0)
            fitting.append((float(gap), not (name and title.startswith(name)), limit, title))
    if not fitting:
        raise SetError(f"images/ holds no picture that is cut into {len(place.bounds)} slices, which the set was fed")
    *_, limit, title = min(fitting)
    return goldens.pictures[title], limit


def fill(parts: Sequence[str | Place], media: dict[Place, Any]) -> list[Part]:
    """Parts with their places replaced by what was found for them."""
    return [part if isinstance(part, str) else media[part] for part in parts]


def known_prompt(content: Sequence[Part]) -> Message | None:
    """The system prompt with this content, None if there is none."""
    sounds = [part for part in content if isinstance(part, np.ndarray)]
    sound = sounds[0] if len(sounds) == 1 else None
    for mode, language in product(MODES, ("en", "zh")):
        if mode != "voice_cloning" or sound is not None:
            known = get_sys_prompt(sound, mode, language)
            if _joined(known.content) == _joined(content):
                return known
    return None


def _joined(content: Sequence[Part]) -> list[Any]:
    """Parts with neighbouring texts joined, and media named by identity."""
    joined: list[Any] = []
    for part in content:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part if isinstance(part, str) else id(part))
    return joined
