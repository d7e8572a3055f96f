"""A conversation → token ids, patches and mel frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine.checkpoint.loader import LoadedVisionLanguage
from engine.config import OmniConfig
from engine.errors import InputError
from engine.processing.dialects import Dialect
from engine.processing.image import ImageProcessor, ImageSlices, open_image
from engine.processing.mel import MelExtractor, split_clips
from engine.processing.prompts import SPEECH_PROMPT, TTS_BOS, UNIT, Message, Part, TypedText, closed_turn
from engine.processing.tokens import AudioSlot, ImageSlot, Piece, RowBuilder, TokenRow

MARK = "\ue000"
"""Stands for a picture or typed text in a text template: a private-use character, which no template has of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class ChatPrompt:
    """All of a conversation that needs no model."""

    row: TokenRow
    images: tuple[ImageSlices, ...]
    mels: tuple[Tensor, ...]
    """Clips of up to 30 s; the sounds of one message are one clip."""


class PromptMaker:
    """Makes prompts for one model."""

    def __init__(self, loaded: LoadedVisionLanguage, build: RowBuilder) -> None:
        self.config, self.tokenizer, self.build = loaded.config, loaded.tokenizer, build
        self.images = ImageProcessor(loaded.config.image)
        self.mel = MelExtractor(loaded.config.mel) if isinstance(loaded.config, OmniConfig) else None
        # The template of a checkpoint that only learnt from spoken answers asks for one, whatever comes before it.
        self._asks_speech = TTS_BOS in str(self.tokenizer.chat_template)

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        joint: str = "\n",
        speech: bool = False,
        max_slices: int | tuple[int | None, ...] | None = None,
        use_image_id: bool | None = None,
        chunk_input: bool | None = None,
    ) -> ChatPrompt:
        """``joint`` comes between the parts of a message; ``speech`` asks for an answer that can be spoken, as does any
        sound; ``max_slices`` is for all pictures, or a number for each. Raises InputError."""
        _check(messages)
        if self.build.dialect.one_picture:
            messages = _picture_in_front(messages, self.build.name)
        limits = iter(max_slices) if isinstance(max_slices, tuple) else repeat(max_slices)
        images: list[ImageSlices] = []
        mels: list[Tensor] = []
        turns: list[tuple[str, list[Piece]]] = []
        for message in messages:
            pieces: list[Piece] = []
            sounds: list[NDArray[np.float32]] = []
            for part in message.content:
                if pieces and joint:
                    pieces.append(joint)
                if isinstance(part, TypedText):
                    pieces.append(self.build.as_heard(part) if message.role == "user" else part)
                elif isinstance(part, str):
                    pieces.append(part)
                elif isinstance(part, Image.Image):
                    images.append(self.images(part, next(limits, None)))
                    pieces.append(ImageSlot(images[-1].grid))
                else:
                    sounds.append(samples_of(part))
                    pieces.append(AudioSlot(len(part)))
            if sounds:
                mels += self._clips(np.concatenate(sounds))
            turns.append((message.role, pieces))
        pieces = self._template(turns, speech=speech or bool(mels))
        numbered = self.config.image.use_image_id if use_image_id is None else use_image_id
        row = self.build(pieces, use_image_id=numbered, chunk_input=chunk_input)
        return ChatPrompt(row.insert(0, self.build.opening), tuple(images), tuple(mels))

    def _clips(self, sound: NDArray[np.float32]) -> list[Tensor]:
        if self.mel is None:
            raise InputError(f"{self.build.name} does not hear; leave the sound out")
        return [self.mel(clip) for clip in split_clips(sound, self.mel.config)]

    def _template(self, turns: Sequence[tuple[str, list[Piece]]], *, speech: bool) -> list[Piece]:
        if self.build.dialect.turns:
            return in_marks(self.build.dialect, turns)
        if speech and isinstance(self.config, OmniConfig) and not self._asks_speech:
            return _speech_template(turns)
        return in_template(self.tokenizer, turns, ask=True)


def in_template(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[tuple[str, list[Piece]]], *, ask: bool
) -> list[Piece]:
    """Turns (role, pieces) in the tokenizer's own chat template; ``ask`` adds what an answer follows. Raises
    InputError."""
    turns = [(role, list(_bared(pieces))) for role, pieces in turns]
    apart = [piece for _, pieces in turns for piece in pieces if not isinstance(piece, str)]
    plain = [{"role": role, "content": "".join(map(_marked, pieces))} for role, pieces in turns]
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; ask with use_tts_template=True")
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=ask)
    parts = re.split(f"({MARK})", text)
    if parts.count(MARK) != len(apart):
        raise InputError("the tokenizer's chat template repeats or drops messages; ask with use_tts_template=True")
    rest = iter(apart)
    return [next(rest) if part == MARK else part for part in parts]


