"""What options and units must be before any model sees them. Used by every engine, in whichever process; no torch."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
from PIL import Image

from engine.client import (
    INPUT_RATE,
    MAX_CHAT_BYTES,
    UNIT_SAMPLES,
    ChatRequest,
    EngineError,
    EngineInfo,
    SessionOptions,
    Unit,
)
from engine.errors import MediaError
from engine.media.picture import open_picture

MAX_FRAME_BYTES = 8 << 20
MAX_FRAME_PIXELS = 32_000_000
MAX_TEXT_CHARS = 8_000
MAX_PROMPT_CHARS = 8_000
MAX_NEW_TOKENS = 4_096
MAX_CHAT_CHARS = 400_000
FRAME_FORMATS = ("JPEG", "PNG")


def check_options(options: SessionOptions, info: EngineInfo) -> None:
    """Raise EngineError ``bad_options`` if the engine that ``info`` describes cannot open such a session."""
    for name in ("preset", "language"):
        known = get_args(get_type_hints(SessionOptions)[name])
        if getattr(options, name) not in known:
            raise EngineError("bad_options", f"The {name} {getattr(options, name)!r} is unknown; use {_either(known)}.")
    if options.voice not in info.voices:
        raise EngineError("bad_options", f"The voice {options.voice!r} is unknown; use {_either(info.voices)}.")
    if len(options.prompt) > MAX_PROMPT_CHARS:
        raise EngineError(
            "bad_options", f"The prompt has {len(options.prompt)} characters; shorten it to {MAX_PROMPT_CHARS}."
        )
    if not 1 <= options.max_new_tokens <= MAX_NEW_TOKENS:
        raise EngineError(
            "bad_options", f"max_new_tokens is {options.max_new_tokens}; use a number from 1 to {MAX_NEW_TOKENS}."
        )


def check_chat(request: ChatRequest, info: EngineInfo) -> None:
    """Raise EngineError ``bad_chat`` or ``bad_media`` if the engine that ``info`` describes cannot be asked so."""
    roles = [message.role for message in request.messages]
    if not roles or roles[-1] != "user" or "system" in roles[1:]:
        raise _bad_chat("the messages must end with one of the user's, and a system message can only be the first")
    parts = [part for message in request.messages for part in message.parts]
    if any(not message.parts for message in request.messages):
        raise _bad_chat("a message has no content")
    for kind, able, sense in (
        ("picture", info.sees, "eyes"),
        ("video", info.sees, "eyes"),
        ("sound", info.hears, "ears"),
    ):
        if not able and any(part.kind == kind for part in parts):
            raise EngineError("bad_media", f"The model {info.name} has no {sense}; leave the {kind} out.")
    if info.one_picture and any(part.kind == "video" for part in parts):
        raise EngineError("bad_media", f"The model {info.name} looks at one picture, not at a video; take one of it.")
    if sum(len(part.data) for part in parts) > MAX_CHAT_BYTES:
        raise EngineError(
            "bad_media", f"Pictures, sounds and videos take more than {MAX_CHAT_BYTES >> 20} MB; use less."
        )
    if sum(len(part.text) for part in parts) > MAX_CHAT_CHARS:
        raise EngineError("chat_too_long", f"The texts have more than {MAX_CHAT_CHARS:,} characters; shorten them.")
    if request.speak and not info.speaks:
        raise _bad_chat(f"the model {info.name} has no voice; ask for text only")
    if request.speak and request.voice not in info.voices:
        raise _bad_chat(f"the voice {request.voice!r} is unknown; use {_either(info.voices)}")
    if request.speak and any(request.stop):
        raise _bad_chat("texts to stop at go with written answers only")
    if request.max_new_tokens is not None and not 1 <= request.max_new_tokens <= MAX_NEW_TOKENS:
        raise _bad_chat(f"max_new_tokens is {request.max_new_tokens}; use a number from 1 to {MAX_NEW_TOKENS}")


def check_rewind(units: int, fed: int) -> None:
    """Raise EngineError ``bad_rewind`` if a session cannot forget so many units, of which it remembers ``fed``."""
    if not 0 < units <= fed:
        raise EngineError("bad_rewind", f"{units} units cannot be taken back; the session could forget {fed}.")


def check_unit(unit: Unit) -> None:
    """Raise EngineError ``bad_unit`` if the unit's audio or text is not what :class:`Unit` says, or if all is empty.

    The frame is only measured here; :func:`decode_frame` looks inside.
    """
    audio = unit.audio
    if not isinstance(audio, np.ndarray) or audio.dtype != np.int16 or audio.ndim != 1:
        raise _bad("the audio is not a one-dimensional int16 array; convert it to mono int16 at 16 kHz")
    if len(audio) > UNIT_SAMPLES:
        raise _bad(
            f"the audio is {len(audio) / INPUT_RATE:.3f} s long, a unit holds at most {UNIT_SAMPLES / INPUT_RATE:g} s; "
            "cut it into several units"
        )
    if unit.frame is not None and not 0 < len(unit.frame) <= MAX_FRAME_BYTES:
        raise _bad(f"the frame has {len(unit.frame)} bytes, allowed are 1 to {MAX_FRAME_BYTES}; send a smaller picture")
    if unit.text is not None and len(unit.text) > MAX_TEXT_CHARS:
        raise _bad(f"the text has {len(unit.text)} characters, allowed are {MAX_TEXT_CHARS}; send it in parts")
    if not len(audio) and unit.frame is None and not unit.text:
        raise _bad("it has no audio, no frame and no text; give at least one of them")


def decode_frame(data: bytes) -> Image.Image:
    """The picture, upright and in RGB, every pixel decoded. Raises EngineError ``bad_unit`` when it is none."""
    try:
        return open_picture(data, "the frame", FRAME_FORMATS, MAX_FRAME_PIXELS)
    except MediaError as error:
        raise _bad(str(error)) from None


def check_picture(data: bytes) -> tuple[int, int]:
    """The grid of a picture that nobody cuts. Raises EngineError ``bad_media`` when it is none."""
    try:
        open_picture(data)
    except MediaError as error:
        raise EngineError("bad_media", f"The picture {error.fault}; {error.remedy}.") from None
    return 1, 1


def _bad_chat(cause: str) -> EngineError:
    return EngineError("bad_chat", f"The request is refused: {cause}.")


def _bad(cause: str) -> EngineError:
    return EngineError("bad_unit", f"The unit is refused: {cause}.")


def _either(known: tuple[str, ...]) -> str:
    return " or ".join(known)
