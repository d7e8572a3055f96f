"""A chat's messages as bytes → pictures, sound and words. Runs on a thread; every fault is one sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from engine.chat.media import load_frames, load_sound
from engine.client import INPUT_RATE, ChatPart, ChatRequest, EngineError
from engine.errors import MediaError
from engine.media.picture import open_picture
from engine.processing.prompts import Message, Part, TypedText

MAX_SOUND_S = 600
MIN_SOUND_S = 0.1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadChat:
    """A conversation that a model can be asked."""

    messages: list[Message]
    has_video: bool
    limits: tuple[int | None, ...]
    """Cells that each picture may be cut into, in order; None where nobody said so. Frames of a video are pictures."""


def read_chat(request: ChatRequest) -> ReadChat:
    """Decode all parts. Raises EngineError ``bad_media``."""
    messages: list[Message] = []
    limits: list[int | None] = []
    for message in request.messages:
        content: list[Part] = []
        for part in message.parts:
            read = _read(part, request.max_frames)
            content += read
            limits += [part.max_slices for piece in read if isinstance(piece, Image.Image)]
        messages.append(Message(message.role, content))
    has_video = any(part.kind == "video" for message in request.messages for part in message.parts)
    return ReadChat(messages, has_video, tuple(limits))


def _read(part: ChatPart, max_frames: int) -> list[Part]:
    try:
        match part.kind:
            case "text":
                return [TypedText(part.text)]
            case "picture":
                return [open_picture(part.data)]
            case "sound":
                return [_sound(part.data)]
            case "video":
                return [*_from_file(part.data, lambda path: load_frames(path, limit=max_frames))]
    except MediaError as error:
        name = "The picture" if part.kind == "picture" else f"The {part.kind}"
        raise EngineError("bad_media", f"{name} {error.fault}; {error.remedy}.") from None


def _sound(data: bytes) -> Part:
    samples = _from_file(data, load_sound)
    if len(samples) > MAX_SOUND_S * INPUT_RATE:
        raise MediaError("", f"is {len(samples) / INPUT_RATE:.0f} s long", f"cut it to {MAX_SOUND_S} s")
    return np.pad(samples, (0, max(0, int(MIN_SOUND_S * INPUT_RATE) - len(samples))))


def _from_file(data: bytes, read: Callable[[Path], T]) -> T:
    """What ``read`` makes of a file: containers have to be searched back and forth, and are told apart by content."""
    with tempfile.NamedTemporaryFile(prefix="chat-") as file:
        file.write(data)
        file.flush()
        return read(Path(file.name))