def _marked(piece: Piece) -> str:
    return piece if isinstance(piece, str) else MARK


def _bared(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Typed texts with the spaces around them apart, where a template that strips its messages finds them."""
    for piece in pieces:
        if not isinstance(piece, TypedText):
            yield piece
            continue
        inner = piece.text.strip()
        before, _, after = piece.text.partition(inner) if inner else (piece.text, "", "")
        yield from filter(None, (before, TypedText(inner) if inner else "", after))


def in_marks(dialect: Dialect, turns: Sequence[tuple[str, list[Piece]]]) -> list[Piece]:
    """Turns (role, pieces) with nothing but a mark in front of each, and the mark of the answer. Raises InputError."""
    pieces: list[Piece] = []
    for role, content in turns:
        mark = dialect.turn(role)
        if mark is None:
            raise InputError(f"this model knows no messages of the {role}; put it into the user's first message")
        pieces += [mark, *content]
    return [*pieces, dialect.turn("assistant") or ""]


def _picture_in_front(messages: Sequence[Message], name: str) -> list[Message]:
    """The same messages, the one picture in front of the first. Raises InputError for more of them."""
    pictures = [part for message in messages for part in message.content if isinstance(part, Image.Image)]
    if not pictures:
        return list(messages)
    first, *others = messages
    if len(pictures) > 1 or not any(part is pictures[0] for part in first.content):
        raise InputError(f"{name} takes one picture, with the first message; leave the others out")
    rest = [part for part in first.content if part is not pictures[0]]
    return [replace(first, content=[pictures[0], *rest]), *others]


def _speech_template(turns: Sequence[tuple[str, list[Piece]]]) -> list[Piece]:
    pieces: list[Piece] = []
    for role, content in turns:
        opening, closing = (str(part) for part in closed_turn(role, []))
        pieces += [opening, *content, closing]
    return [*pieces, SPEECH_PROMPT]


def samples_of(part: NDArray[Any]) -> NDArray[np.float32]:
    """Samples float32 [N] in [−1, 1] from these, or from int16. Raises InputError for anything but one channel."""
    if part.ndim != 1:
        raise InputError(f"a sound has the shape {part.shape}; give one channel as a flat array of 16 kHz samples")
    samples: NDArray[np.float32] = part.astype(np.float32)
    return samples / np.float32(32768) if part.dtype == np.int16 else samples


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InputError("the conversation is empty; give at least one message")
    if messages[0].role not in ("user", "system"):
        raise InputError(f"the first message is the {messages[0].role}'s; begin with the user's or a system message")
    for message in messages:
        if message.role not in ("system", "user", "assistant"):
            raise InputError(f"the role is {message.role!r}; use system, user or assistant")
        for part in message.content:
            if isinstance(part, str) and MARK in part:
                raise InputError(f"a text of control tokens holds {MARK!r}; give it as TypedText")
            text = part.text if isinstance(part, TypedText) else part
            if isinstance(text, str):
                _check_unicode(text)


def _check_unicode(text: str) -> None:
    """Raise InputError for half a surrogate pair: what Python makes of arguments that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("a text is not Unicode; give it in UTF-8") from None


def messages_of(conversation: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """Messages from ``{"role", "content"}`` mappings. A content may be one part or a list of them; a part is text, a
    picture (also a path), or sound. A text that is no more than the mark of a unit is that mark; any other counts as
    typed, so that no control token can be spelled in it. Raises InputError."""
    messages = []
    for entry in conversation:
        if isinstance(entry, Message):
            messages.append(entry)
            continue
        if not isinstance(entry, Mapping) or not {"role", "content"} <= entry.keys():
            raise InputError(f"a message is {entry!r}; give a role and a content")
        content = entry["content"]
        parts = content if isinstance(content, list | tuple) else [content]
        messages.append(Message(entry["role"], [_part(part) for part in parts]))
    return messages


def _part(part: Any) -> Part:
    if isinstance(part, str):
        return part if part == UNIT else TypedText(part)
    if isinstance(part, TypedText | np.ndarray | Image.Image):
        return part
    if isinstance(part, Path | bytes):
        return open_image(part)
    raise InputError(f"a part is {type(part).__name__}; give text, a picture or an array of 16 kHz samples")
