"""The sounds and pictures of a conversation, for a model that understands by words: what was said stands there as if
typed, and what a picture shows as it is told in a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.chat.prompt import samples_of
from engine.client import INPUT_RATE
from engine.conversation.naming import look
from engine.conversation.reading import Reading, read_on, read_rest
from engine.conversation.served import ServedModel
from engine.conversation.sight import Sight, ThingFinder
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Listen, Step, Transcribe
from engine.processing.mel import MIN_MEL_FRAMES, mel_length
from engine.processing.prompts import Message, Part, TypedText

PIECE_SAMPLES = 29 * INPUT_RATE
"""A second less than the ears hold."""


def hear_words(stream: ServedModel, messages: Sequence[Message]) -> Step[list[Message]]:
    """The messages with words in place of what the user says, where the model reads, and of what pictures show, where
    they are named to it; else as they are."""
    if not isinstance(stream, StreamingModel):
        return list(messages)
    finder, naming, sight = stream.message.images, stream.config.naming, Sight()
    heard = []
    for turn, message in enumerate(messages):
        parts: list[Part] = []
        for part in message.content:
            if isinstance(part, np.ndarray) and message.role == "user" and stream.words is not None:
                part = TypedText((yield from _read(stream, samples_of(part))))
            elif isinstance(part, Image.Image) and isinstance(finder, ThingFinder) and naming is not None:
                sight, told = yield from look(sight, finder(part), turn, naming)
                part = TypedText(told)
            parts.append(part)
        heard.append(replace(message, content=parts))
    return heard


def _read(stream: StreamingModel, samples: NDArray[np.float32]) -> Step[str]:
    """The words of one sound, in pieces of which each is heard as a whole."""
    assert stream.words is not None
    said = ""
    state = stream.open()
    try:
        for start in range(0, len(samples), PIECE_SAMPLES):
            piece = samples[start : start + PIECE_SAMPLES]
            if start and mel_length(len(piece), stream.config.mel.hop_length) < MIN_MEL_FRAMES:
                break
            heard = yield Listen(state, stream.mel(piece))
            said += yield from _finish(stream, Reading().hear(piece, heard))
            stream.pool.reset_hearing(state)
    finally:
        stream.pool.drop(state)
    return said.strip()


def _finish(stream: StreamingModel, reading: Reading) -> Step[str]:
    """All words of the sound that ``reading`` holds, a space in front."""
    assert stream.words is not None
    read, certain = read_on(reading, (yield Transcribe(reading)), stream.words)
    _, rest = read_rest(read, stream.words)
    return f" {certain}{rest}"
